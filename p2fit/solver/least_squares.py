"""The least-squares solver: a batched damped Newton from many starts.

Minimises the sum over rows of w_i * h(r_i), where r is ``log(L_hat) - log(L)``, or the difference
on another scale (see :mod:`p2fit.scales`), and h is Huber's function (delta applies to r itself,
before the weight) or r²/2.

All starts (see :mod:`p2fit.solver.starts`) are improved at once on the true objective with analytic
derivatives. The damping matrix is that of iteratively re-weighted least squares, which bounds
Huber's curvature from above.

Method after Levenberg & Marquardt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.errors import LawError
from p2fit.laws.special import special_cases
from p2fit.solver.build import build
from p2fit.solver.monomials import Monomials
from p2fit.solver.problem import Problem
from p2fit.solver.starts import elsewhere
from p2fit.solver.starts import starts as find_starts

if TYPE_CHECKING:
    from p2fit.solver.formula import Formula

Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: Starts whose objective is within this relative distance of the best agree with it.
AGREE = 1e-5
#: A point from which the gradient promises more than this share of the objective is no minimum.
SLACK = 1e-6
#: Relative strength of the ridge that picks one point where the data leave several.
RIDGE = 1e-8
#: The ridge pulls exponents searched from 0 up towards this value, others towards 0.
RIDGE_EXPONENT = 0.5

_STARTS = 12
_PRICED = 64  # values of an exponent at which a term of size 0 is tried
_GRID_ROWS = 512  # rows used to profile
_START_ROWS = 4096  # rows used to find starts; all are used to polish
_MORE = 2000  # iterations along a valley that was not followed to its end
_FLAT = 1e-10  # curvature, of the largest, below which a gradient is rounding
_ROUNDS, _ENOUGH, _SAME = 4, 0.5, 1e-3  # scatters; share of searches that end within this
_FIRST, _LAST, _CREEPING = 40, 160, 3  # iterations; searches that are led on
_SQUARES, _NEAR = 40, 8  # iterations; minima that are led on
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
class _Ridge:
    strength: float
    towards: Array  # (p,)
    scale: Array  # (p,)


def _chunks(problem: Problem, batch: int) -> Iterator[slice]:
    step = max(256, _BATCH_CELLS // (batch * max(1, problem.coefficients)))
    n = len(problem.y)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))


@dataclass(frozen=True)
class _Rows:
    """Losses and weights, one row for every problem of the batch or one for all of them."""

    y: Array  # (1 or B, n)
    weights: Array  # (1 or B, n)

    @staticmethod
    def of(problem: Problem, y: Array | None, weights: Array | None) -> _Rows:
        own = problem.y[None] if y is None else y
        return _Rows(own, problem.weights[None] if weights is None else weights)

    def take(self, index: Index) -> _Rows:
        return _Rows(
            self.y if len(self.y) == 1 else self.y[index],
            self.weights if len(self.weights) == 1 else self.weights[index],
        )


def _evaluate(problem: Problem, z: Array, ridge: _Ridge | None, rows: _Rows) -> _Point:
    batch, p = z.shape
    point = _Point(
        np.zeros(batch), np.zeros((batch, p)), np.zeros((batch, p, p)), np.zeros((batch, p, p))
    )
    scale = problem.scale
    for chunk in _chunks(problem, batch):
        part = problem if len(problem.y) == chunk.stop - chunk.start else problem.rows(chunk)
        model = part.derivatives(z)
        r, dr = scale.miss(model.fitted, rows.y[:, chunk]), scale.slope(model.fitted)
        w = rows.weights[:, chunk]
        size = np.abs(r)
        clipped = np.minimum(size, part.delta)
        psi = w * np.copysign(clipped, r)
        irls = w * (clipped / np.maximum(size, 1e-300))
        inside = w * (size <= part.delta)
        jac = model.jacobian
        jac *= dr[:, None, :]
        point.value += (w * (clipped * (size - 0.5 * clipped))).sum(axis=1)
        point.gradient += np.matmul(jac, psi[:, :, None])[:, :, 0]
        transposed = jac.transpose(0, 2, 1)
        point.bound += np.matmul(jac * irls[:, None, :], transposed)
        curve = scale.curve(inside, psi, model.fitted)
        point.hessian += np.matmul(jac * curve[:, None, :], transposed)
        point.hessian += model.second(psi * dr)
    if ridge is not None:
        away = (z - ridge.towards) / ridge.scale
        point.value += 0.5 * ridge.strength * (away**2).sum(axis=1)
        point.gradient += ridge.strength * away / ridge.scale
        _diagonal(point.hessian)[:] += ridge.strength / ridge.scale**2
        _diagonal(point.bound)[:] += ridge.strength / ridge.scale**2
    point.value[~np.isfinite(point.value)] = np.inf
    return point


def _diagonal(matrices: Array) -> Array:
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


def minimise(
    problem: Problem,
    z: Array,
    *,
    iterations: int = 200,
    ridge: _Ridge | None = None,
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
        rows = _Rows.of(problem, y, weights)
        return _minimise(problem, start, iterations, ridge, rows, damping)


def _minimise(
    problem: Problem,
    z: Array,
    iterations: int,
    ridge: _Ridge | None,
    rows: _Rows,
    first: float,
) -> Minimum:
    batch = len(z)
    # A step that promises less is the last one. A ridge is a small part of the objective.
    tolerance = 1e-10 if ridge is None else 1e-14
    z = z.copy()
    floor, (after, share) = problem.floor, problem.valleys
    point = _evaluate(problem, z, ridge, rows)
    damping = np.full(batch, first)
    converged = np.zeros(batch, bool)
    active = np.flatnonzero(np.isfinite(point.value))
    for count in range(iterations):
        if not len(active):
            break
        now, x, lam = point.take(active), z[active], damping[active]
        low, high = x <= problem.lower, x >= problem.upper
        scale = _diagonal(now.bound)
        free = ~_idle(problem, scale)
        free &= ~((low & (now.gradient > 0)) | (high & (now.gradient < 0)))
        gradient, matrix = now.gradient, now.hessian + lam[:, None, None] * now.bound
        _diagonal(matrix)[:] += 0.1 * lam[:, None] * scale
        if not free.all():
            gradient, matrix, scale = _held(gradient, matrix, scale, free)
        step = _solve(matrix, -gradient, scale)
        decrease = -(gradient * step).sum(axis=1)
        done = (np.abs(decrease) <= tolerance * (now.value + floor)) & (lam <= 1e-2)
        done |= ~gradient.any(axis=1)
        trial = np.clip(x + step, problem.lower, problem.upper)
        new = _evaluate(problem, trial, ridge, rows.take(active))
        better = (decrease > 0) & (new.value <= now.value)
        # Trust grows where the quadratic model was good, and shrinks where it was not.
        moved = step * np.matmul(now.bound, step[:, :, None])[:, :, 0]
        predicted = 0.5 * (decrease + lam * moved.sum(axis=1))
        promised = np.maximum(predicted, 1e-300)
        if count >= after and len(problem.linear):
            over = np.flatnonzero(~better | (now.value - new.value < share * promised))
            if len(over):
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
    return Minimum(z, point.value, converged)


def _project(
    problem: Problem, z: Array, point: _Point, at: Index, ridge: _Ridge | None, rows: _Rows
) -> None:
    """Fit the coefficients to the exponents where a step overshot, in place.

    Valleys are curved where a small coefficient trades with its exponent; the loss is linear in
    the coefficients, so one step takes them back to the floor (variable projection).
    """
    inner = problem.linear
    low, high = problem.lower[inner], problem.upper[inner]
    moved, own = z[at], z[np.ix_(at, inner)]
    gradient, matrix = point.gradient[np.ix_(at, inner)], point.bound[np.ix_(at, inner, inner)]
    scale = _diagonal(matrix).copy()
    free = (scale > 0) & np.isfinite(scale)
    free &= ((own > low) | (gradient < 0)) & ((own < high) | (gradient > 0))
    _diagonal(matrix)[:] += 1e-12 * scale
    gradient, matrix, scale = _held(gradient, matrix, scale, free)
    step = _solve(matrix, -gradient, scale)
    moved[:, inner] = np.clip(own + step, low, high)
    new = _evaluate(problem, moved, ridge, rows)
    lower = np.flatnonzero(new.value < point.value[at])
    z[at[lower]] = moved[lower]
    point.put(at[lower], new.take(lower))


def _idle(problem: Problem, scale: Array) -> Mask:
    """Variables that move nothing (their input is constant, their term is 0), and so stay put, by
    the diagonals of the Gauss-Newton matrices, (B, p)."""
    effect = scale * problem.sizes**2
    moving: Mask = effect > problem.still * effect.max(axis=1, keepdims=True)
    return ~moving


def _held(gradient: Array, matrix: Array, scale: Array, free: Mask) -> tuple[Array, Array, Array]:
    """A system, and the scale of its variables, in which those that are not free stay put."""
    matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
    _diagonal(matrix)[:] += np.where(free, 0.0, 1.0)
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


# ---------------------------------------------------------------- the whole solve


@dataclass(frozen=True)
class Solution:
    """The optimum of a problem."""

    z: Array
    """Internal variables, shape (p,)."""
    value: float
    """Objective: the sum over rows."""
    converged: bool
    """Whether the gradient at z is next to nothing (see :func:`slack_at`)."""
    starts: int
    """Distinct starts tried."""
    agreed: int
    """Starts that ended at the best objective (relative 1e-5)."""
    ties: Array
    """The points where those starts ended, shape (agreed, p); one point if all is determined."""


def solve(problem: Problem, *, seed: int = 0) -> Solution:
    """Find the global minimum from many starts.

    With more than 4096 rows, starts are compared on a seeded subsample and the best distinct
    ones are polished on all rows.
    """
    small = _subsample(problem, _START_ROWS, seed)
    with np.errstate(all="ignore"):
        found = _multistart(small, seed)
    floor = small.floor
    best = found.value.min()
    agreed = int(np.sum(found.value <= best * (1 + AGREE) + floor))
    starts = len(found.value)
    if small is not problem:
        order = np.argsort(found.value)
        near = order[found.value[order] <= best * 1.001 + floor]
        found = minimise(problem, _distinct(problem, found.z[near], digits=3)[:3])
    top = int(np.argmin(found.value))
    # What rounding keeps off a bound is at it.
    near = 1e-10 * problem.amounts(found.z[top])
    with np.errstate(over="ignore"):  # the ends of a range may be as far apart as numbers go
        z = np.where(found.z[top] - problem.lower < near, problem.lower, found.z[top])
        z = np.where(problem.upper - z < near, problem.upper, z)
    ties = found.z[found.value <= found.value[top] * (1 + AGREE) + floor]
    value, slack = float(found.value[top]), slack_at(problem, z)
    if slack > SLACK and not isinstance(problem, Monomials):  # a long valley
        more = minimise(problem, z[None], iterations=_MORE)
        if more.value[0] <= value:
            z, value = more.z[0], float(more.value[0])
            slack = slack_at(problem, z)
    return Solution(z, value, slack <= SLACK, starts, agreed, ties)


def slack_at(problem: Problem, z: Array) -> float:
    """How much lower the objective may be nearby, as a share of it: what the gradient at z (p,)
    promises within the bounds, by the curvature of the objective or of its re-weighted squares,
    whichever promises less.

    An evaluation of its own: it holds whatever the search that led there thought of itself.
    """
    with np.errstate(all="ignore"):
        point = _evaluate(problem, z[None], None, _Rows.of(problem, None, None))
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


def settle(problem: Problem, solution: Solution) -> Solution:
    """One point out of a set of equally good ones, the same from every start.

    A ridge of relative strength 1e-8 pulls exponents that are searched from 0 up towards 0.5,
    the others towards 0, and the terms towards equal size at the centre of the data. It is
    weakened step by step. Ridges towards the point found so far then take back what it bent of the
    directions that the data do determine, and leave the others as they are (proximal points,
    Rockafellar 1976).
    """
    k = problem.coefficients
    size = np.average(problem.y - problem.offset, weights=problem.weights) / max(k, 1)
    towards = np.where(problem.lower >= 0, RIDGE_EXPONENT, 0.0)
    towards[:k] = max(size, 1e-3 * problem.typical)
    scale = np.ones(len(towards))
    scale[:k] = 10 * towards[:k]  # exponents first: a term at 0 beats an exponent at 0
    rows = _Rows.of(problem, None, None)
    # The ridge's unit is taken where it pulls to: at the optima it differs between them.
    bound = _diagonal(_evaluate(problem, np.stack([towards, solution.z]), None, rows).bound)
    unit = float(np.mean(bound[0] * scale**2))
    still = np.where(_idle(problem, bound[1:])[0], towards, solution.z)
    z = np.concatenate([towards[None], _distinct(problem, solution.ties, digits=3)])
    for strength in (1.0, 1e-2, 1e-4, 1e-6):
        z = minimise(problem, z, ridge=_Ridge(strength * unit, towards, scale)).z
    # The strong ones may have led all of them past the point where nothing moved but what is idle.
    z = np.concatenate([z, still[None]])
    found = minimise(problem, z, ridge=_Ridge(RIDGE * unit, towards, scale))
    at = found.z[np.argmin(found.value)]
    for strength in (RIDGE, 1e-2 * RIDGE, 1e-4 * RIDGE):
        at = minimise(problem, at[None], ridge=_Ridge(strength * unit, at, scale)).z[0]
    value = float(minimise(problem, at[None], iterations=0).value[0])
    if value <= solution.value * (1 + AGREE) + problem.floor:
        return replace(solution, z=at, value=value)
    return replace(solution, z=still)


def _subsample(problem: Problem, count: int, seed: int) -> Problem:
    n = len(problem.y)
    if n <= count:
        return problem
    chosen = np.random.default_rng(seed).choice(n, count, replace=False)
    return problem.rows(np.sort(chosen))


def _multistart(problem: Problem, seed: int) -> Minimum:
    grid = _subsample(problem, _GRID_ROWS, seed)
    if not isinstance(problem, Monomials):
        return _entered(problem, _searched(problem, grid, seed), seed)
    starts = find_starts(grid, None, _STARTS, seed)
    if np.isfinite(problem.delta):
        first = minimise(grid, starts[:4], iterations=3)
        starts = np.concatenate([starts, _robust_starts(grid, first, seed)])
    return _entered(problem, minimise(problem, _distinct(problem, starts)), seed)


def _robust_starts(grid: Problem, first: Minimum, seed: int) -> Array:
    """The profile is of squares: profile again with the weights that Huber's loss would give."""
    r = np.abs(residuals(grid, first.z[np.argmin(first.value)]))
    return find_starts(grid, 1.0 / np.maximum(r / grid.delta, 1.0), _STARTS, seed)


