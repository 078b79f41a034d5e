"""The posterior of a law that is not a sum of monomials.

The loss is rest + sum of c_k f_k, where the rest and each f_k are expressions of the parameters
that are not coefficients. The entry of x of a coefficient is the log of the mean of c_k |f_k| over
the rows, whatever the other parameters are. Parameters inside the formula that set the size of a
part of it are held by the log of that size in the same way.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from p2fit.arrays import Array
from p2fit.bayes.functions import NUMPY
from p2fit.bayes.posterior import Posterior, part_of
from p2fit.bayes.priors import Prior
from p2fit.laws import jets
from p2fit.laws.expression import compute, factor_of, names_in, path_to, substitute
from p2fit.laws.jets import Jet
from p2fit.laws.law import Law
from p2fit.solver.formula import BEYOND, Formula, typical_scale

_ONE: ast.expr = ast.Constant(1.0)


class Part(NamedTuple):
    """A part of a formula whose size a parameter s sets: s^power times ``unit``."""

    unit: ast.expr
    """The part at s = 1, an expression of the columns and of parameters that are not ``sized``."""
    power: ast.expr
    """Of such parameters."""
    columns: Mapping[str, Array]
    """Where its size is taken."""
    alone: bool
    """Whether it is the loss if all else were 0, and not a share of something."""


@dataclass(frozen=True)
class FormulaPosterior(Posterior):
    """Prior times likelihood of any formula. Made by :func:`p2fit.bayes.build.posterior`."""

    problem: Formula
    whole: Formula
    """The law on all rows, over which sizes are means."""
    parts: Mapping[str, Part]
    """Of the parameters inside the formula that are held by the size of their part."""

    @cached_property
    def sized(self) -> tuple[str, ...]:
        return (*self.parts, *self.problem.law.coefficients)

    @cached_property
    def terms(self) -> tuple[int, ...]:
        names = [*self.problem.law.coefficients, *(n for n, p in self.parts.items() if p.alone)]
        return tuple(self.names.index(n) for n in names)

    @cached_property
    def _slopes(self) -> dict[int, dict[int, Array]]:
        """By parameter, of the log of each term, (n,), at typical values of the parameters."""
        problem = self.problem
        at = problem.natural(problem.generic())
        values = {n: Jet(np.float64(at[n]), {i: 1.0}) for i, n in enumerate(self.problem.names)}
        slopes: dict[int, dict[int, Array]] = {}
        for g in self.terms:
            name = self.names[g]
            alone = name in self.parts
            unit = self.parts[name].unit if alone else self._factors[name]
            found = compute(unit, {**values, **self.whole.columns}, jets)
            for i, slope in found.first.items() if isinstance(found, Jet) else ():
                with np.errstate(all="ignore"):
                    slopes.setdefault(i, {})[g] = np.broadcast_to(
                        slope / found.value, self.whole.y.shape
                    )
        return slopes

    @cached_property
    def shaping(self) -> dict[int, tuple[int, float]]:
        found = {}
        for i, name in enumerate(self.problem.names):
            usable = name in self.problem.law.powers and self.logged(name)
            terms = self._slopes.get(i, {})
            if usable and self.priors[name].kind != "Uniform" and len(terms) == 1:
                ((g, slope),) = terms.items()
                spread = float(np.std(slope))
                if math.isfinite(spread):
                    found[i] = g, max(spread, 1e-3)
        return found

    @cached_property
    def shared(self) -> list[tuple[int, int, float]]:
        found = []
        for j, name in enumerate(self.problem.names):
            own = list(self._slopes.get(j, {}).values())
            if name not in self.problem.law.powers or not self.plain(name):
                continue
            if len(own) == len(self.terms) and np.isfinite(own).all() and np.allclose(own, own[0]):
                for i, (g, _) in self.shaping.items():
                    found.append((j, i, part_of(self._slopes[i][g], own[0])))
        return found

    @cached_property
    def _factors(self) -> dict[str, ast.expr]:
        """What each coefficient multiplies."""
        law = self.problem.law
        return {
            c: factor_of(_without(law, set(law.coefficients) - {c}), c) for c in law.coefficients
        }

    def size_of(self, name: str, values: Any, xp: Any) -> tuple[Any, Any]:
        inside = name in self.parts
        part = (
            self.parts[name]
            if inside
            else Part(self._factors[name], _ONE, self.whole.columns, alone=True)
        )
        each = {n: v[..., None] for n, v in values.items()}
        size = abs(compute(part.unit, {**each, **part.columns}, xp))
        size = size + np.zeros(len(next(iter(part.columns.values()))))
        with np.errstate(all="ignore"):
            unit = xp.log(size).mean(-1) if inside else xp.log(size.mean(-1))
        return unit, compute(part.power, values, xp)

    def fitted(self, x: Any, xp: Any = NUMPY) -> Any:
        values = self.values(x, xp)
        each = {**{n: v[..., None] for n, v in values.items()}, **self.problem.columns}
        return compute(self.problem.law.restricted, each, xp) + np.zeros(len(self.observed))

    def log_mean(self, x: Any, xp: Any = NUMPY) -> Any:
        top = sum(x[..., i] for i in self.terms) / len(self.terms)
        return top + xp.log(sum(xp.exp(x[..., i] - top) for i in self.terms))


def inner(problem: Formula, own: Mapping[str, Prior]) -> tuple[dict[str, Part], dict[str, Prior]]:
    """The parts of a formula whose sizes parameters inside it set, and priors of such parameters.

    A parameter that would give the loss as a power of itself, if all others of its kind and the
    coefficients were 0, is held by that loss. All others are held by how large their part is
    beside what it is added to, divided by or divides: 95 % of the prior lies between a hundredth
    of the least and a hundred times the largest value over the rows, as do the starts of the least
    squares.

    Args:
        own: parameters with a prior of their own, which are left as they are.
    """
    law = problem.law
    parts, priors = dict[str, Part](), dict[str, Prior]()
    for name in law.exponents:
        if name in own or name in law.powers or law.ranges[name][0] < 0:
            continue
        if name in law.scales and (found := _alone(law, name)) is not None:
            parts[name] = Part(*found, problem.columns, True)
            continue
        there = typical_scale(law, name)
        ones = {n: 1.0 for n in law.free if n not in law.powers}
        typical = {**dict.fromkeys(law.powers, 0.4), **ones}
        size = np.abs(compute(there, {**problem.columns, **typical}))
        size = np.broadcast_to(size, problem.y.shape)
        usable = np.isfinite(size) & (size > 0)
        logs = np.log(size[usable]) if usable.any() else np.zeros(1)
        sd = (float(np.ptp(logs)) / 2 + math.log(BEYOND)) / 2
        free = {n.id for n in names_in(there)} & law.powers
        if not free or name not in law.scales:
            priors[name] = Prior("LogNormal", (float(logs.mean()), sd))
            continue
        unit = ast.BinOp(_ONE, ast.Div(), substitute(there, ones))
        columns = {x: v[usable] for x, v in problem.columns.items()}
        parts[name] = Part(unit, _ONE, columns, False)
        priors[name] = Prior("LogNormal", (0.0, sd))
    return parts, priors


def _alone(law: Law, name: str) -> tuple[ast.expr, ast.expr] | None:
    """The loss if all other sizes were 0 as (unit, power): unit * s^power; None where it is not."""
    tree = _without(law, {*law.coefficients, *law.scales} - {name})
    if sum(n.id == name for n in names_in(tree)) != 1:
        return None
    unit, power = _ONE, _ONE
    added = False
    for part, whole in pairwise(path_to(tree, name)):
        match whole:
            case ast.BinOp(op=ast.Add()):
                added = True
            case ast.BinOp(left=left, op=ast.Sub()) if left is part:
                added = True
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                unit = ast.BinOp(unit, ast.Mult(), right if left is part else left)
            case ast.BinOp(left=left, op=ast.Div(), right=right) if left is part:
                unit = ast.BinOp(unit, ast.Div(), right)
            case ast.BinOp(left=left, op=ast.Pow(), right=right) if left is part and not added:
                if not _positive(right, law):
                    return None
                unit = ast.BinOp(unit, ast.Pow(), right)
                power = ast.BinOp(power, ast.Mult(), right)
            case _:
                return None
    return unit, power


def _positive(node: ast.expr, law: Law) -> bool:
    """Whether a power is a product or quotient of what is above 0."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value > 0
        case ast.Name(id=name):
            return name in law.powers and law.ranges[name][0] >= 0
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            return _positive(left, law) and _positive(right, law)
    return False


def _without(law: Law, names: Any) -> ast.expr:
    """The formula with parameters at 0."""
    return replace(law, fixed={**law.fixed, **dict.fromkeys(names, 0.0)}).restricted
