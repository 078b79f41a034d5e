"""How to split compute between size and tokens: C = 6 N D FLOPs, for the least loss.

For L = E + A/N^alpha + B/D^beta the optimum has a closed form (Hoffmann et al. 2022, equation 4):
N = G (C/6)^a and D = (C/6)^b / G with a = beta/(alpha + beta), b = alpha/(alpha + beta) and
G = (alpha A / beta B)^(1/(alpha + beta)).

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

from p2fit.fit import Fit
from p2fit.laws import Array, Law
from p2fit.plan.separate import Parts, separate
from p2fit.points import outside, table
from p2fit.prediction import beyond
from p2fit.quantities import Parameters, Quantity, finite, open_parameters, spread
from p2fit.rows import FitError
from p2fit.schedules import Schedule

_SIZES = ("params", "avg_params")


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
    """D = C/(6 N)."""
    ratio: Quantity
    """Tokens per parameter, D/N."""
    loss: Quantity
    """Loss there, nats per token."""
    sparse: Sparse | None
    """The run that is pruned to the asked sparsity; None where none was asked for."""
    outside: Mapping[str, float]
    """How far size and tokens are outside their fitted ranges, in decades."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        own = {n: getattr(self, n).to_dict() for n in ("size", "tokens", "ratio", "loss")}
        sparse = self.sparse and {n: q.to_dict() for n, q in vars(self.sparse).items()}
        far = {x: finite(v) for x, v in self.outside.items()}
        return {"flops": self.flops, **own, "sparse": sparse, "decades_outside": far}


@dataclass(frozen=True)
class ComputePlan:
    """Compute-optimal sizes and tokens. Made by :func:`plan_compute`."""

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
    a: Quantity
    """N grows as C^a."""
    b: Quantity
    """D grows as C^b."""
    g: Quantity
    """G: N = G (C/6)^a."""
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
            **{n: getattr(self, n).to_dict() for n in ("a", "b", "g")},
            "budgets": [budget.to_dict() for budget in self.budgets],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from p2fit.show import text

        return text(self)

    def __rich__(self) -> Any:
        from p2fit.show import about, facts, grid, number, span, with_notes

        head = about(self.law, self.group)
        if self.at:
            head.append(("at", ", ".join(f"{x} {number(v)}" for x, v in self.at.items())))
        for name, what, q in (
            ("optimum", f"{self.size} ∝ C^a, a", self.a),
            ("", "tokens ∝ C^b, b", self.b),
        ):
            ends = f" ({span(q.interval)})" if q.interval else ""
            head.append((name, f"{what} = {number(q.value)}{ends}"))
        made = grid(["FLOPs"], [self.size, "tokens", "tokens per parameter", "loss"])
        for one in self.budgets:
            each = (one.size, one.tokens, one.ratio, one.loss)
            made.add_row(number(one.flops), *(number(q.value) for q in each))
            if self.a.interval:
                digits = (3, 3, 3, 4)
                made.add_row("", *(span(q.interval, n) for q, n in zip(each, digits)))
        parts: list[Any] = [facts(head), made]
        if self.sparsity is not None:
            words = f"pruned to {100 * self.sparsity:g} % from 25 % to 75 % of the compute"
            below = grid(["FLOPs"], ["dense start", "final size", "prune from", "to tokens"])
            for one in self.budgets:
                if one.sparse:
                    each = (one.sparse.dense, one.sparse.final, one.sparse.start, one.sparse.end)
                    below.add_row(number(one.flops), *(number(q.value) for q in each))
            parts += [facts([("schedule", words)]), below]
        return with_notes(*parts, notes=self.notes)


