"""Formulas in LaTeX."""

from __future__ import annotations

import ast
from collections.abc import Mapping

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


def typeset(node: ast.expr, symbols: Mapping[str, str]) -> tuple[str, int]:
    """LaTeX and its binding strength: 1 a sum, 2 a product, 3 an atom."""

    def bound(child: ast.expr, strength: int) -> str:
        text, own = typeset(child, symbols)
        return text if own >= strength else rf"\left({text}\right)"

    match node:
        case ast.Constant(value=int() | float() as value):
            digits, _, power = f"{value:.10g}".partition("e")
            return (rf"{digits} \cdot 10^{{{int(power)}}}", 2) if power else (digits, 3)
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
            return rf"{bound(left, 2)} \, {bound(right, 2)}", 2
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{typeset(left, symbols)[0]}}}{{{typeset(right, symbols)[0]}}}", 3
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            plain = isinstance(left, ast.Name)
            base = (
                typeset(left, symbols)[0] if plain else rf"\left({typeset(left, symbols)[0]}\right)"
            )
            return f"{base}^{{{typeset(right, symbols)[0]}}}", 3
    raise AssertionError(ast.dump(node))
