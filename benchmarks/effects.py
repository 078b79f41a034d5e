"""Errors of runs and errors of rows against an oracle, under other noise than either assumes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
from common import Array, Row, percent, setting, table
from intervals import TRUTHS, Design, dense, name, pruned, sparse

import p2fit

SEEDS = 40
MIXED = "offsets and AR 0.8"
Draw = Callable[[np.random.Generator, Array], Array]


def _ar(correlation: float) -> Draw:
    def draw(rng: np.random.Generator, logs: Array) -> Array:
        found = rng.standard_normal(len(logs))
        for i in range(1, len(logs)):
            fresh = np.sqrt(1 - correlation**2) * found[i]
            found[i] = correlation * found[i - 1] + fresh
        return 0.003 * rng.standard_normal() + 0.002 * found

    return draw


def _offsets(rng: np.random.Generator, logs: Array) -> Array:
    return 0.003 * rng.standard_normal() + 0.0005 * rng.standard_normal(len(logs))


def _heavy(rng: np.random.Generator, logs: Array) -> Array:
    return 0.003 * rng.standard_normal() + 0.002 * rng.standard_t(3, len(logs))


def _uneven(rng: np.random.Generator, logs: Array) -> Array:
    return 0.003 * rng.standard_normal() + np.linspace(0.005, 0.001, len(logs)) * (
        rng.standard_normal(len(logs))
    )


def _smooth(rng: np.random.Generator, logs: Array) -> Array:
    near = np.exp(-np.abs(logs[:, None] - logs)) + 1e-9 * np.eye(len(logs))
    fresh = np.linalg.cholesky(near) @ rng.standard_normal(len(logs))
    return 0.003 * rng.standard_normal() + 0.002 * fresh


def _rates(rng: np.random.Generator, logs: Array) -> Array:
    own = 0.002 * rng.standard_normal() * (logs - logs.mean())
    return 0.003 * rng.standard_normal() + own + 0.001 * rng.standard_normal(len(logs))


#: Noise of the log of a run's losses, by its log tokens.
NOISES: dict[str, Draw] = {
    MIXED: _ar(0.8),
    "offsets": _offsets,
    "offsets and AR 0.5": _ar(0.5),
    "offsets and AR 0.97": _ar(0.97),
    "offsets and t₃": _heavy,
    "offsets, shrinking noise": _uneven,
    "offsets, correlation in log tokens": _smooth,
    "offsets and rates": _rates,
}


class Outcome(NamedTuple):
    """What one way of fitting said of one data set, at each point."""

    mean: list[bool]
    """Whether the mean's interval covers."""
    new: list[bool]
    """Whether the new run's interval covers a point of a new run."""
    width: list[float]
    """Width of the mean's interval, in the log."""
    miss: list[float]
    """Log of the prediction over the truth."""
    seconds: float
    """Of the processor."""


def measure() -> str:
    """Every law and noise; numbers of runs, and of their rows; by errors of runs and of rows."""
    cells = []
    for make in (pruned, dense, sparse):
        cells += [(make(4), "", noise) for noise in NOISES]
        cells += [(make(*grid), "", MIXED) for grid in ((3, 2), (3, 3), (8, 5))]
        cells += [(make(4, rows=rows), f" of {rows} rows", MIXED) for rows in (3, 40)]
        cells += [(uneven(make(4)), " of unlike length", MIXED)]
    rows: list[Row] = []
    spawn = multiprocessing.get_context("spawn")  # polars has threads, which do not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for design, more, noise in cells:
            found = list(pool.map(partial(outcomes, design, noise), range(SEEDS), chunksize=5))
            rows += _rows(design, more, noise, [f for f in found if f is not None])
            print("  " + " | ".join(rows[-2]) + "\n  " + " | ".join(rows[-1]), flush=True)
    heads = ("law, runs", "noise", "errors", "sets", "mean covers", "new run covers",
             "width, of an oracle's", "RMSE, of that of rows", "time, of that of rows")  # fmt: skip
    return "\n\n".join([table(heads, rows), _wrong_laws(), setting("p2fit", "numpy")])


def uneven(design: Design) -> Design:
    """The same where each run ended somewhere, after 3 rows at least."""
    rng = np.random.default_rng(0)
    ends = [part[: rng.integers(3, len(part) + 1)] for part in design.parts]
    return replace(design, frame=design.frame[np.concatenate(ends)])


def _wrong_laws() -> str:
    """How often a law is said to be wrong along runs where it is, and where it is not."""
    rows: list[Row] = []
    for make, size in itertools.product((pruned, dense, sparse), (4, 3)):
        design = make(size)
        noises = NOISES if size == 4 else (MIXED,)
        cells = [("nothing", noise) for noise in noises]
        for wrong in ("start", "decay"):
            cells += [(wrong, noise) for noise in noises if noise in (MIXED, "offsets and rates")]
        for wrong, noise in cells:
            found = [said(_wrong(design, wrong, noise, seed)) for seed in range(SEEDS)]
            named = [sum(w in (f or "") for f in found) / SEEDS for w in ("start that", "decays")]
            rows.append((name(design), noise, wrong, *map(percent, named)))
    heads = ("law, runs", "noise", "what is wrong", "said to be a start", "a decaying rate")
    return table(heads, rows)


