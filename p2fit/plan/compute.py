"""How to split compute between size and tokens: C = 6 N D FLOPs, for the least loss.

For L = E + A/N^alpha + B/D^beta the optimum has a closed form (Hoffmann et al. 2022, equation 4):
N = G (C/6)^a and D = (C/6)^b / G with a = beta/(alpha + beta), b = alpha/(alpha + beta) and
G = (alpha A / beta B)^(1/(alpha + beta)), the same a, b and G for every C. For any other law the
loss is scanned along 6 N D = C, and its slope by log N is then halved down to where it is 0.

>>> import p2fit
>>> n, d = [1e8, 4e8, 1e9, 4e9] * 4, [1e9] * 4 + [4e9] * 4 + [2e10] * 4 + [1e11] * 4
>>> curves = {"run": [f"r{i}" for i in range(16)], "params": n, "tokens": d,
...           "loss": [1.8 + 480 / a**0.35 + 2100 / b**0.37 for a, b in zip(n, d)]}
>>> plan = plan_compute(p2fit.fit(curves), [1e22])
>>> round(plan.a.value, 4), f"{plan.budgets[0].size.value:.3g}"
(0.5139, '9.59e+09')
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.arguments import hold
from p2fit.arrays import Array, finite, one_thread
from p2fit.curves.points import points_table
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.laws import jets
from p2fit.laws.expression import compute
from p2fit.laws.law import Law
from p2fit.plan.prediction import extrapolation_notes
from p2fit.plan.quantities import Parameters, Quantity, decades_outside, open_parameters, spread
from p2fit.plan.separate import Parts, Power, separate
from p2fit.plan.tokens import compute_saved
from p2fit.results import Result
from p2fit.schedules import Schedule
from p2fit.wording import percent

_SIZES = ("params", "avg_params")
_GRID = 4  # points per decade of the scan
_HALVINGS = 45  # of half a decade, down to rounding


@dataclass(frozen=True)
class Sparse:
    """A run that is pruned on the way to the optimal average size."""

    dense: Quantity
    """Parameters at the start."""
    final: Quantity
    """Parameters that are left in the end."""
    start: Quantity
    """Tokens seen when pruning starts, a quarter of the compute spent."""
    end: Quantity
    """Tokens seen when it ends, three quarters spent."""


@dataclass(frozen=True)
class Budget:
    """The best use of one amount of compute."""

    flops: float
    """C, in FLOPs."""
    size: Quantity
    """N: parameters, or their average over training."""
    tokens: Quantity
    """D = C/(6 N), N counted as pruned."""
    ratio: Quantity
    """Tokens per parameter, D/N."""
    loss: Quantity
    """Loss there, nats per token."""
    a: Quantity
    """N grows as C^a here."""
    sparse: Sparse | None
    """The run that is pruned to the asked sparsity; None where none was asked for."""
    outside: Mapping[str, float]
    """How far size and tokens are outside their fitted ranges, in decades."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        own = {n: getattr(self, n).to_dict() for n in ("size", "tokens", "ratio", "loss", "a")}
        sparse = self.sparse and {n: q.to_dict() for n, q in vars(self.sparse).items()}
        far = {x: finite(v) for x, v in self.outside.items()}
        return {"flops": self.flops, **own, "sparse": sparse, "decades_outside": far}


