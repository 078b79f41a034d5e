"""Least squares: a batched damped Newton from many starts at once.

Minimises the sum over rows of w_i * h(r_i), where r is ``log(L_hat) - log(L)``, or the difference
on another scale (see :mod:`p2fit.scales`), and h is Huber's function (delta applies to r itself,
before the weight) or r²/2.

All starts (see :mod:`p2fit.solver.search`) are improved at once on the true objective with analytic
derivatives. The damping matrix is that of iteratively re-weighted least squares, which bounds
Huber's curvature from above.

Method after Levenberg & Marquardt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.solver.problem import Problem

Mask = np.ndarray[Any, np.dtype[np.bool_]]

_FLAT = 1e-10  # curvature, of the largest, below which a gradient is rounding
_BATCH_CELLS = 1 << 19  # problems x terms x rows evaluated at once: bounds the memory


def residuals(problem: Problem, z: Array) -> Array:
    """Residuals (n,) at one z (p,): fitted minus observed, on the problem's scale."""
    with np.errstate(all="ignore"):
        return problem.scale.miss(problem.loss(z[None])[0], problem.y)


@dataclass
class _Point:
    """Objective and its derivatives for a batch of z."""

    value: Array  # (B,)
    gradient: Array  # (B, p)
    hessian: Array  # (B, p, p), of the objective
    bound: Array  # (B, p, p), Gauss-Newton with IRLS weights: positive, above Huber's curvature

    def take(self, index: Index) -> _Point:
        return _Point(
            self.value[index], self.gradient[index], self.hessian[index], self.bound[index]
        )

    def put(self, index: Index, other: _Point) -> None:
        self.value[index] = other.value
        self.gradient[index] = other.gradient
        self.hessian[index] = other.hessian
        self.bound[index] = other.bound


@dataclass(frozen=True)
class Ridge:
    """A small pull of every variable towards a point; of no strength where that does not matter."""

    strength: float
    towards: Array  # (p,)
    scale: Array  # (p,)


def chunks(problem: Problem, step: int) -> list[slice]:
    """Rows in pieces of about so many, of whole runs where these share something."""
    n = len(problem.y)
    edges = np.append(np.arange(0, n, step), n)
    if problem.effects is not None:
        starts = problem.effects.starts
        firsts = np.searchsorted(starts, edges[:-1], "right") - 1
        edges = np.append(starts[sorted(set(firsts.tolist()))], n)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


@dataclass(frozen=True)
class Rows:
    """Losses and weights, one row for every problem of the batch or one for all of them."""

    y: Array  # (1 or B, n)
    weights: Array  # (1 or B, n), the same for all of a run where its rows share something

    @staticmethod
    def of(problem: Problem, y: Array | None, weights: Array | None) -> Rows:
        own = problem.y[None] if y is None else y
        return Rows(own, problem.weights[None] if weights is None else weights)

    def take(self, index: Index) -> Rows:
        return Rows(
            self.y if len(self.y) == 1 else self.y[index],
            self.weights if len(self.weights) == 1 else self.weights[index],
        )


