"""Put a posterior on the rows of a law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from p2fit.arrays import Array
from p2fit.bayes import priors as known
from p2fit.bayes.priors import Prior
from p2fit.bayes.runs import Runs
from p2fit.errors import LawError
from p2fit.solver.monomials import Monomials
from p2fit.solver.problem import Problem

if TYPE_CHECKING:
    from p2fit.solver.formula import Formula
from p2fit.bayes.posterior import NOISE, Noise, Posterior


def posterior(
    problem: Problem,
    runs: Runs | None,
    *,
    noise: Noise = "student-t",
    errors: Array | None = None,
    priors: Mapping[str, Prior] | None = None,
    typical: float | None = None,
) -> Posterior:
    """The posterior of a law on its rows.

    Args:
        runs: what the rows of a run share; None: nothing.
        errors: standard errors on the scale of the residuals, shape (n,).
        priors: the user's own, by parameter.
        typical: what the terms add up to at the centre, nats; None: the geometric mean of the
            loss above what the formula has without parameters.

    Raises:
        LawError: a parameter has a name that the noise has.
    """
    from p2fit.bayes.formulas import FormulaPosterior, Part, inner
    from p2fit.bayes.terms import MonomialPosterior

    law, own = problem.law, {**known.range_priors(problem.law), **(priors or {})}
    if taken := [n for n in NOISE if n in law.free]:
        raise LawError(f"{taken[0]} is what a posterior calls a parameter of the noise: rename it")
    parts: dict[str, Part] = {}
    found = {e: known.default_prior(law, e) for e in law.exponents}
    if not isinstance(problem, Monomials):
        parts, more = inner(cast("Formula", problem), own)
        found |= more
    if typical is None:
        above = (problem.y - problem.offset)[problem.y > problem.offset]
        typical = float(np.exp(np.log(above).mean())) if len(above) else 0.01 * problem.y.mean()
    sizes = [*law.coefficients, *(n for n, part in parts.items() if part.alone)]
    middle = math.log(typical / max(len(sizes), 1))
    found |= dict.fromkeys(sizes, Prior("LogNormal", (middle, known.TERM.values[1])))
    scatter = known.scatter(problem.scale.typical(problem.y))
    found |= own | {"sigma": scatter, "nu": known.DEGREES}
    if runs is not None:
        spread = known.SHARES if runs.excess else scatter
        found |= {"tau": spread, "rate": spread, "length": known.length(runs.gap)}
    whole: dict[str, Any] = {
        "problem": replace(problem, effects=None),
        "noise": noise,
        "priors": found,
        "own": frozenset(own),
        "errors": errors,
        "runs": runs,
        "observed": problem.scale.to(problem.y),
    }
    if isinstance(problem, Monomials):
        return MonomialPosterior(**whole)
    return FormulaPosterior(**whole, whole=cast("Formula", problem), parts=parts)
