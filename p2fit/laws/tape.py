"""A formula as a list of steps, for evaluating it thousands of times.

What is there twice is done once, what has no parameters is done once for all, and a power of such a
base is an exponential: x^-alpha is exp(-alpha * log x), with the log at hand.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.laws.expression import evaluate, names_in

_Step = tuple[str, tuple[Any, ...]]


class Tape:
    """The steps of a formula in the order in which they are done."""

    def __init__(self, tree: ast.expr, free: Collection[str]) -> None:
        """
        Args:
            tree: the formula, parsed.
            free: names of its parameters; all others are columns.
        """
        self.free = frozenset(free)
        self.steps: list[_Step] = []
        self._place: dict[_Step, int] = {}
        self._add(tree)

    def known(self, columns: Mapping[str, Array]) -> dict[int, Any]:
        """The values of the steps without parameters, by their places.

        Args:
            columns: a value or an array for every column.
        """
        return {
            at: evaluate(given[0], columns)
            for at, (kind, given) in enumerate(self.steps)
            if kind == "known"
        }

    def run(self, known: Mapping[int, Any], parameters: Mapping[str, Any], functions: Any) -> Any:
        """The formula's value.

        Args:
            known: what :meth:`known` gave.
            parameters: a value for every parameter.
            functions: has ``exp``, ``log``, ``divide`` and ``power`` for such values: NumPy, or
                :class:`p2fit.laws.jets.Functions`.
        """
        done: list[Any] = []
        for at, (kind, given) in enumerate(self.steps):
            match kind:
                case "known":
                    value = known[at]
                case "parameter":
                    value = parameters[given[0]]
                case "+":
                    value = done[given[0]] + done[given[1]]
                case "-":
                    value = done[given[0]] - done[given[1]]
                case "*":
                    value = done[given[0]] * done[given[1]]
                case "minus":
                    value = -done[given[0]]
                case "raise":
                    base, log, power = (done[i] for i in given)
                    usable = log is not None and np.isfinite(log).all()
                    value = functions.exp(power * log) if usable else functions.power(base, power)
                case _:
                    value = getattr(functions, kind)(*(done[i] for i in given))
            done.append(value)
        return done[-1]

    def _add(self, node: ast.expr) -> int:
        """The place of a part of the formula, after all that it needs."""
        if self._fixed(node):
            return self._step("known", node, key=ast.dump(node))
        match node:
            case ast.Name(id=name):
                return self._step("parameter", name)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self._step("minus", self._add(inner))
            case ast.UnaryOp(operand=inner):
                return self._add(inner)
            case ast.Call(func=ast.Name(id=name), args=[inner]):
                return self._step(name, self._add(inner))
            case ast.BinOp(
                left=left,
                op=ast.Div(),
                right=ast.BinOp(left=base, op=ast.Pow(), right=power),
            ) if self._fixed(base):
                below = ast.BinOp(base, ast.Pow(), ast.UnaryOp(ast.USub(), power))
                return self._add(ast.BinOp(left, ast.Mult(), below))
            case ast.BinOp(left=base, op=ast.Pow(), right=power) if self._fixed(base):
                log = ast.Call(ast.Name("log", ast.Load()), [base], [])
                return self._step("raise", self._add(base), self._add(log), self._add(power))
            case ast.BinOp(left=left, op=op, right=right):
                kinds = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "divide"}
                return self._step(kinds.get(type(op), "power"), self._add(left), self._add(right))
        raise AssertionError(ast.dump(node))  # the parser lets nothing else through

    def _fixed(self, node: ast.expr) -> bool:
        return not any(n.id in self.free for n in names_in(node))

    def _step(self, kind: str, *given: Any, key: str = "") -> int:
        step = (kind, (key,) if key else given)
        if step not in self._place:
            self._place[step] = len(self.steps)
            self.steps.append((kind, given))
        return self._place[step]