@dataclass(frozen=True)
class ComputePlan(Result):
    """Compute-optimal sizes and tokens. Made by :func:`plan_compute`."""

    table = ("budgets", "")
    told = ("group", "at")

    law: Law
    """The law, with what was fixed and tied."""
    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    size: str
    """The input that N is: ``params`` or ``avg_params``."""
    at: Mapping[str, float]
    """The law's other inputs."""
    sparsity: float | None
    """Final sparsity of the schedule; None for dense runs."""
    a: Quantity | None
    """N grows as C^a, for every C; None where a law has no such form."""
    b: Quantity | None
    """D grows as C^b; None as a."""
    g: Quantity | None
    """G: N = G (C/6)^a; None as a."""
    budgets: tuple[Budget, ...]
    """One for each amount of compute, ascending."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "group": dict(self.group),
            "size": self.size,
            "at": dict(self.at),
            "sparsity": self.sparsity,
            **{n: (q := getattr(self, n)) and q.to_dict() for n in ("a", "b", "g")},
            "budgets": [budget.to_dict() for budget in self.budgets],
            "notes": list(self.notes),
        }


@one_thread()
def plan_compute(
    fit: Fit,
    flops: Sequence[float],
    *,
    sparsity: float | None = None,
    at: Mapping[str, float] | None = None,
) -> ComputePlan:
    """Split compute between size and tokens for the least loss.

    Args:
        fit: a fit of a law of N (``params`` or ``avg_params``) and tokens; ``p2fit.load`` reads a
            saved one.
        flops: amounts of compute C = 6 N D, N the parameters that are active (on average): those
            that a ``pruning_rate`` leaves, or all of them where the method is N:M.
        sparsity: for ``avg_params``: final sparsity in [0, 1); adds the dense start, the final
            size and the schedule that prunes from 25 % to 75 % of the compute (Jin et al. 2025).
        at: the law's other inputs, if it has any.

    Raises:
        FitError: the law does not read both or reads ``base_loss``, there is no optimum, or a value
            is out of its range.
        LawError: a parameter has no finite value.
    """
    hold("flops", flops, Sequence[float])
    fit.of_loss("a plan of compute")
    law = fit.law
    size = next((x for x in _SIZES if x in law.inputs), None)
    budgets = np.array(sorted(flops), float)
    if not (len(budgets) and np.all((budgets > 0) & np.isfinite(budgets))):
        raise FitError("give amounts of compute above 0, in FLOPs")
    if sparsity is not None and size != "avg_params":
        raise FitError("a sparsity is for laws of avg_params, whose runs are pruned on the way")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise FitError(f"sparsity is {sparsity:g}: give a share in [0, 1)")
    if size is None or "tokens" not in law.inputs:
        raise FitError(f"{law.name} does not read both params (or avg_params) and tokens")
    if "base_loss" in law.inputs:
        raise FitError(
            f"{law.name} reads base_loss, which is another for every size: p2fit plan choose "
            "compares base models, p2fit plan tokens plans for one"
        )
    others = [x for x in law.inputs if x not in (size, "tokens")]
    given = (
        points_table({x: v for x, v in (at or {}).items() if x in others}, others)
        if others
        else None
    )
    point = {x: float(given[x][0]) for x in others} if given is not None else {}
    kept = 1 - compute_saved(fit.group) * point.get("pruning_rate", 0.0)
    estimates = {n: np.array([v]) for n, v in fit.estimates().items()}
    parts = _parts(law, estimates, point, size)

    def optimum(parameters: Parameters) -> Array:
        """a, b, G where they are the same for all, then N, D, D/N, L and a for each budget,
        shape (S, 3 + 5 budgets)."""
        find = _closed if parts else _searched
        return find(law, parameters, point, size, budgets / kept)

    found = spread(fit, optimum)
    rows, ends = list[Budget](), list[str]()
    share = None
    if sparsity is not None:  # of a run of one token whose dense size is 1
        share = Schedule.from_compute("geometric", sparsity, prunable=1.0, tokens=1.0)
    for i, c in enumerate(budgets):
        n, d, ratio, loss, a = (found.quantity(3 + j * len(budgets) + i) for j in range(5))
        end, least = _lowest_end(law, estimates, point, size, c / kept)
        if math.isnan(loss.value):
            gone = [x for x, p in parts.along.items() if not _falls(p)] if parts else []
            raise FitError(
                f"the fitted loss does not fall with {' or '.join(gone)}: there is no optimum"
                if gone
                else f"at {c:.3g} FLOPs the fitted loss falls all the way to {end}: there is no "
                "optimum"
            )
        if least < loss.value:
            ends.append(f"at {c:.3g} FLOPs the law is lower still at {end}")
        far = decades_outside(fit, {size: n.value, "tokens": d.value})
        rows.append(
            Budget(
                flops=float(c),
                size=n,
                tokens=d,
                ratio=ratio,
                loss=loss,
                a=a,
                sparse=None if share is None else _sparse(share, n, d),
                outside={x: float(v) for x, v in far.items()},
            )
        )
    notes = [*_notes(fit, rows, size), *ends]
    without = np.isnan(found.draws[:, 3:]).any(axis=1) if found.draws is not None else np.zeros(1)
    if without.any():
        notes.append(
            f"in {percent(float(without.mean()), 2)} of the draws there is no optimum at one or "
            "more of these budgets: the intervals are of the others"
        )
    return ComputePlan(
        law=law,
        group=fit.group,
        size=size,
        at=point,
        sparsity=sparsity,
        a=found.quantity(0) if parts else None,
        b=found.quantity(1) if parts else None,
        g=found.quantity(2) if parts else None,
        budgets=tuple(rows),
        notes=tuple(notes),
    )


def _parts(law: Law, parameters: Parameters, at: Mapping[str, float], size: str) -> Parts | None:
    """A law rest + A/N^alpha + B/D^beta taken apart; None for others."""
    found = separate(law, parameters, at, (size, "tokens"))
    return found if found is not None and set(found.along) == {size, "tokens"} else None


def _falls(power: Power) -> bool:
    return bool(power.size[0] > 0 and power.power[0] > 0)


def _closed(
    law: Law, parameters: Parameters, at: Mapping[str, float], size: str, flops: Array
) -> Array:
    """The optimum of a law rest + A/N^alpha + B/D^beta; NaN where it does not fall with both."""
    parts = _parts(law, parameters, at, size)
    assert parts is not None
    (big, alpha), (more, beta) = parts.along[size], parts.along["tokens"]
    both = alpha + beta
    g = (alpha * big / (beta * more)) ** (1 / both)
    a, b = beta / both, alpha / both
    c = flops[None] / 6
    n, d = g[:, None] * c ** a[:, None], c ** b[:, None] / g[:, None]
    loss = parts.rest[:, None] + big[:, None] / n ** alpha[:, None]
    loss = loss + more[:, None] / d ** beta[:, None]
    inside = (np.minimum(big, more) > 0) & (np.minimum(alpha, beta) > 0)
    each = np.broadcast_to(a[:, None], n.shape)
    found = np.concatenate([np.stack([a, b, g], axis=1), n, d, d / n, loss, each], axis=1)
    return np.where(inside[:, None], found, math.nan)


def _searched(
    law: Law, parameters: Parameters, at: Mapping[str, float], size: str, flops: Array
) -> Array:
    """The optimum of any law, a, b and G being NaN; all is NaN where the loss has no minimum
    between one parameter and one token."""
    columns = {n: np.asarray(v)[:, None] for n, v in parameters.items()}

    def along(log_n: Array, c: float, *, curved: bool = False) -> jets.Jet:
        """The loss with its slopes by log N and log C."""
        n, d = np.exp(log_n), c / 6 / np.exp(log_n)
        own = jets.Jet(n, {0: n}, {(0, 0): n} if curved else None)
        bends = {(0, 0): d, (0, 1): -d, (1, 1): d} if curved else None
        other = jets.Jet(d, {0: -d, 1: d}, bends)
        found: jets.Jet = compute(law.tree, {**columns, **at, size: own, "tokens": other}, jets)
        return found

    found = np.full((5, len(next(iter(columns.values()))), len(flops)), math.nan)
    for i, c in enumerate(flops.tolist()):
        grid, loss = _scan(law, columns, at, size, c)
        dips = (loss[:, 1:-1] < loss[:, :-2]) & (loss[:, 1:-1] < loss[:, 2:])
        best = 1 + np.where(dips, loss[:, 1:-1], math.inf).argmin(axis=1)
        inside = dips.any(axis=1)
        low, middle, high = (grid[best + j][:, None] for j in (-1, 0, 1))
        for _ in range(_HALVINGS):
            half = (low + high) / 2
            slope = along(half, c).first[0]
            below = np.where(np.isfinite(slope), slope < 0, half < middle)
            low, high = np.where(below, half, low), np.where(below, high, half)
        there = along(low, c, curved=True)
        assert there.second is not None
        a = -there.second[0, 1] / there.second[0, 0]
        n = np.exp(low)
        every = (n, c / 6 / n, c / 6 / n**2, there.value, a)
        found[:, :, i] = [
            np.where(inside, np.broadcast_to(v, n.shape)[:, 0], math.nan) for v in every
        ]
    whole = found.transpose(1, 0, 2).reshape(found.shape[1], -1)
    return np.concatenate([np.full((len(whole), 3), math.nan), whole], axis=1)


def _scan(
    law: Law, columns: Parameters, at: Mapping[str, float], size: str, c: float
) -> tuple[Array, Array]:
    """Logs of sizes from one parameter to one token, (m,), and the losses there, (S, m)."""
    most = math.log(max(c / 6, 2.0))
    grid = np.linspace(0.0, most, max(3, math.ceil(_GRID * most / math.log(10))))
    n = np.exp(grid)[None]
    loss = law.predict(columns, {**at, size: n, "tokens": c / 6 / n})
    return grid, np.where(np.isfinite(loss), loss, math.inf)


def _lowest_end(
    law: Law, estimates: Parameters, at: Mapping[str, float], size: str, c: float
) -> tuple[str, float]:
    """The end of the line 6 N D = C at which the loss is lower, and the loss there."""
    loss = _scan(law, {n: v[:, None] for n, v in estimates.items()}, at, size, c)[1][0]
    first = bool(loss[0] <= loss[-1])
    return "one parameter" if first else "one token", float(loss[0] if first else loss[-1])


def _sparse(share: Schedule, size: Quantity, tokens: Quantity) -> Sparse:
    dense = 1 / float(share.avg_params())
    return Sparse(
        dense=size.scaled(dense),
        final=size.scaled(dense * (1 - share.sparsity)),
        start=tokens.scaled(share.start),
        end=tokens.scaled(share.end),
    )


def _notes(fit: Fit, rows: Sequence[Budget], size: str) -> list[str]:
    far = {x: np.array([row.outside[x] for row in rows]) for x in (size, "tokens")}
    notes = [*fit.doubts, *extrapolation_notes(far)]
    if rows[0].size.interval is None:
        notes.append("the fit has no intervals: too few independent runs")
    if fit.identification["undetermined"]:
        names = open_parameters(fit)
        ends = rows[0].size.range
        words = (
            f": {size} from {ends[0]:.3g} to {ends[1]:.3g} at {rows[0].flops:.3g} FLOPs"
            if ends
            else ""
        )
        notes.append(f"the data leave {names} open{words}")
    return notes
