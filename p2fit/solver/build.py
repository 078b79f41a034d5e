"""Put a law on rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import LawError
from p2fit.laws.expression import evaluate
from p2fit.laws.law import Law
from p2fit.scales import Residual
from p2fit.solver.monomials import Monomials, bases_of, logs_of, offset_of
from p2fit.solver.problem import Problem

_MOST = 10  # coefficients: their subsets are enumerated


def build(
    law: Law,
    columns: Mapping[str, Array],
    y: Array,
    weights: Array,
    *,
    residual: Residual = "log",
    delta: float = 1e-3,
    known: bool = True,
    start: Mapping[str, float] | None = None,
) -> Problem:
    """Put a law on rows.

    Args:
        law: the law, restricted as wished.
        columns: every input of the law, each of shape (n,).
        y: what is predicted, shape (n,); > 0 for log residuals.
        weights: row weights, shape (n,), >= 0.
        known: whether to add the terms without parameters.
        start: where searches begin, for parameters of a law that is not a sum of monomials.

    Raises:
        LawError: the formula has no value on some row (the message names the row count).
    """
    if len(law.coefficients) > _MOST:
        raise LawError(
            f"the law has {len(law.coefficients)} coefficients; at most {_MOST} are fitted"
        )
    if not law.monomial or _reaches_zero(law, columns):
        from p2fit.solver.formula import build_formula  # jets are for laws that need them

        return build_formula(
            law, columns, y, weights, residual=residual, delta=delta, start=start or {}
        )
    offset = offset_of(law, columns, len(y)) if known else np.zeros(len(y))
    raw = logs_of(law, columns, len(y))
    mean = raw.mean(axis=1)
    mean[-1] = 0.0

    terms, bases = [t for t in law.terms if not t.known], bases_of(law)
    m, q, b = len(terms), len(law.exponents), len(bases) + 1
    constant, slope = np.zeros((m, b)), np.zeros((m, q, b))
    for j, t in enumerate(terms):
        constant[j, -1] = np.log(abs(t.number))
        for base, power in t.powers:
            i = bases.index(base)
            constant[j, i] = power.constant
            for name, weight in power.weights:
                slope[j, law.exponents.index(name), i] = weight
    names = law.coefficients
    group = tuple(names.index(t.coefficient) if t.coefficient else -1 for t in terms)
    # Centring: the size of a coefficient's terms at the mean of the logs, averaged over its terms.
    size = np.concatenate([(constant @ mean + constant[:, -1])[:, None], slope @ mean], axis=1)
    centre = np.zeros((len(names), 1 + q))
    for k in range(len(names)):
        centre[k] = size[[g == k for g in group]].mean(axis=0)
    rest = size - np.stack([centre[g] if g >= 0 else np.zeros(1 + q) for g in group])
    constant[:, -1], slope[:, :, -1] = rest[:, 0], rest[:, 1:]
    bounds = np.array([law.ranges[n] for n in (*names, *law.exponents)])
    return Monomials(
        law=law,
        y=y,
        weights=weights,
        offset=offset,
        logs=raw - mean[:, None],
        mean=mean,
        constant=constant,
        slope=slope,
        sign=np.array([np.sign(t.number) for t in terms]),
        group=group,
        centre=centre,
        lower=bounds[:, 0],
        upper=bounds[:, 1],
        residual=residual,
        delta=delta,
    )


def _reaches_zero(law: Law, columns: Mapping[str, Array]) -> bool:
    """Whether a base that only takes powers of 1 has values that have no log."""
    powers: dict[str, set[bool]] = {}
    for t in (t for t in law.terms if not t.known):
        for base, power in t.powers:
            powers.setdefault(base, set()).add(not power.weights and power.constant == 1)
    return any(
        all(plain) and not np.all(evaluate(base, columns) > 0) for base, plain in powers.items()
    )
