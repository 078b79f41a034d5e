"""Where the searches begin: distinct points from the profile of the exponents.

For given exponents the coefficients are a small non-negative least-squares problem, so a whole
grid of exponents is profiled in closed form (a law that is not a sum of monomials: a scatter of
points over their ranges); its local and block-wise minima are the starts.

Method after Golub & Pereyra, variable projection, 1973.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from p2fit.arrays import Array
from p2fit.solver.monomials import Monomials
from p2fit.solver.problem import Problem

if TYPE_CHECKING:
    from p2fit.solver.formula import Formula

Mask = np.ndarray[Any, np.dtype[np.bool_]]

_GRID_POINTS = 4096  # of exponents, in the profile
_SCATTER = 512  # points, for a law that is not a sum of monomials
_POPULATION, _GENERATIONS, _ELITE = 48, 10, 4  # of the evolution of a scatter
_ANEW, _SOME = 48, 25  # points drawn anew for each of so many sets of exponents
_APART = 0.15  # of the span of an exponent: how far apart starts lie, if they can


def starts(problem: Problem, robust: Array | None, count: int, seed: int) -> Array:
    """Distinct starts from the profile, shape (S, p).

    Args:
        robust: row weights in Huber's place, shape (n,); None: of squares.
        count: at most so many.
    """
    if isinstance(problem, Monomials):
        return _blockwise(problem, robust, count)
    return _scattered(cast("Formula", problem), robust, count, seed)


def _blockwise(problem: Monomials, robust: Array | None, count: int) -> Array:
    """The local minima of the profile over a grid, and the minima of its blocks."""
    axes = _grid(problem)
    value, coefficients = _profile(problem, axes, robust)
    if not axes:
        return coefficients.reshape(1, -1)
    value = np.where(np.isfinite(value), value, np.inf)
    local = np.ones(value.shape, bool)
    for axis in range(value.ndim):
        ahead = np.moveaxis(value, axis, 0)
        flag = np.moveaxis(local, axis, 0)
        flag[1:] &= ahead[1:] <= ahead[:-1]
        flag[:-1] &= ahead[:-1] <= ahead[1:]
    flat = value.ravel()
    chosen = list(np.flatnonzero(local.ravel()))
    pieces = 3 if value.ndim <= 2 else 2
    numbers = np.arange(value.size).reshape(value.shape)
    for block in itertools.product(*(np.array_split(np.arange(s), pieces) for s in value.shape)):
        inside = numbers[np.ix_(*block)].ravel()
        chosen.append(inside[np.argmin(flat[inside])])
    chosen = list(dict.fromkeys(sorted(chosen, key=lambda i: flat[i])))
    picked = np.array(chosen[:count])
    where = np.unravel_index(picked, value.shape)
    theta = np.stack([axis[i] for axis, i in zip(axes, where)], axis=1)
    return np.concatenate([coefficients[where], theta], axis=1)


def _scattered(problem: Formula, robust: Array | None, count: int, seed: int) -> Array:
    """The lowest points of the profile over a scatter that lie apart from each other."""
    place = problem.scatter(_SCATTER if problem.exponents else 1, seed)
    z, values = _projected(problem, problem.spread(place), robust)
    place[:, problem.linear[problem.coefficients :] - problem.coefficients] = 0.0
    chosen = np.zeros(0, int)
    for i in np.argsort(values):
        away = np.max(np.abs(place[chosen] - place[i]), axis=1, initial=0.0)
        if np.isfinite(values[i]) and away.min(initial=np.inf) > _APART:
            chosen = np.append(chosen, i)
        if len(chosen) == count:
            break
    if not len(chosen):
        chosen = np.array([values.argmin()])
    if robust is not None:  # the first scatter, of squares, was evolved
        return z[chosen]
    return np.concatenate([z[chosen], _evolved(problem, z, values, seed)])


def elsewhere(problem: Formula, z: Array, seed: int) -> Array:
    """Starts beside a point (p,), shape (S, p): one to three exponents are drawn anew all over
    their stretches, the others stay, and the lowest of each draw that lies apart is kept.

    A sum of like parts is often caught with one of its parts in the wrong place.
    """
    k, found = problem.coefficients, [z[None][:0]]
    searched = np.setdiff1d(np.arange(problem.exponents), problem.linear - k)
    some = [c for size in (1, 2, 3) for c in itertools.combinations(searched, size)]
    theta = problem.spread(problem.scatter(_ANEW, seed))
    wide = np.ptp(theta, axis=0)
    for moved in some[:_SOME]:
        tried = np.tile(z[k:], (_ANEW, 1))
        tried[:, moved] = theta[:, moved]
        apart = np.any(np.abs(tried - z[k:]) > 0.1 * wide, axis=1)
        points, values = _projected(problem, tried[apart], None)
        found.append(points[np.argsort(values)[:1]])
    return np.concatenate(found)


def _evolved(problem: Formula, z: Array, values: Array, seed: int) -> Array:
    """The best of the profile after some generations of differential evolution from its lowest
    points: it follows valleys of several exponents between the points of a scatter.

    Method after Storn & Price 1997, in the form of Zhang & Sanderson 2009 (current to p-best).
    """
    k, rng = problem.coefficients, np.random.default_rng(seed)
    top = np.argsort(values)[:_POPULATION]
    z, values = z[top], values[top]
    searched = np.setdiff1d(np.arange(k, z.shape[1]), problem.linear)
    if len(searched) < 3 or len(z) < _POPULATION or not np.isfinite(values).all():
        return z[:0]
    low, high = problem.lower[searched], problem.upper[searched]
    for _ in range(_GENERATIONS):
        order = np.argsort(values)
        best, a, b = (
            z[np.ix_(rng.choice(which, len(z)), searched)]
            for which in (order[:_ELITE], order, order)
        )
        own, force = z[:, searched], rng.uniform(0.4, 0.9, (len(z), 1))
        crossed = rng.random(own.shape) < 0.9
        moved = np.where(crossed, own + force * (best - own + a - b), own)
        tried = z.copy()
        tried[:, searched] = np.clip(moved, low, high)
        tried, found = _projected(problem, tried[:, k:], None)
        better = found < values
        z[better], values[better] = tried[better], found[better]
    return z[np.argsort(values)[:_ELITE]]


def _projected(problem: Formula, theta: Array, robust: Array | None) -> tuple[Array, Array]:
    """The best of all that the loss is linear in, for given other exponents.

    Args:
        theta: exponents, as in z, shape (B, exponents).

    Returns:
        Points z, shape (B, p), and the objective of squares there, shape (B,).
    """
    k, weight, inner = problem.coefficients, _root_weight(problem, robust), problem.linear
    z, values = np.concatenate([np.zeros((len(theta), k)), theta], axis=1), np.empty(len(theta))
    signed = inner >= k
    for block in np.array_split(np.arange(len(theta)), max(1, len(theta) // 64)):
        rest, features = problem.features(theta[block])
        target, features = (problem.y - rest) * weight, features * weight
        gram = features @ features.transpose(0, 2, 1)
        right = np.matmul(features, target[:, :, None])[:, :, 0]
        usable = np.all(np.isfinite(gram), axis=(1, 2)) & np.all(np.isfinite(target), axis=1)
        found, gain = _nnls(
            np.where(usable[:, None, None], gram, np.eye(len(inner))),
            np.where(usable[:, None], right, 0.0),
            signed,
        )
        z[np.ix_(block, inner)] = found
        values[block] = np.where(usable, 0.5 * ((target**2).sum(axis=1) - gain), np.inf)
    if signed.any():
        at = inner[signed]
        logged = problem.logged[at - k]
        low, high = problem.lower[at], problem.upper[at]
        held = np.where(logged, np.log(np.maximum(z[:, at], 1e-300)), z[:, at])
        z[:, at] = np.clip(held, low, high)
    return z, values


def _root_weight(problem: Problem, robust: Array | None) -> Array:
    """Square roots of the weights of plain differences, near the optimum."""
    weight = np.sqrt(problem.weights if robust is None else problem.weights * robust)
    found: Array = weight * problem.scale.slope(problem.y)
    return found


def _grid(problem: Monomials) -> list[Array]:
    q = problem.exponents
    count = max(3, min(48, round(_GRID_POINTS ** (1 / q)))) if q else 0
    if q == 2:
        count = 28
    axes = []
    for low in problem.lower[problem.coefficients :]:
        axes.append(np.geomspace(0.02, 2.5, count) if low >= 0 else np.linspace(-2, 2, count | 1))
    return axes


def _profile(problem: Monomials, axes: list[Array], robust: Array | None) -> tuple[Array, Array]:
    """Squared objective and coefficients over the grid: shapes (grid…,) and (grid…, k).

    The features of a coefficient depend on a few exponents only, so features are computed on
    those axes and all their products come from one matrix product per combination of the rest.
    """
    k, q = problem.coefficients, problem.exponents
    weight = _root_weight(problem, robust)
    groups = [[m for m, g in enumerate(problem.group) if g == i] for i in range(k)]
    known = [m for m, g in enumerate(problem.group) if g < 0]
    if known:
        groups.append(known)
    moved = [[np.flatnonzero(problem.slope[m].any(axis=1)) for m in g] for g in groups]
    uses = [sorted({int(e) for found in g for e in found}) for g in moved]
    shared = [e for e in range(q) if sum(e in u for u in uses) > 1]
    private = [[e for e in u if e not in shared] for u in uses]
    outer = _product([axes[e] for e in shared])
    blocks = []
    for members, own in zip(groups, private):
        inner = _product([axes[e] for e in own])
        theta = np.zeros((len(outer), len(inner), q))
        theta[:, :, shared] = outer[:, None, :]
        theta[:, :, own] = inner[None, :, :]
        feature = np.zeros((len(outer), len(inner), len(problem.y)))
        for m in members:
            powers = problem.constant[m] + theta @ problem.slope[m]
            feature += problem.sign[m] * np.exp(powers @ problem.logs)
        blocks.append(feature * weight)
    target = (problem.y - problem.offset) * weight
    sizes = [b.shape[1] for b in blocks]
    stacked = np.concatenate(
        [*blocks, np.broadcast_to(target, (len(outer), 1, len(target)))], axis=1
    )
    gram = stacked @ stacked.transpose(0, 2, 1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pick = _product([np.arange(s) for s in sizes])
    pick = np.concatenate([pick + starts[:-1], np.full((len(pick), 1), starts[-1])], axis=1)
    if known:  # a part whose size is known moves to the right-hand side
        gram = gram[:, pick[:, :, None], pick[:, None, :]].reshape(-1, k + 2, k + 2)
        right = gram[:, :k, -1] - gram[:, :k, k]
        total = gram[:, -1, -1] - 2 * gram[:, k, -1] + gram[:, k, k]
    else:
        gram = gram[:, pick[:, :, None], pick[:, None, :]].reshape(-1, k + 1, k + 1)
        right, total = gram[:, :k, -1], gram[:, -1, -1]
    coefficients, gain = _nnls(gram[:, :k, :k], right)
    # From (shared…, private of each group…) to the order of the exponents.
    order = [*shared, *(e for own in private for e in own)]
    shape = [len(axes[e]) for e in order]
    back = sorted(range(q), key=order.__getitem__)
    value = (0.5 * (total - gain)).reshape(shape).transpose(back)
    return value, coefficients.reshape(*shape, k).transpose(*back, q)


def _product(axes: list[Array]) -> Array:
    """All combinations, shape (product of lengths, number of axes)."""
    if not axes:
        return np.zeros((1, 0))
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)


def _nnls(gram: Array, right: Array, signed: Mask | None = None) -> tuple[Array, Array]:
    """Non-negative least squares, (N, k, k) and (N, k): coefficients, and what they explain.

    Exact: the optimum is the best feasible one among the subsets of columns.

    Args:
        signed: those that may be negative, (k,); None: none.
    """
    n, k = right.shape
    always = () if signed is None else tuple(map(int, np.flatnonzero(signed)))
    others = [i for i in range(k) if i not in always]
    root = np.sqrt(np.maximum(np.einsum("nkk->nk", gram), 1e-300))
    gram = gram / (root[:, :, None] * root[:, None, :])
    right = right / root
    best, gain = np.zeros((n, k)), np.zeros(n)
    for size in range(0 if always else 1, len(others) + 1):
        for chosen in itertools.combinations(others, size):
            subset = (*chosen, *always)
            x = _cholesky_solve(gram, right, subset)
            explained = sum(x[i] * right[:, s] for i, s in enumerate(subset))
            ok = (explained > gain) & np.all([v >= 0 for v in x[:size]], axis=0)
            if np.any(ok):
                gain = np.where(ok, explained, gain)
                fill = np.zeros((n, k))
                for i, s in enumerate(subset):
                    fill[:, s] = x[i]
                best = np.where(ok[:, None], fill, best)
    return best / root, gain


def _cholesky_solve(gram: Array, right: Array, subset: tuple[int, ...]) -> list[Array]:
    """Solve many small systems at once; a loop over k, vectorised over the systems."""
    k = len(subset)
    low: dict[tuple[int, int], Array] = {}
    x: list[Array] = []
    for i, a in enumerate(subset):
        for j, b in enumerate(subset[: i + 1]):
            value = gram[:, a, b] - sum(low[i, t] * low[j, t] for t in range(j))
            low[i, j] = np.sqrt(np.maximum(value, 1e-13)) if i == j else value / low[j, j]
        x.append((right[:, a] - sum(low[i, t] * x[t] for t in range(i))) / low[i, i])
    for i in reversed(range(k)):
        x[i] = (x[i] - sum(low[t, i] * x[t] for t in range(i + 1, k))) / low[i, i]
    return x
