"""Parameters as a covariance holds them possible.

Losses are drawn, not parameters: at points spread over the data's range, as the covariance says to
first order, and the law is then fitted to each such set of losses. Where two terms are hard to tell
apart their sum is well known, while their sizes, or the logs of these, would have to be drawn far
off along a curved valley; and no draw leaves the range of a parameter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.laws.expression import evaluate
from p2fit.laws.law import Law
from p2fit.scales import SCALES, Residual
from p2fit.solver.build import build
from p2fit.solver.least_squares import minimise
from p2fit.uncertainty.jackknife import quantiles

_LEVELS = 4  # values of each input, as many as the data have at most
_FAR = 50.0  # on the scale: such losses say nothing, and their numbers overflow
_ITERATIONS = 30


def covariance_draws(
    law: Law,
    at: Mapping[str, float],
    covariance: Mapping[str, Any],
    spans: Mapping[str, Mapping[str, float]],
    *,
    residual: Residual,
    size: int,
    seed: int,
) -> dict[str, Array]:
    """Values of the free parameters, each of shape (size,).

    The losses are multivariate t about the fitted ones; the degrees of freedom are those of the
    clusters. Each point weighs as much as it is sure.

    Args:
        law, at: the law and the estimates of all its parameters.
        covariance, spans: as in :class:`p2fit.Fit` (``data["range"]``).
        residual: the scale that losses are drawn on.
    """
    names = covariance["names"]
    columns = _spread_points(law, spans)
    centre = law.predict(at, columns)
    slopes = law.gradient(at, columns)
    scale = SCALES[residual]
    rows = np.stack([slopes[n] for n in names], axis=1) * scale.slope(centre)[:, None]
    matrix = np.array(covariance["matrix"])
    # As many standard deviations as the interval of each point has.
    rows *= (quantiles(covariance, rows.T) / covariance["critical"])[:, None]
    # A shift is in the units of its column, not a log or a power: as it stands, the rounding of a
    # variance of 1e17 tokens² would drown all others.
    plain = {*law.coefficients, *law.powers, *law.scales}
    unit = np.array(
        [1.0 if n in plain or not v else v for n, v in zip(names, np.sqrt(np.diag(matrix)))]
    )
    rows = rows * unit
    lengths, axes = np.linalg.eigh(matrix / np.outer(unit, unit))
    # Of the scale, by unit normals. The symmetric root, as there is only one: the signs of the axes
    # depend on the processor.
    moves = rows @ (axes * np.sqrt(np.maximum(lengths, 0.0))) @ axes.T
    rng = np.random.default_rng(seed)
    freedom = max(covariance["clusters"] - 1, 1)
    normal = rng.standard_normal((size, len(names)))
    drawn = normal / np.sqrt(rng.chisquare(freedom, (size, 1)) / freedom) @ moves.T
    far = _FAR * scale.typical(centre)
    variance = (moves**2).sum(axis=1)
    if not variance.any():  # the data say nothing, or everything
        return {n: np.full(size, at[n]) for n in names}
    weights = 1 / np.maximum(variance, 1e-6 * variance.max())
    problem = build(
        law, columns, centre, weights / weights.mean(), residual=residual, delta=math.inf
    )
    found = minimise(
        problem,
        np.repeat(problem.internal(at)[None], size, axis=0),
        y=scale.back(scale.to(centre) + np.clip(drawn, -far, far)),
        iterations=_ITERATIONS,
        damping=0.02,
    )
    return problem.natural(found.z)


def _spread_points(law: Law, spans: Mapping[str, Mapping[str, float]]) -> dict[str, Array]:
    """The law's inputs at every combination of a few values within the data's range."""
    own, levels = law.varied, {}
    for x, span in spans.items():
        low, high = float(span["min"]), float(span["max"])
        count = min(int(span["distinct"]), _LEVELS) if x in own else 1
        space = np.geomspace if low > 0 else np.linspace
        levels[x] = space(low, high, count) if count > 1 else space(low, high, 3)[1:2]
    grid = np.array(list(itertools.product(*levels.values()))).reshape(-1, len(levels)).T
    columns = dict(zip(levels, grid))
    bases = {b for t in law.terms for b, _ in t.powers} if law.monomial else set()
    inside = [np.broadcast_to(evaluate(b, columns) > 0, grid.shape[1]) for b in bases]
    kept = np.all([np.ones(grid.shape[1], bool), *inside], axis=0)
    return {x: v[kept] for x, v in columns.items()}
