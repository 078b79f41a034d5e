"""Laws that are not sums of monomials, put on rows: derivatives by jets, starts from a scatter."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.errors import LawError
from p2fit.laws.expression import evaluate, names_in, path_to, paths_to
from p2fit.laws.jets import NUMPY, ONE, Functions, Jet, variables
from p2fit.laws.law import Law
from p2fit.scales import Residual
from p2fit.solver.problem import Derivatives, Problem

#: Where searches for a parameter begin whose range and formula say nothing else.
EXPONENT, SCALE = (0.02, 2.5), (1e-3, 1e3)
_ONE = ast.Constant(1.0)
#: Two ends.
Stretch = tuple[float, float]
#: A parameter that stands in a sum or a quotient with a column is looked for as far beyond the
#: column's values.
BEYOND = 100.0
#: Half of the starts of such a parameter lie this far beyond them at most.
NEAR = 3.0


@dataclass(frozen=True, eq=False)
class Formula(Problem):
    """Any formula; the loss is linear in the coefficients, as in :class:`Monomials`."""

    columns: Mapping[str, Array]
    """The law's inputs, each of shape (n,)."""
    spans: Array
    """Where exponents are likely to be, lowest and highest, shape (exponents, 2)."""
    stretches: tuple[tuple[Stretch, ...], ...]
    """Where starts are drawn, for each of the exponents."""
    units: Array
    """A typical size of each of the exponents, as in z."""

    @cached_property
    def sizes(self) -> Array:
        return np.concatenate([np.full(self.coefficients, self.typical), self.units])

    def amounts(self, z: Array) -> Array:
        found = self.sizes.copy()
        slopes = self.jacobian(z)[1][: self.coefficients]
        size = np.sqrt(np.mean(slopes**2, axis=1))
        known = np.isfinite(size) & (size > 0)
        found[: self.coefficients][known] /= size[known]
        return found

    def recentred(self, z: Array) -> Self:
        return replace(self, centre=_centre(self, z))

    def rows(self, index: Index | slice) -> Self:
        columns = {x: v[index] for x, v in self.columns.items()}
        return replace(super().rows(index), columns=columns)

    def at(self, points: Mapping[str, Array]) -> Self:
        n = len(next(iter(points.values()), [0.0]))
        offset = np.broadcast_to(evaluate(self.law.offset, points), (n,))
        return replace(
            self,
            y=np.ones(n),
            weights=np.zeros(n),
            offset=offset,
            columns=dict(points),
            effects=None,
        )

    def joined(self, other: Self) -> Self:
        columns = {x: np.concatenate([v, other.columns[x]]) for x, v in self.columns.items()}
        return replace(super().joined(other), columns=columns)

    @cached_property
    def known(self) -> Any:
        """What the columns alone give, for the law's tape."""
        return self.law.tape.known({x: v[None] for x, v in self.columns.items()})

    def loss(self, z: Array) -> Array:
        values = {n: np.reshape(v, (-1, 1)) for n, v in self.natural(z).items()}
        with np.errstate(all="ignore"):
            found = self.law.tape.run(self.known, values, np)
        return np.broadcast_to(found, (len(z), len(self.y)))

    @cached_property
    def linear(self) -> Index:
        """Places in z of all that the loss is linear in: the coefficients first."""
        own = [self.coefficients + self.law.exponents.index(n) for n in self.law.signed]
        return np.array([*range(self.coefficients), *own], int)

    def features(self, theta: Array) -> tuple[Array, Array]:
        """The loss without all that it is linear in, and what one of each adds to it.

        Args:
            theta: exponents, as in z, shape (B, exponents); of those that are linear any.

        Returns:
            Arrays of shape (B, n) and (B, linear, n).
        """
        k, n = self.coefficients, len(self.y)
        with np.errstate(all="ignore"):
            sizes = np.exp(-self.centre[:, 0] - theta @ self.centre[:, 1:].T)
            found: dict[str, Any] = {
                e: (np.exp(v) if log else v)[:, None]
                for e, v, log in zip(self.law.exponents, theta.T, self.logged)
            }
            zero = np.zeros((len(theta), 1))
            for i, name in enumerate(self.law.coefficients):
                found[name] = Jet(zero, {i: sizes[:, i, None]})
            for i, name in enumerate(self.law.signed, k):
                found[name] = Jet(zero, {i: ONE})
            out = self.law.tape.run(self.known, found, NUMPY)
        each = np.zeros((len(theta), len(self.linear), n))
        if not isinstance(out, Jet):
            return np.broadcast_to(out, (len(theta), n)), each
        for i, slope in out.first.items():
            each[:, i] = slope
        return np.broadcast_to(out.value, (len(theta), n)), each

    def derivatives(self, z: Array) -> Derivatives:
        shape = (len(z), *z.shape[1:], len(self.y))
        out = self.jet(z)
        jac = np.zeros(shape)
        for i, slope in out.first.items():
            jac[:, i] = slope

        def second(pull: Array) -> Array:
            found = np.zeros((len(z), z.shape[1], z.shape[1]))
            for (i, j), curve in (out.second or {}).items():
                if np.shape(curve) != pull.shape:
                    curve = np.broadcast_to(curve, pull.shape)
                found[:, i, j] = found[:, j, i] = np.einsum("bn,bn->b", pull, curve)
            return found

        return Derivatives(np.broadcast_to(out.value, (len(z), len(self.y))), jac, second)

    def generic(self) -> Array:
        theta = np.array([_between(low, high, 0.5) for low, high in self.spans])
        theta = self._held(theta) + 0.17 * self.units * np.arange(self.exponents)
        inside: Array = np.concatenate([np.ones(self.coefficients), theta])
        return np.clip(inside, self.lower, self.upper, out=inside)

    def spread(self, place: Array) -> Array:
        """Exponents, as in z, from places between 0 and 1 on their stretches, (B, exponents)."""
        theta = np.empty_like(place)
        for i, stretches in enumerate(self.stretches):
            scaled = place[:, i] * len(stretches)
            which = np.minimum(scaled.astype(int), len(stretches) - 1)
            for j, (low, high) in enumerate(stretches):
                mine = which == j
                theta[mine, i] = _between(low, high, scaled[mine] - j)
        return self._held(theta)

    def _held(self, theta: Array) -> Array:
        """Exponents as they are held in z: scales as their logs."""
        found: Array = np.where(self.logged, np.log(np.maximum(theta, 1e-300)), theta)
        return found

    def at_case(self, parameters: Mapping[str, float], held: Mapping[str, float]) -> Array:
        """z, shape (p,), from the parameters of a special case and the values that make it.

        Beyond the data is the end of the parameter's span; what moves nothing is in its middle.
        """
        values = {n: float(v) for n, v in self.natural(self.generic()).items()}
        values |= dict.fromkeys(self.law.coefficients, 0.0)
        values |= parameters
        for name, value in held.items():
            span = self.spans[self.law.exponents.index(name)] if name in self.law.scales else None
            values[name] = value if span is None else float(np.clip(value, *span))
        return np.clip(self.internal(values), self.lower, self.upper)

    def scatter(self, count: int, seed: int) -> Array:
        """Places spread evenly, shape (count, exponents), for :meth:`spread`.

        A lattice of additive recurrence (Roberts 2018), shifted by the seed.
        """
        q = self.exponents
        root = 2.0
        for _ in range(60):  # the root of x^(q+1) = x + 1
            root = (1 + root) ** (1 / (q + 1))
        steps = root ** -np.arange(1.0, q + 1)
        places: Array = np.random.default_rng(seed).random(q) + np.outer(np.arange(count), steps)
        return places % 1

    def jet(self, z: Any, functions: Functions = NUMPY) -> Jet:
        k = self.coefficients
        own = variables(z)
        found: dict[str, Any] = {
            e: functions.exp(v) if log else v
            for e, v, log in zip(self.law.exponents, own[k:], self.logged)
        }
        for i, name in enumerate(self.law.coefficients):
            shift: Any = -self.centre[i, 0]
            for theta, slope in zip(own[k:], self.centre[i, 1:]):
                shift = theta * -slope + shift if slope else shift
            found[name] = own[i] * functions.exp(shift)
        with np.errstate(all="ignore"):
            out: Jet = self.law.tape.run(self.known, found, functions)
        return out


