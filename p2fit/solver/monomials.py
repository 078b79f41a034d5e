"""A law that is a sum of monomials, on rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.errors import LawError
from p2fit.laws.expression import evaluate
from p2fit.laws.law import Law
from p2fit.solver.problem import Derivatives, Problem

if TYPE_CHECKING:
    from p2fit.laws.jets import Functions, Jet


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

    valleys = 25, 0.0  # most starts have converged, the rest creep along a valley

    @property
    def still(self) -> float:
        return 1e-13  # logs are centred: of a constant input they are rounding

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
        n = len(next(iter(points.values()), [0.0]))
        offset, raw = offset_of(self.law, points, n), logs_of(self.law, points, n)
        logs = raw - self.mean[:, None]
        return replace(
            self, y=np.ones(n), weights=np.zeros(n), offset=offset, logs=logs, effects=None
        )

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

    def jet(self, z: Any, functions: Functions) -> Jet:
        from p2fit.laws.jets import variables

        k, own = self.coefficients, variables(z)
        total: Any = self.offset
        for m, g in enumerate(self.group):
            power = self.constant[m] @ self.logs
            for theta, slope in zip(own[k:], self.slope[m]):
                power = theta * (slope @ self.logs) + power if slope.any() else power
            size = functions.exp(power) * self.sign[m]
            total = (own[g] * size if g >= 0 else size) + total
        found: Jet = total
        return found

    def _terms(self, z: Array) -> tuple[Array, Array]:
        """phi (without coefficient) and term sizes, each (B, terms, n)."""
        k = self.coefficients
        powers = self.constant.ravel() + z[:, k:] @ self.slopes
        phi = np.exp(powers.reshape(-1, len(self.logs)) @ self.logs)
        phi = phi.reshape(len(z), len(self.group), -1) * self.sign[:, None]
        return phi, phi * (z[:, :k] @ self.members + self.known)[:, :, None]


def bases_of(law: Law) -> list[str]:
    """Texts of what is raised to powers, in terms with parameters."""
    return list(dict.fromkeys(b for t in law.terms if not t.known for b, _ in t.powers))


def offset_of(law: Law, columns: Mapping[str, Array], n: int) -> Array:
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


def logs_of(law: Law, columns: Mapping[str, Array], n: int) -> Array:
    """Logs of the bases and a last row of ones, shape (b, n)."""
    bases = bases_of(law)
    raw = np.ones((len(bases) + 1, n))
    for i, base in enumerate(bases):
        values = np.broadcast_to(evaluate(base, columns), (n,))
        bad = int(np.sum(~((values > 0) & np.isfinite(values))))
        if bad:
            raise LawError(f"{base} must be above 0 in this law; in {bad} rows it is not")
        raw[i] = np.log(values)
    return raw
