"""Pre-training from nothing, dense or while pruning: Chinchilla and average-parameter curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from p2fit.schedules import KINDS, Kind, Schedule
from p2fit_adapters import curves
from p2fit_adapters.errors import RunError
from p2fit_adapters.models import (
    Counts,
    count_parameters,
    empty_model,
    from_config,
    is_type,
    new_config,
)
from p2fit_adapters.naming import slug
from p2fit_adapters.progress import Report
from p2fit_adapters.pruning.masks import Masks
from p2fit_adapters.running import Result, Run, check_length, recorded_settings
from p2fit_adapters.text import Text, TextSource
from p2fit_adapters.training import Trainer, Training

DEFAULT_TRAINING = Training(lr=1e-3, decay=0.2)


@dataclass(frozen=True)
class Sparsity:
    """How much of the linear weights is pruned in the course of pre-training, and when.

    Start and end are shares of the training compute, as in Jin et al. (2025, arXiv 2501.12486); the
    smallest weights of all layers together go at equally spaced steps between them, and never come
    back.

    Raises:
        RunError: a value out of its range.
    """

    final: float = 0.0
    """S in [0, 1), the share of the prunable weights that is gone in the end; 0 is dense."""
    schedule: Kind = "geometric"
    start: float = 0.25
    end: float = 0.75
    events: int = 100
    """Times that weights are pruned; fewer where the steps are fewer. one-shot: 1."""

    def __post_init__(self) -> None:
        for name, good, what in (
            ("final", 0 <= self.final < 1, "a share below 1"),
            ("schedule", self.schedule in KINDS, ", ".join(KINDS)),
            ("start", 0 <= self.start <= self.end <= 1, "shares in order: 0 <= start <= end <= 1"),
            ("events", self.events >= 1, "at least 1"),
        ):
            if not good:
                raise RunError(f"{name} is {getattr(self, name)}: use {what}")

    def in_steps(self, steps: int, prunable: int, fixed: int) -> Schedule:
        """The schedule of a run, counted in whole steps: its start, and its events one every so
        many steps. Up to this rounding it is :meth:`p2fit.schedules.Schedule.from_compute`."""
        wished = Schedule.from_compute(
            self.schedule,
            self.final,
            prunable,
            fixed,
            tokens=steps,
            start=self.start,
            end=self.end,
        )
        start = min(round(wished.start), steps)
        span = min(round(wished.end), steps) - start
        every = max(1, round(span / self.events))
        events = 1 if self.schedule == "one-shot" else max(1, round(span / every))
        events = min(events, max(1, (steps - start) // every))
        end = min(start + events * every, steps)
        return replace(wished, start=start, end=end, total=steps, events=events)


@dataclass(frozen=True)
class Pretraining:
    """One run: a model from a configuration, trained from nothing and evaluated on the way."""

    model: str
    """What configuration: a folder or hub id (its weights are not used), or a type such as
    ``llama``."""
    text: TextSource
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration to set: ``hidden_size``, ``num_hidden_layers`` …"""
    sparsity: Sparsity = field(default_factory=Sparsity)
    training: Training = DEFAULT_TRAINING
    tokenizer: str | None = None
    """Folder or hub id; by default the model's own, and a byte-level BPE trained on the text
    where it has none."""
    revision: str | None = None
    """Of the model on the hub."""
    family: str | None = None
    """For the column of that name; by default the model's type (llama, qwen2 …)."""
    label: str | None = None
    """What the model is called in names; by default the last part of ``model``."""
    keep_states: Sequence[int] = ()
    """Tokens after which the state is kept, in ``OUT/NAME/states``, for runs that go on from
    there."""
    trunk: str | None = None
    """Folder of a run that kept its state where this one's decay begins: it goes on from there,
    in place of training the same again. Both must name the same ``text.train_tokens``."""
    save_model: bool = False
    """Keep the trained model, in the folder ``model`` of the run."""

    def __post_init__(self) -> None:
        if self.training.lora_rank:
            raise RunError("LoRA adds to weights that are trained already: it is for post-training")
        if self.trunk and self.sparsity.final:
            raise RunError("a sparse run prunes all along: it cannot go on from another's state")
        if self.trunk and not self.training.decay:
            raise RunError("a run that goes on from another's state needs a decay")

    @property
    def name(self) -> str:
        """Name of the run and of its folder: model, sparsity, tokens, seed."""
        parts = [slug(self.label or Path(self.model).name)]
        sparsity = self.sparsity
        parts.append(f"{sparsity.schedule}{sparsity.final:g}" if sparsity.final else "dense")
        parts.append(self.training.short_tokens)
        if not self.training.decay:
            parts.append("constant")
        return "_".join([*parts, f"s{self.training.seed}"])

    def evaluate_at(self) -> list[int]:
        """The steps after which the model is evaluated."""
        return self.training.evaluate_at(self.text.seq_len)

    def recorded(self) -> dict[str, Any]:
        """The settings that make a run what it is."""
        settings = recorded_settings(self)
        settings["config"] = dict(self.config)
        return settings


