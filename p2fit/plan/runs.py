"""Which run to make next: the one that narrows the wanted predictions, or all parameters, most.

What the fit holds possible is a cloud of predictions, one for each draw of its parameters. A run is
worth what seeing its losses would take off the spread of that cloud elsewhere. To first order that
is a projection: with C the covariance of the log losses over the draws, c the rows of a run, g the
wanted points and S the noise of the run,

    C_gg  →  C_gg − C_gc (C_cc + S)^-1 C_cg,

and the parameters as a whole shrink by half the log of det(I + S^-1 C_cc) nats, whatever their
units (D-optimality; Chaloner & Verdinelli 1995). The rows of a run share their error: S has the
scatter of the fit, correlated along the run as :func:`p2fit.simulate` does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from p2fit.arguments import hold
from p2fit.arrays import Array, one_thread
from p2fit.curves.choosing import Source
from p2fit.curves.points import points_table
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.plan.prediction import extrapolation_notes
from p2fit.plan.quantities import decades_outside, open_parameters
from p2fit.plan.tokens import compute_saved
from p2fit.results import Result

_TAILS = 0.005  # of the draws on either side are moved to where the others end
_CELLS = 1 << 24  # draws times points looked at: bounds the memory
_FLAT = 1e-5  # directions of the cloud below this share of its longest are rounding


@dataclass(frozen=True)
class NextRun:
    """A run worth making."""

    run: str
    """Its name."""
    inputs: Mapping[str, float]
    """The law's inputs in its last row."""
    rows: int
    """Rows of the run."""
    flops: float | None
    """What it costs; None where costs are not known and every run counts the same."""
    stderr: float
    """With it and those before: root mean variance of the log of the wanted losses; for all
    parameters, by how much their standard errors shrink on average (geometric mean)."""
    gain: float
    """Share of that variance which it takes off what those before have left; for all parameters,
    nats of information."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "inputs": dict(self.inputs)}


@dataclass(frozen=True)
class NextRuns(Result):
    """Runs to make, in the order of what they give for their cost. Made by :func:`plan_next`."""

    table = ("runs", "")

    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    wanted: str
    """``predictions`` or ``parameters``."""
    stderr: float
    """Before any run: as in :class:`NextRun`."""
    candidates: int
    """Runs to choose from."""
    correlation: float
    """Assumed between neighbouring rows of a run."""
    runs: tuple[NextRun, ...]
    """The choice."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        own = {"runs": [r.to_dict() for r in self.runs], "notes": list(self.notes)}
        return {**vars(self), "group": dict(self.group), **own}


@one_thread()
def plan_next(
    fit: Fit,
    candidates: Source,
    *,
    at: Source | None = None,
    count: int = 1,
    flops: float | None = None,
    correlation: float = 0.8,
    columns: Mapping[str, str] | None = None,
) -> NextRuns:
    """Choose the next runs, one after the other, by what they tell per FLOP.

    Args:
        fit: a fit with intervals; ``p2fit.load`` reads a saved one.
        candidates: runs to choose from, with the law's inputs: a CSV file or a table. Rows of one
            ``run`` are one run; without that column every row is one. Its cost is the column
            ``flops`` (its largest value) where there is one, else 6 FLOPs per token of its longest
            row and parameter kept.
        at: points to predict well, as in :func:`predict`; None: all parameters.
        count: how many runs to choose at most.
        flops: what they may cost together; None: no limit.
        correlation: of the noise of neighbouring rows of a run, in [0, 1).
        columns: column -> its name in ``candidates``, or an expression, as in
            :class:`Options`.

    Raises:
        CurvesError, FitError: what is wrong with the request, or the fit has no intervals.
    """
    fit.of_loss("a plan of runs")
    law = fit.law
    draws = fit.draws()
    if draws is None:
        raise FitError("the fit has no intervals to narrow: too few independent runs")
    hold("count", count, int)
    if count < 1 or not 0 <= correlation < 1 or not (flops is None or 0 < flops < math.inf):
        raise FitError("count is from 1 up, flops above 0, correlation in [0, 1)")
    frame = points_table(candidates, law.inputs, columns)
    if "run" not in frame.columns:
        frame = frame.with_columns(run=pl.Series([f"row {i + 1}" for i in range(frame.height)]))
    wanted = None if at is None else points_table(at, law.inputs)
    points = [f.select(law.inputs) for f in (frame, wanted) if f is not None]
    cloud = _cloud(fit, draws, pl.concat(points))
    goal = None if wanted is None else cloud[frame.height :]
    options = _options(frame, fit, cloud, correlation)
    chosen, start = _chosen(options, goal, np.eye(cloud.shape[1]), count, flops, len(law.free))
    far = (
        {}
        if wanted is None
        else decades_outside(fit, {x: wanted[x].to_numpy() for x in law.inputs})
    )
    notes = [*fit.doubts, *extrapolation_notes(far)]
    if not chosen:
        notes.append(f"no candidate costs as little as {flops:.4g} FLOPs")
    if fit.identification["undetermined"]:
        names = open_parameters(fit)
        notes.append(
            f"the data leave {names} open: the range of what fits equally well counts as spread; "
            "p2fit identify names runs that determine them"
        )
    if any(o.flops is None for o in options):
        notes.append("costs are not known: every run counts the same")
    return NextRuns(
        group=fit.group,
        wanted="parameters" if goal is None else "predictions",
        stderr=start,
        candidates=len(options),
        correlation=correlation,
        runs=tuple(chosen),
        notes=tuple(notes),
    )


