"""Do the runs that ``p2fit plan next`` picks predict better than others of the same cost?"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from common import TRUTH, Row, setting, table

import p2fit
from p2fit.curves.points import crossed_points

SEEDS = 50
#: Noise of log loss, and its correlation along a run.
NOISE, CORRELATION = 0.004, 0.8
#: What may be spent, as shares of what all candidates cost together.
SHARES = (0.02, 0.1)

WAYS = {
    "targeted": "`plan next --at` the wanted points",
    "all": "`plan next`, all parameters",
    "grid": "grid",
    "random": "random",
    "none": "none: the pilot alone",
}


@dataclass(frozen=True)
class Study:
    """A pilot, runs that could follow it, and what is wanted."""

    law: str
    """Name of the law that all curves follow."""
    truth: Mapping[str, float]
    """Its parameters."""
    pilot: pl.DataFrame
    """Runs that have been made."""
    candidates: pl.DataFrame
    """Runs that could be made."""
    levels: tuple[str, ...]
    """Inputs that the candidates are a grid of, at the end of a run."""
    wanted: Mapping[str, Sequence[float]]
    """Points to predict."""


def measure() -> str:
    """Every study under every budget and seed."""
    rows: list[Row] = []
    spawn = multiprocessing.get_context("spawn")  # polars has threads, which do not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        for study, share in itertools.product((pruned(), dense()), SHARES):
            each = pool.map(partial(errors, study, share), range(SEEDS), chunksize=5)
            rows += scored(study.law, share, list(each))
    head = ("law", "budget", "runs added", "RMSE", "of `--at`'s", "median", "`--at` nearer in")
    return f"{table(head, rows)}\n\n{setting('p2fit', 'numpy')}"


def scored(law: str, share: float, each: Sequence[Mapping[str, Sequence[float]]]) -> list[Row]:
    """A row for each way of adding runs, from its errors under every seed."""
    rows = []
    best = [one["targeted"] for one in each]
    for way, title in WAYS.items():
        mine = [one[way] for one in each]
        nearer = sum(rmse([a]) > rmse([b]) for a, b in zip(mine, best))
        against = (f"{rmse(mine) / rmse(best):.2f} ×", f"{nearer} of {len(each)}")
        ratio, count = ("", "") if way == "targeted" else against
        median = float(np.median([rmse([m]) for m in mine]))
        numbers = f"{rmse(mine):.4f}", ratio, f"{median:.4f}", count
        rows.append((law, f"{share:.0%}", title, *numbers))
    return rows


def rmse(found: Sequence[Sequence[float]]) -> float:
    return float(np.sqrt(np.mean(np.square(found))))


def errors(study: Study, share: float, seed: int) -> dict[str, list[float]]:
    """Errors of the log of the wanted losses, by how runs were added to the pilot."""
    exact = p2fit.LAWS[study.law].predict(study.truth, study.wanted)
    both = pl.concat([study.pilot, study.candidates])
    curves = p2fit.simulate(
        study.law, study.truth, both, noise=NOISE, correlation=CORRELATION, seed=seed
    )
    first = curves.filter(pl.col("run").is_in(study.pilot["run"].unique().to_list()))
    fit = p2fit.fit(first, study.law)
    budget = share * sum(costs(study).values())
    plan = partial(p2fit.plan_next, fit, study.candidates, count=10**6, flops=budget)
    chosen = {
        "targeted": [r.run for r in plan(at=dict(study.wanted)).runs],
        "all": [r.run for r in plan().runs],
        "grid": grid(study, budget),
        "random": affordable(study, np.random.default_rng(seed), budget),
        "none": [],
    }
    found = {}
    for way, runs in chosen.items():
        more = curves.filter(pl.col("run").is_in(runs))
        again = p2fit.fit(pl.concat([first, more]), study.law)
        found[way] = np.log(again.predict(study.wanted) / exact).tolist()
    return found


def costs(study: Study) -> dict[str, float]:
    """FLOPs of each candidate."""
    kept = pl.col("params") * (1 - pl.col("pruning_rate") if "pruning_rate" in study.levels else 1)
    last = study.candidates.group_by("run", maintain_order=True).last()
    return dict(last.select("run", 6 * pl.col("tokens") * kept).iter_rows())


def affordable(study: Study, rng: np.random.Generator, budget: float) -> list[str]:
    """Candidates in random order, each that the rest of the budget still pays."""
    cost, found = costs(study), []
    for run in rng.permutation(list(cost)).tolist():
        if cost[run] <= budget:
            budget -= cost[run]
            found.append(run)
    return found


def grid(study: Study, budget: float) -> list[str]:
    """The dearest full grid of evenly spread levels that the budget pays."""
    cost = costs(study)
    last = study.candidates.group_by("run", maintain_order=True).last()
    each = []
    for x in study.levels:
        values = last[x].unique().sort().to_list()
        spread = [
            tuple(values[i] for i in np.linspace(low, high, n).round().astype(int))
            for low, high in itertools.combinations_with_replacement(range(len(values)), 2)
            for n in range(1 if low == high else 2, high - low + 2)
        ]
        each.append(sorted(set(spread)))
    best: tuple[float, list[str]] = 0.0, []
    for levels in itertools.product(*each):
        if np.prod([len(v) for v in levels]) < 4:
            continue
        inside = pl.all_horizontal(pl.col(x).is_in(v) for x, v in zip(study.levels, levels))
        runs = last.filter(inside)["run"].to_list()
        total = sum(cost[r] for r in runs)
        if best[0] < total <= budget:
            best = total, runs
    return best[1]


# ---------------------------------------------------------------- studies


def pruned() -> Study:
    """P²: curves of small models with little taken off; wanted: a large one with much."""
    pilot = {"params": (0.5e9, 1e9, 2e9), "pruning_rate": (0.15, 0.25, 0.35)}
    more = {"params": (0.5e9, 1e9, 2e9, 4e9), "pruning_rate": (0.1, 0.3, 0.5)}
    wanted = {"params": [8e9] * 2, "pruning_rate": [0.4, 0.5], "tokens": [1e11, 1e11]}
    return Study(
        "p2",
        TRUTH,
        along(pilot, (2e9,), "pilot"),
        along(more, (2e9, 8e9, 32e9), "next"),
        ("params", "pruning_rate", "tokens"),
        {**wanted, "base_loss": [2.5, 2.5]},
    )


def along(
    levels: Mapping[str, Sequence[float]], tokens: Sequence[float], name: str
) -> pl.DataFrame:
    """Runs of eight checkpoints, from a fiftieth of their tokens on."""
    ends = crossed_points({**levels, "tokens": tokens})
    frame = pl.DataFrame(ends).with_columns(
        base_loss=2.5, run=pl.format(f"{name}-{{}}", pl.int_range(pl.len()))
    )
    parts = pl.DataFrame({"part": np.geomspace(0.02, 1, 8)})
    return frame.join(parts, how="cross").with_columns(tokens=pl.col("tokens") * pl.col("part"))


def dense() -> Study:
    """Chinchilla: small models with one row each; wanted: a model a hundred times as dear."""
    truth = {"E": 1.8, "A": 480.0, "alpha": 0.348, "B": 2100.0, "beta": 0.366}
    pilot = crossed_points({"params": (50e6, 100e6, 200e6), "tokens": (1e9, 2e9, 4e9, 8e9)})
    more = crossed_points(
        {
            "params": (25e6, 50e6, 100e6, 200e6, 400e6, 800e6, 1.6e9),
            "tokens": (0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9, 32e9),
        }
    )
    named = [
        pl.DataFrame(rows).with_columns(run=pl.format(f"{name}-{{}}", pl.int_range(pl.len())))
        for name, rows in (("pilot", pilot), ("next", more))
    ]
    wanted = {"params": [7e9, 7e9], "tokens": [140e9, 1e12]}
    return Study("chinchilla", truth, named[0], named[1], ("params", "tokens"), wanted)
