"""Post-training after pruning: the curves of the P² law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from p2fit_adapters import curves
from p2fit_adapters.distillation import SELF, Distillation, Teacher
from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, empty_model, load_config, load_model
from p2fit_adapters.naming import model_name, slug
from p2fit_adapters.progress import Report
from p2fit_adapters.pruning import Masks, Pruned, Pruning, counts_after, prune
from p2fit_adapters.running import Result, Run, check_length, recorded_settings
from p2fit_adapters.text import Text, TextSource
from p2fit_adapters.training import Trainer, Training, window_losses


@dataclass(frozen=True)
class PostTraining:
    """One run: prune a model, train it on, and evaluate on the way."""

    model: str
    """Folder or hub id of a causal language model."""
    text: TextSource
    pruning: Pruning = field(default_factory=Pruning)
    training: Training = field(default_factory=Training)
    revision: str | None = None
    """Of the model on the hub."""
    family: str | None = None
    """For the column of that name; by default the model's type (llama, qwen2 …)."""
    label: str | None = None
    """What the model is called in names; by default the last part of ``model``."""
    distillation: Distillation | None = None
    """A teacher; none by default."""
    name_lr: bool = False
    """Say the learning rate in the name, beside runs with other ones."""
    keep_states: Sequence[int] = ()
    """Tokens after which the state is kept, in ``OUT/NAME/states``, for runs that go on from
    there."""
    trunk: str | None = None
    """Folder of a run that kept its state where this one's decay begins: it goes on from there,
    in place of pruning and training the same again. Both must name the same
    ``text.train_tokens``."""
    save_model: bool = False
    """Keep the trained model, in the folder ``model`` of the run."""

    def __post_init__(self) -> None:
        if self.trunk and not self.training.decay:
            raise RunError("a run that goes on from another's state needs a decay")
        if self.training.lora_rank and not (
            self.pruning.is_structured or self.pruning.method == "none"
        ):
            raise RunError(
                f"{self.pruning.method} with LoRA: what is learned would fill the zeros when it is "
                "merged: use depth or width, or train all weights"
            )

    @property
    def method(self) -> str:
        """For the column of that name: how it is pruned, and how it is trained if not plainly. Fits
        keep these apart: ``depth``, ``depth+kd``, ``depth+kd-OTHER``, ``depth+lora8``,
        ``depth+decay``."""
        parts = [self.pruning.method]
        if self.distillation:
            own = self.distillation.teacher == SELF
            parts.append("kd" if own else f"kd-{self.distillation.name}")
        return "+".join([*parts, *self._ways])

    @property
    def way(self) -> str:
        """For the column ``training``: ``plain``, ``lora8``, ``decay``, ``lora8+decay``."""
        return "+".join(self._ways) or "plain"

    @property
    def _ways(self) -> list[str]:
        rank = self.training.lora_rank
        return [f"lora{rank}"] * bool(rank) + ["decay"] * bool(self.training.decay)

    @property
    def name(self) -> str:
        """Name of the run and of its folder: model, method, criterion, rate, tokens, seed, and
        the learning rate where there are several."""
        parts = [slug(self.label) if self.label else model_name(self.model)]
        parts.append(self.method.replace(":", "of"))
        if len(self.pruning.criteria) > 1:
            parts.append(self.pruning.chosen_criterion)
        if self.pruning.rate is not None:
            parts.append(f"{self.pruning.rate:g}")
        if self.name_lr:
            parts.append(f"lr{self.training.lr:g}")
        return "_".join([*parts, self.training.short_tokens, f"s{self.training.seed}"])

    def evaluate_at(self) -> list[int]:
        """The steps after which the model is evaluated: of a run that decays its end alone, with
        which nothing before it compares."""
        found = self.training.evaluate_at(self.text.seq_len)
        return found[-1:] if self.training.decay else found

    def recorded(self) -> dict[str, Any]:
        """The settings that make a run what it is."""
        settings = recorded_settings(self)
        settings["pruning"]["criterion"] = self.pruning.chosen_criterion
        settings["pruning"]["dimensions"] = list(self.pruning.dimensions)
        del settings["name_lr"]
        return settings


@dataclass(frozen=True)
class PostTrained(Result):
    """How a run of post-training ended."""

    base_loss: float
    pruning_rate: float


def post_train(
    settings: PostTraining, out: str | Path, report: Report | None = None
) -> PostTrained:
    """Do a run, or go on with it where it was left, and write its curve.

    Rows are in ``out/curves.csv`` and, those of this run alone, in ``out/NAME/curves.csv``. Killed
    at any moment and called again, it ends with the same rows (bit for bit on a CPU).

    Args:
        out: folder for curves, checkpoints and tokenized text.
        report: is told of progress and warnings.

    A loss that is not a number stops the run; it is marked in the sidecar and in the result, and
    not taken up again.

    Raises:
        RunError: it cannot be done, or has to stop; what was measured stays in the files.
    """
    return _PostTraining(settings, out, report).go()


