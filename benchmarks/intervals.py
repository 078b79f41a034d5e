"""Do the intervals cover the truth where the points of a curve share their error?"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from common import TRUTH, Array, Row, percent, setting, table

import p2fit
from p2fit.schedules import Schedule

SEEDS = 400
#: The bootstraps take longer: on the first so many of the seeds, with so many resamples.
FEW, RESAMPLES = 100, 200
#: Noise of log loss: an offset of each run, and along the run AR(1) with this correlation.
OFFSET, ALONG, CORRELATION = 0.003, 0.002, 0.8
#: Wanted from so many runs on: of each parameter, and of each prediction; and of each prediction
#: with fewer.
MANY, COVER, PREDICTED = 25, (0.90, 0.99), 0.88

SUM = {"E": 1.8, "A": 480.0, "alpha": 0.348, "B": 2100.0, "beta": 0.366}
TRUTHS = {"p2": TRUTH, "chinchilla": SUM, "average-params": SUM}
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "wild": {"bootstrap": RESAMPLES, "resample": "wild"},
    "rows": {"bootstrap": RESAMPLES, "resample": "runs"},
}
TITLES = {
    "default": "default",
    "wild": "wild bootstrap of runs",
    "rows": "bootstrap of rows, as if independent",
}
POINTS = ("centre", "small size, few tokens", "large size, many tokens", "twice the size")


@dataclass(frozen=True)
class Design:
    """Curves without noise, and where they are to be predicted."""

    law: str
    """Name of the law that they follow."""
    runs: int
    """How many runs."""
    frame: pl.DataFrame
    """``run`` and the law's inputs, by run, then tokens."""
    points: Mapping[str, Array]
    """Inputs to predict at: three inside the design, the last at twice its largest size."""

    @property
    def single(self) -> bool:
        """Whether every run has one row."""
        return self.frame.height == self.runs

    @property
    def parts(self) -> list[Array]:
        """The rows of each run."""
        starts = np.flatnonzero((self.frame["run"] != self.frame["run"].shift()).fill_null(True))
        return np.split(np.arange(self.frame.height), starts[1:])


class Outcome(NamedTuple):
    """What one way of making intervals said of one data set."""

    ends: list[tuple[float, float] | None]
    """Of each parameter, open ends at infinity; None where there is no interval."""
    hits: list[bool] | None
    """Of each prediction, whether it covers; None where there are no intervals."""


def measure() -> str:
    """Every design under every seed, by p2fit's default and by two bootstraps."""
    found: dict[str, list[dict[str, Outcome]]] = {}
    spawn = multiprocessing.get_context("spawn")  # polars has threads, which do not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for design in designs():
            print(f"  {name(design)}", flush=True)
            each = pool.map(partial(outcomes, design), range(SEEDS), chunksize=10)
            found[name(design)] = list(each)
    return report(found)


def report(found: Mapping[str, Sequence[Mapping[str, Outcome]]]) -> str:
    """The tables, from the outcomes of every design by its name."""
    parameters: list[Row] = []
    predictions: list[Row] = []
    targets: list[Row] = []
    for design in designs():
        title = name(design)
        by = {m: [f[m] for f in found[title] if m in f] for m in METHODS}
        shares = {m: covered(o) for m, o in by.items() if o}
        counts = [tally(design, by["default"], i) for i in range(len(TRUTHS[design.law]))]
        for i, parameter in enumerate(TRUTHS[design.law]):
            others = [
                percent(tally(design, by[m], i).cover) if m in shares else "—"
                for m in ("wild", "rows")
            ]
            parameters.append((title, parameter, *counts[i].cells(), *others))
        for m, share in shares.items():
            predictions.append((title, TITLES[m], str(len(by[m])), *map(percent, share)))
        targets += judged(design, [c.cover for c in counts], shares["default"])
    return "\n\n".join(
        [
            table(("target", "least", "most", "wanted", ""), targets),
            table(("", "intervals", "seeds", *POINTS), predictions),
            table(("", "parameter", "intervals", "cover", "with an open end", "closed",
                   "closed cover", "cover, wild", "cover, rows"), parameters),
            setting("p2fit", "numpy"),
        ]
    )  # fmt: skip


# ---------------------------------------------------------------- curves


