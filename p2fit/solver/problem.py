"""A law put on rows: losses, their derivatives, and the variables that they are solved in.

The variables z are the coefficients at the centre of the data, then the exponents, so the units of
the data never matter. Two kinds share one interface: :class:`Monomials`, where all derivatives are
a term times a logarithm, and :class:`p2fit.solver.formula.Formula` for any other law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from p2fit.laws.law import Array, Law, LawError, evaluate
from p2fit.scales import SCALES, Linear, Residual

Index = np.ndarray[Any, np.dtype[np.int64]]

#: Root mean square residual below which a fit is called exact: rounding, not data.
EXACT = 1e-12

_MOST = 10  # coefficients: their subsets are enumerated


@dataclass(frozen=True, eq=False)
class Problem:
    """A law on given rows, ready to be solved. Made by :func:`build`."""

    law: Law
    """The law, with fixed and tied parameters put in."""
    y: Array
    """What is predicted, shape (n,): losses in nats per token, or another column."""
    weights: Array
    """Row weights, shape (n,)."""
    offset: Array
    """What the formula adds without any parameter, shape (n,)."""
    centre: Array
    """log c_natural = log c_centred - centre[k] . (1, theta); (coefficients, 1 + exponents)."""
    lower: Array
    """Lower bounds of z."""
    upper: Array
    """Upper bounds of z."""
    residual: Residual
    """``log``, ``linear`` or ``arcsine``."""
    delta: float
    """Huber's threshold; inf for squared loss."""

    @property
    def scale(self) -> Linear:
        """The scale of the residuals."""
        return SCALES[self.residual]

    @cached_property
    def typical(self) -> float:
        """A typical size of what is predicted."""
        return float(np.abs(self.y).mean()) or 1.0

    @cached_property
    def coefficients(self) -> int:
        """How many coefficients."""
        return len(self.law.coefficients)

    @cached_property
    def exponents(self) -> int:
        """How many exponents (of a formula, all parameters that do not enter linearly)."""
        return len(self.law.exponents)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of z."""
        return (*self.law.coefficients, *self.law.exponents)

    @cached_property
    def logged(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which exponents are scales, held as their log, shape (exponents,)."""
        return np.array([e in self.law.scales for e in self.law.exponents], bool)

    @cached_property
    def sizes(self) -> Array:
        """What one unit of z amounts to: a typical loss for coefficients, 1 for exponents."""
        return np.concatenate([np.full(self.coefficients, self.typical), np.ones(self.exponents)])

    @cached_property
    def floor(self) -> float:
        """Objective of residuals that are mere rounding."""
        return float(self.weights.sum()) * (EXACT * self.scale.typical(self.y)) ** 2

    def rows(self, index: Index | slice) -> Self:
        """The same problem (and the same centre) on some of the rows."""
        return replace(
            self, y=self.y[index], weights=self.weights[index], offset=self.offset[index]
        )

    def at(self, points: Mapping[str, Array]) -> Self:
        """The same law at other points, in the same variables; the weights are 0.

        Args:
            points: the law's inputs there, of one shape.

        Raises:
            LawError: a point lies outside what the formula is for.
        """
        raise NotImplementedError

    def joined(self, other: Self) -> Self:
        """The same law on the rows of both."""
        return replace(
            self,
            y=np.concatenate([self.y, other.y]),
            weights=np.concatenate([self.weights, other.weights]),
            offset=np.concatenate([self.offset, other.offset]),
        )

    def loss(self, z: Array) -> Array:
        """Fitted losses, (B, n), at z of shape (B, p)."""
        raise NotImplementedError

    def derivatives(self, z: Array) -> Derivatives:
        """Fitted losses and their derivatives at z of shape (B, p)."""
        raise NotImplementedError

    def jacobian(self, z: Array) -> tuple[Array, Array]:
        """Fitted losses (n,) and their derivatives by z, (p, n), at one z (p,)."""
        with np.errstate(all="ignore"):
            found = self.derivatives(z[None])
        return found.fitted[0], found.jacobian[0]

    def generic(self) -> Array:
        """A point, shape (p,), where no term is 0 and no two exponents are equal."""
        z = np.concatenate([np.ones(self.coefficients), 0.3 + 0.17 * np.arange(self.exponents)])
        inside: Array = np.clip(z, self.lower, self.upper)
        return inside

    def scales(self, z: Array) -> Array:
        """Powers of the coefficients as written: b_D for (a_D/D)^b_D; (…, coefficients)."""
        return np.ones((*z.shape[:-1], self.coefficients))

    @cached_property
    def scale_slopes(self) -> Array:
        """Change of those powers with each exponent, (coefficients, exponents)."""
        return np.zeros((self.coefficients, self.exponents))

    def natural(self, z: Array) -> dict[str, Array]:
        """Every parameter, in the formula's own units, from z of shape (…, p)."""
        k = self.coefficients
        with np.errstate(all="ignore"):
            logs = np.log(z[..., :k]) - self.centre[:, 0] - z[..., k:] @ self.centre[:, 1:].T
            values = np.exp(logs / self.scales(z))
            theta = np.where(self.logged, np.exp(z[..., k:]), z[..., k:])
        found = dict(zip(self.law.coefficients, np.moveaxis(values, -1, 0)))
        found |= dict(zip(self.law.exponents, np.moveaxis(theta, -1, 0)))
        return self.law.full(found)

    def internal(self, parameters: Mapping[str, float]) -> Array:
        """z, shape (p,), from natural parameters."""
        theta = np.array([parameters[e] for e in self.law.exponents], float)
        theta[self.logged] = np.log(theta[self.logged])
        z = np.concatenate([np.ones(self.coefficients), theta])
        with np.errstate(divide="ignore"):
            logs = np.log([float(parameters[c]) for c in self.law.coefficients])
        logs = logs * self.scales(z) + self.centre[:, 0] + self.centre[:, 1:] @ theta
        z[: self.coefficients] = np.exp(logs)
        return z