def _searched(problem: Problem, grid: Problem, seed: int) -> Minimum:
    """Minima of any formula: from its special cases, and from several scatters where few of the
    first one's points lead to the same."""
    starts = _special(cast("Formula", problem), seed)
    if not np.isfinite(problem.delta):
        return _rounds(problem, grid, starts, seed)
    # Squares have fewer local minima, and where theirs is Huber's loss has one near by.
    plain = replace(grid, delta=np.inf)
    squares = minimise(plain, find_starts(grid, None, _STARTS, seed), iterations=_SQUARES)
    near = _distinct(problem, squares.z[np.argsort(squares.value)], digits=3)[:_NEAR]
    robust = _robust_starts(grid, squares, seed)[:_NEAR]
    return _led(problem, _distinct(problem, np.concatenate([near, robust, starts])))


def _led(problem: Problem, starts: Array) -> Minimum:
    """Minima from all starts; of those that creep only the lowest are led to the end."""
    found = minimise(problem, starts, iterations=_FIRST)
    creeping = np.flatnonzero(found.converged == 0)
    lowest = creeping[np.argsort(found.value[creeping])][:_CREEPING]
    if len(lowest):
        more = minimise(problem, found.z[lowest], iterations=_LAST)
        found.z[lowest], found.value[lowest] = more.z, more.value
        found.converged[lowest] = more.converged
    return found


