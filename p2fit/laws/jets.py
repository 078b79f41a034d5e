"""Numbers that carry their first and, if asked for, second derivatives through a formula.

Forward-mode differentiation over whole batches of rows and starts: a :class:`Jet` is an array with
its derivatives by the parameters, and :mod:`p2fit.laws.law` evaluates a formula on jets as it does
on arrays, with the functions of this module in place of NumPy's. A jet made without second
derivatives goes without them. A derivative that is 0 by the shape of the formula is not there, so a
sum of terms costs what its terms do.

Method: Griewank & Walther, Evaluating Derivatives (2008), chapter 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Pair = tuple[int, int]

#: Derivative of a variable by itself: what it multiplies is not copied.
ONE: Any = 1.0


class Jet:
    """An array and its derivatives by numbered variables; all broadcast together."""

    __array_ufunc__ = None  # an array on the left leaves the work to the jet on the right
    __slots__ = ("first", "second", "value")

    def __init__(
        self, value: Any, first: Mapping[int, Any], second: Mapping[Pair, Any] | None = None
    ) -> None:
        self.value = value
        """The array."""
        self.first = first
        """Derivative by variable i."""
        self.second = second
        """Derivative by variables i <= j; None: not carried."""

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        return Jet(
            self.value + other.value,
            _sum(self.first, other.first),
            _both(self.second, other.second),
        )

    __radd__ = __add__

    def __neg__(self) -> Jet:
        second = None if self.second is None else {ij: -d for ij, d in self.second.items()}
        return Jet(-self.value, {i: -d for i, d in self.first.items()}, second)

    def __sub__(self, other: Any) -> Jet:
        less: Jet = self + -other
        return less

    def __rsub__(self, other: Any) -> Jet:
        less: Jet = -self + other
        return less

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            second = None if self.second is None else _times(self.second, other)
            return Jet(self.value * other, _times(self.first, other), second)
        first = _sum(_times(self.first, other.value), _times(other.first, self.value))
        if self.second is None or other.second is None:
            return Jet(self.value * other.value, first)
        second = _sum(_times(self.second, other.value), _times(other.second, self.value))
        for i, a in self.first.items():
            for j, b in other.first.items():
                term = b if a is ONE else a if b is ONE else a * b
                if i == j:
                    term = 2 * term
                pair = (i, j) if i <= j else (j, i)
                second[pair] = second[pair] + term if pair in second else term
        return Jet(self.value * other.value, first, second)

    __rmul__ = __mul__


class Functions:
    """exp, log, divide and power, of arrays of one library and of jets of them."""

    def __init__(self, library: Any) -> None:
        """
        Args:
            library: NumPy, or what has these functions by the same names.
        """
        self.library = library

    def divide(self, a: Any, b: Any) -> Any:
        """a / b."""
        xp = self.library
        if not isinstance(b, Jet):
            return a * xp.divide(1.0, b) if isinstance(a, Jet) else xp.divide(a, b)
        inverse = xp.divide(1.0, b.value)
        square = inverse * inverse
        return _chain(b, inverse, -square, 2 * square * inverse) * a

    def power(self, a: Any, b: Any) -> Any:
        """a ^ b."""
        xp = self.library
        if isinstance(a, Jet) and isinstance(b, Jet):
            return self.exp(b * self.log(a))
        if isinstance(a, Jet):
            value, below = xp.power(a.value, b), xp.power(a.value, b - 1)
            return _chain(a, value, b * below, b * (b - 1) * xp.power(a.value, b - 2))
        if isinstance(b, Jet):
            value, size = xp.power(a, b.value), xp.log(a)
            return _chain(b, value, value * size, value * size * size)
        return xp.power(a, b)

    def exp(self, a: Any) -> Any:
        """The exponential."""
        if not isinstance(a, Jet):
            return self.library.exp(a)
        value = self.library.exp(a.value)
        return _chain(a, value, value, value)

    def log(self, a: Any) -> Any:
        """The natural logarithm."""
        if not isinstance(a, Jet):
            return self.library.log(a)
        inverse = self.library.divide(1.0, a.value)
        return _chain(a, self.library.log(a.value), inverse, -inverse * inverse)


NUMPY = Functions(np)
divide, power, exp, log = NUMPY.divide, NUMPY.power, NUMPY.exp, NUMPY.log


def variables(z: Any) -> list[Jet]:
    """The columns of z, (B, p), as variables, (B, 1) each."""
    return [Jet(z[:, i, None], {i: ONE}, {}) for i in range(z.shape[1])]


def _chain(inner: Jet, value: Any, slope: Any, curve: Any) -> Jet:
    """A function of a jet, from the function's value and its two derivatives."""
    first = _times(inner.first, slope)
    if inner.second is None:
        return Jet(value, first)
    second = _times(inner.second, slope)
    bent = first if curve is slope else _times(inner.first, curve)
    names = sorted(first)
    for at, i in enumerate(names):
        for j in names[at:]:
            own = inner.first[j]
            term = bent[i] if own is ONE else bent[i] * own
            second[i, j] = second[i, j] + term if (i, j) in second else term
    return Jet(value, first, second)


def _times(derivatives: Mapping[Any, Any], factor: Any) -> dict[Any, Any]:
    return {key: factor if d is ONE else d * factor for key, d in derivatives.items()}


def _both(a: Mapping[Pair, Any] | None, b: Mapping[Pair, Any] | None) -> Mapping[Pair, Any] | None:
    return None if a is None or b is None else _sum(a, b)


def _sum(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> dict[Any, Any]:
    both = dict(a)
    for key, value in b.items():
        both[key] = both[key] + value if key in both else value
    return both
