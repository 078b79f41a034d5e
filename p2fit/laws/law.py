"""Scaling laws, each declared once, as a formula.

A formula is a sum of terms over columns (inputs) and parameters::

    E + A/params^alpha + B/tokens^beta

Names that are columns of the data are inputs, all others are parameters. A formula may use
numbers, names, ``+ - * / ^``, ``exp`` and ``log``, and nothing else; it is parsed, never
evaluated as Python. Every law here is a *sum of monomials plus a known offset*,

    L = offset + sum_j c_j * prod_i x_i^(p_ij),    c_j >= 0,

with powers p_ij that are signed sums of exponents. The solver lives on that structure: the
coefficients enter linearly, and a monomial's derivative is itself times a logarithm.

>>> law = Law.parse("E + A/params^alpha", columns=["params"])
>>> law.parameters, law.inputs
(('E', 'A', 'alpha'), ('params',))
>>> law.predict({"E": 1.5, "A": 400, "alpha": 0.5}, {"params": [1e4, 1e6]})
array([5.5, 1.9])
"""

from __future__ import annotations

import ast
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = np.ndarray[Any, np.dtype[np.float64]]

#: Columns with a meaning of their own (see schemas/curves.schema.json) that laws may use.
COLUMNS = ("params", "tokens", "pruning_rate", "base_loss", "avg_params", "active_params")

#: Where exponents are searched. One that shapes a single term is searched from 0 up, so that
#: a term falls the way it is written; one of a factor shared by several terms takes either sign.
ONE_SIGN = (0.0, 5.0)
EITHER_SIGN = (-5.0, 5.0)

_FUNCTIONS = ("exp", "log")
_SPELLINGS = str.maketrans({"−": "-", "–": "-", "·": "*", "×": "*"})


class LawError(ValueError):
    """A formula that cannot be read, or a request that does not fit the law."""


class NotMonomialError(LawError):
    """A formula that is valid but is not a sum of monomials: its terms cannot be asked for."""


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


