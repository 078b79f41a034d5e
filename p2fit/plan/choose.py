"""Which base model to prune to a given size, for a given budget of training after it?

The pruning rate of a candidate follows from its size and the deployed one; the budget buys tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.arguments import hold
from p2fit.arrays import Array, finite, one_thread
from p2fit.curves.choosing import Source
from p2fit.curves.points import points_table
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.plan.prediction import extrapolation_notes
from p2fit.plan.quantities import (
    Parameters,
    Quantity,
    Spread,
    decades_outside,
    open_parameters,
    spread,
)
from p2fit.plan.tokens import compute_saved
from p2fit.results import Result
from p2fit.wording import join

_INPUTS = {"params", "tokens", "pruning_rate", "base_loss"}


@dataclass(frozen=True)
class Candidate:
    """A base model, pruned to the deployed size and trained with the budget."""

    name: str
    """As in the file."""
    group: Mapping[str, str]
    """The group of the fit that predicts it."""
    params: float
    """Parameters before pruning."""
    pruning_rate: float
    """Share to remove."""
    tokens: float
    """Tokens that the budget buys."""
    loss: Quantity
    """Predicted loss, nats per token."""
    best: float | None
    """Share of the draws in which no other candidate has a lower loss; None without draws."""
    rank: float | None
    """Mean rank over the draws, 1 the best; None without draws."""
    outside: Mapping[str, float]
    """How far its inputs are outside the fitted ranges, in decades."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        far = {x: finite(v) for x, v in self.outside.items()}
        own = {k: v for k, v in vars(self).items() if k != "outside"}
        own |= {"group": dict(self.group), "loss": self.loss.to_dict()}
        return {**own, "decades_outside": far}