@dataclass(frozen=True, eq=False)
class Derivatives:
    """The model at a batch of z."""

    fitted: Array
    """Losses, shape (B, n)."""
    jacobian: Array
    """Derivatives of the losses by z, shape (B, p, n)."""
    second: Callable[[Array], Array]
    """Second derivatives by z of the sum of the losses times what is given, (B, n) to
    (B, p, p)."""


@dataclass(frozen=True, eq=False)
class Monomials(Problem):
    """A sum of monomials: term_m = c_k * exp(P_m(theta) . logs), with logs centred and P affine
    in theta."""

    logs: Array
    """Centred logs of the bases and a last row of ones, shape (b, n)."""
    mean: Array
    """What was subtracted from the logs, shape (b,)."""
    constant: Array
    """Powers at theta = 0, shape (terms, b)."""
    slope: Array
    """Change of the powers with each exponent, shape (terms, exponents, b)."""
    sign: Array
    """+1 or -1 for each term, shape (terms,)."""
    group: tuple[int, ...]
    """Index of each term's coefficient, -1 where its size is known."""

    @cached_property
    def uses(self) -> list[list[tuple[int, list[tuple[int, float]]]]]:
        """For each exponent, the bases whose power it changes, and in which terms how much."""
        bases = range(len(self.logs))
        found = []
        for e in range(self.exponents):
            members = [[(m, f) for m, f in enumerate(self.slope[:, e, b]) if f] for b in bases]
            found.append([(b, terms) for b, terms in enumerate(members) if terms])
        return found

    @cached_property
    def members(self) -> Array:
        """1 where a term (column) belongs to a coefficient (row), else 0."""
        belongs = np.arange(self.coefficients)[:, None] == np.array(self.group)
        return np.where(belongs, 1.0, 0.0)

    @cached_property
    def known(self) -> Array:
        """1 for a term whose size is known, else 0, shape (terms,)."""
        return np.where(np.array(self.group) < 0, 1.0, 0.0)

    @cached_property
    def slopes(self) -> Array:
        """The slopes, shape (exponents, terms * b)."""
        return self.slope.transpose(1, 0, 2).reshape(self.exponents, self.constant.size)

    @cached_property
    def squares(self) -> Array:
        """Products of slopes, (terms * b * b, exponents * exponents)."""
        both = self.slope[:, :, None, :, None] * self.slope[:, None, :, None, :]
        terms, q, _, b, _ = both.shape
        return both.transpose(0, 3, 4, 1, 2).reshape(terms * b * b, q * q)

    @cached_property
    def pairs(self) -> Array:
        """Products of logs, (n, b * b)."""
        both = self.logs[:, None, :] * self.logs[None, :, :]
        return both.reshape(-1, both.shape[-1]).T

    def rows(self, index: Index | slice) -> Self:
        return replace(super().rows(index), logs=self.logs[:, index])

    def at(self, points: Mapping[str, Array]) -> Self:
        n = len(next(iter(points.values())))
        offset, raw = _offset(self.law, points, n), _logs(self.law, points, n)
        logs = raw - self.mean[:, None]
        return replace(self, y=np.ones(n), weights=np.zeros(n), offset=offset, logs=logs)

    def joined(self, other: Self) -> Self:
        logs = np.concatenate([self.logs, other.logs], axis=1)
        return replace(super().joined(other), logs=logs)

    def scales(self, z: Array) -> Array:
        theta = dict(zip(self.law.exponents, np.moveaxis(z[..., self.coefficients :], -1, 0)))
        scales = {t.coefficient: t.scale for t in self.law.terms if t.coefficient}
        columns = [
            np.broadcast_to(scales[c].value(theta), z.shape[:-1]) for c in self.law.coefficients
        ]
        return np.stack(columns, -1) if columns else np.zeros((*z.shape[:-1], 0))

    @cached_property
    def scale_slopes(self) -> Array:
        found = np.zeros((self.coefficients, self.exponents))
        for t in (t for t in self.law.terms if t.coefficient):
            for name, weight in t.scale.weights:
                at = self.law.coefficients.index(str(t.coefficient))
                found[at, self.law.exponents.index(name)] = weight
        return found

    def loss(self, z: Array) -> Array:
        with np.errstate(all="ignore"):
            fitted: Array = self.offset + self._terms(z)[1].sum(axis=1)
        return fitted

    def derivatives(self, z: Array) -> Derivatives:
        k, q = self.coefficients, self.exponents
        phi, sizes = self._terms(z)
        jac = np.empty((len(phi), k + q, phi.shape[-1]))
        for i in range(k):
            terms = [m for m, g in enumerate(self.group) if g == i]
            jac[:, i] = phi[:, terms[0]] if len(terms) == 1 else phi[:, terms].sum(axis=1)
        for e, bases in enumerate(self.uses):
            jac[:, k + e] = 0.0
            for b, factors in bases:
                part = sum(sizes[:, m] if f == 1 else sizes[:, m] * f for m, f in factors)
                jac[:, k + e] += part * self.logs[b]

        def second(pull: Array) -> Array:
            # Moments of the logs.
            found = np.zeros((len(z), k + q, k + q))
            curve = np.matmul(pull[:, None] * sizes, self.pairs).reshape(len(z), -1) @ self.squares
            found[:, k:, k:] = curve.reshape(len(z), q, q)
            first = np.matmul(pull[:, None] * phi, self.logs.T)[:, :, None, :]  # (B, terms, 1, b)
            cross = self.members @ np.matmul(first, self.slope.transpose(0, 2, 1))[:, :, 0]
            found[:, :k, k:] = cross
            found[:, k:, :k] = cross.transpose(0, 2, 1)
            return found

        return Derivatives(self.offset + sizes.sum(axis=1), jac, second)

    def _terms(self, z: Array) -> tuple[Array, Array]:
        """phi (without coefficient) and term sizes, each (B, terms, n)."""
        k = self.coefficients
        powers = self.constant.ravel() + z[:, k:] @ self.slopes
        phi = np.exp(powers.reshape(-1, len(self.logs)) @ self.logs)
        phi = phi.reshape(len(z), len(self.group), -1) * self.sign[:, None]
        return phi, phi * (z[:, :k] @ self.members + self.known)[:, :, None]