@dataclass(frozen=True)
class Law:
    """A scaling law: its formula and what follows from it.

    Made by :meth:`parse`, or taken from :data:`LAWS`.
    """

    name: str
    """Short name, ``custom`` for a user's own formula."""
    formula: str
    """The formula as written."""
    parameters: tuple[str, ...]
    """Parameter names in order of appearance, fixed and tied ones included."""
    inputs: tuple[str, ...]
    """Columns that the formula reads, in order of appearance."""
    description: str = ""
    """What the law says, and its source."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Parameters held at a value."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Parameters that are held equal to another, which stays free."""
    stated: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Where parameters are searched, if not where their role in the formula says."""

    @staticmethod
    def parse(
        formula: str,
        *,
        columns: Collection[str] = COLUMNS,
        name: str = "custom",
        description: str = "",
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> Law:
        """Read a formula.

        Args:
            formula: text such as ``E + A/params^alpha``.
            columns: names that are inputs; every other name is a parameter.
            ranges: where parameters are searched; the others by their role (see ``ranges``).

        Raises:
            LawError: the formula has a fault; the message names it and where it is.
        """
        names = list(dict.fromkeys(n.id for n in names_in(_tree(formula))))
        parameters = tuple(n for n in names if n not in columns)
        inputs = tuple(n for n in names if n in columns)
        if not parameters:
            raise LawError(f"{formula!r} has no parameter to fit: all its names are columns")
        return Law(name, formula, parameters, inputs, description).within(ranges or {})

    def restrict(
        self, fix: Mapping[str, float] | None = None, tie: Mapping[str, str] | None = None
    ) -> Law:
        """The same law with parameters held at values (``fix``) or at each other (``tie``).

        Raises:
            LawError: unknown names, a parameter both fixed and tied, or nothing left to fit.
        """
        fix, tie = dict(fix or {}), dict(tie or {})
        for name in (*fix, *tie, *tie.values()):
            if name not in self.parameters:
                raise LawError(
                    f"{name} is not a parameter of {self.name}; it has {', '.join(self.parameters)}"
                )
        for name, value in fix.items():
            if not math.isfinite(value):
                raise LawError(f"{name} cannot be fixed at {value}")
        target = {}
        for name in tie:
            end, seen = name, {name}
            while end in tie:
                end = tie[end]
                if end in seen:
                    raise LawError(f"{name} is tied to itself")
                seen.add(end)
            if name in fix or end in fix:
                raise LawError(f"{name if name in fix else end} is both fixed and tied: fix both")
            target[name] = end
        if set(self.parameters) <= set(fix) | set(target):
            raise LawError("every parameter is fixed: nothing is left to fit")
        return replace(self, fixed=fix, tied=target)

    def within(self, ranges: Mapping[str, tuple[float, float]]) -> Law:
        """The same law with parameters searched in these ranges.

        Raises:
            LawError: an unknown name, or a range without numbers in it.
        """
        for name, (low, high) in ranges.items():
            if name not in self.parameters:
                raise LawError(
                    f"{name} is not a parameter of {self.name}; it has {', '.join(self.parameters)}"
                )
            if not low < high:
                raise LawError(f"{name} cannot lie between {low:g} and {high:g}")
        return replace(self, stated={**self.stated, **ranges}) if ranges else self

    @cached_property
    def tree(self) -> ast.expr:
        """The formula as a parsed expression, in the nodes of Python's ``ast``."""
        return _tree(self.formula)

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that are fitted."""
        return tuple(p for p in self.parameters if p not in self.fixed and p not in self.tied)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The monomials, with fixed values and ties put in.

        Raises:
            NotMonomialError: the formula is not a sum of monomials.
            LawError: a parameter is left without a term.
        """
        parameters = set(self.parameters)
        terms = _collect(_expand(self.restricted, parameters), parameters)
        used = {t.coefficient for t in terms} | {e for t in terms for e in t.exponents}
        idle = [p for p in self.free if p not in used]
        if idle:
            raise LawError(f"{idle[0]} is left without a term: fix it too, or free what scales it")
        return terms

    @cached_property
    def monomial(self) -> bool:
        """Whether the formula is a sum of monomials, with fixed values and ties put in, whose
        coefficients are only held to be at least 0."""
        try:
            return not any(t.coefficient in self.stated for t in self.terms)
        except NotMonomialError:
            return False

    @cached_property
    def exponents(self) -> tuple[str, ...]:
        """Free parameters that are exponents; if not a sum of monomials: that are not
        coefficients."""
        used = {e for t in self.terms for e in t.exponents} if self.monomial else set(self.free)
        return tuple(p for p in self.free if p in used and p not in self.coefficients)

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        """Free parameters that scale terms (that the loss is linear in, if it is not a sum of
        monomials); all are >= 0, and none has a range of its own."""
        if self.monomial:
            used = {t.coefficient for t in self.terms}
            return tuple(p for p in self.free if p in used)
        found: list[int] = []
        for i, name in enumerate(self.free):
            bent = any((min(i, j), max(i, j)) in self._shape.second for j in (*found, i))
            if not bent and name not in self.stated:  # a range is for what is searched
                found.append(i)
        return tuple(self.free[i] for i in found)

    @cached_property
    def scales(self) -> frozenset[str]:
        """Those of the ``exponents`` that are positive factors inside the formula, such as a count
        that another is divided by: they are searched, and their errors given, in their log."""
        if self.monomial:
            return frozenset()
        shifts: set[str] = set()
        for node in ast.walk(self.restricted):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
                shifts |= {n.id for n in (node.left, node.right) if isinstance(n, ast.Name)}
        signed = {n for n, (low, _) in self.stated.items() if low <= 0}
        return frozenset(set(self.exponents) - self.powers - shifts - signed)

    @cached_property
    def tape(self) -> Any:
        """The formula, with fixed values and ties put in, as a :class:`p2fit.laws.tape.Tape`."""
        from p2fit.laws.tape import Tape

        return Tape(self.restricted, self.free)

    @cached_property
    def _shape(self) -> Any:
        """The formula as a jet at a point, for which derivatives are 0 by its shape."""
        from p2fit.laws import jets

        values: dict[str, Any] = dict.fromkeys(self.inputs, np.float64(1.7))
        values |= {n: jets.Jet(np.float64(0.3), {i: 1.0}, {}) for i, n in enumerate(self.free)}
        with np.errstate(all="ignore"):
            return _evaluate(self.restricted, values, jets)

    def shaped(self, exponent: str) -> set[str | None]:
        """Coefficients of the terms that an exponent shapes; None where a term has none."""
        if self.monomial:
            return {t.coefficient for t in self.terms if exponent in t.exponents}
        at = self.free.index(exponent)
        linear = [self.free.index(c) for c in self.coefficients]
        mine = {self.free[i] for i in linear if (min(i, at), max(i, at)) in self._shape.second}
        rest = replace(self, fixed={**self.fixed, **dict.fromkeys(self.coefficients, 0.0)})
        others = {n.id for n in names_in(rest.restricted)}
        return {*mine, *({None} if exponent in others or not mine else ())}

    @cached_property
    def varied(self) -> tuple[str, ...]:
        """Inputs that terms with parameters depend on."""
        if self.monomial:
            texts = [b for t in self.terms if not t.known for b, _ in t.powers]
            found = {n.id for text in texts for n in names_in(_tree(text))}
        else:
            found = {
                n.id
                for part in _summands(self.restricted)
                if any(n.id in self.free for n in names_in(part))
                for n in names_in(part)
            }
        return tuple(x for x in self.inputs if x in found)

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Where each free parameter is searched: exponents by their role (see ONE_SIGN), all
        others from 0 up."""
        found = dict.fromkeys(self.free, (0.0, math.inf))
        powers = dict.fromkeys(self.powers, ONE_SIGN)
        found |= self._exponent_ranges() if self.monomial else powers
        return {n: self.stated.get(n, found[n]) for n in self.free}

    @cached_property
    def powers(self) -> frozenset[str]:
        """Those of the ``exponents`` that powers are made of."""
        if self.monomial:
            return frozenset(self.exponents)
        inside: set[str] = set()
        for node in ast.walk(self.restricted):
            match node:
                case ast.BinOp(op=ast.Pow(), right=right):
                    inside |= {n.id for n in names_in(right)}
                case ast.BinOp(left=left, op=ast.Mult(), right=right):
                    for one, other in ((left, right), (right, left)):
                        scale = other.operand if isinstance(other, ast.UnaryOp) else other
                        match one, scale:
                            case ast.Call(func=ast.Name(id="log")), ast.Name(id=name):
                                inside.add(name)
        return frozenset(inside.intersection(self.exponents))

    def _exponent_ranges(self) -> dict[str, tuple[float, float]]:
        whole = replace(self, fixed={}, tied={})
        try:  # what is fixed or tied does not change the role of the others
            _ = whole.terms
        except LawError:
            whole = self
        factors: dict[str, dict[tuple[str, float], int]] = {}
        for term in whole.terms:
            for base, power in term.powers:
                for name, weight in power.weights:
                    seen = factors.setdefault(name, {})
                    seen[base, weight] = seen.get((base, weight), 0) + 1
        shared = {e for e, seen in factors.items() if max(seen.values()) > 1}
        own = {e: EITHER_SIGN if e in shared else ONE_SIGN for e in factors}
        found = {}
        for name in self.exponents:
            group = [name, *(a for a, b in self.tied.items() if b == name)]
            found[name] = min(own[g] for g in group if g in own)
        return found

    @property
    def offset(self) -> ast.expr:
        """The summands without free parameters."""
        known = [
            part
            for part in _summands(self.restricted)
            if not any(n.id in self.free for n in names_in(part))
        ]
        total: ast.expr = ast.Constant(0.0)
        for part in known:
            total = ast.BinOp(total, ast.Add(), part)
        return total

    @cached_property
    def restricted(self) -> ast.expr:
        """The formula, with fixed values and ties put in."""
        tree: ast.expr = _Substitute(self.fixed, self.tied).visit(_tree(self.formula))
        return tree

    def full(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, fixed and tied ones put in, from the free ones."""
        values = {**parameters, **self.fixed}
        values.update({a: values[b] for a, b in self.tied.items()})
        return {p: values[p] for p in self.parameters}

    def predict(
        self, parameters: Mapping[str, ArrayLike], columns: Mapping[str, ArrayLike]
    ) -> Array:
        """The loss that the law gives, in nats per token.

        Args:
            parameters: a value for every parameter.
            columns: a value or array for every input, all of one shape.

        Raises:
            LawError: a parameter or an input is missing.
        """
        missing = [n for n in self.parameters if n not in parameters]
        missing += [n for n in self.inputs if n not in columns]
        if missing:
            raise LawError(f"{self.name} needs {', '.join(missing)}")
        values = {n: np.asarray(parameters[n], float) for n in self.parameters}
        values |= {n: np.asarray(columns[n], float) for n in self.inputs}
        with np.errstate(all="ignore"):
            result = _evaluate(_tree(self.formula), values)
        shape = np.broadcast_shapes(*(v.shape for v in values.values()))
        return np.broadcast_to(result, shape).copy()

    def gradient(
        self, parameters: Mapping[str, float], columns: Mapping[str, ArrayLike]
    ) -> dict[str, Array]:
        """Derivatives of the loss by the free parameters: by the log of a coefficient or a scale
        (by the coefficient itself where it is 0), and by an exponent.

        Args:
            parameters: a value for every parameter.
            columns: a value or array for every input, all of one shape.

        """
        values = {n: np.asarray(columns[n], float) for n in self.inputs}
        shape = np.broadcast_shapes(*(v.shape for v in values.values()))
        if not self.monomial:
            found = self.jet(parameters, values).first
            logged = {*self.coefficients, *self.scales}
            scale = [parameters[n] or 1.0 if n in logged else 1.0 for n in self.free]
            return {
                n: np.broadcast_to(found.get(i, 0.0), shape) * scale[i]
                for i, n in enumerate(self.free)
            }
        found = {n: np.zeros(shape) for n in self.free}
        for term in (t for t in self.terms if not t.known):
            size = np.full(shape, term.number)
            logs = {}
            for base, power in term.powers:
                at = evaluate(base, values)
                # Where a base is 0 so is its term, or it is infinite: either has no slope.
                logs[base] = np.log(np.where(at > 0, at, 1.0))
                with np.errstate(all="ignore"):
                    size = size * np.power(at, power.value(parameters))
            own = term.coefficient
            by_exponent = {e: np.zeros(shape) for e in term.exponents}
            for base, power in term.powers:
                for e, weight in power.weights:
                    by_exponent[e] = by_exponent[e] + weight * logs[base]
            if own is not None:
                scale, value = term.scale.value(parameters), parameters[own]
                found[own] += size if value == 0 else size * value**scale * scale
                for e, weight in term.scale.weights:
                    by_exponent[e] = by_exponent[e] + weight * (np.log(value) if value > 0 else 0.0)
                size = size * value**scale
            for e, slope in by_exponent.items():
                found[e] += size * slope
        return found

    def jet(self, parameters: Mapping[str, Any], columns: Mapping[str, Any]) -> Any:
        """The loss with its derivatives by the free parameters, numbered in the order of ``free``.

        Args:
            parameters: a value (or a :class:`p2fit.laws.jets.Jet`) for every free parameter.
            columns: a value or array for every input.
        """
        from p2fit.laws import jets

        values = dict(columns)
        for i, n in enumerate(self.free):
            own = parameters[n]
            jet = isinstance(own, jets.Jet)
            values[n] = own if jet else jets.Jet(np.asarray(own), {i: 1.0}, {})
        return compute(self.restricted, values, jets)

    def latex(self, target: str = "loss") -> str:
        """The formula in LaTeX, for what it predicts."""
        # Without pruning there is no "before": N rather than N_0.
        size = "N_0" if "pruning_rate" in self.inputs else "N"
        right = _latex(_tree(self.formula), {**_SYMBOLS, "params": size})[0]
        return f"{_symbol(target, _SYMBOLS)} = {right}"


