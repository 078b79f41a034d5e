"""A formula as a sum of monomials, where it is one."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.errors import LawError, NotMonomialError
from p2fit.laws.expression import evaluate_node, names_in, unparse


@dataclass(frozen=True)
class Affine:
    """A power: a number plus number-weighted exponents, e.g. ``-delta - alpha``."""

    constant: float = 0.0
    """The part without parameters."""
    weights: tuple[tuple[str, float], ...] = ()
    """Exponent name and its factor, sorted by name, no zero factors."""

    @staticmethod
    def of(constant: float, weights: Mapping[str, float]) -> Affine:
        return Affine(constant, tuple(sorted((k, v) for k, v in weights.items() if v)))

    def __add__(self, other: Affine) -> Affine:
        weights = dict(self.weights)
        for name, value in other.weights:
            weights[name] = weights.get(name, 0.0) + value
        return Affine.of(self.constant + other.constant, weights)

    def scaled(self, factor: float) -> Affine:
        return Affine.of(self.constant * factor, {k: v * factor for k, v in self.weights})

    def times(self, other: Affine) -> Affine:
        if not self.weights:
            return other.scaled(self.constant)
        if not other.weights:
            return self.scaled(other.constant)
        raise NotMonomialError("a power of a power has two unknown exponents")

    def value(self, parameters: Mapping[str, Any]) -> Any:
        """The power at given exponents (scalars, or arrays of one shape)."""
        return self.constant + sum(parameters[k] * v for k, v in self.weights)


@dataclass(frozen=True)
class Term:
    """One monomial, ``number * coefficient * prod(base^power)``."""

    number: float
    """A non-zero factor, with the term's sign."""
    coefficient: str | None
    """The parameter that scales the term (None: the scale is known)."""
    scale: Affine
    """The power of that parameter: 1 for ``A/N^alpha``, ``alpha`` for ``(A/N)^alpha``."""
    powers: tuple[tuple[str, Affine], ...]
    """Each base (the text of a parameter-free expression) and its power."""

    @property
    def exponents(self) -> set[str]:
        return {name for _, power in self.powers for name, _ in power.weights}

    @property
    def known(self) -> bool:
        """Whether the term has no parameter at all: a part of the offset."""
        return self.coefficient is None and not self.exponents


# ---------------------------------------------------------------- expansion into monomials


@dataclass(frozen=True)
class _Monomial:
    number: float
    powers: Mapping[str, Affine]  # keyed by parameter name or by the text of a base

    def __post_init__(self) -> None:
        if not math.isfinite(self.number):
            raise LawError("a number in the formula becomes too large")

    def __mul__(self, other: _Monomial) -> _Monomial:
        powers = dict(self.powers)
        for base, power in other.powers.items():
            powers[base] = powers[base] + power if base in powers else power
        return _Monomial(
            self.number * other.number,
            {b: p for b, p in powers.items() if p != Affine()},
        )

    def __pow__(self, power: Affine) -> _Monomial:
        powers = {b: p.times(power) for b, p in self.powers.items()}
        if not power.weights:
            if self.number < 0 and power.constant != round(power.constant):
                raise LawError(f"a negative number, {self.number:g}, cannot take that power")
            if self.number == 0 and power.constant < 0:
                raise LawError("the formula divides by zero")
            with np.errstate(all="ignore"):
                return _Monomial(float(np.float64(self.number) ** power.constant), powers)
        if self.number <= 0:
            raise LawError(f"{self.number:g} cannot take an unknown power")
        if self.number != 1:
            base = repr(self.number)
            powers[base] = powers[base] + power if base in powers else power
        return _Monomial(1.0, powers)


def expand(node: ast.expr, parameters: set[str]) -> list[_Monomial]:
    own = [n.id for n in names_in(node)]
    if not own:
        with np.errstate(all="ignore"):
            value = float(evaluate_node(node, {}))
        if not math.isfinite(value):
            raise LawError(f"{ast.unparse(node)} is not a finite number")
        return [_Monomial(value, {})]
    if not parameters.intersection(own):
        return [_Monomial(1.0, {ast.unparse(node).replace("**", "^"): Affine(1.0)})]
    match node:
        case ast.Name(id=name):
            return [_Monomial(1.0, {name: Affine(1.0)})]
        case ast.UnaryOp(op=op, operand=operand):
            sign = -1.0 if isinstance(op, ast.USub) else 1.0
            return [_Monomial(sign * m.number, m.powers) for m in expand(operand, parameters)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return expand(left, parameters) + expand(right, parameters)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            minus = [_Monomial(-m.number, m.powers) for m in expand(right, parameters)]
            return expand(left, parameters) + minus
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            b = expand(right, parameters)
            return [x * y for x in expand(left, parameters) for y in b]
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            below = expand(right, parameters)
            if len(below) > 1:
                raise NotMonomialError(f"a sum, {unparse(right)}, divides")
            return [x * below[0] ** Affine(-1.0) for x in expand(left, parameters)]
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            power = _affine(right, parameters)
            inner = expand(left, parameters)
            if len(inner) == 1:
                return [inner[0] ** power]
            if power in (Affine(2.0), Affine(3.0)):
                product = inner
                for _ in range(int(power.constant) - 1):
                    product = [x * y for x in product for y in inner]
                return product
            raise NotMonomialError(f"a sum with parameters, {unparse(left)}, is raised to a power")
    raise NotMonomialError(f"{unparse(node)} has parameters inside exp or log")


def _affine(node: ast.expr, parameters: set[str]) -> Affine:
    total = Affine()
    for m in expand(node, parameters):
        linear = all(b in parameters and p == Affine(1.0) for b, p in m.powers.items())
        if not linear or len(m.powers) > 1:
            raise NotMonomialError(f"the power {unparse(node)} is not a plain sum of exponents")
        weights = dict.fromkeys(m.powers, m.number)
        total += Affine.of(0.0 if weights else m.number, weights)
    return total


def collect(monomials: list[_Monomial], parameters: set[str]) -> tuple[Term, ...]:
    merged: dict[tuple[tuple[str, Affine], ...], float] = {}
    for m in monomials:
        key = tuple(sorted(m.powers.items(), key=lambda item: item[0]))
        merged[key] = merged.get(key, 0.0) + m.number
    terms = []
    for powers, number in merged.items():
        scales = [(b, p) for b, p in powers if b in parameters]
        rest = tuple((b, p) for b, p in powers if b not in parameters)
        if number == 0:
            continue
        if len(scales) > 1:
            names = " and ".join(b for b, _ in scales)
            raise LawError(f"{names} multiply each other: only their product can be fitted")
        coefficient, scale = scales[0] if scales else (None, Affine())
        terms.append(Term(number, coefficient, scale, rest))
    exponents = {e for t in terms for e in t.exponents} | {
        e for t in terms for e, _ in t.scale.weights
    }
    for t in terms:
        if t.coefficient in exponents:
            raise NotMonomialError(f"{t.coefficient} is both an exponent and a coefficient")
        other = {u.scale for u in terms if u.coefficient == t.coefficient}
        if t.coefficient and len(other) > 1:
            raise NotMonomialError(f"{t.coefficient} enters with two different powers")
        if t.coefficient and not t.scale.weights and t.scale.constant <= 0:
            raise LawError(f"{t.coefficient} divides: write it as a factor")
    lost = exponents - {e for t in terms for e in t.exponents}
    if lost:
        raise LawError(f"{', '.join(sorted(lost))} is the power of no input")
    return tuple(terms)
