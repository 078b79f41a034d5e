"""The search for the global minimum: many starts, the best of where they lead, one point of many.

Where the searches begin is said in :mod:`p2fit.solver.starts` and :mod:`p2fit.laws.special`; each
is a minimisation of :mod:`p2fit.solver.least_squares`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import LawError
from p2fit.laws.special import special_cases
from p2fit.solver.build import build
from p2fit.solver.least_squares import (
    Minimum,
    Ridge,
    Rows,
    diagonal,
    evaluate,
    idle,
    minimise,
    residuals,
    slack_at,
)
from p2fit.solver.monomials import Monomials
from p2fit.solver.problem import Problem
from p2fit.solver.starts import elsewhere
from p2fit.solver.starts import starts as find_starts

if TYPE_CHECKING:
    from p2fit.solver.formula import Formula

#: Starts whose objective is within this relative distance of the best agree with it, and a point
#: from which the gradient promises more than this share of the objective is no minimum.
AGREE = 1e-5
#: Relative strength of the ridge that picks one point where the data leave several.
RIDGE = 1e-8
#: The ridge pulls exponents searched from 0 up towards this value, others towards 0.
RIDGE_EXPONENT = 0.5

_STARTS = 12
_PRICED = 64  # values of an exponent at which a term of size 0 is tried
GRID_ROWS = 512  # rows used to profile
_START_ROWS = 4096  # rows used to find starts; all are used to polish
_CREEPS, _MORE = 1e-7, 2000  # what a point may promise that is led on; by so many iterations
_ROUNDS, _ENOUGH, _SAME = 4, 0.5, 1e-3  # scatters; share of searches that end within this
_FIRST, _LAST, _CREEPING = 40, 160, 3  # iterations; searches that are led on
_SQUARES, _NEAR = (12, 40), 8  # the same of squares; minima that are led on


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
    small = subsample(problem, _START_ROWS, seed)
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
    if slack > _CREEPS and not isinstance(problem, Monomials):  # a long valley
        more = minimise(problem, z[None], iterations=_MORE if small is problem else _LAST)
        if more.value[0] <= value:
            z, value = more.z[0], float(more.value[0])
            slack = slack_at(problem, z)
    return Solution(z, value, slack <= AGREE, starts, agreed, ties)


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
    rows = Rows.of(problem, None, None)
    # The ridge's unit is taken where it pulls to: at the optima it differs between them.
    bound = diagonal(evaluate(problem, np.stack([towards, solution.z]), None, rows).bound)
    unit = float(np.mean(bound[0] * scale**2))
    still = np.where(idle(problem, bound[1:])[0], towards, solution.z)
    z = np.concatenate([towards[None], _distinct(problem, solution.ties, digits=3)])
    for strength in (1.0, 1e-2, 1e-4, 1e-6):
        z = minimise(problem, z, ridge=Ridge(strength * unit, towards, scale)).z
    # The strong ones may have led all of them past the point where nothing moved but what is idle.
    z = np.concatenate([z, still[None]])
    found = minimise(problem, z, ridge=Ridge(RIDGE * unit, towards, scale))
    at = found.z[np.argmin(found.value)]
    for strength in (RIDGE, 1e-2 * RIDGE, 1e-4 * RIDGE):
        at = minimise(problem, at[None], ridge=Ridge(strength * unit, at, scale)).z[0]
    value = float(minimise(problem, at[None], iterations=0).value[0])
    if value > solution.value * (1 + _CREEPS) and not isinstance(problem, Monomials):
        led = minimise(problem, at[None])  # what the ridge took is won back, from one point for all
        at, value = led.z[0], float(led.value[0])
    if value <= solution.value * (1 + AGREE) + problem.floor:
        return replace(solution, z=at, value=value)
    return replace(solution, z=still)


def subsample(problem: Problem, count: int, seed: int) -> Problem:
    """So many of its rows, drawn at random; all, where there are no more."""
    n = len(problem.y)
    if n <= count:
        return problem
    chosen = np.random.default_rng(seed).choice(n, count, replace=False)
    return problem.rows(np.sort(chosen))


def _multistart(problem: Problem, seed: int) -> Minimum:
    grid = subsample(problem, GRID_ROWS, seed)
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
    squares = _led(plain, find_starts(grid, None, _STARTS, seed), *_SQUARES)
    near = _distinct(problem, squares.z[np.argsort(squares.value)], digits=3)[:_NEAR]
    robust = _robust_starts(grid, squares, seed)[:_NEAR]
    return _led(problem, _distinct(problem, np.concatenate([near, robust, starts])))


def _led(problem: Problem, starts: Array, first: int = _FIRST, last: int = _LAST) -> Minimum:
    """Minima from all starts; of those that creep only the lowest are led to the end."""
    found = minimise(problem, starts, iterations=first)
    creeping = np.flatnonzero(found.converged == 0)
    lowest = creeping[np.argsort(found.value[creeping])][:_CREEPING]
    if len(lowest):
        more = minimise(problem, found.z[lowest], iterations=last)
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
        found = Minimum.joined(found, _led(problem, _distinct(problem, more)))
    return found


def _special(problem: Formula, seed: int) -> Array:
    """The optima of the special cases of a formula that are sums of monomials, shape (S, p)."""
    found = [np.zeros((0, len(problem.names)))]
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
        case = replace(case, effects=problem.effects)
        at = case.natural(solve(case, seed=seed).z)
        found.append(problem.at_case({n: float(v) for n, v in at.items()}, held)[None])
    return np.concatenate(found)


def _entered(problem: Problem, found: Minimum, seed: int) -> Minimum:
    """Starts of which the best ended with a term at 0, led on where that term lowers the objective.

    An exponent that shapes only a term of size 0 moves nothing, so no descent sees that the term
    would help with another exponent. Such exponents are scattered over their ranges, and where the
    slope to a term is negative the best of these points is a start (the pricing of column
    generation).
    """
    k, best = problem.coefficients, found.value.min()
    z = found.z[np.argmin(found.value)]
    rows = Rows.of(problem, None, None)
    bound = diagonal(evaluate(problem, z[None], None, rows).bound)
    still = np.flatnonzero(idle(problem, bound)[0, k:]) + k
    zero = np.flatnonzero(z[:k] <= problem.lower[:k])
    if not len(still) or not len(zero):
        return found
    even = np.tile((np.arange(_PRICED) + 0.5) / _PRICED, (len(still), 1))
    place = np.random.default_rng(seed).permuted(even, axis=1).T
    tried = np.tile(z, (_PRICED, 1))
    tried[:, still] = problem.lower[still] + place * (problem.upper - problem.lower)[still]
    point = evaluate(problem, tried, None, rows)
    slope = np.minimum(point.gradient[:, zero], 0.0)
    gain = np.nan_to_num(slope**2 / np.maximum(diagonal(point.bound)[:, zero], 1e-300))
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
        found.tried,
    )


def _distinct(problem: Problem, z: Array, digits: int = 9) -> Array:
    first: dict[bytes, int] = {}
    for i, exponents in enumerate(np.round(z[:, problem.coefficients :], digits) + 0.0):
        first.setdefault(exponents.tobytes(), i)
    return z[list(first.values())]
