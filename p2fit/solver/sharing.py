"""What the rows of a run share, found from the curves themselves and put into the problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
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
_ROWS, _OF_A_RUN = 4096, 16  # from which variances are found, about; no run is thinned below
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
    curves = _Curves.of(problem, frame)
    some = _thinned(curves.run, options.seed)
    found = _likeliest(problem.rows(some), curves.rows(some), options)
    if found is None:
        return problem, None
    own = found.variances
    whole = _kind(problem, problem.loss(found.at[None])[0], curves, own.candidate.along)
    shared = _with(problem, whole, own, options)
    effects = cast("Effects", shared.effects)
    inner = np.diff(effects.run, prepend=-1) == 0
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


@dataclass(frozen=True)
class _Curves:
    """What of the rows it takes to say what they share, each of shape (n,)."""

    run: Index
    """Number of the run, ascending from 0 without gaps."""
    step: Array
    """Number of the row."""
    logs: Array | None
    """Of the tokens; None where not every row has some."""
    excess: bool
    """Whether what the law adds to is base_loss."""

    @staticmethod
    def of(problem: Problem, frame: pl.DataFrame) -> _Curves:
        logs = None
        if "tokens" in frame.columns and not frame["tokens"].null_count():
            tokens = frame["tokens"].to_numpy().astype(float)
            logs = np.log(tokens) if tokens.min() > 0 else None
        names = frame["run"].cast(pl.String)
        run = (names != names.shift()).fill_null(value=False).cum_sum().to_numpy().astype(int)
        based = "base_loss" in problem.law.inputs
        excess = based and np.array_equal(problem.offset, frame["base_loss"].to_numpy())
        return _Curves(run, np.arange(len(run)).astype(float), logs, excess)

    def rows(self, index: Index) -> _Curves:
        """The same of some of the rows, in their order."""
        run = self.run[index]
        numbers = np.concatenate([[0], np.cumsum(run[1:] != run[:-1])]).astype(int)
        logs = None if self.logs is None else self.logs[index]
        return _Curves(numbers, self.step[index], logs, self.excess)

    @cached_property
    def counts(self) -> Array:
        """Rows of each run, shape (G,)."""
        return np.bincount(self.run).astype(float)

    @property
    def short(self) -> bool:
        """Whether runs have too few rows to see how these follow each other."""
        return median(self.counts) < _CURVES

    @property
    def ways(self) -> tuple[Along, ...]:
        """Along what errors may be correlated."""
        return ("rows",) if self.logs is None or self.short else ("log tokens", "rows")


@dataclass(frozen=True)
class _Settled:
    """Variances of one kind of sharing that no longer change."""

    variances: Found
    at: Array
    """Where the law was when they were found, z of shape (p,)."""
    z: Array
    """Where it is with them."""


def _likeliest(problem: Problem, curves: _Curves, options: Options) -> _Settled | None:
    """The kind of sharing under which the residuals are most likely; None where none can be told
    from the law, or the residuals are rounding."""
    # Huber's loss with the threshold of rows is nearly a median, and may have several optima.
    z = solve(replace(problem, delta=math.inf), seed=options.seed).z
    fitted, jac = problem.jacobian(z)
    directions = len(_determined(problem, z, jac * problem.scale.slope(fitted)))
    size = np.sqrt(np.mean(problem.scale.miss(fitted, problem.y) ** 2))
    if not 0 < directions < len(curves.counts) or size <= 10 * EXACT * problem.scale.typical(
        problem.y
    ):
        return None
    settled: list[_Settled] = []
    for along in curves.ways:
        near = settled[-1].z if settled else z
        found = _settle(problem, near, curves, along, options, search=not settled)
        settled += [found] if found is not None else []
    # Of kinds that are as likely, the first: a choice between them is not to hang on rounding.
    best = min((own.variances.value for own in settled), default=0.0)
    return next((own for own in settled if own.variances.value <= best + _TIE), None)


def _settle(
    problem: Problem, z: Array, curves: _Curves, along: Along, options: Options, *, search: bool
) -> _Settled | None:
    """One kind of sharing, law and variances found in turn until they stay; None where what is
    left of the residuals is rounding.

    Args:
        z: where the law begins.
        search: for its optimum under the first variances everywhere, and not only from there.
    """
    found, before, at = None, None, z
    for turn in range(_ROUNDS):
        at = z
        fitted, jac = problem.jacobian(z)
        kind = _kind(problem, fitted, curves, along)
        found = variances(
            kind if found is None else _as_found(kind, found),
            problem.scale.miss(fitted, problem.y),
            _determined(problem, z, jac * problem.scale.slope(fitted)),
            robust=options.loss == "huber",
            near=turn > 1,
        )
        if found.sigma <= 10 * EXACT * problem.scale.typical(problem.y):
            return None
        shared = _with(problem, kind, found, options)
        alone = solve(shared, seed=options.seed).z if search and not turn else z
        z = minimise(shared, alone[None]).z[0]
        now = found.sigma * np.array([1.0, *found.effects.spread])
        if before is not None and np.all(
            np.abs(now - before) <= _SETTLED * (before + 0.1 * now[0])
        ):
            break
        before = now
    return None if found is None else _Settled(found, at, z)


def _as_found(kind: Candidate, found: Found) -> Candidate:
    last = found.effects
    return replace(kind, effects=replace(kind.effects, spread=last.spread, length=last.length))


def _with(problem: Problem, kind: Candidate, found: Found, options: Options) -> Problem:
    """The problem with variances in it; Huber's threshold is in units of them."""
    return replace(
        problem,
        weights=np.ones(len(problem.y)),
        effects=_as_found(kind, found).effects,
        delta=math.inf if options.loss == "squared" else options.delta or THRESHOLD * found.sigma,
    )


