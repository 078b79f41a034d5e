"""What the data can tell, in numbers and in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

import p2fit
from p2fit.laws.table import LAWS
from p2fit.solver.build import build
from p2fit.solver.least_squares import minimise
from p2fit.solver.search import settle, solve
from tests import simulate
from tests.conftest import EXAMPLES


def undetermined(fit: p2fit.Fit) -> list[tuple[set[str], list[str]]]:
    return [(set(u["parameters"]), u["reasons"]) for u in fit.identification["undetermined"]]


def test_a_full_design_is_determined() -> None:
    fit = p2fit.fit(simulate.p2(seed=0))
    assert fit.identification["rank"] == 7
    assert fit.identification["condition"] < 1e3
    assert all(p.identified for p in fit.parameters.values())


def test_the_condition_number_of_the_chinchilla_rows(chinchilla: pl.DataFrame) -> None:
    fit = p2fit.fit(chinchilla, where="kept == 1")
    assert fit.identification["condition"] == pytest.approx(33, abs=1)


def test_two_sizes() -> None:
    fit = p2fit.fit(simulate.p2(seed=1, sizes=(5e8, 1.5e9)))
    assert undetermined(fit) == [({"N_C", "alpha", "E"}, ["2 distinct values of params, 3 needed"])]
    assert (
        "N_C, alpha and E are not separately determined: 2 distinct values of params, 3 needed"
    ) in fit.warnings
    for name in ("N_C", "alpha", "E"):
        assert not fit.parameters[name].identified
        assert fit.parameters[name].interval is None
    assert fit.parameters["gamma"].identified


def test_one_rate() -> None:
    fit = p2fit.fit(simulate.p2(seed=2, rates=(0.25,), sizes=(3e8, 5e8, 1e9, 1.5e9, 3e9)))
    groups = undetermined(fit)
    assert groups[0] == (
        {"gamma", "N_C", "D_C", "E"},
        ["1 distinct value of pruning_rate, 2 needed"],
    )


def test_one_token_count() -> None:
    fit = p2fit.fit(simulate.p2(seed=3, checkpoints=1))
    assert fit.identification["rank"] == 4
    names = {n for group, _ in undetermined(fit) for n in group}
    assert {"E", "D_C", "beta", "N_C", "alpha", "delta"} <= names
    assert any("1 distinct value of tokens, 3 needed" in r for _, r in undetermined(fit))


def test_real_data_with_one_token_count(pruned_llama3: pl.DataFrame) -> None:
    fit = p2fit.fit(pruned_llama3)
    assert fit.identification["rank"] == 4
    assert fit.parameters["gamma"].identified
    assert any("1 distinct value of tokens, 3 needed" in w for w in fit.warnings)


def test_tokens_in_proportion_to_size() -> None:
    size = np.exp(np.random.default_rng(0).uniform(18, 24, 40))
    table = simulate.chinchilla(seed=1, params=size, tokens=20 * size)
    fit = p2fit.fit(table)
    assert any("tokens moves with params" in w for w in fit.warnings)


def test_a_term_of_size_zero_leaves_its_exponent_open() -> None:
    table = simulate.chinchilla(60, seed=1, noise=0.0, B=0.0, E=2.0)
    fit = p2fit.fit(table)
    assert undetermined(fit) == [({"beta"}, ["B is 0 here"])]
    assert fit.parameters["A"].estimate == pytest.approx(480, rel=1e-3)


@pytest.mark.parametrize(
    "design", [{"sizes": (5e8, 1.5e9)}, {"rates": (0.25,)}, {"checkpoints": 1}]
)
def test_the_displayed_point_does_not_depend_on_the_start(design: dict[str, Any]) -> None:
    table = simulate.p2(seed=4, **design)
    columns = {x: np.asarray(table[x]) for x in LAWS["p2"].inputs}
    y = np.asarray(table["loss"])
    problem = build(LAWS["p2"], columns, y, np.ones(len(y)), delta=np.inf)
    found = solve(problem)
    expected = settle(problem, found).z
    rng = np.random.default_rng(0)
    k = problem.coefficients
    start = np.concatenate(
        [rng.uniform(0.01, 1, (20, k)), rng.uniform(0.1, 1.5, (20, problem.exponents))], axis=1
    )
    ended = minimise(problem, start)
    equal = ended.z[ended.value <= found.value * (1 + 1e-6)]
    assert len(equal) >= 4
    assert np.ptp(equal, axis=0).max() > 0.1  # they differ before the ridge picks one
    for z in equal:
        again = settle(problem, replace(found, z=z, ties=z[None])).z
        np.testing.assert_allclose(again, expected, atol=1e-3)


@pytest.mark.parametrize("method", ["1:4", "2:4", "3:4"])
def test_what_is_determined_is_at_its_optimum(method: str) -> None:
    """The ridge that picks the rest of the point does not bend it."""
    curves = pl.read_csv(EXAMPLES / "p2_study" / "post_train.csv").filter(method=method)
    fit = p2fit.fit(curves, "p2", burn_in=0.1)
    assert [n for n, p in fit.parameters.items() if not p.identified] == ["alpha"]
    alpha = fit.parameters["alpha"].estimate
    assert alpha is not None
    alone = p2fit.fit(curves, "p2", burn_in=0.1, fix={"alpha": alpha})
    assert fit.objective == pytest.approx(alone.objective, rel=1e-12)
    for name, p in fit.parameters.items():
        assert p.estimate == pytest.approx(alone.parameters[name].estimate, rel=1e-3)


@pytest.mark.parametrize(
    ("law", "columns"),
    [
        ("E + A/(params - embed)^alpha + B/tokens^beta", {"embed": 1e8}),
        ("E + A/(params*(1 - percent/100))^alpha + B/tokens^beta", {"percent": 50.0}),
        ("base_loss/(1 - s) + A/params^alpha + B/tokens^beta + E", {"s": 0.5, "base_loss": 0.1}),
    ],
)
def test_a_poor_design_never_stops_a_fit(law: str, columns: dict[str, float]) -> None:
    sizes = [2e9, 4e9] * 8
    table = simulate.chinchilla(
        seed=2, params=sizes, tokens=np.repeat(np.geomspace(1e9, 1e12, 8), 2)
    )
    fit = p2fit.fit({**table, **{c: [v] * 16 for c, v in columns.items()}}, law)
    assert any("A" in u["parameters"] for u in fit.identification["undetermined"])


def test_determined_predictions_do_not_care_for_the_ridge() -> None:
    table = simulate.p2(seed=5, sizes=(5e8, 1.5e9), noise=0.0)
    fit = p2fit.fit(table)
    columns = {x: np.asarray(table[x]) for x in fit.law.inputs}
    np.testing.assert_allclose(fit.predict(columns), table["loss"], rtol=1e-7)


def test_a_flat_objective_is_said_and_one_point_is_picked(frantar_t5: pl.DataFrame) -> None:
    """Three token counts and a median: all starts reach one objective at different exponents."""
    fit = p2fit.fit(frantar_t5, "chinchilla-pruned")
    assert fit.identification["rank"] == 5
    assert any("the objective is flat there" in w for w in fit.warnings)
    assert not fit.parameters["beta"].identified
    other = p2fit.fit(frantar_t5.sample(fraction=1.0, shuffle=True, seed=1), "chinchilla-pruned")
    for name, p in fit.parameters.items():
        assert other.parameters[name].estimate == pytest.approx(p.estimate, rel=0.02)
    there = {"params": 1e9, "pruning_rate": 0.5, "tokens": 1e12}
    span = fit.range(there)
    assert span is not None
    assert span[1] - span[0] > 0.02
    squared = p2fit.fit(frantar_t5, "chinchilla-pruned", loss="squared")
    assert squared.parameters["beta"].identified