def designs() -> list[Design]:
    """All that is simulated."""
    found = [make(k) for make in (pruned, dense, sparse) for k in (3, 4, 5, 6)]
    return [*found, single(30), single(60)]


def name(design: Design) -> str:
    """The law and the runs, for a table."""
    return f"{design.law}, {design.runs} {'rows' if design.single else 'runs'}"


def pruned(k: int, others: int = 0, rows: int = 20) -> Design:
    """k sizes by k (or other) pruning rates, 20 checkpoints."""
    sizes, rates = np.geomspace(0.5e9, 3e9, k), np.linspace(0.15, 0.35, others or k)
    tokens = np.linspace(1 / rows, 1, rows) * 1e9
    size, rate = np.repeat(list(itertools.product(sizes, rates)), len(tokens), axis=0).T
    points = {
        "params": np.array([1.2e9, 0.5e9, 3e9, 6e9]),
        "pruning_rate": np.array([0.25, 0.15, 0.35, 0.25]),
        "tokens": np.array([0.5e9, 0.2e9, 1e9, 1e9]),
    }
    frame = {
        "params": size,
        "pruning_rate": rate,
        "tokens": np.tile(tokens, len(sizes) * len(rates)),
    }
    return _design("p2", len(sizes) * len(rates), _with_base(frame), _with_base(points))


def _with_base(columns: Mapping[str, Array]) -> dict[str, Array]:
    return {**columns, "base_loss": 2.9 - 0.25 * np.log10(columns["params"] / 5e8)}


def dense(k: int, others: int = 0, rows: int = 8) -> Design:
    """k sizes by k (or other) budgets of 5 to 80 tokens a parameter, 8 checkpoints of each run."""
    grid = itertools.product(np.geomspace(1e8, 3e9, k), np.geomspace(5, 80, others or k))
    runs = [(size, size * ratio * np.geomspace(1 / 8, 1, rows)) for size, ratio in grid]
    frame = {
        "params": np.repeat([size for size, _ in runs], rows),
        "tokens": np.concatenate([tokens for _, tokens in runs]),
    }
    points = {
        "params": np.array([5.5e8, 1e8, 3e9, 6e9]),
        "tokens": np.array([1e10, 5e8, 2.4e11, 2.4e11]),
    }
    return _design("chinchilla", len(runs), frame, points)


def sparse(k: int, others: int = 0, rows: int = 8) -> Design:
    """k sizes by k (or other) sparsities from 0 to 0.8 on 40 tokens a parameter, 8 checkpoints."""
    grid = itertools.product(np.geomspace(1e8, 3e9, k), np.linspace(0, 0.8, others or k))
    average, seen, dense_size = [], [], []
    for size, sparsity in grid:
        run = Schedule.from_compute("geometric", sparsity, prunable=size, dense_tokens=40 * size)
        seen.append(run.total * np.geomspace(1 / 8, 1, rows))
        average.append(run.avg_params(seen[-1]))
        dense_size.append(np.full(rows, size))
    frame = {"avg_params": np.concatenate(average), "tokens": np.concatenate(seen)}
    points = {
        "avg_params": np.array([3e8, 1e8, 2e9, 6e9]),
        "tokens": np.array([2e10, 5e8, 1.2e11, 2.4e11]),
    }
    return _design(
        "average-params", len(seen), {"params": np.concatenate(dense_size), **frame}, points
    )


def single(runs: int) -> Design:
    """Sizes and budgets spread at random, one row a run."""
    rng = np.random.default_rng(runs)
    size = np.exp(rng.uniform(np.log(1e8), np.log(3e9), runs))
    frame = {"params": size, "tokens": size * np.exp(rng.uniform(np.log(5), np.log(80), runs))}
    return _design("chinchilla", runs, frame, dense(3).points)


