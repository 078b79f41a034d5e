"""From a dataset to its :class:`Fit` by least squares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit import metrics
from p2fit.arrays import Array, Index, finite
from p2fit.curves.choosing import Dataset
from p2fit.curves.options import Options
from p2fit.hull import corners
from p2fit.laws.table import LAWS
from p2fit.solver.identify import Identification
from p2fit.solver.least_squares import minimise
from p2fit.solver.problem import Problem
from p2fit.solver.search import Solution
from p2fit.solver.solving import Solved, solve_dataset
from p2fit.uncertainty import misfit
from p2fit.uncertainty.jackknife import Covariance, covariance
from p2fit.uncertainty.new_runs import new_run
from p2fit.uncertainty.outliers import outliers, scatter, words

if TYPE_CHECKING:
    from p2fit.uncertainty.bootstrap import Draws
from p2fit.fit import UNCONVERGED, Estimate, Fit

_SHARES = (0.1, 0.2)  # of each run's tokens, dropped to see whether the exponents stay put


@np.errstate(all="ignore")  # what is not finite is dealt with as such
def fit_dataset(
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    solved: Solved | None = None,
) -> Fit:
    """Fit the law of a dataset to its rows, without the search for equally good parameters.

    Args:
        progress: called with resamples done and in all.
        solved: the dataset's optimum, where it is known already.
    """
    solved, options = solved or solve_dataset(dataset), dataset.options
    problem, solution, found = solved.problem, solved.solution, solved.identification
    spread, frame, columns = covariance(solved), solved.frame, solved.columns
    far, draws = outliers(solved), None
    if options.bootstrap and spread is not None:
        from p2fit.uncertainty.bootstrap import bootstrap as resampled

        several = frame.height > spread.clusters
        draws = resampled(
            problem,
            solution.z,
            solved.clusters,
            options.bootstrap,
            resample=options.resample or ("wild" if several else "runs"),
            seed=options.seed,
            levels=[v for v in map(_levels, columns.values()) if v is not None],
            progress=progress,
        )
    return Fit(
        law=dataset.law,
        backend="least-squares",
        group=dict(dataset.group),
        parameters=_estimates(problem, solution.z, found, spread, draws),
        objective=solution.value,
        converged=solution.converged,
        starts={"tried": solution.starts, "agreed": solution.agreed},
        metrics={
            **score(problem, problem.loss(solution.z[None])[0], frame, options),
            "scatter": scatter(solved, far),
        },
        identification={
            "rank": found.rank,
            "parameters": found.parameters,
            "condition": found.condition if math.isfinite(found.condition) else None,
            "undetermined": [
                {"parameters": list(u.parameters), "reasons": list(u.reasons)}
                for u in found.undetermined
            ],
        },
        covariance=None
        if spread is None
        else {
            "names": list(problem.names),
            "matrix": spread.natural().tolist(),
            "clusters": spread.clusters,
            "unit": options.cluster,
            "critical": spread.critical,
            **spread.clusters_tell(),
        },
        bootstrap=None if draws is None else _account(problem, draws),
        runs=new_run(solved),
        equally_good=(),
        sensitivity=_sensitivity(problem, solution, frame) if not found.undetermined else {},
        data={
            "source": dataset.curves.source,
            "sha256": dataset.curves.sha256,
            "columns": dict(dataset.curves.renamed),
            "rows": frame.height + sum(dataset.excluded.values()),
            "used": frame.height,
            "runs": frame["run"].n_unique(),
            "excluded": dict(dataset.excluded),
            "chosen": dataset.why,
            "control": dataset.control,
            "range": {
                x: {"min": v.min(), "max": v.max(), "distinct": frame[x].n_unique()}
                for x, v in columns.items()
            },
            "corners": corners(columns),
        },
        options={
            **options.recorded(),
            **solved.weighting,
            "delta": options.delta or (None if problem.effects else finite(problem.delta)),
        },
        warnings=(
            *_warn(solved, spread, options),
            *_along(solved),
            *words(solved, far, options.target),
            *dataset.warnings,
        ),
    )


def score(
    problem: Problem, fitted: Array, frame: pl.DataFrame, options: Options
) -> dict[str, float | str | None]:
    """The metrics of fitted losses, shape (n,)."""
    y = problem.y
    r = problem.scale.miss(fitted, y)
    known = "base_loss" in problem.law.inputs and options.target == "loss"
    slope = None
    if "tokens" in frame.columns and options.target == "loss":
        runs, tokens = frame["run"].to_numpy(), frame["tokens"].to_numpy()
        slope = metrics.asd(runs, tokens, y, fitted)
    scores: dict[str, float | str | None] = {
        "r2": metrics.r_squared(y, fitted),
        "r2_excess": metrics.r_squared(y - problem.offset, fitted - problem.offset)
        if known
        else None,
        "rmse": metrics.rmse(y, fitted),
        "mape": metrics.mape(y, fitted) if y.min() > 0 else None,
        "huber": metrics.mean_huber(r, options.delta or options.threshold),
        "asd": slope,
        "asd_unit": metrics.ASD_UNIT,
        "scatter": math.sqrt(float(r @ r) / max(len(r) - len(problem.names), 1)),
    }
    return scores


def _estimates(
    problem: Problem,
    z: Array,
    found: Identification,
    spread: Covariance | None,
    draws: Draws | None,
) -> dict[str, Estimate]:
    law = problem.law
    values = {n: float(v) for n, v in problem.natural(z).items()}
    result: dict[str, Estimate] = {}
    for i, name in enumerate(problem.names):
        stderr, interval = None, None
        if spread is not None and name not in found.names:
            stderr, low, high = spread.interval(i) if draws is None else draws.interval(i)
            interval = (finite(low), finite(high))
            stderr = None if interval == (None, None) else stderr
        at_bound = bool(z[i] <= problem.lower[i] or z[i] >= problem.upper[i])
        result[name] = Estimate(
            estimate=finite(values[name]),
            stderr=None if at_bound else finite(stderr),
            interval=interval,
            identified=name not in found.names,
            at_bound=at_bound,
        )
    for name, value in law.fixed.items():
        result[name] = Estimate(float(value), fixed=True)
    for name, other in law.tied.items():
        result[name] = Estimate(**{**asdict(result[other]), "tied": other})
    return {n: result[n] for n in law.parameters}


def _levels(column: Array) -> Index | None:
    """The level of each row, where an input has few: a size, a rate."""
    values = sorted(set(column.tolist()))
    return np.searchsorted(values, column) if len(values) <= 10 else None


def _account(problem: Problem, draws: Draws) -> dict[str, Any]:
    at = {n: int(c) for n, c in zip(problem.names, draws.at_bound.sum(axis=0)) if c}
    return {
        "draws": {n: np.asarray(draws.natural[n]) for n in problem.names},
        "count": len(draws.z),
        "resample": draws.resample,
        "few": draws.few,
        "failed": int(np.count_nonzero(draws.converged == 0)),
        "lost_level": draws.lost,
        "at_bound": at,
        **({} if draws.engine == "numpy" else {"engine": draws.engine}),
    }


def _sensitivity(
    problem: Problem, solution: Solution, frame: pl.DataFrame
) -> dict[str, dict[str, float]]:
    """Exponents without the first part of each run, from the optimum on all of it."""
    if "tokens" not in frame.columns or frame["run"].n_unique() == frame.height:
        return {}
    share = frame.select(pl.col("tokens") / pl.col("tokens").max().over("run")).to_series()
    shares = share.to_numpy()
    moved = {}
    for part in _SHARES:
        kept = np.flatnonzero(shares >= part)
        if len(kept) < len(shares):
            z = minimise(problem.rows(kept), solution.z[None], iterations=60).z[0]
            values = problem.natural(z)
            moved[f"{part:.0%}"] = {e: float(values[e]) for e in problem.law.exponents}
    return moved


def _onward(problem: Problem, z: Array, index: int) -> str:
    """How a parameter of a formula of one's own may go on from the bound at which it ended."""
    law, name = problem.law, problem.names[index]
    if law.name in LAWS:
        return ""
    low, high = law.ranges[name]
    if low < 0 < high:
        low, high = (10 * low, high) if z[index] < 0 else (low, 10 * high)
        return f": --range {name}={low:g}..{high:g} lets it go on"
    if low != 0:
        return ""
    if name in law.powers:
        return ": for the other direction, write its power with the other sign"
    far = high
    if index < problem.coefficients:
        unit = z.copy()
        unit[index] = problem.typical  # as large as what is predicted
        far = 10 * float(problem.natural(unit)[name])
    elif not math.isfinite(far):
        far = 10 * float(problem.sizes[index])
    size = f"{float(f'{far:.0e}'):g}"
    return f": --range {name}=-{size}..{size} lets it be negative"