def build_formula(
    law: Law,
    columns: Mapping[str, Array],
    y: Array,
    weights: Array,
    *,
    residual: Residual,
    delta: float,
    start: Mapping[str, float],
) -> Formula:
    """Put a law that is not a sum of monomials on rows.

    Args:
        start: parameters whose search begins at a value, instead of all over their range.

    Raises:
        LawError: the formula has no value on some row, wherever its parameters are.
    """
    k, q = len(law.coefficients), len(law.exponents)
    bounds = np.array([law.ranges[n] for n in (*law.coefficients, *law.exponents)])
    offset = np.broadcast_to(evaluate(law.offset, columns), y.shape)
    if not np.isfinite(offset).all():
        raise LawError("the part of the formula without parameters is not finite in some rows")
    given = [(start[e],) * 2 if e in start else None for e in law.exponents]
    spans = np.array([g or _span(law, e, columns) for g, e in zip(given, law.exponents)])
    spans = spans.reshape(-1, 2)
    stretches = tuple(
        (g,) if g else _stretches(law, e, columns) for g, e in zip(given, law.exponents)
    )
    low, high = spans.T
    shift = np.array([e not in law.scales and e not in law.powers for e in law.exponents], bool)
    logged = np.array([e in law.scales for e in law.exponents], bool)
    with np.errstate(divide="ignore"):
        bounds[k:][logged] = np.log(bounds[k:][logged])
    problem = Formula(
        law=law,
        y=y,
        weights=weights,
        offset=offset,
        centre=np.zeros((k, 1 + q)),
        lower=bounds[:, 0],
        upper=bounds[:, 1],
        residual=residual,
        delta=delta,
        columns=dict(columns),
        spans=spans,
        stretches=stretches,
        units=np.where(shift, _sizes(low, high), 1.0),
    )
    return replace(problem, centre=_centre(problem, problem.generic()))


