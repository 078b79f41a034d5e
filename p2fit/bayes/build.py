"""Put a posterior on the rows of a law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.bayes.priors import DEGREES, SCATTER, TERM, Prior, default_prior, range_priors
from p2fit.solver.least_squares import residuals
from p2fit.solver.monomials import Monomials
from p2fit.solver.problem import Problem

if TYPE_CHECKING:
    from p2fit.solver.formula import Formula
from p2fit.bayes.posterior import Noise, Posterior


def posterior(
    problem: Problem,
    z: Array,
    clusters: Index,
    *,
    noise: Noise = "student-t",
    errors: Array | None = None,
    priors: Mapping[str, Prior] | None = None,
    typical: float | None = None,
) -> Posterior:
    """The posterior of a law on its rows.

    Args:
        z: the least-squares optimum, shape (p,), which says where offsets of runs lie.
        clusters: run of each row, ascending from 0, shape (n,).
        errors: standard errors of the log losses, shape (n,).
        priors: the user's own, by parameter.
        typical: what the terms add up to at the centre, nats; None: the geometric mean of the
            loss above what the formula has without parameters.

    Raises:
        LawError: a range that lets a coefficient be below 0.
    """
    from p2fit.bayes.formulas import FormulaPosterior, Part, inner
    from p2fit.bayes.terms import MonomialPosterior

    law, own = problem.law, {**range_priors(problem.law), **(priors or {})}
    parts: dict[str, Part] = {}
    found = {e: default_prior(law, e) for e in law.exponents}
    if not isinstance(problem, Monomials):
        parts, more = inner(cast("Formula", problem), own)
        found |= more
    if typical is None:
        above = (problem.y - problem.offset)[problem.y > problem.offset]
        typical = float(np.exp(np.log(above).mean())) if len(above) else 0.01 * problem.y.mean()
    sizes = [*law.coefficients, *(n for n, part in parts.items() if part.alone)]
    middle = math.log(typical / max(len(sizes), 1))
    found |= dict.fromkeys(sizes, Prior("LogNormal", (middle, TERM.values[1])))
    found |= own | {"sigma": SCATTER, "nu": DEGREES, "tau": SCATTER}
    several = clusters[-1] + 1 < len(clusters)
    log_loss = np.log(problem.y)
    whole: dict[str, Any] = {
        "problem": problem,
        "noise": noise,
        "priors": found,
        "own": frozenset(own),
        "errors": errors,
        "clusters": clusters if several else None,
        "log_loss": log_loss,
        "trust": student_weights(-residuals(problem, z), clusters, noise)
        if several
        else np.ones(len(log_loss)),
    }
    if isinstance(problem, Monomials):
        return MonomialPosterior(**whole)
    return FormulaPosterior(**whole, whole=cast("Formula", problem), parts=parts)


def student_weights(r: Array, clusters: Index, noise: Noise) -> Array:
    """Weights of Student's t for rows by their distance from their run's median, shape (n,)."""
    if noise == "normal":
        return np.ones(len(r))
    runs = np.split(r, np.flatnonzero(np.diff(clusters)) + 1)
    away = np.concatenate([own - np.median(own) for own in runs])
    scale = 1.4826 * float(np.median(np.abs(away))) or float(np.std(away)) or 1.0
    weights: Array = 1 / (1 + (away / scale) ** 2 / 4)
    return weights
