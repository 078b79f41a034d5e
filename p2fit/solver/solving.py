"""From a dataset to its optimum: weights, the solver, what is determined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from p2fit.arrays import Array, Index
from p2fit.curves.choosing import Dataset
from p2fit.curves.options import Options
from p2fit.errors import FitError, LawError
from p2fit.solver.build import build
from p2fit.solver.identify import Identification, Undetermined, identify
from p2fit.solver.least_squares import minimise, residuals
from p2fit.solver.problem import Problem
from p2fit.solver.search import Solution, settle, solve
from p2fit.solver.sharing import Sharing, share

_LARGE = 1e150  # what has no square
_FLAT = "the objective is flat there"
_MAY_TELL = f"{_FLAT}; a larger delta or squared loss may tell"


@dataclass(frozen=True)
class Solved:
    """The optimum of a dataset, with what it takes to say how sure it is."""

    problem: Problem
    """The law on the rows, with their weights."""
    solution: Solution
    """The optimum."""
    identification: Identification
    """What the rows determine."""
    clusters: Index
    """Cluster of each row, ascending from 0, shape (n,)."""
    columns: Mapping[str, Array]
    """The law's inputs, each of shape (n,)."""
    frame: pl.DataFrame
    """The rows, in the order of the problem's."""
    weighting: Mapping[str, Any]
    """How the rows were weighted."""
    sharing: Sharing | None = None
    """What the rows of a run share; None where each row has an error of its own."""


@np.errstate(all="ignore")  # what is not finite is dealt with as such
def solve_dataset(dataset: Dataset) -> Solved:
    """Find the optimum of a dataset.

    Raises:
        FitError: the law cannot be put on these rows.
    """
    try:
        return _solve(dataset)
    except LawError as error:
        raise FitError(f"{dataset.label}: {error}") from None


def _solve(dataset: Dataset) -> Solved:
    frame, law, options = dataset.frame, dataset.law, dataset.options
    # Clusters in one block each; within them the order of the curves.
    unit = options.cluster
    if unit != "run":
        if frame[unit].null_count():
            raise LawError(f"{unit} has empty cells: every row must belong to a cluster")
        units = frame.group_by("run", maintain_order=True).agg(pl.col(unit).n_unique())
        split = units.filter(pl.col(unit) > 1)
        if split.height:
            raise LawError(f"{unit} varies within run {split['run'][0]}: a run is one unit")
        frame = frame.sort(unit, maintain_order=True)
    labels = frame[unit].cast(pl.String).to_numpy()
    clusters = np.concatenate([[0], np.cumsum(labels[1:] != labels[:-1])])
    columns = {x: frame[x].to_numpy() for x in law.inputs}
    y = frame[options.target].to_numpy()
    problem = build(
        law,
        columns,
        y,
        np.ones(len(y)),
        residual=options.residual or "log",
        delta=options.threshold,
        start=options.start,
    )
    if np.abs(y).max() > _LARGE:
        raise LawError(f"the squares of {options.target} are too large to add up: change its unit")
    problem, weighting = _weigh(problem, frame, options)
    sharing = None
    if options.errors == "runs" and frame["run"].n_unique() < frame.height:
        problem, sharing = share(problem, frame, options)
    solution = solve(problem, seed=options.seed)
    positive = options.target == "loss" or options.residual == "log"
    fitted = problem.loss(solution.z[None])
    if not np.isfinite(fitted).all():
        raise LawError("the law is not finite in some rows")
    if np.abs(fitted).max() > _LARGE:
        raise LawError(f"wherever its parameters were searched the law gives {fitted.max():.1g}")
    if positive and not np.all(fitted > 0):
        raise LawError(_below(problem, fitted[0], options.target))
    if not math.isfinite(solution.value):
        raise LawError(f"wherever its parameters were searched the law gives no {options.target}")
    problem, solution = _recentred(problem, solution)
    found = identify(problem, solution.z, columns)
    flat = _flat(problem, solution)
    if found.undetermined or flat:
        solution = settle(problem, solution)
        found = identify(problem, solution.z, columns)
    words = _MAY_TELL if np.isfinite(problem.delta) else _FLAT
    if set(flat) - found.names:
        found = replace(found, undetermined=(*found.undetermined, Undetermined(flat, (words,))))
    return Solved(problem, solution, found, clusters, columns, frame, weighting, sharing)