def post_train_each(
    base: PostTraining,
    prunings: Sequence[Pruning],
    out: str | Path,
    report: Report | None = None,
    distillations: Sequence[Distillation | None] = (None,),
) -> list[PostTrained]:
    """:func:`post_train` with each of these ways to prune and teachers, one after the other.

    Raises:
        RunError: one of them is out of reach for this model (before any is begun), or as there.
    """
    config = load_config(base.model, base.revision)
    for pruning in prunings:
        counts_after(config, pruning)
    return [
        post_train(replace(base, pruning=pruning, distillation=distillation), out, report)
        for pruning in prunings
        for distillation in distillations
    ]


_Losses: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
_Begun: TypeAlias = tuple[Pruned, _Losses | None, str | None]
"""A pruned model, the losses of the windows before that unless they are the same, and the model's
revision."""


class _PostTraining(Run[PostTrained]):
    settings: PostTraining
    columns = (
        "run",
        "family",
        "method",
        "criterion",
        "params",
        "pruning_rate",
        "base_loss",
        "tokens",
        "loss",
        "teacher",
        "training",
        "learning_rate",
        "flops",
        "seed",
        "step",
        "params_after",
        "non_embedding",
        "non_embedding_after",
        "non_embedding_rate",
    )

    def begin(self) -> tuple[Trainer, dict[str, Any]]:
        settings, training = self.settings, self.training
        config = load_config(settings.model, settings.revision)
        check_length(settings.model, config, settings.text.seq_len)
        text = self.prepare_text(config.vocab_size, settings.model)
        teacher = self.teacher(text, config.vocab_size)  # it may want the memory for itself
        if settings.trunk:
            trainer, theirs = self.branch(text, teacher)
            own = {"method": settings.method, "revision": theirs["revision"]}
            return trainer, theirs | self.described(trainer.plain_model, text) | own
        if self.accelerator.is_fsdp2:
            pruned, base, revision = self._of_first(self._prune(text) if self.is_main else None)
        else:
            pruned, base, revision = self._prune(text)
            # What goes may hang on the last bit: one decides.
            if self.accelerator.num_processes > 1:
                for tensor in (*pruned.model.parameters(), *pruned.masks.kept.values()):
                    torch.distributed.broadcast(tensor.data.view(torch.uint8), 0)
        trainer = Trainer(self.accelerator, pruned.model, pruned.masks, text, training, teacher)
        losses = self._losses(trainer.model, text)
        base = losses if base is None else base
        self._right_after = float(losses.mean())
        if not math.isfinite(self._right_after) or not math.isfinite(float(base.mean())):
            raise RunError(f"{settings.model}: its loss is not a number before any training")
        meta = self._meta(pruned, text, base, revision)
        if teacher:
            meta["teacher"] = teacher.described()
        meta["trainable"] = trainer.trainable
        return trainer, meta

    def _prune(self, text: Text) -> _Begun:
        """The whole model on the device, measured and pruned; the unpruned one stays on the CPU."""
        settings, size = self.settings, self.training.batch_size
        model = load_model(settings.model, settings.revision)
        revision = getattr(model.config, "_commit_hash", None)
        windows = text.calibration(settings.pruning.calibration_windows, self.training.seed)
        if settings.pruning.method == "none":
            return prune(model, settings.pruning, windows, size), None, revision
        model.to(self.accelerator.device)
        self.report.say(f"{settings.name}: measuring the loss before pruning")
        base = self._losses(model, text, alone=self.accelerator.is_fsdp2)
        self.report.say(f"{settings.name}: pruning")
        with self.accelerator.autocast():
            pruned = prune(model, settings.pruning, windows, size)
        if self.accelerator.is_fsdp2:  # it is sent piece by piece
            pruned.model.to("cpu")
        return pruned, base, revision

    def _of_first(self, begun: _Begun | None) -> _Begun:
        """What the first process has made, in all of them; the others get no weights yet."""
        from accelerate.utils import broadcast_object_list

        told: list[Any] = [None]
        if begun:
            pruned, base, revision = begun
            shapes = {name: kept.shape for name, kept in pruned.masks.kept.items()}
            found = (pruned.before, pruned.after, pruned.details)
            told = [(pruned.model.config, shapes, found, base, revision)]
        broadcast_object_list(told)
        config, shapes, found, base, revision = told[0]
        if begun is None:
            masks = Masks(
                {name: torch.empty(shape, dtype=torch.bool) for name, shape in shapes.items()}
            )
            pruned = Pruned(empty_model(config), masks, *found)
        for name, kept in pruned.masks.kept.items():
            pruned.masks.kept[name] = kept = kept.to(self.accelerator.device)
            torch.distributed.broadcast(kept.view(torch.uint8), 0)
        return pruned, base, revision

    def teacher(self, text: Text, vocabulary: int) -> Teacher | None:
        settings, training, seq_len = self.settings, self.training, text.train.shape[1]
        if settings.distillation is None:
            return None
        found = Teacher(
            settings.distillation,
            self.accelerator,
            text,
            settings.model,
            settings.revision,
            vocabulary,
        )
        windows = training.steps(seq_len) * training.windows_per_step(seq_len)
        store = self.out / ".teacher"
        found.get_ready(training.seed, windows, training.batch_size, store, self.report)
        return found

    def _losses(self, model: Any, text: Text, alone: bool = False) -> _Losses:
        size = self.training.batch_size
        return window_losses(self.accelerator, model, text.evaluation, size, alone)

    def first_rows(self, meta: Mapping[str, Any], trainer: Trainer) -> curves.Rows:
        settings = self.settings
        if settings.trunk:
            first = curves.read_rows(Path(settings.trunk))[0]
            own = {"run": settings.name, "method": meta["method"], "training": settings.way}
            return {0: first | own}
        return {0: self.row(meta, trainer, self._right_after)}

    def measured(self, row: Mapping[str, Any], meta: dict[str, Any]) -> None:
        below = f"below the base model's {row['base_loss']:.4g}"
        if (
            row["pruning_rate"] > 0
            and row["loss"] < row["base_loss"]
            and not any(below in warning for warning in meta["warnings"])
        ):
            self.warn(
                f"{row['run']}: after {row['tokens']} tokens the loss is {row['loss']:.4g}, "
                f"{below}: that was not trained enough on such text, and the P² law does not hold "
                "here",
                meta,
            )

    def row(self, meta: Mapping[str, Any], trainer: Trainer, loss: float) -> dict[str, Any]:
        before, after = Counts(**meta["before"]), Counts(**meta["after"])
        flops = 6 * after.total * trainer.tokens
        if self.training.lora_rank:  # no gradients of frozen weights
            flops = (4 * after.total + 6 * trainer.trainable) * trainer.tokens
        if trainer.teacher:
            flops += 2 * trainer.teacher.params * trainer.teacher.tokens_read(trainer.tokens)
        return {
            "run": self.settings.name,
            "family": meta["family"],
            "method": meta["method"],
            "criterion": meta["criterion"],
            "params": before.total,
            "pruning_rate": before.rate(after),
            "base_loss": meta["base_loss"],
            "tokens": trainer.tokens,
            "loss": loss,
            "teacher": self.settings.distillation.name if self.settings.distillation else "none",
            "training": self.settings.way,
            "learning_rate": self.training.lr,
            "flops": flops,
            "seed": self.training.seed,
            "step": trainer.step,
            "params_after": after.total,
            "non_embedding": before.non_embedding,
            "non_embedding_after": after.non_embedding,
            "non_embedding_rate": before.non_embedding_rate(after),
        }

    def _meta(
        self,
        pruned: Pruned,
        text: Text,
        base: _Losses,
        revision: str | None,
    ) -> dict[str, Any]:
        pruning = self.settings.pruning
        calibrated = pruning.method != "none" and pruning.chosen_criterion != "magnitude"
        return self.described(pruned.model, text) | {
            "revision": revision,
            "method": self.settings.method,
            "criterion": pruning.chosen_criterion,
            "before": asdict(pruned.before),
            "after": asdict(pruned.after),
            "pruning_rate": pruned.before.rate(pruned.after),
            "pruned": pruned.details,
            "calibration": {
                "windows": min(pruning.calibration_windows, len(text.train)) if calibrated else 0,
                "seed": self.training.seed,
                "text": "training part",
            },
            "base_loss": float(base.mean()),
            "base_loss_stderr": float(base.std(ddof=1) / math.sqrt(len(base)))
            if len(base) > 1
            else None,
        }

    def result(self, meta: Mapping[str, Any], rows: curves.Rows) -> PostTrained:
        return PostTrained(
            run=self.settings.name,
            status=meta["status"],
            rows=len(rows),
            loss=float(rows[max(rows)]["loss"]),
            warnings=meta["warnings"],
            base_loss=meta["base_loss"],
            pruning_rate=meta["pruning_rate"],
        )