@dataclass(frozen=True)
class Choice(Result):
    """Candidates, the lowest predicted loss first. Made by :func:`plan_choose`."""

    table = ("candidates", "")

    deploy_params: float
    """Parameters that are deployed."""
    flops: float | None
    """Budget of compute; None where tokens were given."""
    candidates: tuple[Candidate, ...]
    """Best first."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        own = {"candidates": [c.to_dict() for c in self.candidates], "notes": list(self.notes)}
        return {**vars(self), **own}


@one_thread()
def plan_choose(
    fits: Fit | Sequence[Fit],
    candidates: Source,
    deploy_params: float,
    *,
    flops: float | None = None,
    tokens: float | None = None,
    columns: Mapping[str, str] | None = None,
) -> Choice:
    """Which base model, pruned to a size and trained with a budget, has the lowest loss.

    Each candidate is predicted by every fit whose group it agrees with in the columns that it has:
    with fits of several methods and no column ``method``, it is tried with each method.

    Args:
        fits: fits of a law of post-training after pruning, one per group.
        candidates: base models with ``params`` and ``base_loss``, all on one evaluation set, and
            perhaps ``name``, ``family`` and ``method``: a CSV file or a table.
        deploy_params: parameters that are left.
        flops: budget of compute, 6 FLOPs per token and parameter kept (all of them for N:M).
        tokens: or budget of tokens.
        columns: column -> its name in ``candidates``, or an expression, as in
            :class:`Options`.

    Raises:
        CurvesError: faults in the file.
        FitError: what is wrong with the request.
    """
    hold("deploy_params", deploy_params, float)
    every = [fits] if isinstance(fits, Fit) else list(fits)
    for fit in every:
        fit.of_loss("a choice of the model to prune")
        unknown = tuple(x for x in fit.law.inputs if x not in _INPUTS)
        if "pruning_rate" not in fit.law.inputs or "params" not in fit.law.inputs or unknown:
            raise FitError(
                f"{fit.law.name} does not predict pruned models by params and pruning_rate"
                + (f" alone: it reads {join(unknown)}" if unknown else "")
            )
    if (flops is None) == (tokens is None):
        raise FitError("give the budget as FLOPs or as tokens")
    if not all(0 < v < math.inf for v in (deploy_params, flops or 1.0, tokens or 1.0)):
        raise FitError("the deployed size and the budget are above 0")
    given = [x for x in ("params", "base_loss") if any(x in f.law.inputs for f in every)]
    frame = points_table(candidates, given, columns)
    rows = list(frame.iter_rows(named=True))
    asked: list[tuple[str, Fit, dict[str, float]]] = []
    small, strange = [], []
    for i, row in enumerate(rows):
        name = str(row.get("name") or row.get("run") or f"row {i + 1}")
        if row["params"] < deploy_params:
            small.append(name)
            continue
        rate = 1 - deploy_params / row["params"]
        fitting = [f for f in every if all(str(row.get(k, v)) == v for k, v in f.group.items())]
        strange += [] if fitting else [name]
        for fit in fitting:
            kept = row["params"] * (1 - compute_saved(fit.group) * rate)
            bought = tokens if flops is None else flops / (6 * kept)
            at = {x: float(row[x]) for x in given} | {"pruning_rate": rate, "tokens": bought}
            asked.append((name, fit, {x: float(at[x] or 0.0) for x in sorted(_INPUTS & set(at))}))
    if not asked:
        raise FitError(
            f"no candidate has at least {deploy_params:.4g} parameters and a group that was fitted"
        )
    found = [_spread(fit, at) for _, fit, at in asked]
    for (name, _, at), s in zip(asked, found):
        if not np.isfinite(s.value):
            raise FitError(
                f"{name}: the law has no finite loss at a rate of {at['pruning_rate']:g}"
            )
    best, ranks = _compared([fit for _, fit, _ in asked], found)
    made = [
        Candidate(
            name=name,
            group=fit.group,
            params=at["params"],
            pruning_rate=at["pruning_rate"],
            tokens=at["tokens"],
            loss=s.quantity(),
            best=None if best is None else float(best[i]),
            rank=None if ranks is None else float(ranks[i]),
            outside={
                x: float(v)
                for x, v in decades_outside(fit, {x: at[x] for x in fit.law.inputs}).items()
            },
        )
        for i, ((name, fit, at), s) in enumerate(zip(asked, found))
    ]
    made.sort(key=lambda c: c.loss.value)
    return Choice(deploy_params, flops, tuple(made), tuple(_notes(made, small, strange, every)))


def _spread(fit: Fit, at: Mapping[str, float]) -> Spread:
    def loss(parameters: Parameters) -> Array:
        return fit.law.predict(parameters, {x: np.float64(at[x]) for x in fit.law.inputs})

    return spread(fit, loss)


def _compared(
    fits: Sequence[Fit], found: Sequence[Spread]
) -> tuple[Array, Array] | tuple[None, None]:
    """Share of the draws in which each is best, and mean ranks.

    Draws of one fit go together; those of different fits are independent, so they are paired at
    random.
    """
    if any(s.draws is None for s in found):
        return None, None
    size = min(len(s.draws) for s in found if s.draws is not None)
    order: dict[int, Any] = {}
    columns = []
    for fit, s in zip(fits, found):
        assert s.draws is not None
        rng = np.random.default_rng(len(order))
        own = order.setdefault(id(fit), rng.permutation(len(s.draws))[:size])
        columns.append(np.nan_to_num(s.draws[own], nan=math.inf))
    losses = np.stack(columns, axis=1)
    ranks = (losses[:, :, None] > losses[:, None, :]).sum(axis=2) + 1
    first = ranks == 1
    best: Array = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    return best, np.asarray(ranks.mean(axis=0))


def _notes(
    made: Sequence[Candidate], small: Sequence[str], strange: Sequence[str], fits: Sequence[Fit]
) -> list[str]:
    notes = list(dict.fromkeys(doubt for fit in fits for doubt in fit.doubts))
    if small:
        notes.append(f"smaller than what is deployed, left out: {join(tuple(small))}")
    if strange:
        notes.append(f"of a group that was not fitted, left out: {join(tuple(strange))}")
    inputs = dict.fromkeys(x for c in made for x in c.outside)
    far = {x: np.array([c.outside.get(x, 0.0) for c in made]) for x in inputs}
    notes += extrapolation_notes(far)
    if any(c.best is None for c in made):
        notes.append("no probabilities: a fit has no intervals, for too few independent runs")
    for fit in fits:
        if fit.identification["undetermined"]:
            names = open_parameters(fit)
            notes.append(
                f"the data leave {names} open: read the range of what fits equally well; the "
                "shares of the draws do not know of it"
            )
    return notes