def _design(law: str, runs: int, frame: Mapping[str, Array], points: Mapping[str, Array]) -> Design:
    rows = len(frame["tokens"])
    names = [f"r{i:02d}" for i in np.repeat(np.arange(runs), rows // runs)]
    return Design(law, runs, pl.DataFrame({"run": names, **frame}), points)


def noise(seed: int, runs: int, checkpoints: int) -> Array:
    """Noise of log loss, by run, then checkpoint: an offset for each run, AR(1) along it."""
    rng = np.random.default_rng(seed)
    shift = OFFSET * rng.standard_normal((runs, 1))
    fresh = ALONG * rng.standard_normal((runs, checkpoints))
    along = np.empty_like(fresh)
    along[:, 0] = fresh[:, 0]
    for j in range(1, checkpoints):
        along[:, j] = CORRELATION * along[:, j - 1] + np.sqrt(1 - CORRELATION**2) * fresh[:, j]
    return (shift + along).ravel()


# ---------------------------------------------------------------- fits


def outcomes(design: Design, seed: int) -> dict[str, Outcome]:
    """One data set by every way of making intervals, the bootstraps on few seeds."""
    law = p2fit.LAWS[design.law]
    frame, truth = design.frame, TRUTHS[design.law]
    exact = law.predict(truth, frame.to_dict())
    wiggle = noise(seed, design.runs, frame.height // design.runs)
    frame = frame.with_columns(loss=pl.Series(exact * np.exp(wiggle)))
    wanted = law.predict(truth, design.points)
    found = {}
    for method, options in METHODS.items():
        if method != "default" and (seed >= FEW or design.single):
            continue
        curves = frame
        if method == "rows":  # as if every row were a run of its own
            curves = frame.with_columns(run=pl.int_range(pl.len()).cast(pl.String))
        fit = p2fit.fit(curves, design.law, **options)
        ends = [fit.parameters[p].interval for p in truth]
        interval = fit.interval(design.points)
        hits = None
        if interval is not None:
            hits = ((interval[0] <= wanted) & (wanted <= interval[1])).tolist()
        found[method] = Outcome([_filled(e) for e in ends], hits)
    return found


def _filled(ends: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    low, high = ends
    return -np.inf if low is None else low, np.inf if high is None else high


@dataclass(frozen=True)
class Tally:
    """How the intervals of one parameter did."""

    seeds: int
    """Data sets."""
    intervals: int
    """Of them with an interval."""
    cover: float
    """Share of the intervals that hold the truth."""
    opened: float
    """Share of the intervals with an open end."""
    closed: int
    """Intervals with both ends."""
    closed_cover: float
    """Share of those that hold the truth."""

    def cells(self) -> Row:
        few = f"{self.intervals} of {self.seeds}"
        closed = percent(self.closed_cover) if self.closed else "—"
        return few, percent(self.cover), percent(self.opened), str(self.closed), closed


def tally(design: Design, found: Sequence[Outcome], index: int) -> Tally:
    """Count the intervals of one parameter."""
    truth = list(TRUTHS[design.law].values())[index]
    ends = [e for e in (f.ends[index] for f in found) if e is not None]
    hits = [low <= truth <= high for low, high in ends]
    whole = [hit for hit, e in zip(hits, ends) if np.isfinite(e).all()]
    return Tally(
        seeds=len(found),
        intervals=len(ends),
        cover=float(np.mean(hits)) if hits else 0.0,
        opened=1 - len(whole) / max(len(ends), 1),
        closed=len(whole),
        closed_cover=float(np.mean(whole)) if whole else 0.0,
    )


def covered(found: Sequence[Outcome]) -> list[float]:
    """Share of the intervals of each prediction that hold the truth."""
    hits = np.array([f.hits for f in found if f.hits is not None])
    return [float(share) for share in hits.mean(axis=0)]


def judged(design: Design, parameters: list[float], predictions: list[float]) -> list[Row]:
    """Targets: of parameters and predictions with many runs, of predictions with few."""
    title = name(design)
    low, high = COVER
    between = f"{percent(low)} to {percent(high)}"
    if design.runs < MANY:
        met = min(predictions) >= PREDICTED
        wanted = (f"at least {percent(PREDICTED)}", "met" if met else "**missed**")
        return [
            (f"{title}: parameters", *_range(parameters), "as they are", "—"),
            (f"{title}: predictions", *_range(predictions), *wanted),
        ]
    rows: list[Row] = []
    for what, shares in (("parameters", parameters), ("predictions", predictions)):
        verdict = "met"
        if max(shares) > high:
            verdict = "**too wide**"
        if min(shares) < low:
            verdict = "**missed**"
        rows.append((f"{title}: {what}", *_range(shares), between, verdict))
    return rows


def _range(shares: Sequence[float]) -> tuple[str, str]:
    return percent(min(shares)), percent(max(shares))
