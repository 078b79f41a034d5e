"""The posterior of a law that is a sum of monomials.

With the logs of the inputs centred, the log of every term is linear in the logs of the terms' sizes
at the centre and in the exponents, so the law is one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.bayes.functions import NUMPY
from p2fit.bayes.posterior import Posterior, part_of
from p2fit.laws.monomials import Affine
from p2fit.solver.monomials import Monomials


@dataclass(frozen=True)
class MonomialPosterior(Posterior):
    """Prior times likelihood of a sum of monomials; see :func:`p2fit.bayes.build.posterior`."""

    problem: Monomials

    @property
    def sized(self) -> tuple[str, ...]:
        return self.problem.law.coefficients

    @property
    def terms(self) -> tuple[int, ...]:
        return tuple(range(self.problem.coefficients))

    @cached_property
    def shaping(self) -> dict[int, tuple[int, float]]:
        problem, k = self.problem, self.problem.coefficients
        found = {}
        for j, name in enumerate(problem.law.exponents):
            groups = {g for m, g in enumerate(problem.group) if problem.slope[m, j].any()}
            ordinary = self.priors[name].kind != "Uniform"
            if len(groups) == 1 and -1 not in groups and ordinary and self.logged(name):
                (g,) = groups
                logs = problem.slope[problem.group.index(g), j] @ problem.logs
                found[k + j] = g, max(float(np.std(logs)), 1e-3)
        return found

    @cached_property
    def shared(self) -> list[tuple[int, int, float]]:
        problem, k = self.problem, self.problem.coefficients
        terms = [m for m, g in enumerate(problem.group) if g >= 0]
        found = []
        for j, name in enumerate(problem.law.exponents):
            own = problem.slope[terms, j]
            if self.plain(name) and own.any() and (own == own[0]).all():
                for i, (g, _) in self.shaping.items():
                    theirs = problem.slope[problem.group.index(g), i - k]
                    found.append((k + j, i, part_of(theirs @ problem.logs, own[0] @ problem.logs)))
        return found

    @cached_property
    def _design(self) -> list[tuple[Array, Array]]:
        """For each term its log at x = 0, (n,), and its slopes by sizes and exponents, (p, n)."""
        problem, k = self.problem, self.problem.coefficients
        found = []
        for m, g in enumerate(problem.group):
            slopes = np.zeros((len(problem.names), len(problem.y)))
            if g >= 0:
                slopes[g] = 1.0
            slopes[k:] = problem.slope[m] @ problem.logs
            found.append((problem.constant[m] @ problem.logs, slopes))
        return found

    @cached_property
    def _powers(self) -> dict[str, Affine]:
        """The power of each coefficient: 1 for A/N^alpha, alpha for (A/N)^alpha."""
        return {t.coefficient: t.scale for t in self.problem.law.terms if t.coefficient}

    def size_of(self, name: str, values: Any, xp: Any) -> tuple[Any, Any]:
        problem = self.problem
        i = problem.law.coefficients.index(name)
        theta = [values[e] for e in problem.law.exponents]
        unit = problem.centre[i, 0]
        unit = unit + sum(c * t for c, t in zip(problem.centre[i, 1:], theta) if c)
        return unit, self._powers[name].value(dict(zip(problem.law.exponents, theta)))

    def fitted(self, x: Any, xp: Any = NUMPY) -> Any:
        total = self.problem.offset
        v = self._linear(x, xp)
        for sign, (constant, slopes) in zip(self.problem.sign, self._design):
            total = total + sign * xp.exp(_along(v, slopes) + constant)
        return total

    def log_mean(self, x: Any, xp: Any = NUMPY) -> Any:
        v = self._linear(x, xp)
        members = (d for d, g in zip(self._design, self.problem.group) if g >= 0)
        return xp.log(
            sum(xp.exp(_along(v, slopes) + constant).mean(-1) for constant, slopes in members)
        )

    def _linear(self, x: Any, xp: Any) -> Any:
        """What the logs of the terms are linear in, (…, p): sizes as in x, exponents as such."""
        k = self.problem.coefficients
        plain = enumerate(self.problem.names)
        return xp.stack(
            [x[..., i] if i < k else self._value(n, x[..., i], xp) for i, n in plain], axis=-1
        )


def _along(v: Any, slopes: Array) -> Any:
    """v (…, p) times slopes (p, n), most of which are 0."""
    return sum(v[..., i, None] * row for i, row in enumerate(slopes) if row.any())
