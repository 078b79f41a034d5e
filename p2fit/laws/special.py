"""The special cases of a formula that are sums of monomials: a power of 1 or 0, a shift or a
coefficient of 0.

Such a case has a global optimum that is found for certain (see :mod:`p2fit.solver.starts`), and the
formula's own is never above it: it is where one of the searches begins.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

from p2fit.errors import LawError
from p2fit.laws.law import Law

_ZERO = ast.Constant(0.0)
_TOGETHER = 2  # parameters that are special at once
_MOST = 2  # cases, those with most parameters


Case = tuple[Law, Mapping[str, float]]


def special_cases(law: Law) -> tuple[Case, ...]:
    """Sums of monomials that a law is at some values of one of its parameters, or else of two.

    Returns:
        Each with these values; inf stands for beyond all data, 0 of a scale for below them.
    """
    key = law.formula, tuple(law.fixed.items()), tuple(law.tied.items())
    return _special_cases(*key, law.inputs, tuple(law.stated.items()))


@lru_cache
def _special_cases(
    formula: str,
    fixed: tuple[tuple[str, float], ...],
    tied: tuple[tuple[str, str], ...],
    inputs: tuple[str, ...],
    stated: tuple[tuple[str, tuple[float, float]], ...],
) -> tuple[Case, ...]:
    law = Law.parse(formula, columns=inputs, ranges=dict(stated))
    law = law.restrict(dict(fixed), dict(tied)) if fixed or tied else law
    values = [(n, v) for n in law.free for v in _values(law, n)]
    for size in range(1, _TOGETHER + 1):
        chosen = (dict(c) for c in itertools.combinations(values, size))
        cases = [(_case(law, held), held) for held in chosen if len(held) == size]
        wide = len(law.free) / 2  # what is left of a law with less is found without a start
        found = [(case, held) for case, held in cases if case and len(case.free) > wide]
        if found:
            return tuple(_widest(sorted(found, key=lambda case: -len(case[0].free)))[:_MOST])
    return ()


def _widest(cases: list[Case]) -> list[Case]:
    """Those of cases, widest first, that none before them contains."""
    kept: list[Case] = []
    for law, held in cases:
        # What holds more of the same, or of what is idle in it, is a case of the other.
        within = (
            all(held.get(n) == v or n not in {*held, *law.free} for n, v in other.items())
            for _, other in kept
        )
        if not any(within):
            kept.append((law, held))
    return kept


def _values(law: Law, name: str) -> Iterator[float]:
    """Where a parameter is special, within its range."""
    low, high = law.ranges[name]
    if name in law.scales:
        yield from (0.0, math.inf)
        return
    special = (1.0, 0.0) if name in law.powers else (0.0,)
    yield from (v for v in special if low <= v <= high)


def _case(law: Law, held: Mapping[str, float]) -> Law | None:
    """The law with parameters held, if it is a sum of monomials."""
    try:
        tree = _simplified(law.restricted, held)
        case = Law.parse(ast.unparse(tree), columns=law.inputs)
        own = {n: law.ranges[n] for n in case.exponents}
        stated = {n: r for n, r in law.stated.items() if n in case.free}
        case = case.within({**own, **stated})
        return case if case.monomial else None
    except LawError:
        return None


def _simplified(node: ast.expr, held: Mapping[str, float]) -> ast.expr:
    """An expression with values for some of its names, without what these leave idle."""
    match node:
        case ast.Name(id=name) if name in held:
            return ast.Constant(held[name])
        case ast.UnaryOp(op=op, operand=operand):
            inner = _simplified(operand, held)
            if isinstance(op, ast.UAdd) or _is(inner, 0):
                return inner
            return ast.UnaryOp(op, inner)
        case ast.Call(func=ast.Name(id="exp") as function, args=[argument]):
            inner = _simplified(argument, held)
            if isinstance(inner, ast.UnaryOp) and _is(inner.operand, math.inf):
                return _ZERO
            return ast.Constant(1.0) if _is(inner, 0) else ast.Call(function, [inner], [])
        case ast.BinOp(left=left, op=op, right=right):
            return _joined(_simplified(left, held), op, _simplified(right, held))
    return node


def _joined(a: ast.expr, op: ast.operator, b: ast.expr) -> ast.expr:
    """Two expressions joined; columns and parameters are taken for positive."""
    match op:
        case ast.Add() if _is(a, 0):
            return b
        case ast.Add() | ast.Sub() if _is(b, 0):
            return a
        case ast.Sub() if _is(a, 1) and _is(b, 1):
            return _ZERO
        case ast.Mult() if _is(a, 0) or _is(b, 0):
            return _ZERO
        case ast.Mult() if _is(a, 1):
            return b
        case ast.Mult() | ast.Div() | ast.Pow() if _is(b, 1):
            return a
        case ast.Div() | ast.Pow() if _is(a, 0):
            return _ZERO
        case ast.Div() if _is(b, math.inf):
            return _ZERO
        case ast.Div() if _is(b, 0):
            beyond = ast.Constant(math.inf)
            return ast.UnaryOp(a.op, beyond) if isinstance(a, ast.UnaryOp) else beyond
        case ast.Pow() if _is(a, 1) or _is(b, 0):
            return ast.Constant(1.0)
    return ast.BinOp(a, op, b)


def _is(node: ast.expr, value: float) -> bool:
    return isinstance(node, ast.Constant) and node.value == value