def build(
    law: Law,
    columns: Mapping[str, Array],
    y: Array,
    weights: Array,
    *,
    residual: Residual = "log",
    delta: float = 1e-3,
    known: bool = True,
    start: Mapping[str, float] | None = None,
) -> Problem:
    """Put a law on rows.

    Args:
        law: the law, restricted as wished.
        columns: every input of the law, each of shape (n,).
        y: what is predicted, shape (n,); > 0 for log residuals.
        weights: row weights, shape (n,), >= 0.
        known: whether to add the terms without parameters.
        start: where searches begin, for parameters of a law that is not a sum of monomials.

    Raises:
        LawError: the formula has no value on some row (the message names the row count).
    """
    if len(law.coefficients) > _MOST:
        raise LawError(
            f"the law has {len(law.coefficients)} coefficients; at most {_MOST} are fitted"
        )
    if not law.monomial or _reaches_zero(law, columns):
        from p2fit.solver.formula import put  # jets are for laws that need them

        return put(law, columns, y, weights, residual=residual, delta=delta, start=start or {})
    offset = _offset(law, columns, len(y)) if known else np.zeros(len(y))
    raw = _logs(law, columns, len(y))
    mean = raw.mean(axis=1)
    mean[-1] = 0.0

    terms, bases = [t for t in law.terms if not t.known], _bases(law)
    m, q, b = len(terms), len(law.exponents), len(bases) + 1
    constant, slope = np.zeros((m, b)), np.zeros((m, q, b))
    for j, t in enumerate(terms):
        constant[j, -1] = np.log(abs(t.number))
        for base, power in t.powers:
            i = bases.index(base)
            constant[j, i] = power.constant
            for name, weight in power.weights:
                slope[j, law.exponents.index(name), i] = weight
    names = law.coefficients
    group = tuple(names.index(t.coefficient) if t.coefficient else -1 for t in terms)
    # Centring: the size of a coefficient's terms at the mean of the logs, averaged over its terms.
    size = np.concatenate([(constant @ mean + constant[:, -1])[:, None], slope @ mean], axis=1)
    centre = np.zeros((len(names), 1 + q))
    for k in range(len(names)):
        centre[k] = size[[g == k for g in group]].mean(axis=0)
    rest = size - np.stack([centre[g] if g >= 0 else np.zeros(1 + q) for g in group])
    constant[:, -1], slope[:, :, -1] = rest[:, 0], rest[:, 1:]
    bounds = np.array([law.ranges[n] for n in (*names, *law.exponents)])
    return Monomials(
        law=law,
        y=y,
        weights=weights,
        offset=offset,
        logs=raw - mean[:, None],
        mean=mean,
        constant=constant,
        slope=slope,
        sign=np.array([np.sign(t.number) for t in terms]),
        group=group,
        centre=centre,
        lower=bounds[:, 0],
        upper=bounds[:, 1],
        residual=residual,
        delta=delta,
    )


