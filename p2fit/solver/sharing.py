"""What the rows of a run share, found from the curves themselves and put into the problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl

from p2fit.arrays import Array, Index, median
from p2fit.curves.options import Options
from p2fit.solver.effects import Along, Effects
from p2fit.solver.least_squares import minimise
from p2fit.solver.problem import EXACT, Problem
from p2fit.solver.search import solve
from p2fit.solver.variances import THRESHOLD, Candidate, Found, variances

_ROUNDS = 8  # of the law and the variances in turn
_SETTLED = 0.01  # relative change of the variances
_TIE = 0.5  # of twice the log likelihood, between kinds that are as likely
_ROWS = 4096  # from which variances are found; each run is thinned to its share
_LEVELS, _CURVES = 3, 4  # runs from which they differ, rows of a run from which there is a rate


@dataclass(frozen=True)
class Sharing:
    """How runs differ and their rows are correlated; deviations are on the residuals' scale, or
    shares of the loss above base_loss."""

    excess: bool
    """Whether level and rate are shares of the loss above base_loss."""
    level: float
    """Standard deviation of a run's level, over the runs."""
    rate: float
    """Of the change of that level when the tokens grow e-fold."""
    sigma: float
    """Of a row's own error."""
    along: Along
    """Along what errors are correlated."""
    length: float
    """Of the places (log tokens, or rows) over which that correlation falls to 1/e; 0: none."""
    neighbours: float
    """Correlation of the errors of neighbouring rows at their typical distance."""


def share(
    problem: Problem, frame: pl.DataFrame, options: Options
) -> tuple[Problem, Sharing | None]:
    """Put what rows share into a problem.

    The law is fitted, the variances found from its residuals, and the law fitted again with them,
    until they stay; for each kind of sharing, of which the most likely is taken. A problem is left
    as it is where its residuals are rounding, and where there are no more runs than the law has
    determined directions: what runs differ in can then not be told from the law.
    """
    run = _numbered(frame["run"])
    tokens = None
    if "tokens" in frame.columns and not frame["tokens"].null_count():
        tokens = frame["tokens"].to_numpy().astype(float)
        tokens = tokens if tokens.min() > 0 else None
    # Huber's loss with the threshold of rows is nearly a median, and may have several optima.
    z = solve(replace(problem, delta=math.inf), seed=options.seed).z
    fitted, jac = problem.jacobian(z)
    directions = len(_determined(problem, z, jac * problem.scale.slope(fitted)))
    size = np.sqrt(np.mean(problem.scale.miss(fitted, problem.y) ** 2))
    if not 0 < directions <= run[-1] or size <= 10 * EXACT * problem.scale.typical(problem.y):
        return problem, None
    settled: list[tuple[Problem, Found]] = []
    for number in range(len(_kinds(problem, fitted, run, tokens, frame))):

        def kind(at: Array, number: int = number) -> Candidate:
            return _kinds(problem, at, run, tokens, frame)[number]

        found = _settled(problem, z, kind, options)
        settled += [found] if found is not None else []
    if not settled:
        return problem, None
    # Of kinds that are as likely, the first: a choice between them is not to hang on rounding.
    best = min(own.value for _, own in settled)
    shared, own = next(pair for pair in settled if pair[1].value <= best + _TIE)
    effects = cast("Effects", shared.effects)
    inner = np.diff(run, prepend=-1) == 0
    sizes = [*(own.sigma * effects.spread), 0.0, 0.0]
    return shared, Sharing(
        excess=own.candidate.excess,
        level=float(sizes[0]),
        rate=float(sizes[1]),
        sigma=own.sigma,
        along=own.candidate.along,
        length=effects.length,
        neighbours=median(effects.near[inner]) if inner.any() else 0.0,
    )