def _sizes(low: Array, high: Array) -> Array:
    """A typical size of what lies between two ends."""
    ends = np.maximum(np.abs(low), np.abs(high))
    found: Array = np.where(
        (low == 0) | (high == 0), 0.5 * ends, np.sqrt(np.abs(low)) * np.sqrt(np.abs(high))
    )
    return np.maximum(found, 1e-300)


def _centre(problem: Formula, middle: Array) -> Array:
    """The log of each coefficient's mean feature over the rows, and its slope by the exponents, at
    a point (p,): the change of variables that keeps coefficients and exponents apart.

    The mean of the logs would be that of the rows where an exponential is next to nothing.
    """
    k, q = problem.coefficients, problem.exponents
    problem = replace(problem, centre=np.zeros((k, 1 + q)))
    powers = [
        problem.logged[i] or e in problem.law.powers for i, e in enumerate(problem.law.exponents)
    ]
    out = problem.jet(np.concatenate([np.ones(k), middle[k:]])[None])
    centre = np.zeros((k, 1 + q))
    with np.errstate(all="ignore"):
        for i in range(k):
            feature = np.broadcast_to(out.first.get(i, 0.0), (1, len(problem.y)))[0]
            mean = np.mean(np.abs(feature))
            slopes = np.zeros(q)
            for e in map(int, np.flatnonzero(powers)):  # in others the log is not nearly linear
                curve = np.broadcast_to(
                    (out.second or {}).get((i, k + e), 0.0), (1, len(problem.y))
                )[0]
                slopes[e] = np.mean(np.sign(feature) * curve) / mean
            size = np.log(mean)
            if np.isfinite(size) and np.isfinite(slopes).all():
                centre[i, 0] = size - slopes @ middle[k:]
                centre[i, 1:] = slopes
    return centre


def _span(law: Law, name: str, columns: Mapping[str, Array]) -> Stretch:
    """Where a parameter is likely to be: within its stated range; as the power of something;
    around the values at which it matters."""
    low, high = law.ranges[name]
    usual = _usual(law, name, columns)
    if name in law.stated and np.isfinite([low, high]).all():
        far = usual[1] * BEYOND**2  # of a range without sense the part that has some
        near = max(low, -far), min(high, far)
        return near if near[0] < near[1] else (low, high)
    return usual


def _usual(law: Law, name: str, columns: Mapping[str, Array]) -> Stretch:
    """Where a parameter is likely to be by its role in the formula."""
    if name in law.powers:
        return EXPONENT
    typical = {n: np.asarray(0.4 if n in law.powers else 1.0) for n in law.free}
    for other in law.free:  # a peak is as wide as the columns are from its place
        if other != name and (ends := _taken_from(law, other, columns)):
            typical[other] = np.asarray(0.5 * (ends[0][0] + ends[0][1]))
    sizes = np.abs(np.atleast_1d(evaluate(typical_scale(law, name), {**columns, **typical})))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        return SCALE
    return float(sizes.min()) / BEYOND, float(sizes.max()) * BEYOND


