"""Runs that a design lacks: candidates, and those that determine more."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p2fit.arrays import Array
from p2fit.curves.choosing import Dataset
from p2fit.laws.expression import evaluate
from p2fit.laws.table import LAWS
from p2fit.solver.identify import NULL, WARN
from p2fit.solver.problem import Problem
from p2fit.wording import join

_ALTERNATIVES = 3  # runs that would do, shown
_MOST_ADDED = 6  # runs added together where one is not enough
_CANDIDATES = 3000
_CHECKPOINTS = 20  # rows by which a candidate run is judged


@dataclass(frozen=True)
class Run:
    """A run that could be added to a design."""

    inputs: Mapping[str, float]
    """What the law reads, at the end of the run."""
    checkpoints: int
    """Rows along the run, spread as in the others; 1: only its end."""

    def __str__(self) -> str:
        parts = [f"{x} {v:.4g}" for x, v in self.inputs.items()]
        text = join(tuple(parts))
        return text if self.checkpoints == 1 else f"{text}, in {self.checkpoints} checkpoints"


@dataclass(frozen=True)
class Mend:
    """Runs that would determine more, and how much."""

    runs: tuple[Run, ...]
    """The runs to add: all of them."""
    rank: int
    """Directions that the design then determines."""
    condition: float
    """Condition number that it then has; inf below full rank."""


# ---------------------------------------------------------------- what is open


def residual_jacobian(problem: Problem, z: Array) -> Array:
    """The Jacobian of the fitted residuals, shape (n, p)."""
    fitted, jac = problem.jacobian(z)
    return (jac * problem.scale.slope(fitted)).T


def scale_columns(problem: Problem, rows: Array) -> tuple[Array, Array]:
    """Columns of (…, n, p) scaled to length 1, or 0 where a parameter moves nothing; lengths."""
    norms = np.linalg.norm(rows, axis=-2)
    effect = norms * problem.sizes
    norms = np.where(effect > 1e-11 * effect.max(axis=-1, keepdims=True), norms, np.inf)
    return rows / norms[..., None, :], norms


def to_triangle(rows: Array) -> Array:
    """The triangle (p, p) with the same lengths and products as rows (n >= p, p)."""
    found: Array = np.linalg.qr(rows).R
    return found


# ---------------------------------------------------------------- the run to add


@dataclass(frozen=True)
class _Candidates:
    runs: list[Run]
    rows: list[Array]  # of the Jacobian, (m, p) for each run
    new: list[tuple[tuple[str, float], ...]]  # values of each run that the design lacks


def find_mends(
    dataset: Dataset, problem: Problem, z: Array, columns: Mapping[str, Array], triangle: Array
) -> tuple[Mend, ...]:
    """Runs that determine more: up to three alternatives, or several runs together."""
    candidates = _candidates(dataset, problem, z, columns)
    p = len(z)
    chosen: list[Run] = []
    rank, condition = (v[0] for v in _judge(problem, triangle, [np.zeros((1, p))]))
    while candidates.runs and len(chosen) < _MOST_ADDED:
        ranks, conditions = _judge(problem, triangle, candidates.rows)
        order = sorted(
            range(len(ranks)),
            key=lambda i: (-ranks[i], conditions[i] > WARN, len(candidates.new[i]), conditions[i]),
        )
        best = order[0]
        if ranks[best] == rank and not (rank == p and conditions[best] < condition / 3):
            break
        if not chosen and ranks[best] == p:
            seen: set[tuple[tuple[str, float], ...]] = set()
            found: list[Mend] = []
            for i in order:
                helps = ranks[i] == p and (rank < p or conditions[i] < condition / 3)
                if helps and candidates.new[i] not in seen and len(found) < _ALTERNATIVES:
                    seen.add(candidates.new[i])
                    found.append(Mend((candidates.runs[i],), p, float(conditions[i])))
            return tuple(found)
        chosen.append(candidates.runs[best])
        triangle = to_triangle(np.concatenate([triangle, candidates.rows[best]]))
        rank, condition = ranks[best], conditions[best]
        if rank == p:
            break
    return (Mend(tuple(chosen), int(rank), float(condition)),) if chosen else ()


def _judge(
    problem: Problem, triangle: Array, rows: Sequence[Array]
) -> tuple[list[int], list[float]]:
    """Rank and condition number with each candidate's rows added."""
    ranks, conditions = [], []
    for _, same in itertools.groupby(rows, key=len):
        added = np.stack(list(same))
        base = np.broadcast_to(triangle, (len(added), *triangle.shape))
        scaled, _ = scale_columns(problem, np.concatenate([base, added], axis=1))
        singular = np.linalg.svd(scaled, compute_uv=False)
        found = (singular > singular[:, :1] / NULL).sum(axis=1)
        ranks += found.tolist()
        with np.errstate(divide="ignore"):
            condition = singular[:, 0] / singular[:, -1]
        conditions += np.where(found == singular.shape[1], condition, np.inf).tolist()
    return ranks, conditions


