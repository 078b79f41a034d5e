"""Simulation-based calibration of the Bayesian backend.

Parameters are drawn from the prior, losses from the model at these parameters, and the posterior
of those losses is sampled by NUTS as in ``p2fit fit --backend bayes``, with shorter chains. If
prior, likelihood and sampler agree, the rank of the true value among thinned draws is uniform for
every parameter (Talts et al. 2018). The ranks of one replicate come from one set of rows; replicate
b depends on the seed and b alone.

    python benchmarks/run.py --only sbc
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from common import setting, table

from p2fit import LAWS
from p2fit.bayes.build import posterior
from p2fit.bayes.posterior import Posterior
from p2fit.bayes.runs import runs_of
from p2fit.bayes.sampling import prepare, sample
from p2fit.solver.build import build

REPLICATES = {
    "p2": 300,
    "chinchilla": 300,
    "average-params": 300,
    "skaling": 100,
    "data-constrained": 100,
}
DRAWS = 99  # after thinning: ranks 0 to 99
BINS = 10
_TUNE, _CHAIN, _CHAINS = 250, 198, 2


@dataclass(frozen=True)
class Calibration:
    """Ranks of the truth among the draws of its posterior."""

    names: tuple[str, ...]
    """Parameters, in the order of ``ranks``."""
    ranks: Any
    """Integers from 0 to DRAWS, shape (replicates, d)."""
    diverged: int
    """Replicates with a divergence."""


def designs() -> dict[str, Posterior]:
    """For each law its posterior on a fixed design, losses yet to be drawn."""
    rng = np.random.default_rng(7)

    def scattered(low: float, high: float, rows: int) -> Any:
        return np.exp(rng.uniform(np.log(low), np.log(high), rows))

    wide = {"params": scattered(4e7, 1e10, 60), "tokens": scattered(1e9, 1e12, 60)}
    sparse = {"avg_params": scattered(1e8, 3e9, 40), "tokens": scattered(4e9, 4e11, 40)}
    tokens = np.geomspace(0.05e9, 1e9, 4)
    sizes, rates, seen = (
        v.ravel()
        for v in np.meshgrid((0.5e9, 1.5e9, 3e9), (0.15, 0.25, 0.35), tokens, indexing="ij")
    )
    curves = {
        "params": sizes,
        "pruning_rate": rates,
        "tokens": seen,
        "base_loss": 2.9 - 0.25 * np.log10(sizes / 5e8),
    }
    repeated = {**wide, "unique_tokens": wide["tokens"] / np.geomspace(1, 64, 60)}
    found = {}
    for name, columns, run, typical in (
        ("p2", curves, np.repeat(np.arange(9), 4), 0.4),
        ("chinchilla", wide, np.arange(60), 2.7),
        ("average-params", sparse, np.arange(40), 2.7),
        ("skaling", wide, np.arange(60), 2.7),
        ("data-constrained", repeated, np.arange(60), 2.7),
    ):
        y = np.full(len(run), 2.7)
        problem = build(LAWS[name], columns, y, np.ones(len(y)), delta=np.inf)
        frame = pl.DataFrame({"run": run, "tokens": columns["tokens"]})
        runs = runs_of(frame, "run", excess=name == "p2")
        found[name] = posterior(problem, runs, typical=typical)
    return found


def replicate(own: Posterior, number: int, seed: int = 0) -> tuple[Any, bool]:
    """Ranks of one draw from the prior among draws from its posterior, and whether any diverged."""
    rng = np.random.default_rng([seed, number, len(own.observed)])
    while True:
        truth = own.prior_draws(1, int(rng.integers(2**31)))[0]
        observed = own.simulate(truth, rng)
        if np.isfinite(observed).all():
            break
    own = replace(own, observed=observed)
    coordinates, mode = prepare(own, truth)
    chains = sample(
        coordinates, mode, draws=_CHAIN, tune=_TUNE, chains=_CHAINS, seed=number, progress=None
    )
    draws = chains.x.reshape(-1, len(truth))[:: _CHAIN * _CHAINS // DRAWS]
    natural, true = own.natural(draws), own.natural(truth)
    ranks = [int(np.sum(natural[n] < true[n])) for n in own.names]
    return ranks, bool(chains.diverging.any())


def calibrate(own: Posterior, replicates: int, seed: int = 0) -> Calibration:
    """Ranks over many replicates."""
    found = []
    for number in range(replicates):
        found.append(replicate(own, number, seed))
        if sys.stderr.isatty() or number % 50 == 49:
            print(f"{own.problem.law.name}: {number + 1} of {replicates}", flush=True)
    return Calibration(
        own.names, np.array([r for r, _ in found]), sum(diverged for _, diverged in found)
    )


def uniform(ranks: Any) -> tuple[Any, float]:
    """Histogram of ranks (replicates,) in equal bins, and the p-value of the chi-squared test."""
    from scipy.stats import chisquare

    counts = np.bincount(ranks * BINS // (DRAWS + 1), minlength=BINS)
    return counts, float(chisquare(counts).pvalue)


def measure() -> str:
    """The tables."""
    rows, lowest, tests = [], 1.0, 0
    for name, own in designs().items():
        found = calibrate(own, REPLICATES[name])
        for parameter, ranks in zip(found.names, found.ranks.T):
            counts, p = uniform(ranks)
            lowest, tests = min(lowest, p), tests + 1
            histogram = " ".join(map(str, counts))
            diverged = f"{found.diverged} of {REPLICATES[name]}"
            rows.append((name, parameter, histogram, f"{p:.3f}", diverged))
    head = ("law", "parameter", f"ranks in {BINS} bins", "p", "replicates with a divergence")
    note = (
        f"The lowest of {tests} p-values is {lowest:.4f}; by Bonferroni, 0.05 of all is "
        f"{0.05 / tests:.4f} of one."
    )
    return "\n\n".join([table(head, rows), note, setting("p2fit", "nutpie", "jax", "numpy")])


if __name__ == "__main__":
    print(measure())
