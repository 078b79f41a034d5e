"""A law put on rows: losses, their derivatives, and the variables that they are solved in.

The variables z are the coefficients at the centre of the data, then the exponents, so the units of
the data never matter. Two kinds share one interface: :class:`Monomials`, where all derivatives are
a term times a logarithm, and :class:`p2fit.solver.formula.Formula` for any other law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.laws.law import Law
from p2fit.scales import SCALES, Linear, Residual
from p2fit.solver.effects import Effects

if TYPE_CHECKING:
    from p2fit.laws.jets import Functions, Jet

#: Root mean square residual below which a fit is called exact: rounding, not data.
EXACT = 1e-12


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
    effects: Effects | None = field(default=None, kw_only=True)
    """What the rows of a run share, where that is in the model; the weights are 1 then."""

    #: Iterations after which a step that kept less than this share of what it promised is taken
    #: back to the floor of its valley (see :mod:`p2fit.solver.least_squares`).
    valleys = 0, 0.25

    @property
    def still(self) -> float:
        """Squared effect on the losses, of the largest of a variable's, at which rounding is all
        that a variable does."""
        return 0.0

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
    def linear(self) -> Index:
        """Places in z of all that what is predicted is linear in, the coefficients first."""
        return np.arange(self.coefficients)

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

    def amounts(self, z: Array) -> Array:
        """What of a coefficient moves the losses at z (p,) by a typical loss, and one unit of the
        exponents, shape (p,)."""
        return self.sizes

    def recentred(self, z: Array) -> Self:
        """The same problem in variables in which the coefficients are as large as what they add
        to the losses at z (p,)."""
        return self

    @cached_property
    def floor(self) -> float:
        """Objective of residuals that are mere rounding."""
        return float(self.weights.sum()) * (EXACT * self.scale.typical(self.y)) ** 2

    def rows(self, index: Index | slice) -> Self:
        """The same problem (and the same centre) on some of the rows."""
        return replace(
            self,
            y=self.y[index],
            weights=self.weights[index],
            offset=self.offset[index],
            effects=self.effects and self.effects.rows(index),
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
            effects=self.effects and self.effects.joined(len(other.y)),
        )

    def whitened(self, x: Array) -> Array:
        """What is a row each, (…, n), as independent coordinates of the objective."""
        return x if self.effects is None else self.effects.whitened(x)

    def coordinates(self, values: Any) -> Any:
        """Values of rows (…, n), the same for all of a run, for each of those coordinates."""
        return values if self.effects is None else self.effects.extended(values)

    def loss(self, z: Array) -> Array:
        """Fitted losses, (B, n), at z of shape (B, p)."""
        raise NotImplementedError

    def derivatives(self, z: Array) -> Derivatives:
        """Fitted losses and their derivatives at z of shape (B, p)."""
        raise NotImplementedError

    def jet(self, z: Any, functions: Functions) -> Jet:
        """The same as a jet of arrays of any library, that broadcast to (B, n)."""
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