def _candidates(
    dataset: Dataset, problem: Problem, z: Array, columns: Mapping[str, Array]
) -> _Candidates:
    law, names = problem.law, problem.law.varied
    found = _Candidates([], [], [])
    if not names:
        return found
    run = dataset.frame["run"].to_numpy()
    last = np.append(run[1:] != run[:-1], True)
    ends = {x: np.unique(columns[x][last]) for x in names}
    most = max(3, int(_CANDIDATES ** (1 / len(names))))
    levels = [_levels(ends[x])[:most] for x in names]
    grid = np.array(list(itertools.product(*levels)))
    for shape in _shapes(dataset, columns, list(names)):
        m = len(next(iter(shape.values())))
        points = {x: (grid[:, [i]] * shape[x]).ravel() for i, x in enumerate(names)}
        rest = (x for x in law.inputs if x not in names)
        points |= {x: np.full(grid.shape[0] * m, columns[x].mean()) for x in rest}
        bases = {b for t in law.terms for b, _ in t.powers} if law.monomial else set()
        with np.errstate(all="ignore"):
            inside = [np.broadcast_to(evaluate(b, points) > 0, grid.shape[0] * m) for b in bases]
        kept = np.all([np.ones(grid.shape[0] * m, bool), *inside], axis=0)
        kept = kept.reshape(-1, m).all(axis=1)
        if not kept.any():
            continue
        points = {x: v[np.repeat(kept, m)] for x, v in points.items()}
        rows = residual_jacobian(problem.at(points), z).reshape(-1, m, len(z))
        picked = np.unique(np.linspace(0, m - 1, min(m, _CHECKPOINTS)).astype(int))
        found.rows.extend(rows[:, picked] * math.sqrt(m / len(picked)))
        for values in grid[kept].tolist():
            inputs = dict(zip(names, values))
            found.runs.append(Run(inputs, m))
            found.new.append(tuple((x, v) for x, v in inputs.items() if v not in ends[x]))
    return found


def _levels(known: Array) -> list[float]:
    """Values that a further run may take, those most apt first: known ones, below, between, above.

    Args:
        known: distinct values, ascending.
    """
    low, high = float(known[0]), float(known[-1])
    some = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), 8)).astype(int))].tolist()
    if high == 0:
        return [0.0, 0.25, 0.5]
    new = [2 * high, low / 2]
    if len(known) > 1:
        i = int(np.diff(np.log(np.maximum(known, 1e-300))).argmax())
        new.append(math.sqrt(known[i] * known[i + 1]) if known[i] > 0 else known[i + 1] / 2)
    new = [float(f"{v:.2g}") for v in (*new, 4 * high)]
    new = [v for v in new if v > 0 and np.abs(known / v - 1).min() > 0.05 and (v < 1 or high >= 1)]
    return list(dict.fromkeys([some[-1], *new[:2], some[0], *new[2:], *some]))


def _shapes(
    dataset: Dataset, columns: Mapping[str, Array], names: list[str]
) -> list[dict[str, Array]]:
    """How inputs go along a run, relative to its end: as in the longest, or in three checkpoints.

    The built-in laws of pre-training hold at the end of a run, where its learning rate has decayed:
    there checkpoints on the way tell nothing.
    """
    run = dataset.frame["run"].to_numpy()
    starts = np.flatnonzero(np.append(True, run[1:] != run[:-1]))
    stops = np.append(starts[1:], len(run))
    i = int((stops - starts).argmax())
    own = {x: columns[x][starts[i] : stops[i]] for x in names}
    shapes = [{x: v / v[-1] if v[-1] else np.ones(len(v)) for x, v in own.items()}]
    decayed = dataset.law.name in LAWS and "base_loss" not in dataset.law.inputs
    if stops[i] - starts[i] < 3 and "tokens" in names and not decayed:
        shapes.append({x: np.ones(3) for x in names} | {"tokens": np.array([0.25, 0.5, 1.0])})
    return shapes