def evaluate(problem: Problem, z: Array, ridge: Ridge | None, rows: Rows) -> _Point:
    """The objective and its derivatives at each z of (B, p)."""
    batch, p = z.shape
    point = _Point(
        np.zeros(batch), np.zeros((batch, p)), np.zeros((batch, p, p)), np.zeros((batch, p, p))
    )
    scale = problem.scale
    step = max(256, _BATCH_CELLS // (batch * max(1, problem.coefficients)))
    for chunk in chunks(problem, step):
        part = problem if len(problem.y) == chunk.stop - chunk.start else problem.rows(chunk)
        model = part.derivatives(z)
        dr = scale.slope(model.fitted)
        r = part.whitened(scale.miss(model.fitted, rows.y[:, chunk]))
        w = part.coordinates(rows.weights[:, chunk])
        size = np.abs(r)
        clipped = np.minimum(size, part.delta)
        psi = w * np.copysign(clipped, r)
        irls = w * (clipped / np.maximum(size, 1e-300))
        inside = w * (size <= part.delta)
        own = model.jacobian
        own *= dr[:, None, :]
        jac = part.whitened(own)
        point.value += (w * (clipped * (size - 0.5 * clipped))).sum(axis=1)
        point.gradient += np.matmul(jac, psi[:, :, None])[:, :, 0]
        transposed = jac.transpose(0, 2, 1)
        point.bound += np.matmul(jac * irls[:, None, :], transposed)
        if part.effects is None:
            curve = scale.curve(inside, psi, model.fitted)
        else:
            curve, psi = inside, part.effects.pulled(psi)
            bend = scale.curve(np.zeros_like(psi), psi, model.fitted)
            point.hessian += np.matmul(own * bend[:, None, :], own.transpose(0, 2, 1))
        point.hessian += np.matmul(jac * curve[:, None, :], transposed)
        point.hessian += model.second(psi * dr)
    if ridge is not None:
        away = (z - ridge.towards) / ridge.scale
        point.value += 0.5 * ridge.strength * (away**2).sum(axis=1)
        point.gradient += ridge.strength * away / ridge.scale
        diagonal(point.hessian)[:] += ridge.strength / ridge.scale**2
        diagonal(point.bound)[:] += ridge.strength / ridge.scale**2
    point.value[~np.isfinite(point.value)] = np.inf
    return point


def diagonal(matrices: Array) -> Array:
    """The diagonals, (B, p), of contiguous (B, p, p), as a view."""
    p = matrices.shape[-1]
    return matrices.reshape(-1, p * p)[:, :: p + 1]


@dataclass(frozen=True)
class Minimum:
    """Where a batch of minimisations ended."""

    z: Array
    """Variables, shape (B, p)."""
    value: Array
    """Objective, shape (B,)."""
    converged: Array
    """Whether the last step promised less than 1e-7 of the objective, shape (B,)."""
    tried: Array
    """At how many points the objective was evaluated, shape (B,)."""

    @staticmethod
    def joined(*parts: Minimum) -> Minimum:
        """All of them, one after the other."""
        return Minimum(*map(np.concatenate, zip(*(vars(part).values() for part in parts))))


def minimise(
    problem: Problem,
    z: Array,
    *,
    iterations: int = 200,
    ridge: Ridge | None = None,
    y: Array | None = None,
    weights: Array | None = None,
    damping: float = 0.1,
) -> Minimum:
    """Minimise from every row of z (B, p) at once, within the bounds.

    Args:
        y: other losses for each of the B problems, (B, n).
        weights: other row weights for each of them, (B, n).
        damping: of the first step; less is faster where z is near a minimum.
    """
    with np.errstate(all="ignore"):
        start = np.clip(z, problem.lower, problem.upper)
        rows = Rows.of(problem, y, weights)
        return _minimise(problem, start, iterations, ridge, rows, damping)


def _minimise(
    problem: Problem,
    z: Array,
    iterations: int,
    ridge: Ridge | None,
    rows: Rows,
    first: float,
) -> Minimum:
    batch = len(z)
    # A step that promises less is the last one. A ridge is a small part of the objective.
    tolerance = 1e-10 if ridge is None else 1e-14
    z = z.copy()
    floor, (after, share) = problem.floor, problem.valleys
    point = evaluate(problem, z, ridge, rows)
    damping = np.full(batch, first)
    converged = np.zeros(batch, bool)
    active = np.flatnonzero(np.isfinite(point.value))
    tried = np.ones(batch, int)
    for count in range(iterations):
        if not len(active):
            break
        now, x, lam = point.take(active), z[active], damping[active]
        low, high = x <= problem.lower, x >= problem.upper
        scale = diagonal(now.bound)
        free = ~idle(problem, scale)
        free &= ~((low & (now.gradient > 0)) | (high & (now.gradient < 0)))
        gradient, matrix = now.gradient, now.hessian + lam[:, None, None] * now.bound
        diagonal(matrix)[:] += 0.1 * lam[:, None] * scale
        if not free.all():
            gradient, matrix, scale = _held(gradient, matrix, scale, free)
        step = _solve(matrix, -gradient, scale)
        decrease = -(gradient * step).sum(axis=1)
        done = (np.abs(decrease) <= tolerance * (now.value + floor)) & (lam <= 1e-2)
        done |= ~gradient.any(axis=1)
        trial = np.clip(x + step, problem.lower, problem.upper)
        new = evaluate(problem, trial, ridge, rows.take(active))
        tried[active] += 1
        better = (decrease > 0) & (new.value <= now.value)
        # Trust grows where the quadratic model was good, and shrinks where it was not.
        moved = step * np.matmul(now.bound, step[:, :, None])[:, :, 0]
        predicted = 0.5 * (decrease + lam * moved.sum(axis=1))
        promised = np.maximum(predicted, 1e-300)
        if count >= after and len(problem.linear):
            over = np.flatnonzero(~better | (now.value - new.value < share * promised))
            if len(over):
                tried[active[over]] += 1
                _project(problem, trial, new, over, ridge, rows.take(active[over]))
                better = (decrease > 0) & (new.value <= now.value)
        where = active[better]
        z[where] = trial[better]
        point.put(where, new.take(better))
        gain = (now.value - new.value) / promised
        factor = np.where(gain > 0.75, 0.3, np.where(gain > 0.25, 0.5, 2.0))
        factor = np.where(better, factor, 10.0)
        damping[active] = np.clip(lam * factor, 1e-12, None)
        stuck = damping[active] > 1e10
        converged[active] = done | (np.abs(decrease) <= 1e-7 * (now.value + floor))
        active = active[~(done | stuck)]
    return Minimum(z, point.value, converged, tried)


def _project(
    problem: Problem, z: Array, point: _Point, at: Index, ridge: Ridge | None, rows: Rows
) -> None:
    """Fit the coefficients to the exponents where a step overshot, in place.

    Valleys are curved where a small coefficient trades with its exponent; the loss is linear in
    the coefficients, so one step takes them back to the floor (variable projection).
    """
    inner = problem.linear
    low, high = problem.lower[inner], problem.upper[inner]
    moved, own = z[at], z[np.ix_(at, inner)]
    gradient, matrix = point.gradient[np.ix_(at, inner)], point.bound[np.ix_(at, inner, inner)]
    scale = diagonal(matrix).copy()
    free = (scale > 0) & np.isfinite(scale)
    free &= ((own > low) | (gradient < 0)) & ((own < high) | (gradient > 0))
    diagonal(matrix)[:] += 1e-12 * scale
    gradient, matrix, scale = _held(gradient, matrix, scale, free)
    step = _solve(matrix, -gradient, scale)
    moved[:, inner] = np.clip(own + step, low, high)
    new = evaluate(problem, moved, ridge, rows)
    lower = np.flatnonzero(new.value < point.value[at])
    z[at[lower]] = moved[lower]
    point.put(at[lower], new.take(lower))


def idle(problem: Problem, scale: Array) -> Mask:
    """Variables that move nothing (their input is constant, their term is 0), and so stay put, by
    the diagonals of the Gauss-Newton matrices, (B, p)."""
    effect = scale * problem.sizes**2
    moving: Mask = effect > problem.still * effect.max(axis=1, keepdims=True)
    return ~moving


def _held(gradient: Array, matrix: Array, scale: Array, free: Mask) -> tuple[Array, Array, Array]:
    """A system, and the scale of its variables, in which those that are not free stay put."""
    matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
    diagonal(matrix)[:] += np.where(free, 0.0, 1.0)
    return np.where(free, gradient, 0.0), matrix, np.where(free, scale, 1.0)


def _solve(matrix: Array, right: Array, scale: Array) -> Array:
    """Solve (B, p, p) systems, scaled to a unit diagonal first; NaN for one that is singular."""
    root = 1.0 / np.sqrt(scale)
    scaled, right = matrix * root[:, :, None] * root[:, None, :], (right * root)[:, :, None]
    try:
        found = np.linalg.solve(scaled, right)
    except np.linalg.LinAlgError:
        found = np.stack([_solve_one(a, b) for a, b in zip(scaled, right)])
    solution: Array = found[:, :, 0] * root
    return solution


def _solve_one(matrix: Array, right: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(matrix, right), float)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)


