"""How many tokens of training are worth buying? To a loss, to a share, or until more hardly helps.

>>> import p2fit
>>> n, d = [1e8, 4e8, 1e9, 4e9] * 4, [1e9] * 4 + [4e9] * 4 + [2e10] * 4 + [1e11] * 4
>>> curves = {"run": [f"r{i}" for i in range(16)], "params": n, "tokens": d,
...           "loss": [1.8 + 480 / a**0.35 + 2100 / b**0.37 for a, b in zip(n, d)]}
>>> plan = plan_tokens(p2fit.fit(curves), {"params": 8e9}, loss=[2.3, 1.9], gain=[0.02])
>>> [f"{goal.tokens.value:.3g}" for goal in plan.goals]
['1.82e+10', 'inf', '6.7e+11']
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from p2fit.arguments import hold
from p2fit.arrays import Array, finite, one_thread
from p2fit.curves.choosing import Source, read
from p2fit.curves.points import points_table
from p2fit.curves.reading import Curves
from p2fit.curves.selecting import where_expression
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.laws.law import Law
from p2fit.plan.prediction import extrapolation_notes
from p2fit.plan.quantities import Parameters, Quantity, decades_outside, open_parameters, spread
from p2fit.plan.separate import separate
from p2fit.results import Result

#: Tokens among which a law without a closed form is searched; beyond them is never.
SEARCHED = (1.0, 1e24)

_GRID = 8  # points per decade of the search; the first crossing is then halved down to rounding
_HALVINGS = 60
_SAME = 1e-6  # relative difference of inputs that are the same


@dataclass(frozen=True)
class Goal:
    """One thing to reach, and the tokens that it takes."""

    kind: str
    """``loss``, ``recover``, ``gain`` or ``gain per billion``."""
    asked: float
    """The loss in nats per token, the share, the gain in nats per token."""
    loss: float | None
    """The loss to reach, or the loss where more hardly helps; None where that is never."""
    tokens: Quantity
    """Tokens that it takes; infinite: never. ``reached`` is the probability that it can be."""
    flops: Quantity | None
    """Compute that it takes; None where the parameter count is not known."""
    outside: float
    """How far the tokens are outside their fitted range, in decades; inf for never."""

    @property
    def label(self) -> str:
        """In words."""
        return {
            "loss": f"loss {self.asked:g}",
            "recover": f"win back {100 * self.asked:g} %",
            "gain": f"a doubling gains < {self.asked:g} nats",
            "gain per billion": f"a doubling gains < {self.asked:g} nats per 1e9 tokens",
        }[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        return {
            "goal": self.kind,
            "asked": self.asked,
            "loss": self.loss,
            "tokens": self.tokens.to_dict(),
            "flops": self.flops and self.flops.to_dict(),
            "probability": self.tokens.reached,
            "decades_outside": finite(self.outside),
        }


@dataclass(frozen=True)
class TokensPlan(Result):
    """Tokens to buy for one model. Made by :func:`plan_tokens`."""

    table = ("goals", "")
    told = ("group", "at")

    law: Law
    """The law, with what was fixed and tied."""
    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    at: Mapping[str, float]
    """The law's other inputs."""
    kept: float | None
    """Parameters that compute is counted for, 6 FLOPs per token each."""
    pruned_loss: float | None
    """Measured loss right after pruning, nats per token; None where no goal asks for it."""
    goals: tuple[Goal, ...]
    """What was asked for, and what it takes."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "group": dict(self.group),
            "at": dict(self.at),
            "kept": self.kept,
            "pruned_loss": self.pruned_loss,
            "goals": [goal.to_dict() for goal in self.goals],
            "notes": list(self.notes),
        }


@one_thread()
def plan_tokens(
    fit: Fit,
    at: Mapping[str, float],
    *,
    loss: Sequence[float] = (),
    recover: Sequence[float] = (),
    gain: Sequence[float] = (),
    gain_per_billion: Sequence[float] = (),
    pruned_loss: float | None = None,
    curves: Source | None = None,
    kept: float | None = None,
) -> TokensPlan:
    """Tokens that it takes to reach a loss, to win back what pruning cost, or to saturate.

    In closed form where the law falls as one power of the tokens; else the first crossing between
    1 and 1e24 tokens, found on a grid of 8 points per decade and halved down to rounding.

    Args:
        fit: a fit of a law with ``tokens``; ``p2fit.load`` reads a saved one.
        at: the law's other inputs, one number each.
        loss: losses to reach, nats per token.
        recover: shares of (loss right after pruning - base loss) to win back, above 0 and at
            most 1; they need ``base_loss`` in ``at``.
        gain: nats per token; the first tokens from which doubling them gains less.
        gain_per_billion: nats per token and 1e9 tokens of such a doubling.
        pruned_loss: measured loss right after pruning. The law cannot stand in for it: its term
            in tokens has no bound as they go to 0.
        curves: curves whose row with ``tokens`` = 0, at the same other inputs, gives it.
        kept: parameters that compute is counted for. None: avg_params or params, less the pruned
            share, which stays counted where ``method`` is N:M: that is computed dense.

    Raises:
        CurvesError, FitError: what is wrong with the request.
        LawError: a parameter has no finite value.
    """
    fit.of_loss("a plan of tokens")
    law = fit.law
    if "tokens" not in law.inputs:
        raise FitError(f"{law.name} does not read tokens: there are none to plan")
    others = [x for x in law.inputs if x != "tokens"]
    extra = [x for x in ("base_loss", "params", "pruning_rate") if x in at and x not in others]
    frame = points_table({x: at[x] for x in (*others, *extra) if x in at}, (*others, *extra))
    if frame.height > 1:
        raise FitError("plan_tokens is for one model at a time: give one number for each input")
    point = {x: float(frame[x][0]) for x in frame.columns}
    given = {"loss": loss, "recover": recover, "gain": gain, "gain_per_billion": gain_per_billion}
    for name, values in given.items():
        hold(name, values, Sequence[float])
    for name, values in (("loss", loss), ("gain", gain), ("gain_per_billion", gain_per_billion)):
        if not all(0 < v < math.inf for v in values):
            raise FitError(f"{name} is in nats per token, above 0")
    if not all(0 < v <= 1 for v in recover):
        raise FitError("a share to win back is above 0 and at most 1")
    cost = 0.0
    if recover:
        pruned_loss = _measured(fit, point, curves) if pruned_loss is None else pruned_loss
        cost = pruned_loss - point.get("base_loss", math.nan)
        if math.isnan(cost):
            raise FitError("a share of what pruning cost needs base_loss, the unpruned model's")
        if cost <= 0:
            raise FitError(
                f"the loss right after pruning, {pruned_loss:g}, is not above base_loss, "
                f"{point['base_loss']:g}: there is nothing to win back"
            )
    if kept is None:
        kept = _kept(fit, point)
    elif not 0 < kept < math.inf:
        raise FitError(f"kept is {kept:g}: compute is counted for a number of parameters above 0")
    asked = [
        *(_Asked("loss", v, v) for v in loss),
        *(_Asked("recover", v, float(pruned_loss or 0.0) - v * cost) for v in recover),
        *(_Asked("gain", v) for v in gain),
        *(_Asked("gain per billion", v) for v in gain_per_billion),
    ]
    if not asked:
        raise FitError("nothing to plan for: give a loss, a share to win back, or a gain")

    def tokens(parameters: Parameters) -> Array:
        each = [
            found
            if (found := tokens_in_closed_form(law, parameters, point, one.level, one.kind))
            is not None
            else tokens_by_search(law, parameters, point, one.level, one.kind)
            for one in asked
        ]
        return np.stack(each, axis=1)

    found = spread(fit, tokens)
    goals = [_goal(fit, point, kept, one, found.quantity(i)) for i, one in enumerate(asked)]
    return TokensPlan(
        law=law,
        group=fit.group,
        at=point,
        kept=kept,
        pruned_loss=pruned_loss if recover else None,
        goals=tuple(goals),
        notes=tuple(_notes(fit, point, goals)),
    )


def models(fit: Fit, curves: Source) -> list[dict[str, float]]:
    """Every distinct setting of the law's inputs but tokens in the curves of the fit's group and
    filter, without the unpruned: what :func:`plan_tokens` takes as ``at``.

    Raises:
        CurvesError, FitError: what is wrong with the curves; none of them is of the group.
    """
    others = [x for x in fit.law.inputs if x != "tokens"]
    read_, mine = _of_group(fit, curves)
    rows = read_.frame.filter(mine)
    if "pruning_rate" in others:
        rows = rows.filter(pl.col("pruning_rate") > 0)
    ordered = sorted(others, key=input_order)
    found = rows.select(pl.col(ordered).cast(float)).unique().sort(ordered)
    if found.is_empty():
        raise FitError(f"{read_.source}: no row of the fit's group")
    return found.to_dicts()


def input_order(x: str) -> tuple[bool, str]:
    return x == "base_loss", x  # which goes with params


# ---------------------------------------------------------------- the tokens of one goal


class _Asked(NamedTuple):
    kind: str
    value: float
    target: float | None = None  # the loss that it comes down to

    @property
    def level(self) -> float:
        return self.value if self.target is None else self.target


def _goal(
    fit: Fit, point: Mapping[str, float], kept: float | None, asked: _Asked, tokens: Quantity
) -> Goal:
    reached = asked.target
    if reached is None and 0 < tokens.value < math.inf:
        reached = finite(float(fit.predict({**point, "tokens": tokens.value})))
    return Goal(
        kind=asked.kind,
        asked=asked.value,
        loss=reached,
        tokens=tokens,
        flops=None if kept is None else tokens.scaled(6 * kept),
        outside=float(decades_outside(fit, {"tokens": tokens.value})["tokens"]),
    )


def tokens_in_closed_form(
    law: Law, parameters: Parameters, at: Mapping[str, float], asked: float, kind: str
) -> Array | None:
    """Tokens, shape (S,), of a law rest + c/D^b that falls (c >= 0, b > 0); None for others.

    To a loss t: (c/(t - rest))^(1/b). Until a doubling gains less than x: (c (1 - 2^-b)/x)^(1/b);
    per 1e9 tokens: (1e9 c (1 - 2^-b)/x)^(1/(1 + b)).
    """
    parts = separate(law, parameters, at, ("tokens",))
    if parts is None or "tokens" not in parts.along:
        return None
    size, power = parts.along["tokens"]
    if not np.all((size >= 0) & (power > 0)):
        return None
    with np.errstate(all="ignore"):
        if kind == "gain":
            return np.asarray((size * -np.expm1(-power * math.log(2)) / asked) ** (1 / power))
        if kind == "gain per billion":
            total = 1e9 * size * -np.expm1(-power * math.log(2)) / asked
            return np.asarray(total ** (1 / (1 + power)))
        gap = asked - parts.rest
        return np.where(
            (gap > 0) | ((size == 0) & (gap == 0)),
            (size / np.where(gap > 0, gap, 1.0)) ** (1 / power),
            math.inf,
        )


def tokens_by_search(
    law: Law, parameters: Parameters, at: Mapping[str, float], asked: float, kind: str
) -> Array:
    """Tokens, shape (S,), where the goal is first met on the way up; 0 where it is from the start
    of ``SEARCHED``, infinite where it is nowhere in it."""
    columns = {n: np.asarray(v)[:, None] for n, v in parameters.items()}

    def excess(tokens: Array) -> Array:
        predicted = partial(_predicted, law, columns, at)
        if kind not in ("gain", "gain per billion"):
            return predicted(tokens) - asked
        gained = predicted(tokens) - predicted(2 * tokens)
        return gained / (tokens / 1e9 if kind == "gain per billion" else 1.0) - asked

    return first_crossing(excess)


def _predicted(law: Law, columns: Parameters, at: Mapping[str, float], tokens: Array) -> Array:
    return law.predict(columns, {**at, "tokens": tokens})


def first_crossing(excess: Callable[[Array], Array]) -> Array:
    """Where a function of tokens (S or 1, n) to (S, n) is first at most 0, in ``SEARCHED``."""
    decades = math.log10(SEARCHED[1] / SEARCHED[0])
    grid = np.geomspace(*SEARCHED, round(decades * _GRID) + 1)
    met = excess(grid[None]) <= 0
    first = met.argmax(axis=1)
    low, high = grid[np.maximum(first - 1, 0)], grid[first]
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        below = excess(middle[:, None])[:, 0] <= 0
        low, high = np.where(below, low, middle), np.where(below, middle, high)
    found: Array = np.where(first == 0, 0.0, high)
    return np.where(met.any(axis=1), found, math.inf)


# ---------------------------------------------------------------- what else a goal needs


def _measured(fit: Fit, point: Mapping[str, float], curves: Source | None) -> float:
    """Mean measured loss right after pruning, at the same inputs and in the same group."""
    if curves is None:
        raise FitError(
            "a share of what pruning cost needs the loss right after pruning: give it, or curves "
            "with a row of tokens = 0"
        )
    others = [x for x in fit.law.inputs if x != "tokens"]
    read_, mine = _of_group(fit, curves)
    frame = read_.frame
    rows = np.flatnonzero(frame["tokens"].to_numpy() == 0)
    same = mine.to_numpy()[rows]
    for x in others:
        same &= np.isclose(frame[x].to_numpy()[rows], point[x], rtol=_SAME, atol=0)
    if not same.any():
        at = ", ".join(f"{x} = {point[x]:g}" for x in others)
        raise FitError(
            f"{read_.source}: no row of tokens = 0 at {at}; there are {len(rows)} others"
        )
    return float(frame["loss"].to_numpy()[rows[same]].mean())


def _of_group(fit: Fit, curves: Source) -> tuple[Curves, pl.Series]:
    """Curves, and which of their rows are of the fit's group and of runs that its filter takes."""
    others = [x for x in fit.law.inputs if x != "tokens"]
    # Curves in memory have their columns already; a file is like the one that was fitted.
    columns = None if isinstance(curves, Curves) else fit.data["columns"]
    where = fit.options["where"]
    needs = ("tokens", "loss", *others)
    found = read(curves, columns, needs=needs, numeric=others, where=where)
    frame = found.frame
    mine = pl.Series([True] * frame.height)
    for name, value in fit.group.items():
        if name in frame.columns:
            mine &= frame[name].cast(str) == value
    if where and "run" in frame.columns:
        taken = frame.filter(where_expression(where, frame))["run"].unique()
        mine &= frame["run"].is_in(taken.implode())
    return found, mine


