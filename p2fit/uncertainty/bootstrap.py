"""Thousands of refits on resampled curves.

Where runs have several rows, a wild cluster bootstrap (Cameron, Gelbach & Miller 2008): every
run's residuals are multiplied by one random weight and put back on the fitted curve, so that no
draw loses a size or a rate. They are the residuals of a fit without that run (MacKinnon, Nielsen &
Webb 2023), since Huber's loss follows some runs so closely that their own residuals vanish. The
weights are Webb's six points, since with few runs two points repeat. Where every run has one row,
the ordinary bootstrap of rows.

Percentiles are taken further from the estimate by Student's t over the normal quantile: few runs
tell little of their own scatter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.solver.least_squares import residuals
from p2fit.solver.problem import Problem
from p2fit.solver.refits import Refits
from p2fit.uncertainty.jackknife import FAR, t_quantile

Resample = Literal["wild", "runs"]

#: Webb's weights: mean 0, variance 1, six points.
WEBB = np.sqrt([0.5, 1.0, 1.5])

#: The normal quantile for 95 %.
NORMAL = 1.959963984540054
#: Share of the draws beyond each end of a 95 % interval.
TAIL = 0.025


@dataclass(frozen=True)
class Draws:
    """The estimates on every resample."""

    problem: Problem
    """The problem that was resampled."""
    centre: Array
    """The optimum on the curves themselves, shape (p,)."""
    z: Array
    """The solver's variables, shape (draws, p)."""
    value: Array
    """Objective on the resample, shape (draws,)."""
    converged: Array
    """Whether the refit met the convergence test, shape (draws,)."""
    resample: Resample
    """How the resamples were made."""
    lost: int
    """Draws that lost a level (a size, a rate) of an input with few of them; 0 if wild."""
    few: float
    """How much further from the estimate than the percentiles the ends of an interval are."""
    engine: Literal["numpy", "jax"]
    """What did the refits."""

    @cached_property
    def natural(self) -> dict[str, Array]:
        """Every parameter on every resample, in the formula's units."""
        return self.problem.natural(self.z)

    @cached_property
    def at_bound(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether a variable ended at the end of its range, shape (draws, p)."""
        return np.logical_or(self.z <= self.problem.lower, self.z >= self.problem.upper)

    def interval(self, index: int) -> tuple[float, float | None, float | None]:
        """Standard deviation and 95 % interval of one entry of z, in the formula's units.

        The ends are the percentiles, ``few`` times as far from the estimate (on the log scale for
        a coefficient). An end is None (open) where the percentile is the end of the range, and for
        an exponent whose terms are 0 in more than 2.5 % of the draws: it has no value there.
        """
        problem, k = self.problem, self.problem.coefficients
        name = problem.names[index]
        values = self.natural[name]
        usable = self.converged & np.isfinite(values)
        if index >= k:
            shaped = problem.law.shaped(name)
            if None not in shaped:
                own = [i for i, c in enumerate(problem.law.coefficients) if c in shaped]
                gone = (self.z[:, own] == 0).all(axis=1)
                if gone.mean() > TAIL:
                    return float(np.std(values[usable])), None, None
                usable &= ~gone
        if usable.mean() < 1 - TAIL:
            return math.inf, None, None
        low, high = np.quantile(values[usable], [TAIL, 1 - TAIL])
        at_low = (self.z[:, index] <= problem.lower[index]).mean() > TAIL
        at_high = (self.z[:, index] >= problem.upper[index]).mean() > TAIL
        if index < k or problem.logged[index - k]:
            middle = float(np.median(values[usable]))
            at_low, at_high = at_low or low * FAR < middle, at_high or high > middle * FAR
        estimate = float(problem.natural(self.centre)[name])
        if index >= k and not problem.logged[index - k]:
            low, high = (estimate + (end - estimate) * self.few for end in (low, high))
            low, high = max(low, problem.lower[index]), min(high, problem.upper[index])
        elif estimate > 0:
            low, high = (estimate * (end / estimate) ** self.few for end in (low, high))
        ends = (None if at_low else float(low), None if at_high else float(high))
        return float(np.std(values[usable])), *ends


def bootstrap(
    problem: Problem,
    z: Array,
    clusters: Index,
    count: int,
    *,
    resample: Resample,
    seed: int = 0,
    levels: list[Index] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Draws:
    """Refit a law on ``count`` resamples of its curves.

    Draw b depends on the seed and on b alone, whatever is refitted together.

    Args:
        z: the optimum, shape (p,).
        clusters: cluster index of each row, shape (n,), ascending from 0 without gaps.
        resample: ``wild`` keeps every row and gives each cluster's residuals a random weight;
            ``runs`` draws clusters with replacement (rows, where each has one).
        levels: level of each row for inputs that have few distinct values, to count lost ones.
        progress: called with the number of draws done and in all.
    """
    groups = int(clusters[-1]) + 1
    fitted, scale = problem.loss(z[None])[0], problem.scale
    wild = resample == "wild"
    refits = Refits(problem, z)
    pull = _left_out(refits, clusters) if wild else np.zeros(len(problem.y))
    lost = np.zeros(count, bool)

    def drawn(numbers: Index) -> dict[str, Array]:
        weights = np.stack([draw_weights(seed, int(b), groups, resample) for b in numbers])
        rows = weights[:, clusters]
        if wild:
            moved = scale.back(scale.to(fitted) + rows * pull)
            least = 1e-12 if problem.residual == "log" else -math.inf
            return {"y": np.maximum(moved, least)}
        lost[numbers] = _loses(rows, levels or [])
        return {"weights": rows * problem.weights}

    found = refits(count, drawn, damping=0.02, progress=progress)
    few = t_quantile(0.975, groups - 1) / NORMAL
    if not wild:
        few *= math.sqrt(groups / (groups - 1))
    return Draws(
        problem=problem,
        centre=z,
        z=found.z,
        value=found.value,
        converged=found.converged,
        resample=resample,
        lost=int(lost.sum()),
        few=few,
        engine=refits.engine,
    )


def _left_out(refits: Refits, clusters: Index) -> Array:
    """Observed minus predicted (on the residuals' scale) for each run by a fit without it, (n,)."""
    problem, groups = refits.problem, int(clusters[-1]) + 1

    def without(numbers: Index) -> dict[str, Array]:
        return {"weights": problem.weights * (clusters != numbers[:, None])}

    refitted, found = refits(groups, without).z, np.empty(len(problem.y))
    for g, own in enumerate(refitted):
        rows = np.flatnonzero(clusters == g)
        found[rows] = -residuals(problem.rows(rows), own)
    # With a centred mean of squares the variance is the jackknife's.
    scaled: Array = found * math.sqrt((groups - 1) / groups)
    return scaled


def draw_weights(seed: int, number: int, groups: int, resample: Resample) -> Array:
    """Weights of the clusters in one draw, shape (groups,)."""
    rng = np.random.default_rng([seed, number])
    if resample == "wild":
        return rng.choice(np.concatenate([-WEBB, WEBB]), groups)
    return np.bincount(rng.integers(0, groups, groups), minlength=groups).astype(float)


def _loses(rows: Array, levels: list[Index]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each draw, whether some level of some input has no row left."""
    gone = np.zeros(len(rows), bool)
    for level in levels:
        for value in range(int(level.max()) + 1):
            gone |= ~(rows[:, level == value] > 0).any(axis=1)
    return gone
