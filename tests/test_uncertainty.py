"""Standard errors and intervals."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import p2fit
from p2fit.uncertainty import t_quantile
from tests import simulate


@given(st.floats(0.5, 0.9999), st.one_of(st.integers(1, 400), st.sampled_from([1e4, 1e6])))
def test_the_t_quantile_is_scipys(probability: float, degrees: float) -> None:
    expected = stats.t.ppf(probability, degrees)
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert t_quantile(1 - probability, degrees) == pytest.approx(-expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("bad", [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_no_quantile_outside_its_domain(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a probability in"):
        t_quantile(*bad)


def test_the_published_standard_errors(chinchilla: pl.DataFrame) -> None:
    """Within a third of those of 4000 bootstraps (Besiroglu et al. 2024)."""
    fit = p2fit.fit(chinchilla, where="kept == 1")
    for name, published in {"E": 0.026, "A": 124.5, "alpha": 0.0154, "beta": 0.0206}.items():
        assert fit.parameters[name].stderr == pytest.approx(published, rel=0.34), name


def test_one_step_is_the_jackknife_by_refits() -> None:
    table = simulate.p2(seed=1, sizes=(2e8, 5e8, 1.5e9, 3e9, 8e9), offset=0.003)
    fit = p2fit.fit(table, loss="squared")
    runs = np.asarray(table["run"])
    names = sorted(set(runs))
    moved = []
    for run in names:
        rest = {c: np.asarray(v)[runs != run] for c, v in table.items()}
        again = p2fit.fit(rest, loss="squared")
        moved.append([again.parameters[n].estimate for n in ("gamma", "beta", "delta")])
    away = np.array(moved) - [fit.parameters[n].estimate for n in ("gamma", "beta", "delta")]
    expected = np.sqrt((len(names) - 1) / len(names) * (away**2).sum(axis=0))
    found = [fit.parameters[n].stderr for n in ("gamma", "beta", "delta")]
    np.testing.assert_allclose(np.array(found, float), expected, rtol=0.35)


def test_intervals_are_symmetric_on_the_scale_of_the_parameter() -> None:
    fit = p2fit.fit(simulate.chinchilla(200, seed=2))
    for name, p in fit.parameters.items():
        assert p.interval is not None
        low, high = p.interval
        assert low is not None
        assert high is not None
        if name in ("alpha", "beta"):
            assert p.estimate == pytest.approx((low + high) / 2)
        else:
            assert p.estimate == pytest.approx(math.sqrt(low * high))


def test_no_intervals_without_more_runs_than_parameters() -> None:
    fit = p2fit.fit(simulate.p2(seed=3, rates=(0.15, 0.3)))  # six runs, seven parameters
    assert fit.covariance is None
    assert all(p.interval is None for p in fit.parameters.values())
    assert any("6 independent runs do not outnumber 7 parameters" in w for w in fit.warnings)


def test_another_cluster() -> None:
    table = simulate.p2(seed=4, sizes=(2e8, 4e8, 8e8, 1.2e9, 1.6e9, 2e9, 3e9, 5e9, 8e9))
    table["base"] = [f"{s:g}" for s in table["params"]]
    by_run = p2fit.fit(table)
    by_base = p2fit.fit(table, cluster="base")
    assert by_base.covariance is not None
    assert by_base.covariance["clusters"] == 9
    assert by_run.covariance is not None
    assert by_run.covariance["clusters"] == 27
    assert by_base.parameters["gamma"].estimate == pytest.approx(
        by_run.parameters["gamma"].estimate, rel=1e-9
    )
    assert by_base.parameters["gamma"].stderr != by_run.parameters["gamma"].stderr
    with pytest.raises(p2fit.FitError, match="no column bases; there are run"):
        p2fit.fit(table, cluster="bases")


def test_a_coefficient_that_could_be_zero_is_open_below() -> None:
    fit = p2fit.fit(simulate.chinchilla(80, seed=9, B=0.0))
    assert fit.parameters["beta"].interval in (None, (None, None))
    interval = fit.parameters["B"].interval
    assert interval is None or interval[0] is None


@pytest.mark.parametrize("offset", [0.0, 0.003])
def test_intervals_cover_the_truth_at_nine_runs(offset: float) -> None:
    covered = dict.fromkeys(simulate.P2, 0)
    repeats = 60
    for seed in range(repeats):
        fit = p2fit.fit(simulate.p2(seed=seed, offset=offset), loss="squared")
        for name, truth in simulate.P2.items():
            interval = fit.parameters[name].interval
            assert interval is not None
            low, high = interval
            covered[name] += (low is None or low <= truth) and (high is None or truth <= high)
    # At 95 % the 1st percentile of 60 draws is 52; a plain clustered error covers 31 to 55.
    assert min(covered.values()) >= 51, covered


def test_exponents_move_where_a_transient_was_not_dropped() -> None:
    table = simulate.p2(seed=5, noise=0.0, beta=0.3)
    assert p2fit.fit(table).sensitivity["10%"]["beta"] == pytest.approx(0.3, abs=1e-4)
    tokens = np.asarray(table["tokens"])
    above = np.asarray(table["loss"]) - table["base_loss"]
    table["loss"] = table["base_loss"] + above * (1 + 0.5 * np.exp(-tokens / 5e7))
    moved = p2fit.fit(table).sensitivity
    whole = p2fit.fit(table).parameters["beta"].estimate
    assert whole is not None
    assert abs(moved["20%"]["beta"] - whole) > 0.02