@dataclass(frozen=True)
class Pretrained(Result):
    """How a run of pre-training ended."""

    params: int
    sparsity: float
    """The share of the prunable weights that is gone."""
    avg_params: float | None
    """N̄ of the whole run, of all parameters; None where it diverged before any row."""


def pretrain(settings: Pretraining, out: str | Path, report: Report | None = None) -> Pretrained:
    """Do a run, or go on with it where it was left, and write its curve.

    Rows are in ``out/curves.csv`` and, those of this run alone, in ``out/NAME/curves.csv``. Killed
    at any moment and called again, it ends with the same rows (bit for bit on a CPU).

    A row has, after ``tokens``, the parameters then active (``active_params``) and their mean over
    the tokens so far, N̄ = C/(6D) (``avg_params``), of all parameters and, as ``linear_…``, of the
    linear layers alone, as Jin et al. count: attention, MLP and LM head. ``flops`` is C of these.
    ``final`` is 1 where the learning rate has fallen to 0.

    Args:
        out: folder for curves, checkpoints and tokenized text.
        report: is told of progress and warnings.

    Raises:
        RunError: it cannot be done, or has to stop; what was measured stays in the files.
    """
    return _Pretraining(settings, out, report).go()


def pretrain_each(
    base: Pretraining, sparsities: Sequence[Sparsity], out: str | Path, report: Report | None = None
) -> list[Pretrained]:
    """:func:`pretrain` with each of these sparsities, one after the other.

    Raises:
        RunError: as there.
    """
    return [pretrain(replace(base, sparsity=sparsity), out, report) for sparsity in sparsities]


@dataclass(frozen=True)
class LinearCounts:
    """Parameters of linear layers: attention, MLP and LM head, without the input embedding."""

    prunable: int
    fixed: int
    """Not pruned: biases, and an LM head that is tied to the input embedding."""


def prunable_weights(model: nn.Module) -> tuple[list[str], LinearCounts]:
    """Names of the weights that sparse pre-training prunes, and the counts of linear layers."""
    embedding = id(model.get_input_embeddings().weight)
    names, can, cannot = [], 0, 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if module.bias is not None:
            cannot += module.bias.numel()
        if id(module.weight) == embedding:
            cannot += module.weight.numel()
        else:
            names.append(f"{name}.weight")
            can += module.weight.numel()
    return names, LinearCounts(can, cannot)