def compute(expression: ast.expr, values: Mapping[str, Any], functions: Any = np) -> Any:
    """An expression's value: of arrays, or of anything that ``functions`` (divide, power, exp, log)
    and + - * take.

    Args:
        values: of every name in it.
    """
    with np.errstate(all="ignore"):
        return _evaluate(expression, values, functions)


def substitute(expression: ast.expr, values: Mapping[str, float]) -> ast.expr:
    """An expression with numbers in place of names."""
    found: ast.expr = _Substitute(values, {}).visit(expression)
    return found


def is_zero(expression: ast.expr) -> bool:
    """Whether an expression is the number 0."""
    return isinstance(expression, ast.Constant) and expression.value == 0


def factor(node: ast.expr, name: str) -> ast.expr:
    """What a parameter is multiplied by in an expression that is linear in it."""
    match node:
        case ast.Name(id=own) if own == name:
            return ast.Constant(1.0)
        case ast.UnaryOp(op=op, operand=operand):
            inner = factor(operand, name)
            return inner if is_zero(inner) else ast.UnaryOp(op, inner)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = factor(left, name), factor(right, name)
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


def way(node: ast.expr, name: str) -> list[ast.expr]:
    """From the first place of a name in an expression outwards; empty where there is none."""
    if isinstance(node, ast.Name):
        return [node] if node.id == name else []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr) and (found := way(child, name)):
            return [*found, node]
    return []