def _rounds(problem: Problem, grid: Problem, starts: Array, seed: int) -> Minimum:
    """Minima from some starts and one scatter after the other, until enough of all searches end at
    the lowest."""
    starts = np.concatenate([find_starts(grid, None, _STARTS, seed), starts])
    found = _led(problem, _distinct(problem, starts))
    for again in range(1, _ROUNDS):
        best = found.value.min()
        same = found.value <= best * (1 + _SAME) + problem.floor
        if same.mean() >= _ENOUGH:
            break
        beside = elsewhere(cast("Formula", grid), found.z[np.argmin(found.value)], seed + again)
        more = np.concatenate([find_starts(grid, None, _STARTS, seed + again), beside])
        found = _joined(found, _led(problem, _distinct(problem, more)))
    return found


def _joined(first: Minimum, second: Minimum) -> Minimum:
    return Minimum(
        np.concatenate([first.z, second.z]),
        np.concatenate([first.value, second.value]),
        np.concatenate([first.converged, second.converged]),
    )


def _special(problem: Formula, seed: int) -> Array:
    """The optima of the special cases of a formula that are sums of monomials, shape (S, p)."""
    found = []
    for law, held in special_cases(problem.law):
        try:
            case = build(
                law,
                problem.columns,
                problem.y,
                problem.weights,
                residual=problem.residual,
                delta=problem.delta,
            )
        except LawError:  # it has no value in some rows
            continue
        at = case.natural(solve(case, seed=seed).z)
        found.append(problem.at_case({n: float(v) for n, v in at.items()}, held)[None])
    return np.concatenate([np.zeros((0, len(problem.names))), *found])