def _wrong(design: Design, wrong: str, noise: str, seed: int) -> p2fit.Fit:
    """A fit of curves whose tokens count 5 % of the run too few, or that lie 2 % above the law as
    long as their learning rate has not fallen."""
    rng = np.random.default_rng(1000 + seed)
    law, truth = p2fit.LAWS[design.law], TRUTHS[design.law]
    columns = {x: design.frame[x].to_numpy().astype(float) for x in law.inputs}
    logs = np.log(columns["tokens"])
    parts = design.parts
    error = np.concatenate([NOISES[noise](rng, logs[part]) for part in parts])
    last = np.concatenate([np.full(len(part), columns["tokens"][part].max()) for part in parts])
    share = columns["tokens"] / last
    if wrong == "start":
        columns["tokens"] = columns["tokens"] + 0.05 * last
    exact = law.predict(truth, columns)
    if wrong == "decay":
        exact = exact * (1 + 0.01 * (1 + np.cos(np.pi * share)))
    curves = design.frame.with_columns(loss=pl.Series(exact * np.exp(error)))
    return p2fit.fit(curves, design.law, errors="runs")


def said(fit: p2fit.Fit) -> str | None:
    """What a fit says of its law along the runs."""
    return next((w for w in fit.warnings if "wrong along the runs" in w), None)


def _rows(design: Design, more: str, noise: str, found: Sequence[dict[str, Outcome]]) -> list[Row]:
    if not found:  # no more runs than parameters
        return [(name(design) + more, noise, e, "0", *["—"] * 5) for e in ("rows", "runs")]
    best = oracle(design, noise)
    plain = np.sqrt(np.mean([np.square(f["rows"].miss) for f in found], axis=0))
    floor = np.median([f["rows"].seconds for f in found])
    made: list[Row] = []
    for errors in ("rows", "runs"):
        own = [f[errors] for f in found]
        wide = np.median([o.width for o in own], axis=0) / best
        miss = np.sqrt(np.mean([np.square(o.miss) for o in own], axis=0)) / plain
        covers = [np.mean([getattr(o, kind) for o in own], axis=0) for kind in ("mean", "new")]
        spans = [f"{percent(float(c.min()))} to {percent(float(c.max()))}" for c in covers]
        made.append(
            (
                name(design) + more,
                noise,
                errors,
                str(len(own)),
                *spans,
                f"{wide.min():.2f} to {wide.max():.2f}",
                f"{miss.min():.2f} to {miss.max():.2f}",
                f"{np.median([o.seconds for o in own]) / floor:.1f}",
            )
        )
    return made


def outcomes(design: Design, noise: str, seed: int) -> dict[str, Outcome] | None:
    """One data set by both; None where one of the fits has no intervals."""
    rng = np.random.default_rng(seed)
    law, truth = p2fit.LAWS[design.law], TRUTHS[design.law]
    frame = design.frame
    logs = np.log(frame["tokens"].to_numpy())
    parts = design.parts
    error = np.concatenate([NOISES[noise](rng, logs[part]) for part in parts])
    exact = law.predict(truth, frame.to_dict())
    curves = frame.with_columns(loss=pl.Series(exact * np.exp(error)))
    wanted = law.predict(truth, design.points)
    fresh = np.array([NOISES[noise](rng, logs[parts[0]])[-1] for _ in wanted])
    new = wanted * np.exp(fresh)
    found = {}
    for errors in ("rows", "runs"):
        start = time.process_time()
        fit = p2fit.fit(curves, design.law, errors=errors)
        taken = time.process_time() - start
        mean, one = (fit.interval(design.points, new_run=n) for n in (False, True))
        if mean is None or one is None:
            return None
        found[errors] = Outcome(
            ((mean[0] <= wanted) & (wanted <= mean[1])).tolist(),
            ((one[0] <= new) & (new <= one[1])).tolist(),
            np.log(mean[1] / np.maximum(mean[0], 1e-6)).tolist(),
            np.log(fit.predict(design.points) / wanted).tolist(),
            taken,
        )
    return found


def oracle(design: Design, noise: str) -> Array:
    """Width of the 95 % interval of each point's mean, in the log, by generalised least squares
    that knows the covariance of the noise."""
    law, truth = p2fit.LAWS[design.law], TRUTHS[design.law]
    logs = np.log(design.frame["tokens"].to_numpy())
    parts = design.parts
    rng, total = np.random.default_rng(0), 0.0
    exact = law.predict(truth, design.frame.to_dict())
    slopes = law.gradient(truth, design.frame.to_dict())
    jac = np.stack([np.broadcast_to(slopes[n], exact.shape) / exact for n in law.free])
    for part in parts:
        drawn = np.stack([NOISES[noise](rng, logs[part]) for _ in range(2000)])
        jacobian = jac[:, part]
        total = total + jacobian @ np.linalg.solve(np.cov(drawn.T), jacobian.T)
    there = law.predict(truth, design.points)
    ends = law.gradient(truth, design.points)
    at = np.stack([np.broadcast_to(ends[n], there.shape) / there for n in law.free])
    variance = np.einsum("pi,pi->i", at, np.linalg.solve(total, at))
    found: Array = 2 * 1.96 * np.sqrt(variance)
    return found
