"""A law's formula as MathML, with its symbols or with its fitted numbers."""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Mapping
from html import escape

from p2fit.laws.law import Law

_COLUMNS = {
    "tokens": "<mi>D</mi>",
    "pruning_rate": "<mi>ρ</mi>",
    "base_loss": "<msub><mi>L</mi><mn>0</mn></msub>",
    "avg_params": "<mover><mi>N</mi><mo>¯</mo></mover>",
    "active_params": "<mi>N</mi>",
}
_MINUS, _TIMES = "<mo>−</mo>", "<mo>&#x2062;</mo>"


def formula(law: Law, values: Mapping[str, float] | None = None) -> str:
    """The formula as one MathML element.

    Args:
        values: numbers to put in the place of parameters; the others stay symbols.
    """
    body = _math(law.tree, law, values or {})[0]
    return (
        f'<math display="block" alttext="{escape(f"L = {law.formula}")}">'
        f"<mrow><mi>L</mi><mo>=</mo>{body}</mrow></math>"
    )


def symbol(law: Law, name: str) -> str:
    """One name of the formula as an inline MathML element."""
    return f'<math alttext="{escape(name)}">{_name(law, name)}</math>'


def _name(law: Law, name: str) -> str:
    if name in law.inputs:
        if name == "params":  # without pruning there is no "before": N rather than N_0
            pruned = "pruning_rate" in law.inputs
            return "<msub><mi>N</mi><mn>0</mn></msub>" if pruned else "<mi>N</mi>"
        if name in _COLUMNS:
            return _COLUMNS[name]
    head, _, tail = name.partition("_")
    shown = f"<mi>{escape(_letter(head))}</mi>"
    return f"<msub>{shown}<mi>{escape(_letter(tail))}</mi></msub>" if tail else shown


def _letter(word: str) -> str:
    """``alpha`` as α; other words as they are."""
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {word}") if word.islower() else word
    except KeyError:
        return word


def _number(value: float) -> str:
    digits, _, power = f"{abs(value):.4g}".partition("e")
    if not power:
        return f"<mn>{digits}</mn>"
    sign = _MINUS if int(power) < 0 else ""
    ten = f"<msup><mn>10</mn><mrow>{sign}<mn>{abs(int(power))}</mn></mrow></msup>"
    return f"<mrow><mn>{digits}</mn><mo>·</mo>{ten}</mrow>"


def _value(node: ast.expr, values: Mapping[str, float]) -> float | None:
    """The number that stands here, a sign before it included; None for anything else."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            return values.get(name)
        case ast.UnaryOp(op=op, operand=operand):
            inner = _value(operand, values)
            return None if inner is None else -inner if isinstance(op, ast.USub) else inner
    return None


def _math(node: ast.expr, law: Law, values: Mapping[str, float]) -> tuple[str, int]:
    """MathML and its binding strength: 1 a sum, 2 a product, 3 an atom."""

    def show(child: ast.expr) -> str:
        return _math(child, law, values)[0]

    def bound(child: ast.expr, strength: int) -> str:
        text, own = _math(child, law, values)
        if own >= strength:
            return text
        return f"<mrow><mo>(</mo>{text}<mo>)</mo></mrow>"

    number = _value(node, values)
    if number is not None:
        text = _number(number)
        return (f"<mrow>{_MINUS}{text}</mrow>", 1) if number < 0 else (text, 3)
    match node:
        case ast.Name(id=name):
            return _name(law, name), 3
        case ast.UnaryOp(op=op, operand=operand):
            sign = _MINUS if isinstance(op, ast.USub) else ""
            return f"<mrow>{sign}{bound(operand, 2)}</mrow>", 1
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            inside = f"<mrow><mo>(</mo>{show(argument)}<mo>)</mo></mrow>"
            return f"<mrow><mi>{name}</mi>{inside}</mrow>", 3
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            minus = isinstance(op, ast.Sub)
            after = _value(right, values)
            if after is not None and after < 0:
                minus, text = not minus, _number(after)
            else:
                text = bound(right, 2 if minus else 1)
            return f"<mrow>{bound(left, 1)}{_MINUS if minus else '<mo>+</mo>'}{text}</mrow>", 1
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            plain = _value(left, values) is not None or _value(right, values) is not None
            times = "<mo>·</mo>" if plain else _TIMES
            return f"<mrow>{bound(left, 2)}{times}{bound(right, 2)}</mrow>", 2
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return f"<mfrac><mrow>{show(left)}</mrow><mrow>{show(right)}</mrow></mfrac>", 3
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            simple = isinstance(left, ast.Name) and (_value(left, values) or 0) >= 0
            base = show(left) if simple else f"<mrow><mo>(</mo>{show(left)}<mo>)</mo></mrow>"
            return f"<msup>{base}<mrow>{show(right)}</mrow></msup>", 3
    raise AssertionError(ast.dump(node))  # Law.parse lets nothing else through