def _settled(
    problem: Problem, z: Array, kind: Callable[[Array], Candidate], options: Options
) -> tuple[Problem, Found] | None:
    """The problem with one kind of sharing, law and variances found in turn until they stay; None
    where what is left of the residuals is rounding.

    Args:
        kind: the kind of sharing, by the fitted losses.
    """
    found, before, shared = None, None, problem
    for turn in range(_ROUNDS):
        fitted, jac = problem.jacobian(z)
        residual = problem.scale.miss(fitted, problem.y)
        whole = kind(fitted)
        if found is not None:
            last = found.effects
            whole = replace(
                whole, effects=replace(whole.effects, spread=last.spread, length=last.length)
            )
        some = _thinned(whole.effects.run)
        found = variances(
            replace(whole, effects=whole.effects.rows(some)),
            residual[some],
            _determined(problem, z, jac * problem.scale.slope(fitted))[:, some],
            robust=options.loss == "huber",
            near=turn > 1,
        )
        if found.sigma <= 10 * EXACT * problem.scale.typical(problem.y):
            return None
        last = found.effects
        effects = replace(whole.effects, spread=last.spread, length=last.length)
        delta = math.inf if options.loss == "squared" else options.delta or THRESHOLD * found.sigma
        weights = np.ones(len(problem.y))
        shared = replace(problem, weights=weights, effects=effects, delta=delta)
        z = solve(shared, seed=options.seed).z if turn < 2 else minimise(shared, z[None]).z[0]
        now = found.sigma * np.array([1.0, *effects.spread])
        if before is not None and np.all(
            np.abs(now - before) <= _SETTLED * (before + 0.1 * now[0])
        ):
            break
        before = now
    return None if found is None else (shared, found)


def _kinds(
    problem: Problem, fitted: Array, run: Index, tokens: Array | None, frame: pl.DataFrame
) -> list[Candidate]:
    """What runs may differ in, and along what their errors may be correlated."""
    counts = np.bincount(run)
    rows = median(counts.astype(float))
    steps = np.arange(len(run)).astype(float)
    centred, places = np.zeros(len(run)), {"rows": steps}
    if tokens is not None:
        logs = np.log(tokens)
        centred = logs - (np.bincount(run, logs) / counts)[run]
        places = {"log tokens": logs, **places}
    if rows < _CURVES:  # too short to see
        places = {"rows": np.zeros(len(run))}
    effects = 0
    if len(counts) >= _LEVELS:
        effects = 2 if tokens is not None and rows >= _CURVES else 1
    excess = "base_loss" in problem.law.inputs and np.array_equal(
        problem.offset, frame["base_loss"].to_numpy()
    )
    level = np.ones(len(run))
    if excess:
        level = (fitted - problem.offset) * problem.scale.slope(fitted)
    return [
        Candidate(
            excess,
            cast("Along", along),
            Effects(
                run=run,
                place=place,
                design=np.stack([level, level * centred])[:effects],
                precision=problem.weights,
                spread=np.zeros(effects),
                length=0.0,
            ),
        )
        for along, place in places.items()
    ]


def _numbered(runs: pl.Series) -> Index:
    names = runs.cast(pl.String).to_numpy()
    return np.concatenate([[0], np.cumsum(names[1:] != names[:-1])]).astype(int)


def _thinned(run: Index) -> Index:
    """Rows from which the variances are found: all, or every so many of each run."""
    step = max(1, math.ceil(len(run) / _ROWS))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(run)) + 1])
    within = np.arange(len(run)) - starts[run]
    return np.flatnonzero(within % step == 0)


def _determined(problem: Problem, z: Array, jac: Array) -> Array:
    """The directions (r, n) in which the rows (p, n) of variables within their ranges move.

    What a term of size 0 would add depends on an exponent that nothing determines.
    """
    jac = jac[(z > problem.lower) & (z < problem.upper)]
    size = np.linalg.norm(jac, axis=1)
    if not size.any():
        return np.zeros((0, jac.shape[1]))
    scaled = jac[size > 0] / size[size > 0, None]
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    kept = values > 1e-13 * values[-1]
    spanned: Array = (vectors[:, kept] / np.sqrt(values[kept])).T @ scaled
    return spanned
