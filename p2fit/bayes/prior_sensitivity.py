"""How far conclusions hang on the priors: each made half and twice as wide, without sampling again.

The draws are weighted by the prior of another width over the prior that they were drawn with, and
the weights are Pareto-smoothed (as power-scaling of priors, Kallioinen et al. 2024, with widths in
place of powers: half a standard deviation is a change that one can picture). Where k is too large
the weights cannot tell what the posterior would be, and this is said.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from p2fit.arrays import Array, finite
from p2fit.bayes import laplace
from p2fit.bayes.functions import NUMPY
from p2fit.bayes.posterior import Posterior
from p2fit.bayes.priors import Prior

_WIDTHS = {"halved": 0.5, "doubled": 2.0}
_ROWS = 100  # in which losses are looked at
_SAME = 1e-9  # logs of weights that differ by less are equal


def prior_sensitivity(own: Posterior, x: Array) -> dict[str, dict[str, Any]]:
    """What becomes of medians and intervals with each prior of half and of twice its width.

    Args:
        x: draws from the posterior, shape (draws, d).

    Returns:
        For each prior, for ``halved`` and ``doubled``: ``pareto_k`` of the weights (None where
        they are all equal, or none); ``parameters``, the median and the 95 % interval of each free
        parameter, its ``shift``, the change of the median in standard deviations of the
        posterior, and its ``spread``, how many times as large the standard deviation becomes
        (both of the log of what is positive); ``loss_shift``, the largest shift of the loss in a
        row. None in place of the last two where the weights cannot tell.
    """
    natural = own.natural(x)
    seen = np.linspace(0, len(own.observed) - 1, min(_ROWS, len(own.observed))).round().astype(int)
    part = own.rows(seen)
    losses = own.problem.scale.to(part.in_batches(part.fitted, x))
    found: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(own.names):
        prior = own.priors[name]
        value = np.exp(x[:, i]) if own.is_size(name) else natural[name]
        found[name] = {}
        for what, factor in _WIDTHS.items():
            weights, k = _weights(prior, prior.widened(factor), value)
            found[name][what] = {
                "pareto_k": finite(k),
                "parameters": None if weights is None else _moved(own, natural, weights),
                "loss_shift": None if weights is None else _largest(losses, weights),
            }
    return found


def _weights(prior: Prior, other: Prior, value: Array) -> tuple[Array | None, float]:
    """Weights of draws under another prior, and their k; None where they cannot tell."""
    ratios = other.log_density(value, NUMPY) - prior.log_density(value, NUMPY)
    if prior.kind == "Uniform":  # its ends are hard, and beyond them there are no draws
        (low, high), (least, most) = other.values, prior.values
        ratios = np.where((value < low) | (value > high), -math.inf, ratios)
        if low < least or high > most:
            return None, math.nan
    usable = np.isfinite(ratios)
    if usable.any() and np.ptp(ratios[usable]) < _SAME:
        return usable / usable.sum(), math.nan
    logs, k = laplace.pareto_smooth(ratios)
    weights = np.exp(logs - logs.max())
    return (weights / weights.sum() if k <= laplace.TRUST else None), k


def _moved(own: Posterior, natural: dict[str, Array], weights: Array) -> dict[str, Any]:
    found = {}
    for name in own.problem.law.free:
        low, middle, high = _quantiles(natural[name], weights, [0.025, 0.5, 0.975])
        with np.errstate(divide="ignore"):
            scaled = np.log(natural[name]) if own.logged(name) else natural[name]
        found[name] = {
            "median": finite(middle),
            "interval": [finite(low), finite(high)],
            "shift": finite(_shift(scaled, weights)),
            "spread": finite(_spread(scaled, weights)),
        }
    return found


def _largest(losses: Array, weights: Array) -> float | None:
    return finite(max((_shift(row, weights) for row in losses.T), key=abs))


def _shift(values: Array, weights: Array) -> float:
    away = (
        _quantiles(values, weights, [0.5])[0] - _quantiles(values, np.ones_like(weights), [0.5])[0]
    )
    return float(away / np.std(values)) if away else 0.0


def _spread(values: Array, weights: Array) -> float:
    away = values - weights @ values
    return float(np.sqrt(weights @ away**2) / np.std(values))


def _quantiles(values: Array, weights: Array, shares: list[float]) -> Array:
    order = np.argsort(values)
    sums = np.cumsum(weights[order]) - 0.5 * weights[order]
    found: Array = np.interp(shares, sums / weights.sum(), values[order])
    return found