def slack_at(problem: Problem, z: Array) -> float:
    """How much lower the objective may be nearby, as a share of it: what the gradient at z (p,)
    promises within the bounds, by the curvature of the objective or of its re-weighted squares,
    whichever promises less.

    An evaluation of its own: it holds whatever the search that led there thought of itself.
    """
    with np.errstate(all="ignore"):
        point = evaluate(problem, z[None], None, Rows.of(problem, None, None))
        gradient, bound = point.gradient[0], point.bound[0]
        scale = np.sqrt(np.diag(bound))
        out = ((z <= problem.lower) & (gradient > 0)) | ((z >= problem.upper) & (gradient < 0))
        free = np.flatnonzero(~out & (scale > 0))
        if not (np.isfinite(bound).all() and np.isfinite(gradient).all()):
            return math.inf
        if not len(free):
            return 0.0
        unit, promised = 1.0 / scale[free], []
        for matrix in (bound, point.hessian[0]):
            values, vectors = np.linalg.eigh(matrix[np.ix_(free, free)] * np.outer(unit, unit))
            pull = (gradient[free] * unit) @ vectors
            promised.append(0.5 * np.sum(pull**2 / np.maximum(np.abs(values), _FLAT)))
    return float(min(promised)) / (float(point.value[0]) + problem.floor)
