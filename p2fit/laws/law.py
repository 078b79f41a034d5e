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
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
from p2fit.arguments import hold, numbers
from p2fit.arrays import Array
from p2fit.errors import LawError, NotMonomialError
from p2fit.laws.expression import (
    Substitute,
    compute,
    evaluate,
    evaluate_node,
    names_in,
    parse,
    summands,
)
from p2fit.laws.monomials import Term, collect, expand
from p2fit.laws.typesetting import formula

#: Columns with a meaning of their own (see schemas/curves.schema.json) that laws may use.
COLUMNS = ("params", "tokens", "pruning_rate", "base_loss", "avg_params", "active_params")

#: Where exponents are searched. One that shapes a single term is searched from 0 up, so that
#: a term falls the way it is written; one of a factor shared by several terms takes either sign.
ONE_SIGN = (0.0, 5.0)
EITHER_SIGN = (-5.0, 5.0)


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
        hold("formula", formula, str)
        names = list(dict.fromkeys(n.id for n in names_in(parse(formula))))
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
        return parse(self.formula)

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
        terms = collect(expand(self.restricted, parameters), parameters)
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
        # A range is for what is searched.
        return self._straight(tuple(n for n in self.free if n not in self.stated))

    @cached_property
    def signed(self) -> tuple[str, ...]:
        """Those of the ``exponents`` of a law that is not a sum of monomials that the loss is
        linear in all the same, together with the coefficients: they have ranges of their own."""
        rest = (n for n in self.free if n in self.stated)
        return self._straight((*self.coefficients, *rest))[len(self.coefficients) :]

    def _straight(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """As many of these parameters, from the first on, as the loss is linear in together."""
        found: list[int] = []
        for i in map(self.free.index, names):
            if not any((min(i, j), max(i, j)) in self._shape.second for j in (*found, i)):
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
            return evaluate_node(self.restricted, values, jets)

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
            found = {n.id for text in texts for n in names_in(parse(text))}
        else:
            found = {
                n.id
                for part in summands(self.restricted)
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
            for part in summands(self.restricted)
            if not any(n.id in self.free for n in names_in(part))
        ]
        total: ast.expr = ast.Constant(0.0)
        for part in known:
            total = ast.BinOp(total, ast.Add(), part)
        return total

    @cached_property
    def restricted(self) -> ast.expr:
        """The formula, with fixed values and ties put in."""
        tree: ast.expr = Substitute(self.fixed, self.tied).visit(parse(self.formula))
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
        values = {n: numbers(n, parameters[n]) for n in self.parameters}
        values |= {n: numbers(n, columns[n]) for n in self.inputs}
        with np.errstate(all="ignore"):
            result = evaluate_node(parse(self.formula), values)
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
        parameters = {n: np.float64(v) for n, v in parameters.items()}
        with np.errstate(all="ignore"):
            return self._gradient(parameters, values, shape)

    def _gradient(
        self, parameters: Mapping[str, float], values: Mapping[str, Array], shape: tuple[int, ...]
    ) -> dict[str, Array]:
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
                size = size * np.power(at, power.value(parameters))
            own = term.coefficient
            used = {*term.exponents, *(e for e, _ in term.scale.weights)}
            by_exponent = {e: np.zeros(shape) for e in used}
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

    def __repr__(self) -> str:
        return f"<Law {self.name}: {self.formula}>"

    def latex(self, target: str = "loss", values: Mapping[str, float] | None = None) -> str:
        """The formula in LaTeX, for what it predicts; with numbers for the parameters given."""
        return formula(parse(self.formula), self.inputs, target, values)
