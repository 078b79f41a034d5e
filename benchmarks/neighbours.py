"""Laws that are no plain sum of powers: p2fit beside simple-scaling-laws, on its own examples."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from common import TARGETS, Array, Row, duration, percent, setting, table, target

import p2fit
from p2fit.laws.law import Law

#: Simulated data sets of each law.
SEEDS = 20
#: Objectives nearer than this share are the same.
SAME = 1e-6
COLUMN = "test_loss__cross_entropy"
NOISE = {"runs_per_config": 2, "evaluations_per_run": 4, "run_sd": 0.01, "eval_sd": 0.02}
GRID = {"model_sizes": (1e6, 1e7, 1e8, 1e9), "dataset_sizes": (1e3, 1e4, 1e5, 1e6)}
SWEEP = {"model_sizes": tuple(10.0**k for k in range(6, 14)), "dataset_sizes": ()}


@dataclass(frozen=True)
class Example:
    """An example of the README of simple-scaling-laws 0.2.0, in both packages' words."""

    law: str
    """Its name there."""
    formula: str
    """For p2fit: in n and d, the predictors over their geometric means, as there."""
    truth: dict[str, float]
    design: dict[str, Any] = field(default_factory=lambda: GRID)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


EXAMPLES = (
    Example(
        "separable-power",
        "E + A*n^-alpha + B*d^-beta",
        {"E": 1.0, "A": 2.0, "alpha": 0.3, "B": 1.5, "beta": 0.25},
    ),
    Example(
        "shifted-separable-power",
        "E + A*(n + s_n_params)^-alpha + B*(d + s_n_subjects)^-beta",
        {"E": 1.0, "A": 2.0, "B": 1.5, "alpha": 0.5, "beta": 0.4,
         "s_n_params": 0.3, "s_n_subjects": 0.2},
    ),
    Example(
        "kaplan-joint-power",
        "E + A*(n^-rho + R/d)^beta",
        {"E": 1.0, "A": 2.0, "rho": 0.5, "beta": 0.6, "R": 1.0},
    ),
    Example(
        "skaling-joint-power",
        "E + A*(n^-alpha + R*d^-beta)^k",
        {"E": 1.0, "A": 2.0, "alpha": 0.5, "beta": 0.4, "k": 0.5, "R": 1.0},
    ),
    Example(
        "bounded-rational-power",
        "(E + I*(A*n^-alpha + B*d^-beta))/(1 + A*n^-alpha + B*d^-beta)",
        {"E": 1.0, "I": 4.0, "A": 1.0, "B": 0.8, "alpha": 0.5, "beta": 0.4},
    ),
    Example(
        "broken-power",
        "E + A*n^-c0*(1 + (n/d)^(1/f))^(-c1*f)",
        {"E": 1.0, "A": 2.0, "c0": 0.3, "c1": -0.6, "d": 3.0, "f": 0.8},
        SWEEP,
        {"f": (0.02, 2.0), "c0": (-5.0, 5.0), "c1": (-5.0, 5.0)},
    ),
)  # fmt: skip


@dataclass
class Found:
    """What one tool found, over the data sets of an example."""

    objective: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(
        self, rows: pl.DataFrame, example: Example, values: dict[str, float], seconds: float
    ) -> None:
        law = Law.parse(example.formula, columns=columns(example))
        fitted = law.predict(values, {x: rows[x].to_numpy() for x in columns(example)})
        self.objective.append(float(((fitted - rows["loss"].to_numpy()) ** 2).sum()))
        self.error.append(max(abs(values[n] / true - 1) for n, true in example.truth.items()))
        self.seconds.append(seconds)


def measure() -> str:
    """Objective, recovery and time of both on every example."""
    if importlib.util.find_spec("simple_scaling_laws") is None:
        return "Not measured: simple-scaling-laws needs Python 3.12 or newer."
    rows: list[Row] = []
    worst, ratios = -np.inf, []
    for example in EXAMPLES:
        print(f"  {example.law}", flush=True)
        ours, theirs = beside(example)
        gaps: Array = np.array(ours.objective) / np.array(theirs.objective) - 1
        worst = max(worst, float(gaps.max()))
        ratios.append(float(np.median(ours.error) / np.median(theirs.error)))
        rows.append(
            (
                example.law,
                f"{(gaps < -SAME).sum()}, {(abs(gaps) <= SAME).sum()}, {(gaps > SAME).sum()}",
                f"{gaps.min():+.1e} to {gaps.max():+.1e}",
                *(percent(float(np.median(one.error))) for one in (ours, theirs)),
                *(duration(float(np.median(one.seconds))) for one in (ours, theirs)),
            )
        )
    targets = [
        target("objective above theirs, of 120 data sets the most", worst, SAME, "{:.1e}".format),
        target("median error of the worst parameter, of theirs, the most", max(ratios), 1.001,
               "{:.4f} ×".format),
    ]  # fmt: skip
    header = (
        "law", "lower, same, higher", "objective from theirs", "largest error", "theirs",
        "time", "theirs",
    )  # fmt: skip
    return "\n\n".join(
        [table(TARGETS, targets), table(header, rows), setting("p2fit", "simple-scaling-laws")]
    )


def beside(example: Example) -> tuple[Found, Found]:
    """Both tools on the same data sets, in turns."""
    import simple_scaling_laws
    from simple_scaling_laws.simulate import simulate_runs

    ours, theirs = Found(), Found()
    for seed in range(SEEDS):
        runs = simulate_runs(
            {COLUMN: example.truth}, law=example.law, seed=seed, **NOISE, **example.design
        )
        rows = means(runs)
        start = time.perf_counter()
        model = simple_scaling_laws.fit(runs, law=example.law, n_draws=1, seed=0)
        theirs.add(rows, example, dict(model.params(COLUMN)), time.perf_counter() - start)
        start = time.perf_counter()
        fit = p2fit.fit(
            rows, example.formula, loss="squared", residual="linear", ranges=example.ranges
        )
        values = {n: float(p.estimate or 0.0) for n, p in fit.parameters.items()}
        ours.add(rows, example, values, time.perf_counter() - start)
    return ours, theirs


def columns(example: Example) -> tuple[str, ...]:
    return ("n", "d") if example.design is GRID else ("n",)


def means(runs: pl.DataFrame) -> pl.DataFrame:
    """The mean of each run's evaluations, which is what simple-scaling-laws fits, and the
    predictors over their geometric means: its weights are equal on these designs."""
    sizes = {"n": "model_size__n_params", "d": "dataset_size__n_subjects"}
    sizes = {x: name for x, name in sizes.items() if name in runs.columns}
    each = runs.group_by("training_run_id", maintain_order=True).agg(
        pl.col(COLUMN).mean().alias("loss"), *(pl.col(c).first().alias(x) for x, c in sizes.items())
    )
    scaled = (pl.col(x) / pl.col(x).log().mean().exp() for x in sizes)
    return each.rename({"training_run_id": "run"}).with_columns(*scaled)
