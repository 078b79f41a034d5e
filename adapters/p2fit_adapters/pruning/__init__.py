"""Pruning: depth, width and N:M, one function for all, and the counts without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, count_parameters, meta_model
from p2fit_adapters.pruning import depth, nm, width
from p2fit_adapters.pruning.masks import Masks

METHODS = ("none", "depth", "width")  # and N:M

__all__ = ["METHODS", "Masks", "Pruned", "Pruning", "combinations", "counts_after", "prune"]


@dataclass(frozen=True)
class Pruning:
    """What to prune, how much and by which criterion.

    Raises:
        RunError: the parts do not go together.
    """

    method: str = "none"
    """``none``, ``depth``, ``width`` or N:M, e.g. ``2:4``: 2 of 4 weights in a row stay."""
    rate: float | None = None
    """Target ρ, the share of all parameters to remove, for depth and width; N:M sets its own."""
    criterion: str | None = None
    """``block-influence`` or ``span`` for depth, ``activation`` for width, ``sparsegpt``,
    ``wanda`` or ``magnitude`` for N:M; the first of each by default."""
    dimensions: Sequence[str] = ("mlp",)
    """What width pruning shrinks: ``mlp``, ``heads``, ``hidden``."""
    calibration_windows: int = 128
    """Training windows that the criterion is measured on."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            if ":" not in self.method:
                raise RunError(f"method {self.method}: use none, depth, width or N:M such as 2:4")
            nm.parse(self.method)
        if self.is_structured:
            if self.rate is None or not 0 < self.rate < 1:
                raise RunError(f"{self.method} pruning needs a rate between 0 and 1")
        elif self.rate is not None:
            raise RunError(f"{self.method} has a rate of its own: leave the rate out")
        if self.criterion not in (None, *self.criteria):
            known = ", ".join(self.criteria) or "none"
            raise RunError(f"criterion {self.criterion}: {self.method} pruning knows {known}")
        unknown = set(self.dimensions) - set(width.DIMENSIONS)
        if unknown or not self.dimensions:
            raise RunError(f"width pruning shrinks {', '.join(width.DIMENSIONS)}")

    @property
    def is_structured(self) -> bool:
        return self.method in ("depth", "width")

    @property
    def criteria(self) -> tuple[str, ...]:
        of = {"none": (), "depth": depth.CRITERIA, "width": width.CRITERIA}
        return of.get(self.method, nm.CRITERIA)

    @property
    def chosen_criterion(self) -> str:
        """The criterion, or the method's default; empty for ``none``."""
        return self.criterion or next(iter(self.criteria), "")


def combinations(
    methods: Sequence[str],
    rates: Sequence[float] = (),
    criteria: Sequence[str] = (),
    *,
    control: bool = True,
    **settings: Any,
) -> list[Pruning]:
    """Every method with every rate it takes and every criterion it knows; the control first.

    Args:
        methods: as :attr:`Pruning.method`.
        rates: for depth and width.
        criteria: each is used where a method knows it.
        control: begin with ``none``.
        settings: further fields of :class:`Pruning`.

    Raises:
        RunError: nothing to do, a rate that no method takes, a criterion that none knows.
    """
    chosen = [method for method in dict.fromkeys(methods) if method != "none"]
    if rates and not {"depth", "width"} & set(chosen):
        raise RunError("a rate is for depth and width pruning; N:M has one of its own")
    found = [Pruning("none", **settings)] if control or "none" in methods else []
    unused = set(criteria)
    for method in chosen:
        takes_rate = method in ("depth", "width")
        for rate in dict.fromkeys(rates) if rates and takes_rate else [None]:
            plain = Pruning(method, rate, **settings)
            known = [name for name in dict.fromkeys(criteria) if name in plain.criteria]
            unused -= set(known)
            found += [replace(plain, criterion=name) for name in known] or [plain]
    if unused:
        raise RunError(f"criterion {', '.join(sorted(unused))}: no method given knows it")
    if not found:
        raise RunError("nothing to do: give a method, or leave the control in")
    return found


@dataclass(frozen=True)
class Pruned:
    """A pruned model and what was done to it."""

    model: Any
    """Depth and width: a new model that shares or replaces the old one's tensors. N:M and
    ``none``: the model itself."""
    masks: Masks
    """What must stay zero; empty for all but N:M."""
    before: Counts
    after: Counts
    details: dict[str, Any]
    """Layers dropped or sizes kept, and scores."""


def prune(
    model: Any,
    pruning: Pruning,
    windows: torch.Tensor,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pruned:
    """Prune a causal language model.

    Args:
        model: of ``from_pretrained``; do not use it afterwards.
        windows: token ids [windows, length] for calibration.
        batch_size: windows in one forward pass.
        progress: is told blocks done and their total (N:M).

    Raises:
        RunError: the rate is out of reach, or the family unknown to the method.
    """
    before = count_parameters(model)
    was_training = model.training
    model.eval()
    masks: dict[str, torch.Tensor] = {}
    details: dict[str, Any] = {}
    if pruning.method == "depth":
        assert pruning.rate is not None
        criterion = pruning.chosen_criterion
        model, details = depth.prune(model, pruning.rate, criterion, windows, batch_size)
    elif pruning.method == "width":
        assert pruning.rate is not None
        model, details = width.prune(
            model, pruning.rate, windows, batch_size, tuple(pruning.dimensions)
        )
    elif pruning.method != "none":
        masks = nm.prune(
            model, pruning.method, pruning.chosen_criterion, windows, batch_size, progress
        )
    model.train(was_training)
    return Pruned(model, Masks(masks), before, count_parameters(model, masks), details)


def counts_after(config: Any, pruning: Pruning) -> Counts:
    """What :func:`prune` will leave, from a configuration alone.

    Raises:
        RunError: as :func:`prune`.
    """
    if pruning.method == "depth":
        assert pruning.rate is not None
        return depth.counts_after(config, pruning.rate, pruning.chosen_criterion)
    if pruning.method == "width":
        assert pruning.rate is not None
        return width.counts_after(config, pruning.rate, tuple(pruning.dimensions))
    if pruning.method != "none":
        return nm.counts_after(config, pruning.method)
    return count_parameters(meta_model(config))