def _reaches_zero(law: Law, columns: Mapping[str, Array]) -> bool:
    """Whether a base that only takes powers of 1 has values that have no log."""
    powers: dict[str, set[bool]] = {}
    for t in (t for t in law.terms if not t.known):
        for base, power in t.powers:
            powers.setdefault(base, set()).add(not power.weights and power.constant == 1)
    return any(
        all(plain) and not np.all(evaluate(base, columns) > 0) for base, plain in powers.items()
    )


def _bases(law: Law) -> list[str]:
    """Texts of what is raised to powers, in terms with parameters."""
    return list(dict.fromkeys(b for t in law.terms if not t.known for b, _ in t.powers))


def _offset(law: Law, columns: Mapping[str, Array], n: int) -> Array:
    """The terms without parameters, shape (n,)."""
    offset = np.zeros(n)
    for t in (t for t in law.terms if t.known):
        part = np.full(n, t.number)
        for base, power in t.powers:
            part = part * np.broadcast_to(evaluate(base, columns), (n,)) ** power.constant
        offset = offset + part
    if not np.isfinite(offset).all():
        raise LawError("the part of the formula without parameters is not finite in some rows")
    return offset


def _logs(law: Law, columns: Mapping[str, Array], n: int) -> Array:
    """Logs of the bases and a last row of ones, shape (b, n)."""
    bases = _bases(law)
    raw = np.ones((len(bases) + 1, n))
    for i, base in enumerate(bases):
        values = np.broadcast_to(evaluate(base, columns), (n,))
        bad = int(np.sum(~((values > 0) & np.isfinite(values))))
        if bad:
            raise LawError(f"{base} must be above 0 in this law; in {bad} rows it is not")
        raw[i] = np.log(values)
    return raw