def _stretches(law: Law, name: str, columns: Mapping[str, Array]) -> tuple[Stretch, ...]:
    """Where starts are drawn for a parameter: around the values at which it matters, with either
    sign where its range has both; among the values that it is taken from; over all of its range."""
    low, high = law.ranges[name]
    usual = _usual(law, name, columns)
    found = [usual, *_taken_from(law, name, columns)]
    if name not in law.powers:
        found.append((usual[0] * BEYOND / NEAR, usual[1] / BEYOND * NEAR))
    if low < 0:
        found.append((-usual[1], -usual[0]))
    if name in law.stated and np.isfinite([low, high]).all():
        found.append(_span(law, name, columns))
    found = [(max(a, low), min(b, high)) for a, b in found]
    return tuple(s for s in found if s[0] < s[1]) or ((low, min(high, low + SCALE[1])),)


def _taken_from(law: Law, name: str, columns: Mapping[str, Array]) -> list[Stretch]:
    """The values of the columns that a parameter is taken from, or that are taken from it: there
    the difference changes its sign, as that of a peak to its place does."""
    match path_to(law.restricted, name)[1:2]:
        case [ast.BinOp(left=left, op=ast.Sub(), right=right)]:
            other = right if isinstance(left, ast.Name) and left.id == name else left
            own = {n.id for n in names_in(other)}
            if own and own <= set(law.inputs):
                values = evaluate(other, columns)
                if np.isfinite(values).all():
                    return [(float(values.min()), float(values.max()))]
    return []


def _between(low: float, high: float, place: Any) -> Any:
    """The value at a place between 0 and 1 on a stretch, even in the log where it has one sign."""
    if low > 0 and high / 3 > low:
        return np.exp(math.log(low) + (math.log(high) - math.log(low)) * place)
    if high < 0 and low / 3 < high:
        return -_between(-high, -low, 1 - place)
    return low * (1 - place) + high * place


def typical_scale(law: Law, name: str) -> ast.expr:
    """The value at which a parameter's part of the formula is as large as what it is added to,
    divided by or divides; else as large as 1. To be evaluated with the parameter itself at 1."""
    found = [_typical_scale(law, place) for place in paths_to(law.restricted, name)]
    return next((f for f, beside in found if beside), found[0][0])


def _typical_scale(law: Law, place: list[ast.expr]) -> tuple[ast.expr, bool]:
    """The same by one place of a parameter, and whether that is beside something with columns."""
    part, *outer = place
    power: ast.expr = _ONE
    for at, whole in enumerate(outer):
        match whole:
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Div() as op, right=right):
                other = right if left is part else left
                unknown = any(n.id in law.free for n in names_in(other))
                if not isinstance(op, ast.Div) and unknown and _exponential(outer[at + 1 :]):
                    pass  # an exponent is of the size of 1, whatever it is made of
                elif any(n.id in law.inputs for n in names_in(whole)):
                    return _root(ast.BinOp(other, ast.Div(), part), power), True
            case ast.BinOp(op=ast.Mult()) | ast.UnaryOp():
                pass
            case ast.BinOp(left=left, op=ast.Pow(), right=right) if left is part:
                power = right if power is _ONE else ast.BinOp(power, ast.Mult(), right)
            case _:
                break
        part = whole
    return _root(ast.BinOp(_ONE, ast.Div(), part), power), False


def _root(value: ast.expr, power: ast.expr) -> ast.expr:
    """The size of what, raised to a power, is a value of either sign."""
    if power is _ONE:
        return value
    two = ast.Constant(2.0)
    half = ast.BinOp(_ONE, ast.Div(), ast.BinOp(two, ast.Mult(), power))
    return ast.BinOp(ast.BinOp(value, ast.Pow(), two), ast.Pow(), half)


def _exponential(outer: list[ast.expr]) -> bool:
    """Whether what lies in these expressions, each in the next, is a summand of what exp takes."""
    for whole in outer:
        match whole:
            case ast.Call(func=ast.Name(id=name)):
                return name == "exp"
            case ast.BinOp(op=ast.Add() | ast.Sub()) | ast.UnaryOp():
                pass
            case _:
                return False
    return False