class _Pretraining(Run[Pretrained]):
    settings: Pretraining
    columns = (
        "run",
        "family",
        "params",
        "tokens",
        "loss",
        "active_params",
        "avg_params",
        "sparsity",
        "final_sparsity",
        "schedule",
        "flops",
        "linear_params",
        "linear_active_params",
        "linear_avg_params",
        "non_embedding",
        "final",
        "lr",
        "seed",
        "step",
    )

    def tokenizer_of(self, meta: Mapping[str, Any]) -> str | None:
        settings = self.settings
        return settings.tokenizer or (None if is_type(settings.model) else settings.model)

    def begin(self) -> tuple[Trainer, dict[str, Any]]:
        settings, training = self.settings, self.training
        config = new_config(settings.model, settings.config, settings.revision)
        check_length(settings.model, config, settings.text.seq_len)
        text = self.prepare_text(config.vocab_size, self.tokenizer_of({}))
        # Under FSDP the first process sends the weights to the others.
        whole = self.is_main or not self.accelerator.is_fsdp2
        model = from_config(config) if whole else empty_model(config)
        names, linear = prunable_weights(model)
        meta = self._meta(model, linear, text)
        if settings.trunk:
            return self.branch(text)[0], meta
        weights = {n: p for n, p in model.named_parameters() if n in set(names)}
        pruned = weights if settings.sparsity.final else {}
        masks = Masks({n: torch.ones(w.shape, dtype=torch.bool) for n, w in pruned.items()})
        trainer = Trainer(self.accelerator, model, masks, text, training)
        self.after_step(trainer, meta)  # a schedule may begin at once
        return trainer, meta

    def _meta(self, model: Any, linear: LinearCounts, text: Text) -> dict[str, Any]:
        per_step = self.training.step_tokens(self.settings.text.seq_len)
        found = self.described(model, text) | {
            "tokenizer": self.settings.tokenizer,
            "before": asdict(count_parameters(model)),
            "linear": asdict(linear),
        }
        if self.settings.sparsity.final:
            plan = self._plan(found)
            found["schedule"] = {
                "kind": plan.kind,
                "final_sparsity": plan.sparsity,
                "events": plan.events,
                "start_tokens": round(plan.start * per_step),
                "end_tokens": round(plan.end * per_step),
                "start_of_compute": float(plan.compute(plan.start) / plan.compute()),
                "end_of_compute": float(plan.compute(plan.end) / plan.compute()),
            }
        return found

    def _plan(self, meta: Mapping[str, Any]) -> Schedule:
        """The schedule, in steps, of all parameters."""
        linear, steps = LinearCounts(**meta["linear"]), self.training.steps(self._seq_len)
        fixed = Counts(**meta["before"]).total - linear.prunable
        return self.settings.sparsity.in_steps(steps, linear.prunable, fixed)

    @property
    def _seq_len(self) -> int:
        return self.settings.text.seq_len

    def after_step(self, trainer: Trainer, meta: Mapping[str, Any]) -> None:
        settings = self.settings
        if settings.sparsity.final:
            stay = int(weights_left(self._plan(meta), np.array([trainer.step]))[0])
            trainer.masks.shrink(trainer.plain_model, stay)

    def row(self, meta: Mapping[str, Any], trainer: Trainer, loss: float) -> dict[str, Any]:
        settings, step = self.settings, trainer.step
        before, linear = Counts(**meta["before"]), LinearCounts(**meta["linear"])
        kept = weights_left(self._plan(meta), np.arange(step + 1))
        mean = float(kept[:-1].mean())
        rest = before.total - linear.prunable
        return {
            "run": settings.name,
            "family": meta["family"],
            "params": before.total,
            "tokens": trainer.tokens,
            "loss": loss,
            "active_params": rest + int(kept[-1]),
            "avg_params": rest + mean,
            "sparsity": 1 - int(kept[-1]) / linear.prunable,
            "final_sparsity": settings.sparsity.final,
            "schedule": settings.sparsity.schedule if settings.sparsity.final else "dense",
            "flops": 6 * (rest + mean) * trainer.tokens,
            "linear_params": linear.prunable + linear.fixed,
            "linear_active_params": linear.fixed + int(kept[-1]),
            "linear_avg_params": linear.fixed + mean,
            "non_embedding": before.non_embedding,
            "final": int(bool(self.training.decay) and step == trainer.steps),
            "lr": self.training.lr_at(step - 1, trainer.steps),
            "seed": self.training.seed,
            "step": step,
        }

    def result(self, meta: Mapping[str, Any], rows: curves.Rows) -> Pretrained:
        last = rows[max(rows)] if rows else None
        return Pretrained(
            run=self.settings.name,
            status=meta["status"],
            rows=len(rows),
            loss=float(last["loss"]) if last else None,
            warnings=meta["warnings"],
            params=Counts(**meta["before"]).total,
            sparsity=float(last["sparsity"]) if last else 0.0,
            avg_params=float(last["avg_params"]) if last else None,
        )


def weights_left(
    plan: Schedule, steps: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Prunable weights that are left after steps, whole ones."""
    # Events are at whole steps: half a step on, no rounding of their times matters.
    return np.rint(plan.prunable * plan.density(steps + 0.5)).astype(np.int64)