def _below(problem: Problem, fitted: Array, target: str) -> str:
    """Why there is no fit where the best that was found is not above 0 in every row."""
    count = int(np.sum(~(fitted > 0)))
    rows = f"{count} of {len(fitted)} rows"
    if problem.residual != "log":
        return (
            f"at its optimum the law is not above 0 in {rows} (the lowest {fitted.min():.3g}), and "
            f"{target} must be: --residual log keeps it above"
        )
    sign = ""
    if problem.coefficients:
        name = problem.law.coefficients[0]
        sign = f"; its coefficients are at least 0, and --range {name}=-10..10 lets one be negative"
    return (
        f"the law gives no {target} above 0 in {rows}, wherever its parameters were searched{sign}"
    )


def _recentred(problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
    """Both in the variables of the optimum: where the search began they may have been far from
    the sizes of the terms."""
    moved = problem.recentred(solution.z)
    change = moved.centre - problem.centre

    def carried(z: Array) -> Array:
        k = problem.coefficients
        sizes = z[:, :k] * np.exp(change[:, 0] + z[:, k:] @ change[:, 1:].T)
        return np.concatenate([sizes, z[:, k:]], axis=1)

    z, ties = carried(solution.z[None])[0], carried(solution.ties)
    if moved is problem or not np.isfinite(ties).all():
        return problem, solution
    return moved, replace(solution, z=z, ties=ties)


def _flat(problem: Problem, solution: Solution) -> tuple[str, ...]:
    """Parameters in which starts differ that ended at the same objective.

    Beyond delta Huber's loss counts rows on either side, as a median does, and a median of an even
    number of rows is not unique: a design with few levels can leave a whole valley flat.
    """
    values = minimise(problem, solution.ties, iterations=0).value
    equal = solution.ties[values <= values.min() * (1 + 1e-9) + problem.floor]
    apart = np.ptp(equal, axis=0) > 0.01 * problem.sizes
    names = {n for n, far in zip(problem.names, apart) if far}
    return tuple(p for p in problem.law.parameters if p in names)


def _weigh(
    problem: Problem, frame: pl.DataFrame, options: Options
) -> tuple[Problem, dict[str, Any]]:
    """Row weights, of mean 1, and how they were made."""
    kind, errors = options.weights, f"{options.target}_stderr"
    filled = errors in frame.columns and not frame[errors].null_count()
    if filled and frame[errors].dtype != pl.Float64:
        raise LawError(f"{errors} is not a number in every row")
    if kind == "stderr" and not filled:
        raise LawError(f"weights by stderr need a {errors} column without empty cells")
    if kind is None:
        kind = "stderr" if filled else "rows"
    if kind == "rows":
        return problem, {"weights": kind}
    if kind == "runs":
        w = 1.0 / frame.select(pl.len().over("run")).to_series().to_numpy().astype(float)
        return replace(problem, weights=w / w.mean()), {"weights": kind}
    s = frame[errors].to_numpy() * problem.scale.slope(problem.y)
    if not np.all(s > 0):
        raise LawError(f"{errors} of 0 or less gives its row all the weight: leave it out")
    # Weights need the residuals and those the weights: a few rounds settle it.
    z, tau = solve(problem, seed=options.seed).z, 0.0
    for _ in range(5):
        tau = _tau(residuals(problem, z), s, len(problem.names))
        w = 1.0 / (s**2 + tau**2)
        problem = replace(problem, weights=w / w.mean())
        z = minimise(problem, z[None], iterations=30).z[0]
    return problem, {"weights": kind, "tau": tau}


def _tau(r: Array, s: Array, parameters: int) -> float:
    """Scatter beyond the standard errors: Σ r²/(s² + τ²) = n - p (Paule & Mandel 1982)."""
    free = len(r) - parameters
    if free <= 0 or np.sum((r / s) ** 2) <= free:
        return 0.0
    low, high = 0.0, float(np.sqrt(np.sum(r**2) / free))
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = np.sum(r**2 / (s**2 + middle**2)) > free
        low, high = (middle, high) if above else (low, middle)
    return high
