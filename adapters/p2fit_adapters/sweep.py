"""Sweeps: a file that says which runs, and the runs in an order in which each finds what it needs.

    [text]                                  # as TextSource
    spec = "corpus"

    [training]                              # as Training, for all runs
    batch_tokens = 8192

    [models.small]                          # trained here …
    type = "llama"
    hidden_size = 128

    [models.qwen]                           # … or elsewhere
    path = "Qwen/Qwen2.5-0.5B"

    [[pretrain]]                            # models x sparsities x tokens x seeds
    models = ["small"]
    tokens = ["20x"]                        # 20 tokens per parameter
    save_model = true

    [[post-train]]                          # models x methods x rates x criteria x teachers x …
    models = ["small", "qwen"]
    methods = ["depth", "2:4"]
    rates = [0.15, 0.3]
    teachers = ["none", "self"]             # and distil_weight, teacher_top_k
    tokens = [1e6, "2x"]
    shared_trunk = true                     # decayed models of these tokens, from one long run each
    decay = 0.2
    seeds = [1, 2]
    lr = { small = [1e-3, 3e-3], qwen = 1e-5 }  # any field of Training, also by model

Runs of a kind are in ``OUT/pretrain`` and ``OUT/post-train``, with their curves together there.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from p2fit_adapters.distillation import SELF, Distillation, distillations
from p2fit_adapters.errors import RunError
from p2fit_adapters.jobs import POST_TRAIN, PRETRAIN, Job, Sweep, branches
from p2fit_adapters.models import count_parameters, load_config, meta_model, new_config
from p2fit_adapters.naming import slug
from p2fit_adapters.post_training import PostTraining
from p2fit_adapters.pretraining import DEFAULT_TRAINING, Pretraining, Sparsity, prunable_weights
from p2fit_adapters.pruning import combinations, counts_after
from p2fit_adapters.text import TextSource
from p2fit_adapters.training import Training

_MOST_TOKENS = 10**16
_TRAINING = {f.name for f in fields(Training)} - {"tokens", "seed"}
_KEYS = {
    PRETRAIN: {"models", "tokens", "seeds", "save_model", "sparsities", "shared_trunk"}
    | {f.name for f in fields(Sparsity)} - {"final"}
    | _TRAINING,
    POST_TRAIN: {"models", "tokens", "seeds", "save_model", "methods", "rates", "criteria"}
    | {"control", "dimensions", "calibration_windows", "shared_trunk"}
    | {"teachers", "distil_weight", "teacher_top_k"}
    | _TRAINING,
}


def read_sweep(path: str | Path, out: str | Path) -> Sweep:
    """The runs of a sweep file.

    Args:
        out: folder for the runs.

    Raises:
        RunError: the file cannot be read or says what cannot be done; the message names the place.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise RunError(f"{path}: {why}") from None
    except RecursionError:
        raise RunError(f"{path}: nested too deeply") from None
    except ValueError as error:  # not TOML, or a number of more digits than Python reads
        raise RunError(f"{path}: {error}") from None
    for place, what in _faults(document):
        raise RunError(f"{path}: {place}: {what}")
    return _File(Path(path), document, Path(out)).sweep()


