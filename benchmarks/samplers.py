"""Samplers for the posterior of a law: time with compiling, effective samples per second.

Every sampler draws 4 × (500 + 1000) from the same posterior on one core; *plain* is the usual PyMC
model in (log A, log B, log E, α, β) on the data as they are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from common import HERE, setting, simulate, table, target, times

from p2fit.bayes.fitting import BayesOptions, build_posterior
from p2fit.bayes.posterior import Posterior
from p2fit.bayes.pymc import pymc_model
from p2fit.bayes.sampling import prepare, sample
from p2fit.curves.choosing import datasets

DRAWS, TUNE, CHAINS = 1000, 500, 4
_PYMC: dict[str, Any] = {
    "draws": DRAWS,
    "tune": TUNE,
    "chains": CHAINS,
    "cores": 1,
    "random_seed": 1,
    "progressbar": False,
    "compute_convergence_checks": False,
}

Drawn = dict[str, Any]  # parameter -> (chains, draws), and "diverging"


def ours(own: Posterior, start: Any) -> Drawn:
    """nutpie on the density compiled by JAX, in p2fit's coordinates."""
    coordinates, mode = prepare(own, start)
    found = sample(coordinates, mode, draws=DRAWS, tune=TUNE, chains=CHAINS, seed=1)
    return {**_named(own, found.x), "diverging": found.diverging}


def by_pymc(sampler: str) -> Callable[[Posterior, Any], Drawn]:
    """A sampler that takes the PyMC model."""

    def run(own: Posterior, start: Any) -> Drawn:
        import pymc as pm

        with pymc_model(own):
            return _drawn(
                own,
                pm.sample(nuts_sampler=sampler, initvals={"x": start}, **_PYMC),
            )

    return run


def by_nutpie(own: Posterior, start: Any) -> Drawn:
    """nutpie on the PyMC model, compiled by numba, low-rank mass matrix."""
    import nutpie

    model = nutpie.compile_pymc_model(pymc_model(own), initial_points={"x": start})
    trace = nutpie.sample(
        model,
        draws=DRAWS,
        tune=TUNE,
        chains=CHAINS,
        cores=1,
        seed=1,
        progress_bar=False,
        adaptation="low_rank",
    )
    return _drawn(own, trace)


def plain(own: Posterior, start: Any) -> Drawn:
    """PyMC's NUTS on the usual model."""
    import pymc as pm

    frame = _chinchilla()
    n, d, y = (frame[c].to_numpy() for c in ("params", "tokens", "loss"))
    with pm.Model():
        log_a, log_b = pm.Normal("log_A", 6, 3), pm.Normal("log_B", 7, 3)
        log_e = pm.Normal("log_E", 0.5, 1)
        alpha, beta = pm.HalfNormal("alpha", 1), pm.HalfNormal("beta", 1)
        fitted = pm.math.exp(log_e) + pm.math.exp(log_a - alpha * np.log(n))
        fitted = fitted + pm.math.exp(log_b - beta * np.log(d))
        sigma, nu = pm.HalfStudentT("sigma", 3, 0.02), pm.Gamma("nu", 2, 0.1)
        pm.StudentT("loss", nu=nu, mu=pm.math.log(fitted), sigma=sigma, observed=np.log(y))
        trace = pm.sample(**_PYMC)
    names = ("log_A", "log_B", "log_E", "alpha", "beta", "sigma", "nu")
    found = {n: np.asarray(trace.posterior[n]) for n in names}
    return {**found, "diverging": np.asarray(trace.sample_stats["diverging"])}


def _drawn(own: Posterior, trace: Any) -> Drawn:
    x = np.asarray(trace.posterior["x"])
    return {**_named(own, x), "diverging": np.asarray(trace.sample_stats["diverging"])}


def _named(own: Posterior, x: Any) -> Drawn:
    return {n: v for n, v in own.natural(x).items() if n in own.names}


def _chinchilla() -> pl.DataFrame:
    path = HERE.parent / "examples" / "chinchilla" / "chinchilla.csv"
    return pl.read_csv(path, infer_schema_length=None).filter(pl.col("kept") == 1)


def measure() -> str:
    """The tables."""
    import arviz as az

    rounds = np.geomspace(0.05e9, 1e9, 12)
    sets = {
        "Chinchilla, 240 rows": (_chinchilla(), "chinchilla"),
        "P², 3 sizes, 108 rows": (simulate(rounds), "p2"),
        "P², 3 sizes, 495 rows": (simulate(np.geomspace(0.05e9, 1e9, 55)), "p2"),
    }
    only_mine = {"P², 3 sizes, 495 rows"}
    mine = "p2fit: nutpie on JAX, its coordinates"
    samplers: dict[str, Callable[[Posterior, Any], Drawn]] = {
        mine: ours,
        "nutpie on PyMC, sizes and exponents": by_nutpie,
        "PyMC, sizes and exponents": by_pymc("pymc"),
        "NumPyro, sizes and exponents": by_pymc("numpyro"),
        "PyMC, plain": plain,
    }
    rows, speed = [], {}
    for name, run in samplers.items():  # p2fit's first: others make JAX's devices as they need them
        for data, (frame, law) in sets.items():
            _, own, start = build_posterior(datasets(frame, law)[0], BayesOptions())
            if name == "PyMC, plain" and law != "chinchilla":
                continue
            if name != mine and data in only_mine:
                continue
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drawn = run(own, start)
            seconds = time.perf_counter() - began
            diverged = int(drawn.pop("diverging").sum())
            ess = min(float(az.ess(v, method="bulk")) for v in drawn.values())
            r_hat = max(float(az.rhat(v)) for v in drawn.values())
            speed[data, name] = ess / seconds
            print(data, name, f"{seconds:.1f} s", f"{ess:.0f}", flush=True)
            rows.append(
                (
                    *(data, name, f"{seconds:.1f} s", f"{ess:.0f}", f"{ess / seconds:.1f}"),
                    *(f"{r_hat:.3f}", str(diverged)),
                )
            )
    rows.sort(key=lambda row: list(sets).index(row[0]))
    first = next(iter(sets))
    ratio = speed[first, mine] / speed[first, "PyMC, plain"]
    head = ("data", "sampler", "time", "least bulk ESS", "per second", "R-hat", "divergences")
    goal = target("effective samples per second, of plain PyMC's", ratio, 20.0, times, most=False)
    return (
        f"{table(('target', 'measured', 'wanted', ''), [goal])}\n\n{table(head, rows)}\n\n"
        f"{setting('p2fit', 'nutpie', 'pymc', 'numpyro', 'arviz', 'numpy')}"
    )


if __name__ == "__main__":
    print(measure())
