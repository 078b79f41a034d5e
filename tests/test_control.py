"""Curves beside their control: the drift of the unpruned model is seen, and can be taken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.curves.control import subtract_control
from tests.simulate import P2

TOKENS = np.geomspace(5e7, 1e9, 8)


def curves(drift: float, *, seeds: tuple[int, ...] = (0, 1)) -> pl.DataFrame:
    """Exact P² losses, to which each model's control adds what it gained on the same tokens."""
    frames = []
    for size, base in ((5e8, 2.9), (1.5e9, 2.8), (3e9, 2.7)):
        for seed in seeds:
            moved = drift * (1 + seed) * np.log1p(TOKENS / 1e8) * (size / 5e8) ** -0.3
            for rate in (0.0, 0.15, 0.25, 0.35):
                inputs = {
                    "params": np.full(8, size),
                    "pruning_rate": np.full(8, rate),
                    "tokens": TOKENS,
                    "base_loss": np.full(8, base),
                }
                exact = p2fit.LAWS["p2"].predict(P2, inputs) if rate else np.full(8, base)
                own = {"run": [f"{size:g}-{rate:g}-{seed}"] * 8, "seed": [seed] * 8}
                frames.append(pl.DataFrame({**own, **inputs, "loss": exact + moved}))
    return pl.concat(frames)


def test_without_the_drift_the_law_is_exact_again() -> None:
    table = curves(-0.02)
    drifting = p2fit.fit(table, "p2")
    mended = p2fit.fit(table, "p2", subtract_control=True)
    assert drifting.parameters["beta"].estimate != pytest.approx(0.35, rel=0.05)
    for name, value in P2.items():
        assert mended.parameters[name].estimate == pytest.approx(value, rel=1e-3)
    plain = p2fit.fit(curves(0.0), "p2")
    points = {"params": 2e9, "pruning_rate": 0.2, "tokens": 5e8, "base_loss": 2.75}
    assert mended.predict(points) == pytest.approx(plain.predict(points), rel=1e-6)


def test_a_drift_of_a_tenth_of_the_smallest_excess_is_warned_about() -> None:
    def said(drift: float, **options: Any) -> list[str]:
        warnings = p2fit.fit(curves(drift), "p2", **options).warnings
        return [warning for warning in warnings if "unpruned controls move" in warning]

    (warning,) = said(-0.02)
    assert "--subtract-control" in warning
    assert not said(-0.0005)
    assert not said(-0.02, subtract_control=True)
    # The control is seen even where the rows to fit are chosen without it.
    assert said(-0.02, where="pruning_rate > 0")
    # Rising is no better than falling.
    assert "+0." in said(0.02)[0]


def test_a_control_is_told_of_from_the_first_fitted_tokens_on() -> None:
    table = curves(-0.02)
    moved = table.filter(pl.col("pruning_rate") == 0).select(
        "tokens", moved=pl.col("loss") - pl.col("base_loss")
    )
    for first in (0, 3e8):
        fit = p2fit.fit(table, "p2", min_tokens=first)
        here = moved.filter(pl.col("tokens") >= first)["moved"]
        control = fit.data["control"]
        assert control["low"] == pytest.approx(here.min())
        assert control["high"] == pytest.approx(here.max())
        assert control["subtracted"] is False
    assert p2fit.fit(table.filter(pl.col("pruning_rate") > 0), "p2").data["control"] is None


@given(drift=st.floats(-0.05, 0.05), order=st.permutations(range(12)))
def test_taking_off_the_control_does_not_depend_on_the_order_of_runs(
    drift: float, order: list[int]
) -> None:
    table = curves(drift, seeds=(0,))
    runs = table["run"].unique(maintain_order=True).to_list()
    shuffled = pl.concat([table.filter(pl.col("run") == runs[i]) for i in order])
    found, without = subtract_control(shuffled)
    assert not without
    expected, _ = subtract_control(table)
    assert found.sort("run", "tokens").equals(expected.sort("run", "tokens"))
    still = expected.filter(pl.col("pruning_rate") == 0)
    np.testing.assert_allclose(still["loss"], still["base_loss"], rtol=1e-12)


def test_a_group_of_controls_is_not_missed() -> None:
    method = pl.when(pl.col("pruning_rate") > 0).then(pl.lit("depth")).otherwise(pl.lit("none"))
    table = curves(0.0).with_columns(method.alias("method"))
    (fit,) = p2fit.fit_each(table, "p2")
    assert fit.group == {"method": "depth"}
    assert not fit.warnings
    with pytest.raises(p2fit.FitError, match="method = none: no row is left to fit"):
        p2fit.fit(table.filter(pl.col("method") == "none"), "p2")


