"""What the data can tell, in numbers and in words."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import p2fit
from tests import simulate


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
def test_the_displayed_point_does_not_depend_on_the_start(design: dict[str, object]) -> None:
    """Other units, another order and another seed start elsewhere and end at the same point."""
    table = simulate.p2(seed=4, **design)  # type: ignore[arg-type]
    first = p2fit.fit(table, loss="squared")
    order = np.random.default_rng(0).permutation(len(table["loss"]))
    other = {c: [v[i] for i in order] for c, v in table.items()}
    other["run"] = [f"{97 * len(r) - ord(r[-1])}-{r}" for r in other["run"]]
    second = p2fit.fit(other, loss="squared", seed=7)
    for name, p in first.parameters.items():
        assert p.estimate == pytest.approx(second.parameters[name].estimate, rel=1e-3), name


def test_determined_predictions_do_not_care_for_the_ridge() -> None:
    table = simulate.p2(seed=5, sizes=(5e8, 1.5e9), noise=0.0)
    fit = p2fit.fit(table)
    columns = {x: np.asarray(table[x]) for x in fit.law.inputs}
    np.testing.assert_allclose(fit.predict(columns), table["loss"], rtol=1e-7)
