"""How well a posterior predicts runs that it has not seen.

The log predictive density of a run, what its rows share integrated out, by a posterior without that
run: from the draws of the whole posterior by Pareto-smoothed importance sampling where its k allows
(Vehtari, Gelman & Gabry 2017), and by drawing again without the run where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.bayes import laplace, sampling
from p2fit.bayes.posterior import Posterior

_DRAWS, _TUNE, _CHAINS = 500, 500, 4  # where importance sampling fails


@dataclass(frozen=True)
class Elpd:
    """Log predictive densities of left-out runs."""

    by_run: Array
    """Of the logs of each run's losses, shape (runs,)."""
    exact: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether the run was left out in fact, shape (runs,)."""

    @property
    def refitted(self) -> int:
        """Runs that were left out in fact."""
        return int(self.exact.sum())


def elpd(
    posterior: Posterior, start: Array, seed: int = 0, tick: Callable[[], None] | None = None
) -> Elpd:
    """The log predictive density of each run, left out of the posterior.

    Args:
        start: x to start from, shape (d,).
        tick: called after each run.
    """
    x = draw(posterior, start, seed)
    by_run = posterior.in_batches(posterior.log_likelihood, x)
    found, exact = np.empty(by_run.shape[1]), np.zeros(by_run.shape[1], bool)
    for run, own in enumerate(by_run.T):
        log_weights, k = laplace.pareto_smooth(-own)
        if k <= laplace.TRUST:
            found[run] = _log_mean(own + log_weights) - _log_mean(log_weights)
        else:
            found[run], exact[run] = refit(posterior, start, run, seed), True
        if tick is not None:
            tick()
    return Elpd(found, exact)


def refit(posterior: Posterior, start: Array, run: int, seed: int = 0) -> float:
    """The log predictive density of one run by the posterior of all the others."""
    out = posterior.unit == run
    x = draw(posterior.rows(np.flatnonzero(~out)), start, seed)
    own = posterior.rows(np.flatnonzero(out))
    return float(_log_mean(own.in_batches(own.log_likelihood, x).sum(axis=1)))


def draw(posterior: Posterior, start: Array, seed: int) -> Array:
    """Draws of x, shape (draws, d): by importance sampling where it holds, else by NUTS."""
    coordinates, mode = sampling.prepare(posterior, start)
    weighted = laplace.importance(coordinates.log_density, mode, seed)
    if weighted.pareto_k <= laplace.TRUST:
        return np.asarray(coordinates.x(weighted.x))
    chains = sampling.sample(coordinates, mode, draws=_DRAWS, tune=_TUNE, chains=_CHAINS, seed=seed)
    return chains.x.reshape(-1, chains.x.shape[-1])


def _log_mean(logs: Array) -> float:
    return float(np.logaddexp.reduce(logs) - np.log(len(logs)))