def _entered(problem: Problem, found: Minimum, seed: int) -> Minimum:
    """Starts of which the best ended with a term at 0, led on where that term lowers the objective.

    An exponent that shapes only a term of size 0 moves nothing, so no descent sees that the term
    would help with another exponent. Such exponents are scattered over their ranges, and where the
    slope to a term is negative the best of these points is a start (the pricing of column
    generation).
    """
    k, best = problem.coefficients, found.value.min()
    z = found.z[np.argmin(found.value)]
    rows = _Rows.of(problem, None, None)
    bound = _diagonal(_evaluate(problem, z[None], None, rows).bound)
    idle = np.flatnonzero(_idle(problem, bound)[0, k:]) + k
    zero = np.flatnonzero(z[:k] <= problem.lower[:k])
    if not len(idle) or not len(zero):
        return found
    even = np.tile((np.arange(_PRICED) + 0.5) / _PRICED, (len(idle), 1))
    place = np.random.default_rng(seed).permuted(even, axis=1).T
    tried = np.tile(z, (_PRICED, 1))
    tried[:, idle] = problem.lower[idle] + place * (problem.upper - problem.lower)[idle]
    point = _evaluate(problem, tried, None, rows)
    slope = np.minimum(point.gradient[:, zero], 0.0)
    gain = np.nan_to_num(slope**2 / np.maximum(_diagonal(point.bound)[:, zero], 1e-300))
    promising = np.unique(gain.argmax(axis=0)[gain.max(axis=0) > 0])
    if not len(promising):
        return found
    led = minimise(problem, tried[promising])
    if led.value.min() >= best * (1 - AGREE) - problem.floor:
        return found
    top = int(np.argmin(led.value))
    same = found.value <= best * (1 + AGREE) + problem.floor
    return Minimum(
        np.where(same[:, None], led.z[top], found.z),
        np.where(same, led.value[top], found.value),
        np.where(same, led.converged[top], found.converged),
    )


def _distinct(problem: Problem, z: Array, digits: int = 9) -> Array:
    first: dict[bytes, int] = {}
    for i, exponents in enumerate(np.round(z[:, problem.coefficients :], digits) + 0.0):
        first.setdefault(exponents.tobytes(), i)
    return z[list(first.values())]