def evaluate(expression: str | ast.expr, columns: Mapping[str, Array]) -> Array:
    """A parameter-free expression, such as ``1 - sparsity``, on columns of shape (n,)."""
    tree = _tree(expression) if isinstance(expression, str) else expression
    with np.errstate(all="ignore"):
        return np.asarray(_evaluate(tree, columns), float)


# ---------------------------------------------------------------- parsing


def _tree(formula: str) -> ast.expr:
    text = formula.translate(_SPELLINGS).replace("^", "**").strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        detail = getattr(error, "msg", None) or "too deep"
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


class _Substitute(ast.NodeTransformer):
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


def _summands(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of a sum, signs put in."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from _summands(left)
            yield from _summands(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            yield from _summands(left)
            for part in _summands(right):
                yield ast.UnaryOp(ast.USub(), part)
        case _:
            yield node


def _evaluate(node: ast.expr, values: Mapping[str, Any], functions: Any = np) -> Any:
    """A formula's value: of arrays, or of anything that ``functions`` (divide, power, exp, log)
    and + - * take."""
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            inner = _evaluate(operand, values, functions)
            return -inner if isinstance(op, ast.USub) else inner
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return getattr(functions, name)(_evaluate(argument, values, functions))
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left, values, functions), _evaluate(right, values, functions)
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
    raise AssertionError(ast.dump(node))  # _tree lets nothing else through


# ---------------------------------------------------------------- expansion into monomials


@dataclass(frozen=True)
class _Monomial:
    number: float
    powers: Mapping[str, Affine]  # keyed by parameter name or by the text of a base

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
            return _Monomial(self.number**power.constant, powers)
        if self.number <= 0:
            raise LawError(f"{self.number:g} cannot take an unknown power")
        if self.number != 1:
            base = repr(self.number)
            powers[base] = powers[base] + power if base in powers else power
        return _Monomial(1.0, powers)


def _expand(node: ast.expr, parameters: set[str]) -> list[_Monomial]:
    own = [n.id for n in names_in(node)]
    if not own:
        with np.errstate(all="ignore"):
            value = float(_evaluate(node, {}))
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
            return [_Monomial(sign * m.number, m.powers) for m in _expand(operand, parameters)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _expand(left, parameters) + _expand(right, parameters)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            minus = [_Monomial(-m.number, m.powers) for m in _expand(right, parameters)]
            return _expand(left, parameters) + minus
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            b = _expand(right, parameters)
            return [x * y for x in _expand(left, parameters) for y in b]
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            below = _expand(right, parameters)
            if len(below) > 1:
                raise NotMonomialError(f"a sum, {_text(right)}, divides")
            return [x * below[0] ** Affine(-1.0) for x in _expand(left, parameters)]
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            power = _affine(right, parameters)
            inner = _expand(left, parameters)
            if len(inner) == 1:
                return [inner[0] ** power]
            if power in (Affine(2.0), Affine(3.0)):
                product = inner
                for _ in range(int(power.constant) - 1):
                    product = [x * y for x in product for y in inner]
                return product
            raise NotMonomialError(f"a sum with parameters, {_text(left)}, is raised to a power")
    raise NotMonomialError(f"{_text(node)} has parameters inside exp or log")


def _affine(node: ast.expr, parameters: set[str]) -> Affine:
    total = Affine()
    for m in _expand(node, parameters):
        linear = all(b in parameters and p == Affine(1.0) for b, p in m.powers.items())
        if not linear or len(m.powers) > 1:
            raise NotMonomialError(f"the power {_text(node)} is not a plain sum of exponents")
        weights = dict.fromkeys(m.powers, m.number)
        total += Affine.of(0.0 if weights else m.number, weights)
    return total


def _text(node: ast.expr) -> str:
    return ast.unparse(node).replace("**", "^")


def _collect(monomials: list[_Monomial], parameters: set[str]) -> tuple[Term, ...]:
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


# ---------------------------------------------------------------- LaTeX

_SYMBOLS = {
    "loss": "L",
    "tokens": "D",
    "pruning_rate": r"\rho",
    "base_loss": "L_0",
    "avg_params": r"\bar{N}",
    "active_params": "N",
}
_GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "kappa", "mu", "nu", "rho"}
_GREEK |= {"sigma", "tau", "theta", "eta", "zeta", "omega", "phi", "psi", "chi", "xi"}


def _symbol(name: str, known: Mapping[str, str]) -> str:
    """A column's or parameter's name in LaTeX."""
    if name in known:
        return known[name]
    head, _, tail = name.partition("_")
    head = f"\\{head}" if head in _GREEK else head if len(head) == 1 else rf"\mathrm{{{head}}}"
    if not tail:
        return head
    tail = tail.replace("_", r"\_")
    return f"{head}_{tail}" if len(tail) == 1 else rf"{head}_{{\mathrm{{{tail}}}}}"


def _latex(node: ast.expr, symbols: Mapping[str, str]) -> tuple[str, int]:
    """LaTeX and its binding strength: 1 a sum, 2 a product, 3 an atom."""

    def bound(child: ast.expr, strength: int) -> str:
        text, own = _latex(child, symbols)
        return text if own >= strength else rf"\left({text}\right)"

    match node:
        case ast.Constant(value=int() | float() as value):
            digits, _, power = f"{value:.10g}".partition("e")
            return (rf"{digits} \cdot 10^{{{int(power)}}}", 2) if power else (digits, 3)
        case ast.Name(id=name):
            return _symbol(name, symbols), 3
        case ast.UnaryOp(op=op, operand=operand):
            return ("-" if isinstance(op, ast.USub) else "") + bound(operand, 2), 1
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return rf"\{name}\left({_latex(argument, symbols)[0]}\right)", 3
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{bound(left, 1)} + {bound(right, 1)}", 1
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{bound(left, 1)} - {bound(right, 2)}", 1
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return rf"{bound(left, 2)} \, {bound(right, 2)}", 2
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{_latex(left, symbols)[0]}}}{{{_latex(right, symbols)[0]}}}", 3
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            plain = isinstance(left, ast.Name)
            base = (
                _latex(left, symbols)[0] if plain else rf"\left({_latex(left, symbols)[0]}\right)"
            )
            return f"{base}^{{{_latex(right, symbols)[0]}}}", 3
    raise AssertionError(ast.dump(node))


