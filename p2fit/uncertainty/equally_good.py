"""What a law predicts where the data leave parameters open: the range over all that fit as well.

Where directions of the parameter space are not determined, the optimum is not a point but a set:
every z (coefficients at least 0, exponents within their ranges) whose objective is within 1e-6 of
the best. A prediction then is the interval of values that the law takes on that set. Its ends are
found by pulling: a row is added to the data that asks for a lower or higher prediction, the law is
fitted to both, and then again to the data alone, which leads back into the set, further along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import LawError
from p2fit.scales import SCALES
from p2fit.solver.least_squares import minimise
from p2fit.solver.problem import Problem

if TYPE_CHECKING:
    from p2fit.solver.solving import Solved

#: Parameters fit equally well where the objective is within this relative distance of the best.
EQUAL = 1e-6

_POINTS = 24  # inputs whose ends are searched; for others the parameters found there serve
_ROWS = 1024  # rows used to search; all are used to check what was found
_ROUNDS = 40
_STEP = 0.01  # first step of a pull, in the log of the prediction or in its size
_FINE = 1e-4  # the search ends at steps of this share of the way made


def prediction_range(solved: Solved, columns: Mapping[str, Any]) -> tuple[Array, Array] | None:
    """Lowest and highest prediction over all parameters that fit equally well.

    An inner approximation: each end is the (positive) prediction of parameters that do fit as
    well, and lies within about 0.1 % of the interval's length of the true end, if the set hangs
    together. With more than 24 points, ends are searched at 24 of them, and the parameters found
    there are used at all.

    Args:
        columns: the law's inputs, scalars or arrays of one shape.

    Returns:
        Two arrays of that shape, nats per token; None where the data determine every parameter.

    Raises:
        LawError: an input is missing, or a point lies outside what the formula is for.
    """
    if not solved.identification.undetermined:
        return None
    law = solved.problem.law
    missing = [x for x in law.inputs if x not in columns]
    if missing:
        raise LawError(f"{law.name} needs {', '.join(missing)}")
    given = np.broadcast_arrays(*(np.asarray(columns[x], float) for x in law.inputs))
    points, back = np.unique(np.stack([v.ravel() for v in given]), axis=1, return_inverse=True)
    there = solved.problem.at(dict(zip(law.inputs, points)))
    ends = _ends(solved, there)
    low, high = ends[:, back.ravel()].reshape(2, *given[0].shape)
    return low, high


@np.errstate(all="ignore")  # what is not finite is dealt with as such
def members(solved: Solved) -> list[dict[str, float]]:
    """Parameters that fit as well as the optimum and predict lowest or highest around the data.

    Found at the centre of the data and, one input at a time, at half its least and twice its
    largest value (a rate: half way to 0 and to 1). Empty where the data determine everything.
    """
    if not solved.identification.undetermined:
        return []
    middle = {x: np.log(v).mean() if v.min() > 0 else None for x, v in solved.columns.items()}
    centre = {
        x: float(solved.columns[x].mean() if m is None else np.exp(m)) for x, m in middle.items()
    }
    points = [centre]
    for x, v in solved.columns.items():
        low, high = float(v.min()), float(v.max())
        points += [{**centre, x: low / 2}, {**centre, x: (1 + high) / 2 if high < 1 else 2 * high}]
    try:
        columns = {x: np.array([p[x] for p in points]) for x in centre}
        there = solved.problem.at(columns)
    except LawError:  # such points lie outside what the formula is for
        there = solved.problem.rows(np.arange(min(_POINTS, len(solved.problem.y))))
    found = _search(solved, there)
    each = [solved.problem.natural(z) for z in found]
    return [{n: float(v) for n, v in natural.items()} for natural in each]


def _ends(solved: Solved, there: Problem) -> Array:
    """Lowest and highest prediction at each point, shape (2, points)."""
    predicted = there.loss(_search(solved, there))
    return np.stack([predicted.min(axis=0), predicted.max(axis=0)])


def _search(solved: Solved, there: Problem) -> Array:
    """Members of the set that predict lowest and highest at the points, the optimum among them."""
    problem, solution = solved.problem, solved.solution
    rows, points = len(problem.y), len(there.y)
    found = np.concatenate([solution.z[None], solution.ties])
    some = there.rows(np.unique(np.linspace(0, points - 1, min(points, _POINTS)).astype(int)))
    if rows > _ROWS:
        small = problem.rows(np.linspace(0, rows - 1, _ROWS).astype(int))
        found = _pulled(small, some, minimise(small, found).z)
    else:
        found = _pulled(problem, some, found)
    level = solution.value * (1 + EQUAL) + problem.floor
    return np.concatenate([solution.z[None], _members(problem, found, level)])


def _pulled(problem: Problem, there: Problem, z: Array) -> Array:
    """Members of the set with the lowest and the highest prediction at each point.

    Args:
        z: minima of the problem, shape (B, p), the first at its best.
    """
    level = float(minimise(problem, z[:1], iterations=0).value[0]) * (1 + EQUAL) + problem.floor
    both = problem.joined(there)
    # One pull down and one up per point, in the log of the prediction (in its residual's scale,
    # if it is no loss) times the direction.
    positive = bool(np.all(there.loss(z[:1]) > 0)) and problem.residual != "arcsine"
    scale = SCALES["log"] if positive else problem.scale
    unit = scale.typical(problem.y)
    point = np.tile(np.arange(len(there.y)), 2)
    sign = np.repeat([-1.0, 1.0], len(there.y))

    def reached(z: Array) -> Array:
        loss = there.loss(z)
        places = scale.to(np.maximum(loss, 1e-300) if positive else loss)[:, point]
        found: Array = places * (sign / unit)
        return found

    members: Array = np.concatenate([z[:1], _members(problem, z, level)])
    start = reached(z[:1])[0]
    step, active = np.full(len(sign), _STEP), np.arange(len(sign))
    for _ in range(_ROUNDS):
        values = reached(members)
        top, best = values.argmax(axis=0), values.max(axis=0)
        y = np.tile(both.y, (len(active), 1))
        weights = np.tile(both.weights, (len(active), 1))
        each, row = np.arange(len(active)), len(problem.y) + point[active]
        y[each, row] = scale.back((best + step)[active] * (sign[active] * unit))
        weights[each, row] = problem.weights.sum()
        pulled = minimise(both, members[top[active]], y=y, weights=weights).z
        new = _members(problem, pulled, level)
        members = np.concatenate([members, new])
        # Longer steps while the set goes on, shorter ones near its end.
        gained = reached(members).max(axis=0) >= best + 0.5 * step
        step *= np.where(gained, 3.0, 0.25)
        active = np.flatnonzero(step > _FINE * np.maximum(best - start, _FINE))
        if not len(active):
            break
    extremes: Array = members[np.unique(reached(members).argmax(axis=0))]
    return extremes


def _members(problem: Problem, z: Array, level: float) -> Array:
    """Where descents from z end, of those that fit as well as the best."""
    found = minimise(problem, z)
    return found.z[found.value <= level]