class _Option(NamedTuple):
    run: str
    inputs: dict[str, float]
    cloud: Array  # its rows of the cloud
    noise: Array  # covariance of the noise of its log losses
    flops: float | None


def _cloud(fit: Fit, draws: Mapping[str, Array], frame: pl.DataFrame) -> Array:
    """W (n, r) such that W W' is the covariance of the log losses of n points over the draws."""
    columns = {x: frame[x].to_numpy() for x in fit.law.inputs}
    size = max(_CELLS // frame.height, 100)
    with np.errstate(all="ignore"):
        logs = np.log(fit.law.predict({n: v[:size, None] for n, v in draws.items()}, columns))
    logs = logs[np.all(np.isfinite(logs), axis=1)]
    if len(logs) < 2:
        raise FitError("the law has no finite loss above 0 at these candidates or points")
    logs = np.clip(logs, *np.quantile(logs, [_TAILS, 1 - _TAILS], axis=0))
    few = fit.bootstrap["few"] if fit.bootstrap is not None else 1.0
    spread = (logs - logs.mean(axis=0)) * few / math.sqrt(len(logs) - 1)
    members = [m for m in fit.equally_good if None not in m.values()]
    if members:  # what fits equally well is as possible: its extremes are part of the cloud
        each = {n: np.array([[float(m[n] or 0.0)] for m in members]) for n in draws}
        apart = np.log(fit.law.predict(each, columns) / fit.predict(columns))
        apart = apart[np.all(np.isfinite(apart), axis=1)]
        spread = np.concatenate([spread, apart / math.sqrt(max(len(apart), 1))])
    if spread.shape[1] <= len(spread):
        squares, axes = np.linalg.eigh(spread.T @ spread)
        found: Array = axes * np.sqrt(np.maximum(squares, 0.0))
    else:
        squares, axes = np.linalg.eigh(spread @ spread.T)
        found = spread.T @ axes
    return found[:, squares > _FLAT**2 * squares[-1]]


def _options(frame: pl.DataFrame, fit: Fit, cloud: Array, correlation: float) -> list[_Option]:
    scatter = float(fit.metrics["scatter"] or 0.0)
    if fit.options["residual"] != "log":
        columns = {x: frame[x].to_numpy() for x in fit.law.inputs}
        scatter /= float(np.mean(fit.predict(columns)))
    found = []
    numbered = frame.with_row_index("row")
    for (name,), part in numbered.group_by("run", maintain_order=True):
        rows = part["row"].to_numpy().astype(int)  # unsigned, they could not be subtracted
        last = part.row(-1, named=True)
        apart = np.abs(np.subtract.outer(rows, rows))
        found.append(
            _Option(
                run=str(name),
                inputs={x: float(last[x]) for x in fit.law.inputs},
                cloud=cloud[rows],
                noise=max(scatter, 1e-9) ** 2 * correlation**apart,
                flops=_cost(part, fit),
            )
        )
    return found


def _cost(part: pl.DataFrame, fit: Fit) -> float | None:
    """FLOPs of a run: as the file says, or 6 per token and parameter kept."""
    if "flops" in part.columns:
        cost = part["flops"].cast(pl.Float64, strict=False).max()
        if not isinstance(cost, float) or not 0 < cost < math.inf:
            raise FitError(f"run {part['run'][0]}: flops is a number above 0")
        return cost
    size = next((x for x in ("avg_params", "params") if x in part.columns), None)
    if size is None or "tokens" not in part.columns:
        return None
    last = part.row(-1, named=True)
    rate = float(last.get("pruning_rate") or 0.0) if size == "params" else 0.0
    return 6 * float(last["tokens"]) * float(last[size]) * (1 - compute_saved(fit.group) * rate)


def _chosen(
    options: Sequence[_Option],
    goal: Array | None,
    state: Array,
    count: int,
    flops: float | None,
    free: int,
) -> tuple[list[NextRun], float]:
    """The runs that tell most for their cost, one after the other, and the error before them."""

    def measure(state: Array) -> float:  # the less the better
        if goal is None:
            return 0.5 * float(np.linalg.slogdet(state)[1])
        return float(np.einsum("ij,jk,ik->i", goal, state, goal).mean())

    def error(value: float) -> float:
        return math.exp(value / free) if goal is None else math.sqrt(value)

    left, spent, now, found = list(options), 0.0, measure(state), list[NextRun]()
    start = error(now)
    while len(found) < count:
        best: tuple[float, float, Array, _Option] | None = None
        for option in left:
            cost = option.flops or 1.0
            if flops is not None and spent + cost > flops * (1 + 1e-9):
                continue
            after = _seen(state, option)
            value = measure(after)
            if best is None or (now - value) / cost > best[0]:
                best = (now - value) / cost, value, after, option
        if best is None:
            break
        _, value, state, option = best
        left.remove(option)
        spent += option.flops or 1.0
        found.append(
            NextRun(
                run=option.run,
                inputs=option.inputs,
                rows=len(option.cloud),
                flops=option.flops,
                stderr=error(value),
                gain=now - value if goal is None else 1 - value / now,
            )
        )
        now = value
    return found, start


def _seen(state: Array, option: _Option) -> Array:
    """The state of the cloud once the losses of a run are known."""
    across = option.cloud @ state
    taken = across.T @ np.linalg.solve(across @ option.cloud.T + option.noise, across)
    return state - taken
