"""A law taken apart along its inputs: the rest, and for each input a size and a power."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import LawError
from p2fit.laws.expression import evaluate
from p2fit.laws.law import Law
from p2fit.laws.monomials import Affine, Term
from p2fit.plan.quantities import Parameters


class Power(NamedTuple):
    """A term size / x^power of one input x; arrays of one shape."""

    size: Array
    power: Array


class Parts(NamedTuple):
    """L = rest + sum over inputs x of size_x / x^power_x."""

    rest: Array
    along: dict[str, Power]


def separate(
    law: Law, parameters: Parameters, at: Mapping[str, Any], along: Sequence[str]
) -> Parts | None:
    """Take a law apart, at given values of its other inputs.

    Args:
        parameters: all of them, each of shape (S,).
        at: values of the other inputs, scalars.
        along: inputs that the law is to be a sum of powers of.

    Returns:
        None where the law has no such form: terms that mix these inputs or do not fall as a power
        of one, or several different powers of one input.
    """
    try:
        terms = law.terms
    except LawError:
        return None
    shape = np.shape(next(iter(parameters.values())))
    rest, found = np.zeros(shape), dict[str, Power]()
    powers: dict[str, Affine] = {}
    for term in terms:
        bases = {b for b, _ in term.powers if set(re.findall(r"[A-Za-z_]\w*", b)) & set(along)}
        if not bases:
            rest = rest + _size(term, parameters, at)
            continue
        base, *more = bases
        monomial = _monomial(base)
        if more or monomial is None:
            return None
        x, factor, degree = monomial
        own = dict(term.powers)[base]
        if powers.setdefault(x, own.scaled(degree)) != own.scaled(degree):
            return None
        size = _size(term, parameters, at, without=base) * factor ** own.value(parameters)
        before = found[x].size if x in found else 0.0
        value = -degree * np.broadcast_to(own.value(parameters), shape)
        found[x] = Power(before + size, value)
    return Parts(rest, found)


def _monomial(base: str) -> tuple[str, float, float] | None:
    """Input, factor and degree of a base such as ``tokens``, ``tokens / 1e9`` or ``tokens^0.3``."""
    names = sorted(set(re.findall(r"[A-Za-z_]\w*", base)))
    if len(names) != 1:
        return None
    x = np.array([1.0, 1e3, 1e6, 1e12])
    with np.errstate(all="ignore"):
        logs = np.log(evaluate(base, {names[0]: x}))
    degree = (logs[-1] - logs[0]) / math.log(1e12)
    if not np.allclose(logs, logs[0] + degree * np.log(x), rtol=1e-12, atol=1e-12):
        return None  # an exponential, a sum with a constant
    return names[0], math.exp(logs[0]), float(degree)


def _size(
    term: Term, parameters: Parameters, at: Mapping[str, Any], without: str | None = None
) -> Array:
    """The term's value, one base left out."""
    size = np.full(np.shape(next(iter(parameters.values()))), term.number)
    if term.coefficient is not None:
        size = size * parameters[term.coefficient] ** term.scale.value(parameters)
    columns = {x: np.asarray(v, float) for x, v in at.items()}
    for base, power in term.powers:
        if base != without:
            size = size * evaluate(base, columns) ** power.value(parameters)
    return size