def _kind(problem: Problem, fitted: Array, curves: _Curves, along: Along) -> Candidate:
    """What runs may differ in, with errors that are correlated along something.

    Args:
        fitted: the law's losses, shape (n,).
    """
    run, logs = curves.run, curves.logs
    place, centred = curves.step, np.zeros(len(run))
    if logs is not None:
        centred = logs - (np.bincount(run, logs) / curves.counts)[run]
        place = logs if along == "log tokens" else place
    effects = 0
    if len(curves.counts) >= _LEVELS:
        effects = 1 if logs is None or curves.short else 2
    level = np.ones(len(run))
    if curves.excess:
        level = (fitted - problem.offset) * problem.scale.slope(fitted)
    return Candidate(
        curves.excess,
        along,
        Effects(
            run=run,
            place=np.zeros(len(run)) if curves.short else place,
            design=np.stack([level, level * centred])[:effects],
            precision=problem.weights,
            spread=np.zeros(effects),
            length=0.0,
        ),
    )


def _thinned(run: Index, seed: int) -> Index:
    """Rows from which the variances are found: all, or every so many of each run, or those of some
    of the runs."""
    if len(run) <= _ROWS:
        return np.arange(len(run))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(run)) + 1])
    step = max(1, min(math.ceil(len(run) / _ROWS), len(run) // (len(starts) * _OF_A_RUN)))
    within = np.arange(len(run)) - starts[run]
    kept = within % step == 0
    runs = max(1, _ROWS * len(starts) // int(kept.sum()))
    if runs < len(starts):
        some = np.random.default_rng(seed).permutation(len(starts))[:runs]
        kept &= np.isin(run, some)
    return np.flatnonzero(kept)


def _determined(problem: Problem, z: Array, jac: Array) -> Array:
    """The directions (r, n) in which the rows (p, n) of variables within their ranges move.

    What a term of size 0 would add depends on an exponent that nothing determines.
    """
    jac = jac[(z > problem.lower) & (z < problem.upper)]
    size = np.linalg.norm(jac, axis=1)
    if not np.isfinite(size).all() or not size.any():
        return np.zeros((0, jac.shape[1]))
    scaled = jac[size > 0] / size[size > 0, None]
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    kept = values > 1e-13 * values[-1]
    spanned: Array = (vectors[:, kept] / np.sqrt(values[kept])).T @ scaled
    return spanned