def _kept(fit: Fit, point: Mapping[str, float]) -> float | None:
    """Parameters that each token is computed with."""
    if "avg_params" in point:
        return point["avg_params"]
    if "params" not in point:
        return None
    return point["params"] * (1 - compute_saved(fit.group) * point.get("pruning_rate", 0.0))


def compute_saved(group: Mapping[str, str]) -> float:
    """1 where pruned parameters save compute, 0 for N:M, which is computed dense."""
    return 0.0 if re.fullmatch(r"\d+:\d+", group.get("method", "")) else 1.0


def _notes(fit: Fit, point: Mapping[str, float], goals: Sequence[Goal]) -> list[str]:
    far = decades_outside(fit, {x: np.array([v]) for x, v in point.items()})
    notes = [*fit.doubts, *extrapolation_notes(far)]
    bought = [g for g in goals if math.isfinite(g.outside) and abs(g.outside) > 0.3]
    for goal in bought:
        end = "above" if goal.outside > 0 else "below"
        notes.append(f"{goal.label}: {abs(goal.outside):.2g} decades {end} the tokens of the data")
    for goal in goals:
        if goal.tokens.value == math.inf and goal.loss is not None:
            floor = fit.predict({**point, "tokens": SEARCHED[1]})
            notes.append(
                f"{goal.label}: the law does not go there; it tends to {float(floor):.4g} here"
            )
    if any(g.tokens.interval is None for g in goals):
        notes.append("the fit has no intervals: too few independent runs")
    open_ = [g for g in goals if g.tokens.range and not _close(*g.tokens.range)]
    if open_:
        names = open_parameters(fit)
        notes.append(
            f"the data leave {names} open: read the range of what fits equally well, not the number"
        )
    return notes


def _close(low: float, high: float) -> bool:
    return low == high or (math.isfinite(high) and high - low <= 1e-2 * high)
