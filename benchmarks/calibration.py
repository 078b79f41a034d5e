"""The Bayesian backend under other noise than its own.

Simulation-based calibration draws from the model itself, so it cannot see where the model is wrong.
Here the noise is that of the errors of runs (`effects.py`), whose laws of correlation are not the
posterior's, and 95 % intervals are held against the truth. The draws are those of importance
sampling where that holds (`--backend laplace`), and of NUTS where it does not.

    python benchmarks/run.py --only calibration
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
from common import Row, percent, setting, table
from effects import MIXED, NOISES
from intervals import TRUTHS, Design, dense, name, pruned, sparse

import p2fit

SETS = 60
CELLS = (MIXED, "offsets and AR 0.97", "offsets and t₃", "offsets and rates")


class Outcome(NamedTuple):
    """What a posterior said of one data set."""

    parameters: list[bool]
    """Whether the interval of each free parameter covers."""
    points: list[bool]
    """Whether the interval of the mean at each point covers."""
    failed: bool
    """Whether a diagnostic failed."""
    sampled: bool
    """Whether it took NUTS."""


def measure() -> str:
    """Coverage of parameters and predictions, over laws and noises."""
    designs = [(make(4), noise) for make in (pruned, dense, sparse) for noise in CELLS]
    designs.append((dense(4, rows=40), "offsets and AR 0.97"))
    rows: list[Row] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for design, noise in designs:
            found = list(pool.map(partial(outcome, design, noise), range(SETS), chunksize=5))
            rows.append(_row(design, noise, found))
            print("  " + " | ".join(rows[-1]), flush=True)
    heads = ("law, runs", "noise", "parameters cover", "predictions cover", "checks failed", "NUTS")
    return "\n\n".join([table(heads, rows), setting("p2fit", "nutpie", "jax", "numpy")])


def _row(design: Design, noise: str, found: list[Outcome]) -> Row:
    free = p2fit.LAWS[design.law].free
    shares = np.mean([f.parameters for f in found], axis=0)
    points = np.mean([f.points for f in found], axis=0)
    return (
        f"{name(design)}, {design.frame.height // len(design.parts)} rows each",
        noise,
        ", ".join(f"{n} {percent(float(s))}" for n, s in zip(free, shares)),
        f"{percent(float(points.min()))} to {percent(float(points.max()))}",
        str(sum(f.failed for f in found)),
        str(sum(f.sampled for f in found)),
    )


def outcome(design: Design, noise: str, seed: int) -> Outcome:
    """One data set and its posterior."""
    rng = np.random.default_rng(seed)
    law, truth = p2fit.LAWS[design.law], TRUTHS[design.law]
    logs = np.log(design.frame["tokens"].to_numpy())
    error = np.concatenate([NOISES[noise](rng, logs[part]) for part in design.parts])
    exact = law.predict(truth, design.frame.to_dict())
    curves = design.frame.with_columns(loss=pl.Series(exact * np.exp(error)))
    try:
        fit, sampled = p2fit.fit(curves, design.law, backend="laplace"), False
    except p2fit.FitError:
        fit, sampled = p2fit.fit(curves, design.law, backend="bayes"), True
    ends = [fit.parameters[n].interval or (None, None) for n in law.free]
    covers = [
        (low is None or low <= truth[n]) and (high is None or truth[n] <= high)
        for n, (low, high) in zip(law.free, ends)
    ]
    mean = fit.interval(design.points)
    wanted = law.predict(truth, design.points)
    assert mean is not None
    inside = (mean[0] <= wanted) & (wanted <= mean[1])
    return Outcome(covers, inside.tolist(), not fit.converged, sampled)