def test_a_run_is_beside_the_control_of_its_own_teacher() -> None:
    """Two kinds of curves in one file, whose controls drift differently."""
    both = pl.concat(
        curves(drift).with_columns(
            teacher=pl.lit(teacher),
            method=pl.lit(method),
            run=pl.col("run") + f"-{teacher}",
        )
        for drift, teacher, method in ((-0.02, "none", "depth"), (0.01, "self", "depth+kd"))
    )
    fits = p2fit.fit_each(both, "p2", subtract_control=True)
    assert [fit.group["method"] for fit in fits] == ["depth", "depth+kd"]
    for fit in fits:
        for name, value in P2.items():
            assert fit.parameters[name].estimate == pytest.approx(value, rel=1e-3)
    low = [
        p2fit.fit(both, "p2", by=["teacher"], where=f"teacher == '{teacher}'")
        for teacher in ("none", "self")
    ]
    assert low[0].data["control"]["low"] < 0 < low[1].data["control"]["low"]


@pytest.mark.parametrize(
    "ways",
    [
        {"training": ("plain", "decay"), "method": ("depth", "depth+decay")},
        {"learning_rate": (1e-4, 3e-4)},
    ],
)
def test_a_run_is_beside_the_control_that_was_trained_as_it_was(ways: dict[str, Any]) -> None:
    """Two kinds of curves of the same models and tokens, whose controls drift differently."""
    frames = [
        curves(drift).with_columns(
            run=pl.col("run") + f"-{i}", **{name: pl.lit(way[i]) for name, way in ways.items()}
        )
        for i, drift in enumerate((-0.02, 0.01))
    ]
    (by,) = ways.keys() - {"method"}
    fits = p2fit.fit_each(pl.concat(frames), "p2", by=[by], subtract_control=True)
    assert len(fits) == 2
    for fit in fits:
        for name, value in P2.items():
            assert fit.parameters[name].estimate == pytest.approx(value, rel=1e-3)


def test_controls_of_one_seed_do_not_serve_another() -> None:
    table = curves(-0.02).filter((pl.col("pruning_rate") > 0) | (pl.col("seed") == 0))
    with pytest.raises(p2fit.FitError, match=r"-1 has rows without a control"):
        p2fit.fit(table, "p2", subtract_control=True)


def test_a_law_without_a_base_model_has_no_control() -> None:
    with pytest.raises(p2fit.FitError, match="chinchilla does not read base_loss, pruning_rate"):
        p2fit.fit(curves(0.0), "chinchilla", subtract_control=True)


def test_laws_are_compared_without_the_drift() -> None:
    """Exact P² losses are exact again, and the summaries say what was done to them."""
    table = curves(-0.02)
    (found,) = p2fit.compare(table, ["p2", "p2-shifted"], subtract_control=True)
    for score in found.scores:
        assert score.rmse_log is not None
        assert score.rmse_log < 1e-4
    assert "losses less the drift of the unpruned control" in str(found)
    mended = p2fit.fit(table, "p2", subtract_control=True)
    low, high = mended.data["control"]["low"], mended.data["control"]["high"]
    assert f"less the drift of the unpruned control, {low:+.2g} to {high:+.2g} nats" in str(mended)
    assert f"control, {low:+.2g} to {high:+.2g} nats" in str(found)
    assert f"the unpruned control moves by {low:+.2g} to {high:+.2g}" in str(p2fit.fit(table, "p2"))
    with pytest.raises(p2fit.FitError, match="chinchilla-pruned does not read base_loss"):
        p2fit.compare(table, ["p2", "chinchilla-pruned"], subtract_control=True)


def test_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    curves(-0.02).write_csv(path)

    def call(*more: str) -> Any:
        result = CliRunner().invoke(main, ["fit", str(path), "--json", *more])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    assert any("--subtract-control" in warning for warning in call()["warnings"])
    fit = call("--subtract-control")
    assert not any("control" in warning for warning in fit["warnings"])
    assert fit["options"]["subtract_control"] is True
    assert fit["parameters"]["beta"]["estimate"] == pytest.approx(0.35, rel=1e-3)


def test_the_report_is_of_the_curves_without_the_drift() -> None:
    table, rng = curves(-0.02), np.random.default_rng(0)
    noisy = table["loss"] * np.exp(1e-3 * rng.standard_normal(table.height))
    page = p2fit.report(table.with_columns(noisy), "p2", subtract_control=True)
    assert "losses less the drift of the unpruned control" in page
    assert "has rows without a control" not in page  # its hold-outs know that it is off already
    assert "unpruned controls move" not in page
