"""Laws that are not sums of monomials, put on rows: derivatives by jets, starts from a scatter."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.errors import LawError
from p2fit.laws import jets
from p2fit.laws.expression import evaluate, names_in, path_to
from p2fit.laws.jets import ONE, Jet, exp
from p2fit.laws.law import Law
from p2fit.scales import Residual
from p2fit.solver.problem import Derivatives, Problem

#: Where searches for a parameter begin whose range and formula say nothing else.
EXPONENT, SCALE = (0.02, 2.5), (1e-3, 1e3)
#: A parameter that stands in a sum or a quotient with a column is looked for as far beyond the
#: column's values.
BEYOND = 100.0


@dataclass(frozen=True, eq=False)
class Formula(Problem):
    """Any formula; the loss is linear in the coefficients, as in :class:`Monomials`."""

    columns: Mapping[str, Array]
    """The law's inputs, each of shape (n,)."""
    spans: Array
    """Where starts are drawn, lowest and highest, shape (exponents, 2)."""
    units: Array
    """A typical size of each of the exponents, as in z."""

    @cached_property
    def sizes(self) -> Array:
        return np.concatenate([np.full(self.coefficients, self.typical), self.units])

    def rows(self, index: Index | slice) -> Self:
        columns = {x: v[index] for x, v in self.columns.items()}
        return replace(super().rows(index), columns=columns)

    def at(self, points: Mapping[str, Array]) -> Self:
        n = len(next(iter(points.values())))
        offset = np.broadcast_to(evaluate(self.law.offset, points), (n,))
        return replace(self, y=np.ones(n), weights=np.zeros(n), offset=offset, columns=dict(points))

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

    def features(self, theta: Array) -> tuple[Array, Array]:
        """The loss without coefficients, and what one of each adds to it.

        Args:
            theta: exponents, as in z, shape (B, exponents).

        Returns:
            Arrays of shape (B, n) and (B, coefficients, n).
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
            out = self.law.tape.run(self.known, found, jets)
        each = np.zeros((len(theta), k, n))
        if not isinstance(out, Jet):
            return np.broadcast_to(out, (len(theta), n)), each
        for i, slope in out.first.items():
            each[:, i] = slope
        return np.broadcast_to(out.value, (len(theta), n)), each

    def derivatives(self, z: Array) -> Derivatives:
        shape = (len(z), *z.shape[1:], len(self.y))
        out = self._jet(z)
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
        theta = self.spread(np.full((1, self.exponents), 0.5))[0]
        theta += 0.17 * self.units * np.arange(self.exponents)
        inside: Array = np.concatenate([np.ones(self.coefficients), theta])
        return np.clip(inside, self.lower, self.upper, out=inside)

    def spread(self, place: Array) -> Array:
        """Exponents, as in z, from places between 0 and 1 in their spans, (…, exponents); places
        are even in the log of a positive span."""
        low, high = self.spans.T
        even = (low > 0) & (high > 3 * low)
        ratio = np.where(even, high, 1.0) / np.where(even, low, 1.0)
        theta = np.where(even, low * ratio**place, low + (high - low) * place)
        found: Array = np.where(self.logged, np.log(np.maximum(theta, 1e-300)), theta)
        return found

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

    def _jet(self, z: Array) -> Jet:
        k = self.coefficients
        variables = [Jet(z[:, i, None], {i: ONE}, {}) for i in range(z.shape[1])]
        found: dict[str, Any] = {
            e: exp(v) if log else v
            for e, v, log in zip(self.law.exponents, variables[k:], self.logged)
        }
        for i, name in enumerate(self.law.coefficients):
            shift: Any = -self.centre[i, 0]
            for theta, slope in zip(variables[k:], self.centre[i, 1:]):
                shift = theta * -slope + shift if slope else shift
            found[name] = variables[i] * exp(shift)
        with np.errstate(all="ignore"):
            out: Jet = self.law.tape.run(self.known, found, jets)
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
    spans = np.array([_span(law, e, columns) for e in law.exponents]).reshape(-1, 2)
    for i, e in enumerate(law.exponents):
        if e in start:
            spans[i] = start[e]
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
        units=np.where(shift, _sizes(low, high), 1.0),
    )
    return replace(problem, centre=_centre(problem, ~shift))


def _sizes(low: Array, high: Array) -> Array:
    """A typical size of what lies between two ends."""
    ends = np.maximum(np.abs(low), np.abs(high))
    found: Array = np.where(low * high == 0, 0.5 * ends, np.sqrt(np.abs(low * high)))
    return np.maximum(found, 1e-300)


def _centre(problem: Formula, bent: Array) -> Array:
    """The log of each coefficient's mean feature over the rows, and its slope by the exponents, at
    the middle of the spans: the change of variables that keeps coefficients and exponents apart.

    The mean of the logs would be that of the rows where an exponential is next to nothing.
    """
    k, q = problem.coefficients, problem.exponents
    middle = problem.generic()
    out = problem._jet(middle[None])
    centre = np.zeros((k, 1 + q))
    with np.errstate(all="ignore"):
        for i in range(k):
            feature = np.broadcast_to(out.first.get(i, 0.0), (1, len(problem.y)))[0]
            mean = np.mean(np.abs(feature))
            slopes = np.zeros(q)
            for e in map(int, np.flatnonzero(bent)):  # in others the log is not nearly linear
                curve = np.broadcast_to(
                    (out.second or {}).get((i, k + e), 0.0), (1, len(problem.y))
                )[0]
                slopes[e] = np.mean(np.sign(feature) * curve) / mean
            size = np.log(mean)
            if np.isfinite(size) and np.isfinite(slopes).all():
                centre[i, 0] = size - slopes @ middle[k:]
                centre[i, 1:] = slopes
    return centre


def _span(law: Law, name: str, columns: Mapping[str, Array]) -> tuple[float, float]:
    """Where the search for a parameter begins: within its stated range; as the power of something;
    around the values at which it matters."""
    low, high = law.ranges[name]
    if name in law.stated and np.isfinite(high):
        return low, high
    if name in law.powers:
        return EXPONENT
    typical = {n: np.asarray(0.4 if n in law.powers else 1.0) for n in law.free}
    sizes = np.abs(np.atleast_1d(evaluate(typical_scale(law, name), {**columns, **typical})))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        return SCALE
    return float(sizes.min()) / BEYOND, float(sizes.max()) * BEYOND


def typical_scale(law: Law, name: str) -> ast.expr:
    """The value at which a parameter's part of the formula is as large as what it is added to,
    divided by or divides; else as large as 1. To be evaluated with the parameter itself at 1."""
    part, *outer = path_to(law.restricted, name)
    for whole in outer:
        match whole:
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Div(), right=right):
                other = right if left is part else left
                if any(n.id in law.inputs for n in names_in(whole)):
                    return ast.BinOp(other, ast.Div(), part)
            case ast.BinOp(op=ast.Mult()) | ast.UnaryOp():
                pass
            case _:
                break
        part = whole
    return ast.BinOp(ast.Constant(1.0), ast.Div(), part)
