"""Formulas as expressions: read, evaluated, taken apart.

Parsed into the nodes of Python's ``ast``, never evaluated as Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import LawError

_FUNCTIONS = ("exp", "log")
# What a formula has no function for, and how it is written.
_INSTEAD = {
    "sqrt": "{}^0.5",
    "ln": "log({})",
    "log10": "log({})/log(10)",
    "log2": "log({})/log(2)",
    "log1p": "log(1 + {})",
    "expm1": "(exp({}) - 1)",
    "square": "{}^2",
}
_SPELLINGS = str.maketrans({"−": "-", "–": "-", "·": "*", "×": "*"})


def compute(expression: ast.expr, values: Mapping[str, Any], functions: Any = np) -> Any:
    """An expression's value: of arrays, or of anything that ``functions`` (divide, power, exp, log)
    and + - * take.

    Args:
        values: of every name in it.
    """
    with np.errstate(all="ignore"):
        return evaluate_node(expression, values, functions)


def substitute(expression: ast.expr, values: Mapping[str, float]) -> ast.expr:
    """An expression with numbers in place of names."""
    found: ast.expr = Substitute(values, {}).visit(expression)
    return found


def is_zero(expression: ast.expr) -> bool:
    """Whether an expression is the number 0."""
    return isinstance(expression, ast.Constant) and expression.value == 0


def factor_of(node: ast.expr, name: str) -> ast.expr:
    """What a parameter is multiplied by in an expression that is linear in it."""
    match node:
        case ast.Name(id=own) if own == name:
            return ast.Constant(1.0)
        case ast.UnaryOp(op=op, operand=operand):
            inner = factor_of(operand, name)
            return inner if is_zero(inner) else ast.UnaryOp(op, inner)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = factor_of(left, name), factor_of(right, name)
            match op:
                case ast.Add() if is_zero(a):
                    return b
                case ast.Sub() if is_zero(a):
                    return b if is_zero(b) else ast.UnaryOp(ast.USub(), b)
                case ast.Add() | ast.Sub():
                    return a if is_zero(b) else ast.BinOp(a, op, b)
                case ast.Mult() if not (is_zero(a) and is_zero(b)):
                    return ast.BinOp(left, op, b) if is_zero(a) else ast.BinOp(a, op, right)
                case ast.Div() if not is_zero(a):
                    return ast.BinOp(a, op, right)
    return ast.Constant(0.0)


def path_to(node: ast.expr, name: str) -> list[ast.expr]:
    """From the first place of a name in an expression outwards; empty where there is none."""
    return next(paths_to(node, name), [])


def paths_to(node: ast.expr, name: str) -> Iterator[list[ast.expr]]:
    """From every place of a name in an expression outwards."""
    if isinstance(node, ast.Name):
        if node.id == name:
            yield [node]
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            for found in paths_to(child, name):
                yield [*found, node]


def evaluate(expression: str | ast.expr, columns: Mapping[str, Array]) -> Array:
    """A parameter-free expression, such as ``1 - sparsity``, on columns of shape (n,)."""
    tree = parse(expression) if isinstance(expression, str) else expression
    with np.errstate(all="ignore"):
        return np.asarray(evaluate_node(tree, columns), float)


# ---------------------------------------------------------------- parsing


def parse(formula: str) -> ast.expr:
    text = formula.translate(_SPELLINGS).replace("^", "**").strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        left, equals, right = formula.partition("=")
        if equals and left.strip().isidentifier() and right.strip() and "=" not in right:
            raise LawError(
                f"cannot read the formula {formula!r}: give only what is right of =, "
                f"{right.strip()!r}"
            ) from None
        detail = getattr(error, "msg", None) or getattr(error, "reason", "too deep")
        raise LawError(f"cannot read the formula {formula!r}: {detail}") from None
    allowed = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd, ast.Load)
    nodes = list(ast.walk(tree))
    if len(nodes) > 1000:
        raise LawError(f"the formula {formula[:40]}… is too long")
    for node in nodes:
        fault = None
        match node:
            case ast.BinOp() | ast.UnaryOp() | ast.Name():
                pass
            case ast.Constant(value=bool() | complex()):
                fault = ast.unparse(node)
            case ast.Constant(value=int() | float() as value) if abs(value) < 1e300:
                pass
            case ast.Call(func=ast.Name(id=name), args=[_], keywords=[]) if name in _FUNCTIONS:
                pass
            case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in _INSTEAD:
                plain = isinstance(inner, ast.Name | ast.Constant)
                simple = plain or not _INSTEAD[name].startswith("{}")
                text = unparse(inner) if simple else f"({unparse(inner)})"
                instead = _INSTEAD[name].format(text)
                raise LawError(f"the formula {formula!r} has {name}: write {instead}")
            case ast.Call():
                fault = f"{ast.unparse(node)} (functions: exp(x), log(x))"
            case _ if not isinstance(node, allowed):
                fault = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        if fault is not None:
            raise LawError(
                f"the formula {formula!r} has {fault}: "
                "only numbers, names, + - * / ^, exp and log are allowed"
            )
    return tree


def names_in(tree: ast.AST) -> Iterator[ast.Name]:
    """Names in reading order, function names left out."""
    if isinstance(tree, ast.Name):
        yield tree
    elif isinstance(tree, ast.Call):
        yield from names_in(tree.args[0])
    else:
        for child in ast.iter_child_nodes(tree):
            yield from names_in(child)


class Substitute(ast.NodeTransformer):
    def __init__(self, fixed: Mapping[str, float], tied: Mapping[str, str]) -> None:
        self.fixed, self.tied = fixed, tied

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.fixed:
            return ast.Constant(float(self.fixed[node.id]))
        return ast.Name(self.tied.get(node.id, node.id), ast.Load())

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        node = ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))
        # A coefficient fixed at 0 takes its term with it, whatever the rest of the term is.
        zero = [is_zero(node.left), is_zero(node.right)]
        if isinstance(node.op, ast.Mult):
            return ast.Constant(0.0) if any(zero) else node
        if isinstance(node.op, ast.Add) and any(zero):
            return node.right if zero[0] else node.left
        if isinstance(node.op, ast.Sub) and zero[1]:
            return node.left
        gone = isinstance(node.op, ast.Div | ast.Pow) and zero == [True, False]
        return ast.Constant(0.0) if gone else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return ast.Call(node.func, [self.visit(node.args[0])], [])


def summands(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of a sum, signs put in."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from summands(left)
            yield from summands(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            yield from summands(left)
            for part in summands(right):
                yield ast.UnaryOp(ast.USub(), part)
        case _:
            yield node


def evaluate_node(node: ast.expr, values: Mapping[str, Any], functions: Any = np) -> Any:
    """A formula's value: of arrays, or of anything that ``functions`` (divide, power, exp, log)
    and + - * take."""
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            inner = evaluate_node(operand, values, functions)
            return -inner if isinstance(op, ast.USub) else inner
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return getattr(functions, name)(evaluate_node(argument, values, functions))
        case ast.BinOp(left=left, op=op, right=right):
            a, b = evaluate_node(left, values, functions), evaluate_node(right, values, functions)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return functions.divide(a, b)
            return functions.power(a, b)
    raise AssertionError(ast.dump(node))  # parse lets nothing else through


def unparse(node: ast.expr) -> str:
    return ast.unparse(node).replace("**", "^")
