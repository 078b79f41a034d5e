"""Formulas in LaTeX."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping

from p2fit.laws.expression import substitute

# ---------------------------------------------------------------- LaTeX

SYMBOLS = {
    "loss": "L",
    "tokens": "D",
    "pruning_rate": r"\rho",
    "base_loss": "L_0",
    "avg_params": r"\bar{N}",
    "active_params": "N",
}
_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "kappa", "mu", "nu", "rho"}
_GREEK |= {"sigma", "tau", "theta", "eta", "zeta", "omega", "phi", "psi", "chi", "xi"}


def symbol(name: str, known: Mapping[str, str]) -> str:
    """A column's or parameter's name in LaTeX."""
    if name in known:
        return known[name]
    head, _, tail = name.partition("_")
    head = f"\\{head}" if head in _GREEK else head if len(head) == 1 else rf"\mathrm{{{head}}}"
    if not tail:
        return head
    tail = tail.replace("_", r"\_")
    return f"{head}_{tail}" if len(tail) == 1 else rf"{head}_{{\mathrm{{{tail}}}}}"


def formula(
    tree: ast.expr, inputs: Collection[str], target: str, values: Mapping[str, float] | None = None
) -> str:
    """A law in LaTeX: what it predicts, and how; with numbers in place of the parameters that have
    ``values``."""
    right = typeset(tidied(substitute(tree, values)) if values else tree, law_symbols(inputs))[0]
    return f"{symbol(target, SYMBOLS)} = {right}"


def law_symbols(inputs: Collection[str]) -> dict[str, str]:
    """The symbols of columns in a law of these inputs."""
    # Without pruning there is no "before": N rather than N_0.
    return {**SYMBOLS, "params": "N_0" if "pruning_rate" in inputs else "N"}


def tidied(node: ast.expr) -> ast.expr:
    """An expression in which no sign stands before another."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = tidied(operand)
            flipped = _positive(inner)
            return ast.UnaryOp(ast.USub(), inner) if flipped is None else flipped
        case ast.UnaryOp(operand=operand):
            return tidied(operand)
        case ast.Call(func=func, args=[argument]):
            return ast.Call(func, [tidied(argument)], [])
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            left, right = tidied(left), tidied(right)
            flipped = _positive(right)
            if flipped is None:
                return ast.BinOp(left, op, right)
            return ast.BinOp(left, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), flipped)
        case ast.BinOp(left=left, op=op, right=right):
            return ast.BinOp(tidied(left), op, tidied(right))
    return node


def _positive(node: ast.expr) -> ast.expr | None:
    """A term that begins with a minus, without it; None for any other."""
    match node:
        case ast.Constant(value=int() | float() as value) if value < 0:
            return ast.Constant(-value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return operand
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as op, right=right):
            first = _positive(left)
            return None if first is None else ast.BinOp(first, op, right)
    return None


def typeset(node: ast.expr, symbols: Mapping[str, str]) -> tuple[str, int]:
    """LaTeX and its binding strength: 1 a sum, 2 a product, 3 an atom."""

    def bound(child: ast.expr, strength: int) -> str:
        text, own = typeset(child, symbols)
        return text if own >= strength else rf"\left({text}\right)"

    match node:
        case ast.Constant(value=int() | float() as value):
            digits, _, power = f"{value:.10g}".partition("e")
            text = rf"{digits} \cdot 10^{{{int(power)}}}" if power else digits
            return text, 1 if value < 0 else 2 if power else 3
        case ast.Name(id=name):
            return symbol(name, symbols), 3
        case ast.UnaryOp(op=op, operand=operand):
            return ("-" if isinstance(op, ast.USub) else "") + bound(operand, 2), 1
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return rf"\{name}\left({typeset(argument, symbols)[0]}\right)", 3
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{bound(left, 1)} + {bound(right, 1)}", 1
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{bound(left, 1)} - {bound(right, 2)}", 1
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            second = bound(right, 2)
            sign = r"\cdot" if second[0].isdigit() else r"\,"  # two numbers side by side are one
            return rf"{bound(left, 2)} {sign} {second}", 2
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{typeset(left, symbols)[0]}}}{{{typeset(right, symbols)[0]}}}", 3
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            plain = isinstance(left, ast.Name)
            base = (
                typeset(left, symbols)[0] if plain else rf"\left({typeset(left, symbols)[0]}\right)"
            )
            return f"{base}^{{{typeset(right, symbols)[0]}}}", 3
    raise AssertionError(ast.dump(node))
