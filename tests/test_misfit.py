"""What a fit says of rows, runs and laws that do not belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from tests import simulate

CHINCHILLA = Path(__file__).parent.parent / "examples" / "chinchilla" / "chinchilla.csv"


def curves(seed: int, wrong: str = "") -> pl.DataFrame:
    """16 Chinchilla runs that differ in level, with errors that follow each other."""
    rng = np.random.default_rng(seed)
    sizes, tokens = np.repeat(np.geomspace(1e8, 8e9, 16), 20), np.tile(np.linspace(0.05, 1, 20), 16)
    last = np.tile(np.repeat([2e10, 6e10, 2e11, 6e10], 20), 4)
    error = rng.standard_normal((16, 20))
    for i in range(1, 20):
        error[:, i] = 0.8 * error[:, i - 1] + 0.6 * error[:, i]
    seen = tokens * last + (0.05 * last if wrong == "start" else 0)
    table = simulate.chinchilla(seed=0, noise=0.0, params=sizes, tokens=seen)
    high = 0.01 * (1 + np.cos(np.pi * tokens)) if wrong == "decay" else 0.0
    noise = 0.003 * np.repeat(rng.standard_normal(16), 20) + 0.002 * error.ravel()
    return pl.DataFrame(
        {
            "run": np.repeat([f"run-{i}" for i in range(16)], 20),
            "params": sizes,
            "tokens": tokens * last,
            "loss": table["loss"] * (1 + high) * np.exp(noise),
        }
    )


def said(fit: p2fit.Fit, words: str) -> list[str]:
    return [w for w in fit.warnings if words in w]


@pytest.mark.parametrize(("wrong", "word"), [("start", "a start that"), ("decay", "decays")])
def test_a_law_that_is_wrong_along_its_runs_is_said_to_be(wrong: str, word: str) -> None:
    found = [said(p2fit.fit(curves(seed, wrong)), "wrong along the runs") for seed in range(6)]
    assert sum(word in f[0] for f in found if f) >= 5


def test_a_law_that_is_right_is_hardly_ever_said_to_be_wrong() -> None:
    found = [said(p2fit.fit(curves(seed)), "wrong along the runs") for seed in range(20)]
    assert sum(map(len, found)) <= 2


@settings(max_examples=10)
@given(st.integers(0, 20), st.integers(0, 39), st.sampled_from([0.3, 1.5, 4.0]))
def test_a_row_that_is_far_off_is_named_and_widens_nothing(
    seed: int, row: int, factor: float
) -> None:
    table = simulate.chinchilla(40, seed=seed)
    wrong = {**table, "loss": table["loss"].copy()}
    wrong["loss"][row] *= factor
    point = {"params": 3e8, "tokens": 1e10}
    good, bad = (p2fit.fit(t, "chinchilla") for t in (table, wrong))
    [line] = said(bad, "far off the law")
    assert f"run-{row:04d} (loss {wrong['loss'][row]:.4g}" in line
    assert not said(good, "far off")
    ends = [np.array(f.interval(point, new_run=True)) for f in (good, bad)]
    assert np.ptp(ends[1]) < 1.6 * np.ptp(ends[0])


@settings(max_examples=8)
@given(st.integers(0, 20), st.integers(0, 15), st.sampled_from([0.7, 1.3, 4.0]))
def test_a_run_that_is_far_off_is_named(seed: int, run: int, factor: float) -> None:
    moved = pl.when(pl.col("run") == f"run-{run}").then(factor).otherwise(1.0)
    fit = p2fit.fit(curves(seed).with_columns(pl.col("loss") * moved))
    [line] = said(fit, "far off what the law and the other runs say")
    assert f"run-{run};" in line
    assert f"--where \"run != 'run-{run}'\"" in line
    assert not said(p2fit.fit(curves(seed)), "far off")


def test_the_rows_that_the_field_leaves_out_are_named() -> None:
    [line] = said(p2fit.fit(CHINCHILLA), "far off the law")
    for name in ("hoffmann-000", "hoffmann-001", "hoffmann-003"):
        assert name in line
    assert not said(p2fit.fit(CHINCHILLA, where="kept = 1"), "far off")


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 5), st.booleans())
def test_few_runs_and_few_rows_are_no_fault(runs: int, rows: int, seed: int, p2: bool) -> None:
    made: Any = simulate.p2(seed=seed, offset=0.01) if p2 else curves(seed)
    frame = pl.DataFrame(made)
    names = frame["run"].unique(maintain_order=True)[:runs].to_list()
    few = frame.filter(pl.col("run").is_in(names)).group_by("run", maintain_order=True).head(rows)
    fit = p2fit.fit(few)
    for found in (fit.runs or {}).values():
        assert found is None or isinstance(found, bool | str) or np.isfinite(found)
    assert np.isfinite(fit.predict(few.to_dict(as_series=False))).all()


@settings(max_examples=10)
@given(st.integers(0, 20), st.integers(0, 15), st.floats(0.3, 2.0))
def test_a_loss_that_rises_along_its_run_is_said(seed: int, run: int, rise: float) -> None:
    frame = curves(seed)
    share = pl.col("tokens") / pl.col("tokens").max().over("run")
    late = pl.when((pl.col("run") == f"run-{run}") & (share > 0.5)).then(
        1 + 2 * rise * (share - 0.5)
    )
    rising = frame.with_columns(pl.col("loss") * late.otherwise(1.0))
    [line] = [w for w in p2fit.check(rising)["notes"] if "rises from" in w]
    assert f"the loss of run run-{run} rises" in line
    assert "more runs" not in line
    assert said(p2fit.fit(rising), "rises from")
    assert not [w for w in p2fit.check(frame)["notes"] if "rises from" in w]


def test_a_learning_rate_that_falls_is_announced() -> None:
    frame = curves(0, "decay")
    share = pl.col("tokens") / pl.col("tokens").max().over("run")
    falling = frame.with_columns(learning_rate=3e-4 * (1 + (np.pi * share).cos()) / 2 + 1e-5)
    [line] = [w for w in p2fit.check(falling)["notes"] if "learning rate" in w]
    assert line.startswith("the learning rate falls along 16 runs, in run-0 to 0.03")
    for other in (
        frame.with_columns(learning_rate=pl.lit(3e-4)),
        falling.with_columns(final=(share == 1).cast(int)),
    ):
        assert not [w for w in p2fit.check(other)["notes"] if "learning rate" in w]


def test_a_law_of_which_nothing_is_left_has_no_runs() -> None:
    frame = curves(0).with_columns(
        base_loss=pl.lit(9.0), pruning_rate=pl.col("params").rank("dense") / 40
    )
    fit = p2fit.fit(frame, "p2")  # all losses are below base_loss: every term is 0
    assert fit.runs is None
    assert fit.parameters["D_C"].estimate == 0
