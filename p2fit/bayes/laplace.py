"""The instant answer: a normal approximation at the mode, corrected by importance sampling.

The mode and the curvature there come from the NumPy log density by finite differences, all points
of a difference scheme evaluated at once. Draws come from a multivariate Student t with that
curvature and are reweighted by Pareto-smoothed importance sampling (Vehtari et al. 2024), whose
shape k says whether the weights can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from p2fit.arrays import Array

#: Log density at many points, (m, d) to (m,); -inf where there is none.
Density = Callable[[Array], Array]

#: Pareto k above which the draws do not stand for the posterior.
TRUST = 0.7
#: Proposals, and draws taken of them.
PROPOSALS = 10_000
DRAWS = 4000

_DEGREES = 7.0  # of the proposals: tails wider than the posterior's
_REFINED = 4  # rounds in which the proposal is moved to where the weights are
_STEP = 1e-3  # of a difference, in units of the posterior's sd
_ITERATIONS = 100


@dataclass(frozen=True)
class Mode:
    """A maximum of the log density, and the shape of the posterior around it."""

    x: Array
    """Where, shape (d,)."""
    root: Array
    """A root of the inverse of the curvature: x + root @ normal draws, shape (d, d)."""


def find_mode(density: Density, start: Array) -> Mode:
    """Climb to the mode from a start, shape (d,), by a damped Newton method."""
    x, scale, damping = start.copy(), np.full(len(start), 0.1), 1e-3
    value = density(x[None])[0]
    for _ in range(_ITERATIONS):
        gradient, curvature = _derivatives(density, x, _STEP * scale)
        lengths, axes = np.linalg.eigh(-curvature * np.outer(scale, scale))
        slope = axes.T @ (gradient * scale)
        # Newton's step for several dampings at once; where the density is not concave, its size.
        size = np.maximum(np.abs(lengths), 1e-6 * np.abs(lengths).max())
        dampings = damping * 10.0 ** np.arange(-2, 9)
        steps = (slope / (size + dampings[:, None])) @ axes.T * scale
        steps *= np.minimum(1.0, 2.0 / np.maximum(np.abs(steps).max(axis=1), 1e-300))[:, None]
        values = density(x + steps)
        best = int(np.argmax(values))
        if not values[best] > value:
            break
        gain = values[best] - value
        x, value, damping = x + steps[best], values[best], float(np.clip(dampings[best], 1e-8, 1e8))
        scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(curvature)), 1e-2))
        if gain < 1e-8:
            break
    _, curvature = _derivatives(density, x, 30 * _STEP * scale)
    lengths, axes = np.linalg.eigh(-curvature * np.outer(scale, scale))
    return Mode(x, scale[:, None] * _root(1 / np.maximum(lengths, 1e-3), axes))


def _root(lengths: Array, axes: Array) -> Array:
    """The symmetric root of a covariance, from its eigenvalues and vectors.

    There is only one. The signs of the vectors depend on the processor, and draws made of a root
    that has them would too.
    """
    found: Array = (axes * np.sqrt(lengths)) @ axes.T
    return found


def _derivatives(density: Density, x: Array, h: Array) -> tuple[Array, Array]:
    """Gradient (d,) and Hessian (d, d) by central differences of steps h (d,)."""
    d = len(x)
    one = np.diag(h)
    i, j = np.triu_indices(d, 1)
    both = [one[i] + one[j], one[i] - one[j], -one[i] + one[j], -one[i] - one[j]]
    found = density(x + np.concatenate([np.zeros((1, d)), one, -one, *both]))
    middle, up, down = found[0], found[1 : d + 1], found[d + 1 : 2 * d + 1]
    pp, pm, mp, mm = found[2 * d + 1 :].reshape(4, -1)
    with np.errstate(invalid="ignore"):
        gradient = (up - down) / (2 * h)
        hessian = np.diag((up - 2 * middle + down) / h**2)
        hessian[i, j] = hessian[j, i] = (pp - pm - mp + mm) / (4 * h[i] * h[j])
    return np.nan_to_num(gradient, posinf=0, neginf=0), np.nan_to_num(hessian, posinf=0, neginf=0)


@dataclass(frozen=True)
class Weighted:
    """Draws from the posterior by importance sampling."""

    x: Array
    """Draws of equal weight, shape (DRAWS, d)."""
    pareto_k: float
    """Shape of the tail of the weights."""
    ess: float
    """Effective number of the proposals, (Σw)²/Σw²."""


def importance(density: Density, mode: Mode, seed: int = 0) -> Weighted:
    """Draw from the posterior around its mode.

    The proposal starts as the curvature says, and is moved to the mean and the covariance
    of its own weighted draws, where that makes the weights more even.
    """
    rng = np.random.default_rng(seed)
    centre, spread = mode.x, mode.root
    found = None
    for _ in range(1 + _REFINED):
        x, log_weights = _propose(density, centre, spread, rng)
        smoothed, k = pareto_smooth(log_weights)
        weights = np.exp(smoothed - smoothed.max())
        weights /= weights.sum()
        if found is None or k < found[2]:
            found = x, weights, k
        if k < 0.3:
            break
        centre = weights @ x
        away = (x - centre) * np.sqrt(weights)[:, None]
        lengths, axes = np.linalg.eigh(away.T @ away)
        spread = _root(np.maximum(lengths, 1e-12 * lengths.max()), axes)
    assert found is not None
    x, weights, k = found
    # Systematic resampling: every draw of weight w comes floor or ceil of DRAWS w times.
    at = (np.arange(DRAWS) + rng.random()) / DRAWS
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), at), len(x) - 1)
    return Weighted(rng.permutation(x[chosen]), k, float(1 / np.sum(weights**2)))


def _propose(
    density: Density, centre: Array, spread: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    d = len(centre)
    normal = rng.standard_normal((PROPOSALS, d))
    stretch = rng.chisquare(_DEGREES, PROPOSALS) / _DEGREES
    y = normal / np.sqrt(stretch)[:, None]
    x = centre + y @ spread.T
    proposal = -(_DEGREES + d) / 2 * np.log1p((y**2).sum(axis=1) / _DEGREES)
    return x, density(x) - proposal


def pareto_smooth(log_weights: Array) -> tuple[Array, float]:
    """Pareto-smoothed log weights, and k."""
    usable = np.isfinite(log_weights)
    found = np.full(len(log_weights), -np.inf)
    try:
        from arviz_stats.base import array_stats  # ArviZ 1

        smoothed, k = array_stats.psislw(-log_weights[usable])  # takes log likelihoods
    except ImportError:
        from p2fit.extras import arviz  # ArviZ 0

        smoothed, k = arviz().psislw(log_weights[usable])
    found[usable] = smoothed
    return found, float(k)