def _along(solved: Solved) -> list[str]:
    wrong = misfit.misfit(solved)
    return [misfit.words(wrong, solved.problem.law.name)] if wrong else []


def _warn(solved: Solved, spread: Covariance | None, options: Options) -> list[str]:
    unit, target = options.cluster, options.target
    problem, solution, found = solved.problem, solved.solution, solved.identification
    frame, columns = solved.frame, solved.columns
    lines = found.warnings
    if solution.agreed == 1 and solution.starts > 3:
        lines.append(
            f"only 1 of {solution.starts} starts reached this objective: others may be lower"
        )
    errors = f"{target}_stderr"
    if errors in frame.columns and 0 < frame[errors].null_count() < frame.height:
        empty = frame[errors].null_count()
        lines.append(f"{errors} is empty in {empty} rows, so it is not used for weights")
    if not solution.converged:
        lines.append(f"the solver did {UNCONVERGED}")
    if spread is None:
        count = frame[unit].n_unique()
        what = f"run{'s' * (count > 1)}" if unit == "run" else f"values of {unit}"
        lines.append(
            f"no intervals: {count} independent {what} for {found.rank} parameters, or residuals "
            "too large to tell"
            if count > found.rank
            else f"no intervals: {count} independent {what}, {found.rank + 1} needed"
        )
    names = problem.names
    for i, name in enumerate(names):
        if name in found.names:
            continue
        below = solution.z[i] <= problem.lower[i]
        if below or solution.z[i] >= problem.upper[i]:
            side, end = ("lower", 0) if below else ("upper", 1)
            lines.append(
                f"{name} is at its {side} bound, {problem.law.ranges[name][end]:g}"
                + _onward(problem, solution.z, i)
            )
    if "base_loss" in columns and target == "loss":
        under = frame.filter(pl.col("loss") < pl.col("base_loss"))
        if under.height:
            runs = under["run"].unique(maintain_order=True).to_list()
            shown = ", ".join(runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
            lines.append(
                f"{under.height} rows have loss below base_loss, where the law cannot go (runs "
                f"{shown}): was the base model trained to the end, on the same data?"
            )
    return lines
