"""The bootstrap: the published numbers, the same resamples whatever the batch, honest bounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import p2fit
from p2fit.fit import to_json
from p2fit.laws.table import LAWS
from p2fit.solver import refits
from p2fit.solver.build import build
from p2fit.solver.search import solve
from p2fit.uncertainty import bootstrap
from tests import simulate


def test_the_published_standard_errors_and_intervals(chinchilla: pl.DataFrame) -> None:
    """Besiroglu et al. 2024: 4000 bootstraps of the 240 rows."""
    fit = p2fit.fit(chinchilla, where="kept == 1", bootstrap=4000)
    published = {
        "E": (0.026, 1.769, 1.871),
        "A": (124.5, 285, 744),
        "B": (1293.3, 1042, 5810),
        "alpha": (0.0154, 0.317, 0.373),
        "beta": (0.0206, 0.331, 0.415),
    }
    for name, (stderr, low, high) in published.items():
        p = fit.parameters[name]
        assert p.stderr == pytest.approx(stderr, rel=0.06), name
        assert p.interval == pytest.approx((low, high), rel=0.05), name
    assert fit.bootstrap is not None
    assert fit.bootstrap["resample"] == "runs"
    assert fit.bootstrap["failed"] == 0


def test_resamples_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    table = simulate.p2(seed=1)
    for resample in ("wild", "runs"):
        whole = p2fit.fit(table, bootstrap=64, resample=resample, seed=3).bootstrap
        monkeypatch.setattr(refits, "_CELLS", 1000)
        parts = p2fit.fit(table, bootstrap=64, resample=resample, seed=3).bootstrap
        monkeypatch.undo()
        first = p2fit.fit(table, bootstrap=50, resample=resample, seed=3).bootstrap
        assert whole is not None
        assert parts is not None
        assert first is not None
        for name, draws in whole["draws"].items():
            # The same optimum, to about the square root of the 1e-10 it is found to: as a
            # share of what resamples differ by, as a flat optimum has no digits of its own.
            near = 1e-4 * np.std(draws)
            np.testing.assert_allclose(parts["draws"][name], draws, rtol=1e-4, atol=near)
            np.testing.assert_allclose(first["draws"][name], draws[:50], rtol=1e-4, atol=near)


def test_the_same_call_gives_the_same_bytes() -> None:
    table = simulate.p2(seed=1)
    assert to_json(p2fit.fit(table, bootstrap=50)) == to_json(p2fit.fit(table, bootstrap=50))
    assert to_json(p2fit.fit(table, bootstrap=50)) != to_json(
        p2fit.fit(table, bootstrap=50, seed=1)
    )


def test_a_refit_is_as_good_as_a_search_from_all_starts(chinchilla: pl.DataFrame) -> None:
    kept = chinchilla.filter(pl.col("kept") == 1)
    columns = {x: kept[x].cast(float).to_numpy() for x in ("params", "tokens")}
    problem = build(LAWS["chinchilla"], columns, kept["loss"].to_numpy(), np.ones(240))
    z = solve(problem).z
    draws = bootstrap.bootstrap(problem, z, np.arange(240), 60, resample="runs")
    for b in range(60):
        weights = bootstrap.draw_weights(0, b, 240, "runs")
        again = build(LAWS["chinchilla"], columns, problem.y, weights)
        assert draws.value[b] <= solve(again).value * (1 + 1e-6)


def test_a_wild_draw_keeps_every_size_and_a_draw_of_runs_may_lose_one() -> None:
    table = simulate.p2(seed=2)
    wild = p2fit.fit(table, bootstrap=400).bootstrap
    runs = p2fit.fit(table, bootstrap=400, resample="runs").bootstrap
    assert wild is not None
    assert runs is not None
    assert (wild["resample"], wild["lost_level"]) == ("wild", 0)
    # Of nine runs in a 3 x 3 grid, a draw loses a given row or column with (2/3)^9 = 2.6 %.
    assert 0.05 < runs["lost_level"] / 400 < 0.25


def test_a_parameter_at_its_bound_is_open_there(frantar_t5: pl.DataFrame) -> None:
    fit = p2fit.fit(frantar_t5, "frantar", bootstrap=400)
    assert fit.bootstrap is not None
    assert fit.bootstrap["at_bound"]["c"] > 20
    interval = fit.parameters["c"].interval
    assert interval is not None
    assert interval[0] is None
    assert interval[1] is not None


def test_what_is_not_determined_has_no_interval_and_few_runs_no_bootstrap() -> None:
    two_sizes = p2fit.fit(
        simulate.p2(seed=1, sizes=(5e8, 1.5e9), rates=(0.1, 0.2, 0.3, 0.4)), bootstrap=50
    )
    assert two_sizes.parameters["alpha"].interval is None
    assert two_sizes.parameters["gamma"].interval is not None
    few = p2fit.fit(simulate.p2(seed=1, rates=(0.15, 0.3)), bootstrap=50)
    assert few.bootstrap is None
    assert any("8 needed" in w for w in few.warnings)


@pytest.mark.parametrize("resamples", [0, 200])
def test_predictions_carry_intervals(resamples: int) -> None:
    table = simulate.p2(seed=4, sizes=(2e8, 5e8, 1.5e9, 4e9, 1e10), offset=0.002)
    fit = p2fit.fit(table, loss="squared", bootstrap=resamples)
    columns = {x: np.asarray(table[x]) for x in fit.law.inputs}
    truth = LAWS["p2"].predict(simulate.P2, columns)
    mean, new = fit.interval(columns), fit.interval(columns, new_run=True)
    assert mean is not None
    assert new is not None
    assert np.mean((mean[0] <= truth) & (truth <= mean[1])) > 0.8
    assert (new[0] < mean[0]).all()
    assert (new[1] > mean[1]).all()
    inside = (new[0] <= table["loss"]) & (table["loss"] <= new[1])
    assert 0.9 <= np.mean(inside) <= 1.0
    again = p2fit.Fit.from_dict(json.loads(to_json(fit)))
    saved = again.interval(columns)
    assert saved is not None
    np.testing.assert_allclose(saved, mean, rtol=1e-9)


def test_intervals_of_both_kinds_agree_where_the_law_is_well_determined() -> None:
    table = simulate.p2(seed=6, sizes=(2e8, 5e8, 1.5e9, 4e9, 1e10), offset=0.002)
    columns = {x: np.asarray(table[x]) for x in LAWS["p2"].inputs}
    widths = []
    for resamples in (0, 800):
        found = p2fit.fit(table, loss="squared", bootstrap=resamples).interval(columns)
        assert found is not None
        widths.append(found[1] - found[0])
    ratio = np.median(widths[0] / widths[1])
    assert 0.6 < ratio < 1.7


def test_a_bootstrap_with_fixed_and_tied_parameters_is_saved(tmp_path: Path) -> None:
    fit = p2fit.fit(simulate.p2(seed=0), fix={"gamma": -1.3}, tie={"beta": "alpha"}, bootstrap=40)
    fit.save(tmp_path / "fit.json")
    again = p2fit.load(tmp_path / "fit.json")
    assert isinstance(again, p2fit.Fit)
    drawn = again.draws()
    assert drawn is not None
    assert set(drawn["gamma"]) == {-1.3}
    assert np.array_equal(drawn["beta"], drawn["alpha"])