def plan_compute(
    fit: Fit,
    flops: Sequence[float],
    *,
    sparsity: float | None = None,
    at: Mapping[str, float] | None = None,
) -> ComputePlan:
    """Split compute between size and tokens for the least loss.

    Args:
        fit: a fit of a law rest + A/N^alpha + B/tokens^beta, where N is ``params`` or
            ``avg_params``; ``p2fit.load`` reads a saved one.
        flops: amounts of compute C = 6 N D, N the parameters that are active (on average).
        sparsity: for ``avg_params``: final sparsity in [0, 1); adds the dense start, the final
            size and the schedule that prunes from 25 % to 75 % of the compute (Jin et al. 2025).
        at: the law's other inputs, if it has any.

    Raises:
        FitError: the law is of another form, a term is 0, or a value is out of its range.
        LawError: a parameter has no finite value.
    """
    law = fit.law
    size = next((x for x in _SIZES if x in law.inputs), None)
    budgets = np.array(sorted(flops), float)
    if not (len(budgets) and np.all((budgets > 0) & np.isfinite(budgets))):
        raise FitError("give amounts of compute above 0, in FLOPs")
    if sparsity is not None and size != "avg_params":
        raise FitError("a sparsity is for laws of avg_params, whose runs are pruned on the way")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise FitError(f"sparsity is {sparsity:g}: give a share in [0, 1)")
    others = [x for x in law.inputs if x not in (size, "tokens")]
    wrong = FitError(
        f"{law.name} is not a sum of A/params^alpha (or avg_params) and B/tokens^beta: it has no "
        "optimum in closed form; p2fit plan tokens plans for laws of post-training"
    )
    if size is None or "tokens" not in law.inputs:
        raise wrong

    def parts(parameters: Parameters, point: Mapping[str, float]) -> Parts:
        found = separate(law, parameters, point, (size, "tokens"))
        if found is None or set(found.along) != {size, "tokens"}:
            raise wrong
        return found

    estimates = {n: np.array([v]) for n, v in fit.estimates().items()}
    parts(estimates, dict.fromkeys(others, 0.5))  # of this form at all?
    given = table({x: v for x, v in (at or {}).items() if x in others}, others) if others else None
    point = {x: float(given[x][0]) for x in others} if given is not None else {}

    def optimum(parameters: Parameters) -> Array:
        """a, b, G, then N, D, D/N and L for each budget, shape (S, 3 + 4 budgets)."""
        rest, along = parts(parameters, point)
        (big, alpha), (more, beta) = along[size], along["tokens"]
        both = alpha + beta
        g = (alpha * big / (beta * more)) ** (1 / both)
        a, b = beta / both, alpha / both
        c = budgets[None] / 6
        n, d = g[:, None] * c ** a[:, None], c ** b[:, None] / g[:, None]
        loss = (
            rest[:, None] + big[:, None] / n ** alpha[:, None] + more[:, None] / d ** beta[:, None]
        )
        inside = (np.minimum(big, more) > 0) & (np.minimum(alpha, beta) > 0)
        found = np.concatenate([np.stack([a, b, g], axis=1), n, d, d / n, loss], axis=1)
        return np.where(inside[:, None], found, math.nan)

    found = spread(fit, optimum)
    if not np.all(np.isfinite(found.value)):
        here = parts(estimates, point).along
        gone = [x for x, power in here.items() if not (power.size[0] > 0 and power.power[0] > 0)]
        raise FitError(
            f"the fitted loss does not fall with {' or '.join(gone) or 'size and tokens'}: there "
            "is no optimum"
        )
    k = len(budgets)
    share = None
    if sparsity is not None:  # of a run of one token whose dense size is 1
        share = Schedule.from_compute("geometric", sparsity, prunable=1.0, tokens=1.0)
    rows = []
    for i, c in enumerate(budgets):
        n, d, ratio, loss = (found.quantity(3 + j * k + i) for j in range(4))
        far = outside(fit, {size: n.value, "tokens": d.value})
        rows.append(
            Budget(
                flops=float(c),
                size=n,
                tokens=d,
                ratio=ratio,
                loss=loss,
                sparse=None if share is None else _sparse(share, n, d),
                outside={x: float(v) for x, v in far.items()},
            )
        )
    a, b, g = (found.quantity(i) for i in range(3))
    return ComputePlan(
        law=law,
        group=fit.group,
        size=size,
        at=point,
        sparsity=sparsity,
        a=a,
        b=b,
        g=g,
        budgets=tuple(rows),
        notes=tuple(_notes(fit, rows, size)),
    )


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
    notes = list(beyond(far))
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