# ---------------------------------------------------------------- the table of laws


def _law(
    name: str,
    formula: str,
    description: str,
    *,
    columns: Collection[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Law:
    return Law.parse(
        formula,
        columns=[*COLUMNS, *columns],
        name=name,
        description=description,
        ranges=ranges,
    )


#: The laws that come with p2fit, by name.
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        _law(
            "p2",
            "base_loss + pruning_rate^-gamma * params^-delta"
            " * (N_C/params^alpha + D_C/tokens^beta + E)",
            "The P² law: loss along post-training after pruning. params is N₀, the size before "
            "pruning; base_loss is L₀, the unpruned model's loss. The published form, "
            "(1/ρ)^γ (1/N₀)^δ (N_C/N₀^α + D_C/D^β + E), is known from digests; the signs of γ "
            "and δ are not, so both take either sign. Source: Chen et al. 2025 (ACL), "
            "arXiv 2411.10272.",
        ),
        _law(
            "p2-no-size",
            "base_loss + pruning_rate^-gamma * (N_C/params^alpha + D_C/tokens^beta + E)",
            "The P² law without its common size factor: for data where δ cannot be told from α. "
            "Source: after Chen et al. 2025, arXiv 2411.10272.",
        ),
        _law(
            "chinchilla",
            "E + A/params^alpha + B/tokens^beta",
            "Loss of a dense model of params parameters trained on tokens tokens. "
            "Source: Hoffmann et al. 2022, approach 3, arXiv 2203.15556.",
        ),
        _law(
            "average-params",
            "E + A/avg_params^alpha + B/tokens^beta",
            "Sparse pre-training, in the average parameter count over the tokens seen; dense "
            "runs are the case of a constant count. Source: Jin et al. 2025 (ICLR), "
            "arXiv 2501.12486.",
        ),
        _law(
            "chinchilla-pruned",
            "E + A/(params*(1 - pruning_rate))^alpha + B/tokens^beta",
            "The Chinchilla law in the parameters that are left after pruning. "
            "Source: after Hoffmann et al. 2022, arXiv 2203.15556.",
        ),
        _law(
            "frantar",
            "(a_S*(1 - pruning_rate)^b_S + c_S)/(params*(1 - pruning_rate))^b_N"
            " + (a_D/tokens)^b_D + c",
            "Sparse training: params is the dense size, pruning_rate the final sparsity. "
            "Source: Frantar et al. 2023, equation 1, arXiv 2309.08520.",
        ),
        _law(
            "kaplan-n",
            "(N_c/params)^alpha_N",
            "Loss at convergence, in the parameter count alone. "
            "Source: Kaplan et al. 2020, equation 1.1, arXiv 2001.08361.",
        ),
        _law(
            "kaplan-d",
            "(D_c/tokens)^alpha_D",
            "Loss of a large model with early stopping, in the tokens alone. "
            "Source: Kaplan et al. 2020, equation 1.2, arXiv 2001.08361.",
        ),
        _law(
            "p2-shifted",
            "base_loss + pruning_rate^-gamma * params^-delta"
            " * (N_C/params^alpha + D_C/(tokens + D_0)^beta + E)",
            "The P² law with its tokens shifted by D_0: finite right after pruning, and bent where "
            "the first tokens help more than a power law says. "
            "Source: after Chen et al. 2025, arXiv 2411.10272.",
            ranges={"gamma": EITHER_SIGN, "delta": EITHER_SIGN},
        ),
        _law(
            "kaplan-joint",
            "((N_c/params)^(alpha_N/alpha_D) + D_c/tokens)^alpha_D",
            "Loss in size and tokens together, without a floor: the scarcer of them sets it. "
            "Source: Kaplan et al. 2020, equation 1.5, arXiv 2001.08361.",
        ),
        _law(
            "skaling",
            "E + (A/params^alpha + B/tokens^beta)^k",
            "The Chinchilla law with a coupling exponent k on the sum of its power terms; k = 1 is "
            "Chinchilla. Source: Videau et al. 2026, arXiv 2608.07222.",
        ),
        _law(
            "shifted",
            "E + A/(params + N_0)^alpha + B/(tokens + D_0)^beta",
            "Power laws that flatten at small scale, where a shift outweighs the count. "
            "Source: after Zhai et al. 2022, who shift compute, arXiv 2106.04560.",
        ),
        _law(
            "bounded-rational",
            "(E + L_0*(A/params^alpha + B/tokens^beta))/(1 + A/params^alpha + B/tokens^beta)",
            "Between a floor E at large scale and a plateau L_0 at small scale. Source: after the "
            "estimator M4 of Alabdulmohsin et al. 2022, arXiv 2209.06640, in one input and with "
            "its shape exponent at 1, where it can be solved for the loss.",
        ),
        _law(
            "broken",
            "E + A*tokens^-c_0*(1 + (tokens/d_1)^(1/f_1))^(-c_1*f_1)",
            "A power law of tokens that bends into another at d_1 tokens, over a width f_1. "
            "Source: Caballero et al. 2023, one break, arXiv 2210.14891.",
            ranges={"f_1": (0.02, 2.0), "c_0": (-5.0, 5.0), "c_1": (-5.0, 5.0)},
        ),
        _law(
            "precision",
            "E + A/(params*(1 - exp(-precision/gamma)))^alpha + B/tokens^beta",
            "Training with weights of precision bits: fewer bits are fewer effective parameters. "
            "Source: Kumar et al. 2024, arXiv 2411.04330.",
            columns=["precision"],
            ranges={"gamma": (0.05, 50.0)},
        ),
        _law(
            "post-quantised",
            "E + A/params^alpha + B/tokens^beta"
            " + C_T*tokens^gamma_D/params^gamma_N*exp(-precision/gamma)",
            "Quantisation to precision bits after training: it costs more the longer the model "
            "was trained. Source: Kumar et al. 2024, arXiv 2411.04330.",
            columns=["precision"],
            ranges={"gamma": (0.05, 50.0)},
        ),
        _law(
            "data-constrained",
            "E + A/params^alpha + B/(unique_tokens*(1 + R_D*"
            "(1 - exp(-(tokens/unique_tokens - 1)/R_D))))^beta",
            "Tokens seen again are worth less: after about R_D repetitions, nothing. The size is "
            "taken as it is (the paper discounts large ones too). "
            "Source: Muennighoff et al. 2023, arXiv 2305.16264.",
            columns=["unique_tokens"],
            ranges={"R_D": (0.1, 1e4)},
        ),
        _law(
            "annealing",
            "L_0 + A/lr_area^alpha - C*lr_annealing",
            "Loss along a run in the area under its learning rate and in how much of it was "
            "annealed (p2fit.schedules.annealing): the points of decayed and undecayed schedules "
            "lie on one surface. Source: Tissue et al. 2024, arXiv 2408.11029.",
            columns=["lr_area", "lr_annealing"],
        ),
        _law(
            "sengupta",
            "base_loss^alpha*(1 + pruning_rate)^beta*(1 + 1/(tokens/1e9 + 1))^gamma",
            "Compression and recovery as factors; tokens are counted in billions here (the unit of "
            "the source is not known). Source: Sengupta et al. 2025, arXiv 2504.04342.",
        ),
    )
}


def get_law(law: str | Law, columns: Collection[str] = COLUMNS) -> Law:
    """A law by name, or a user's own from its formula.

    Raises:
        LawError: neither a known name nor a formula.
    """
    if isinstance(law, Law):
        return law
    if law in LAWS:
        return LAWS[law]
    if law.replace("-", "").replace("_", "").isalnum():
        raise LawError(f"no law is called {law}; there are {', '.join(LAWS)}, or give a formula")
    return Law.parse(law, columns=[*COLUMNS, *columns])