def _faults(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a document is not of the types of sweep.schema.json, and what is wanted there."""
    for path, value in _values(document):
        if isinstance(value, float) and not math.isfinite(value):
            yield _place(path), f"{value} is no number"
        elif not isinstance(value, str | bool | int | float):
            yield _place(path), f"{value}: a date is of no use here"
    for error in _validator().iter_errors(document):
        found: Any = document
        for part in error.instance_path:
            found = found[part]
        rule, wanted = json.loads(_schema()), ""
        for part in error.schema_path:
            wanted = rule.get("description", wanted) if isinstance(rule, dict) else wanted
            rule = rule[part]
        shown = "" if isinstance(found, dict | list) else f"{found!r:.40}: "
        yield _place(error.instance_path), f"{shown}give {wanted}"


def _values(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """All that is no table and no list, with its path."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _values(inner, (*path, key))
    else:
        yield path, value


def _place(path: Sequence[str | int]) -> str:
    """``pretrain 2: seeds``, ``models.small: hidden_size``: blocks are counted from 1."""
    kind, *rest = path
    if kind in (PRETRAIN, POST_TRAIN) and rest:
        kind = f"{kind} {int(rest.pop(0)) + 1}"
    elif kind == "models" and rest:
        kind = f"{kind}.{rest.pop(0)}"
    return ": ".join([str(kind), *(part for part in rest if isinstance(part, str))])


@cache
def _schema() -> str:
    return (Path(__file__).parent / "sweep.schema.json").read_text(encoding="utf-8")


@cache
def _validator() -> Any:
    import jsonschema_rs

    return jsonschema_rs.validator_for(json.loads(_schema()))


class _File:
    def __init__(self, path: Path, document: dict[str, Any], out: Path) -> None:
        self.path, self.document, self.out = path, document, out
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.jobs: list[Job] = []

    def fail(self, where: str, what: str) -> RunError:
        return RunError(f"{self.path}: {where}: {what}")

    def known(self, where: str, table: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """The table, if it has no other keys."""
        known = sorted(names)
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise self.fail(where, f"{name}: unknown; {hint}")
        return table

    def sweep(self) -> Sweep:
        document = self.known(
            "top", self.document, ("text", "training", "models", "threads", PRETRAIN, POST_TRAIN)
        )
        threads = document.get("threads", 1)
        text = self.known("text", document.get("text", {}), {f.name for f in fields(TextSource)})
        if "spec" not in text:
            raise self.fail(
                "text", 'no spec: a file, a folder, hub:NAME or corpus, spec = "corpus"'
            )
        self.text = self.made("text", TextSource, text)
        self.shared = self.known("training", document.get("training", {}), _TRAINING)
        self.read_models(document.get("models", {}))
        for kind in (PRETRAIN, POST_TRAIN):
            for i, block in enumerate(document.get(kind, []), 1):
                where = f"{kind} {i}"
                self.known(where, block, _KEYS[kind])
                found = self.pretraining if kind == PRETRAIN else self.post_training
                for name in self.names(where, block):
                    self.jobs += found(where, block, name)
        if not self.jobs:
            raise self.fail("top", f"no [[{PRETRAIN}]] and no [[{POST_TRAIN}]]: nothing to do")
        self.check_names()
        longest = max(
            job.settings.training.steps(text.seq_len)
            * job.settings.training.step_tokens(text.seq_len)
            for job in self.jobs
            for text in [job.settings.text]
        )
        if self.text.train_tokens is None:
            text = replace(self.text, train_tokens=longest)
            self.jobs = [replace(j, settings=replace(j.settings, text=text)) for j in self.jobs]
        return Sweep(self.jobs, threads, self.configs, self.sizes)

    def made(self, where: str, kind: Any, values: Mapping[str, Any]) -> Any:
        try:
            return kind(**values)
        except (RunError, TypeError) as error:
            raise self.fail(where, str(error)) from None

    def read_models(self, tables: Any) -> None:
        for name, table in self.known("models", tables, tables).items():
            where = f"models.{name}"
            if ("type" in table) == ("path" in table):
                raise self.fail(where, "give either type (trained here) or path (trained before)")
            self.models[name] = table
            try:
                for other in self.models:
                    if other != name and slug(other).casefold() == slug(name).casefold():
                        raise RunError(f"{other} has the same name in files: call one otherwise")
                if "type" in table:
                    rest = {k: v for k, v in table.items() if k not in ("type", "tokenizer")}
                    self.configs[name] = new_config(table["type"], rest)
                else:
                    self.known(where, table, ("path", "revision"))
                    self.configs[name] = load_config(table["path"], table.get("revision"))
                self.sizes[name] = self.size(self.configs[name])
            except RunError as error:
                raise self.fail(where, str(error)) from None

    def size(self, config: Any) -> int:
        """Parameters of a model."""
        try:
            return count_parameters(meta_model(config)).total
        except Exception as error:  # of many kinds: each model checks in its own way
            why = str(error).strip().partition("\n")[0]
            raise RunError(f"no such model: {why or type(error).__name__}") from None

    def names(self, where: str, block: dict[str, Any]) -> list[str]:
        """The models of a block; by default all that it can take."""
        trained_here = [name for name, table in self.models.items() if "type" in table]
        possible = trained_here if where.startswith(PRETRAIN) else list(self.models)
        names = self.list_of(where, block, "models", possible)
        for name in names:
            if name not in possible:
                raise self.fail(where, f"models: {name!r} is none of {', '.join(possible) or '—'}")
        return names

    def list_of(self, where: str, block: dict[str, Any], key: str, default: Any) -> list[Any]:
        values = block.get(key, default)
        if not values and key in ("models", "tokens", "seeds"):
            raise self.fail(where, f"{key}: {values!r}: give a list")
        return list(dict.fromkeys(values))

    def trainings(
        self, where: str, block: dict[str, Any], name: str, **default: Any
    ) -> list[Training]:
        """One for each learning rate, number of tokens and seed."""
        values = self.values(where, block, name, **default)
        if "tokens" not in block:
            raise self.fail(
                where, 'no tokens: a list of counts such as 1e8 or "20x" (per parameter)'
            )
        tokens = [self.tokens(where, t, name) for t in self.list_of(where, block, "tokens", [])]
        seeds = self.list_of(where, block, "seeds", [0])
        lrs = values.pop("lr", Training.lr)
        if not isinstance(lrs, list):
            lrs = [lrs]
        elif not lrs or where.startswith(PRETRAIN):
            raise self.fail(where, f"lr: {lrs}: a list, of one or more, is for {POST_TRAIN}")
        return [
            self.made(where, Training, values | {"lr": lr, "tokens": t, "seed": seed})
            for lr, t, seed in itertools.product(dict.fromkeys(lrs), tokens, seeds)
        ]

    def values(
        self, where: str, block: dict[str, Any], name: str, **default: Any
    ) -> dict[str, Any]:
        """The fields of :class:`Training` for a model."""
        values = {**default, **self.shared, **{k: v for k, v in block.items() if k in _TRAINING}}
        for key, value in values.items():
            if isinstance(value, dict):
                if name not in value:
                    raise self.fail(where, f"{key}: says nothing of {name}")
                values[key] = value[name]
        return values

    def tokens(self, where: str, value: Any, name: str) -> int:
        count = round(float(value[:-1]) * self.sizes[name] if isinstance(value, str) else value)
        if count > _MOST_TOKENS:
            raise self.fail(where, f"tokens: {value!r}: more than {_MOST_TOKENS:.0e}")
        return count

    def pretraining(self, where: str, block: dict[str, Any], name: str) -> list[Job]:
        shape = {k: block[k] for k in ("schedule", "start", "end", "events") if k in block}
        finals = self.list_of(where, block, "sparsities", [0.0])
        sparsities = [self.made(where, Sparsity, shape | {"final": final}) for final in finals]
        table = self.models[name]
        config = {k: v for k, v in table.items() if k not in ("type", "tokenizer")}
        trainings = self.trainings(
            where, block, name, lr=DEFAULT_TRAINING.lr, decay=DEFAULT_TRAINING.decay
        )
        settings = [
            self.made(
                where,
                Pretraining,
                {
                    "model": table["type"],
                    "text": self.text,
                    "config": config,
                    "sparsity": sparsity,
                    "training": training,
                    "tokenizer": table.get("tokenizer"),
                    "label": name,
                    "save_model": block.get("save_model", False),
                },
            )
            for sparsity, training in itertools.product(sparsities, trainings)
        ]
        return self.runs(where, block, settings, partial(self.pretrain_job, name))

    def pretrain_job(self, name: str, settings: Pretraining, *needs: Path) -> Job:
        steps = settings.training.steps(self.text.seq_len)
        can = prunable_weights(meta_model(self.configs[name]))[1].prunable
        plan = settings.sparsity.in_steps(steps, can, self.sizes[name] - can)
        return Job(name, settings, self.out / PRETRAIN, float(plan.avg_params()), needs)

    def runs(
        self, where: str, block: dict[str, Any], settings: list[Any], job: Callable[..., Job]
    ) -> list[Job]:
        """A job for each of the settings, and trunks before them if the block wants any."""
        if not block.get("shared_trunk", False):
            return [job(one) for one in settings]
        try:
            return branches(settings, job)
        except RunError as error:
            raise self.fail(where, f"shared_trunk: {error}") from None

    def post_training(self, where: str, block: dict[str, Any], name: str) -> list[Job]:
        table, config = self.models[name], self.configs[name]
        needs: tuple[Path, ...] = ()
        if "type" in table:
            base = self.base(where, name)
            needs, model = (base.folder,), str(base.folder / "model")
        else:
            model = table["path"]
        shape = {k: block[k] for k in ("dimensions", "calibration_windows") if k in block}
        try:
            prunings = combinations(
                self.list_of(where, block, "methods", []),
                self.list_of(where, block, "rates", []),
                self.list_of(where, block, "criteria", []),
                control=block.get("control", True),
                **shape,
            )
            left = {id(pruning): counts_after(config, pruning).total for pruning in prunings}
            taught = {
                distillation: self.teacher_params(distillation, name)
                for distillation in distillations(
                    self.list_of(where, block, "teachers", []),
                    block.get("distil_weight"),
                    block.get("teacher_top_k"),
                )
            }
        except (RunError, TypeError) as error:
            raise self.fail(where, f"{name}: {error}") from None
        several = isinstance(self.values(where, block, name).get("lr"), list)
        settings = [
            self.made(
                where,
                PostTraining,
                {
                    "model": model,
                    "text": self.text,
                    "pruning": pruning,
                    "training": training,
                    "revision": table.get("revision"),
                    "label": name,
                    "distillation": distillation,
                    "name_lr": several,
                    "save_model": block.get("save_model", False),
                },
            )
            for training in self.trainings(where, block, name)
            for pruning in prunings
            for distillation in taught
        ]

        def job(one: PostTraining, *trunk: Path) -> Job:
            params, taught_by = left[id(one.pruning)], taught[one.distillation]
            return Job(name, one, self.out / POST_TRAIN, params, trunk or needs, taught_by)

        return self.runs(where, block, settings, job)

    def teacher_params(self, distillation: Distillation | None, name: str) -> int:
        """Of the teacher of a model."""
        if distillation is None:
            return 0
        if distillation.teacher == SELF:
            return self.sizes[name]
        return count_parameters(meta_model(load_config(distillation.teacher))).total

    def base(self, where: str, name: str) -> Job:
        """The run that trains a model which others prune."""
        found = [
            job
            for job in self.jobs
            if isinstance(job.settings, Pretraining)
            and job.settings.label == name
            and job.settings.save_model
            and not job.settings.sparsity.final
        ]
        if len(found) != 1:
            raise self.fail(
                where,
                f"{name}: {len(found)} dense runs of pre-training save this model; there is to be "
                "one: save_model = true in a block with one number of tokens and one seed",
            )
        return found[0]

    def check_names(self) -> None:
        by_folder: dict[Path, Job] = {}
        for job in self.jobs:
            other = by_folder.setdefault(job.folder, job)
            if other.settings.recorded() != job.settings.recorded():
                raise RunError(
                    f"{self.path}: {job.label}: asked for twice, with different settings: put one "
                    "into another file, with another --out"
                )
        self.jobs = list(by_folder.values())
