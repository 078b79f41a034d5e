"""What a design can tell, and the runs that would mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import p2fit
from p2fit.cli import main
from p2fit.judging.candidates import Run
from p2fit.judging.design import DesignReport, identify_design
from p2fit.laws.table import LAWS
from tests import simulate

SIZES = np.exp(np.random.default_rng(0).uniform(18, 24, 40))


def report(source: Any, law: str | None = None, **options: Any) -> DesignReport:
    (found,) = identify_design(source, law, **options)
    return found


def bare(table: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in table.items() if n not in ("loss", "base_loss")}


def with_runs(table: dict[str, Any], runs: tuple[Run, ...]) -> dict[str, Any]:
    """Simulated data with runs added, checkpoints evenly spread as in ``simulate.p2``."""
    law, truth = (
        (LAWS["p2"], simulate.P2)
        if "pruning_rate" in table
        else (LAWS["chinchilla"], simulate.CHINCHILLA)
    )
    found = {n: list(v) for n, v in table.items()}
    for i, run in enumerate(runs):
        for part in np.linspace(0, 1, run.checkpoints + 1)[1:]:
            row = {**run.inputs, "tokens": run.inputs["tokens"] * part}
            if "base_loss" in table:
                row["base_loss"] = 2.5
            row["loss"] = float(law.predict(truth, row))
            for n in found:
                found[n].append(f"added-{i}" if n == "run" else row[n])
    return found


@pytest.mark.parametrize(
    ("design", "rank", "names", "reason"),
    [
        (
            {"sizes": (5e8, 1.5e9)},
            6,
            {"N_C", "alpha", "E"},
            "2 distinct values of params, 3 needed",
        ),
        (
            {"rates": (0.25,)},
            6,
            {"gamma", "N_C", "D_C", "E"},
            "1 distinct value of pruning_rate, 2 needed",
        ),
        (
            {"checkpoints": 1},
            4,
            {"delta", "N_C", "alpha", "D_C", "beta", "E"},
            "1 distinct value of tokens, 3 needed",
        ),
    ],
)
@pytest.mark.parametrize("losses", [True, False])
def test_the_three_poor_designs_and_their_mends(
    design: dict[str, Any], rank: int, names: set[str], reason: str, losses: bool
) -> None:
    table = simulate.p2(seed=1, **design)
    found = report(table if losses else bare(table), "p2", design=not losses)
    assert (found.rank, found.parameters) == (rank, 7)
    assert [set(u["parameters"]) for u in found.undetermined] == [names]
    assert found.undetermined[0]["reasons"] == (reason,)
    assert found.reference == "typical values"
    assert len(found.combinations) == 7 - rank
    assert 1 <= len(found.mends) <= 3
    for mend in found.mends:
        assert mend.rank == 7
        assert mend.condition < 1e4
        fit = p2fit.fit(with_runs(table, mend.runs), "p2", loss="squared")
        assert fit.identification["rank"] == 7


def test_one_run_needs_more_than_one_other() -> None:
    table = simulate.p2(seed=1, rates=(0.25,), sizes=(5e8,))
    found = report(bare(table), "p2", design=True)
    assert found.rank == 3
    (mend,) = found.mends
    assert len(mend.runs) > 1
    assert mend.rank == 7
    assert found.advice[0].startswith(f"no single run mends it; {len(mend.runs)} more: ")
    fit = p2fit.fit(with_runs(table, mend.runs), "p2", loss="squared")
    assert fit.identification["rank"] == 7


def test_tokens_in_proportion_to_size() -> None:
    table = simulate.chinchilla(seed=1, params=SIZES, tokens=20 * SIZES)
    found = report(bare(table), design=True, at=simulate.CHINCHILLA)
    assert found.rank == 5
    assert 1e5 < found.condition < 1e9
    assert found.collinear == (("params", "tokens"),)
    assert any("only weakly determined" in w for w in found.warnings)
    assert any("vary them separately" in w for w in found.warnings)
    best = found.mends[0]
    assert best.condition < 1e3
    # The cheapest kind first: a size and a token count that are there already, crossed.
    assert best.runs[0].inputs["params"] in SIZES
    assert best.runs[0].inputs["tokens"] in 20 * SIZES
    again = report(bare(with_runs(table, best.runs)), design=True, at=simulate.CHINCHILLA)
    assert again.condition == pytest.approx(best.condition, rel=0.2)


def test_equal_exponents_make_it_exact() -> None:
    table = simulate.chinchilla(seed=1, params=SIZES, tokens=20 * SIZES)
    found = report(bare(table), design=True, at={"alpha": 0.35, "beta": 0.35})
    assert found.rank < 5


def test_one_token_count_of_dense_runs() -> None:
    table = simulate.chinchilla(seed=1, params=SIZES, tokens=1e10)
    found = report(bare(table), design=True)
    assert found.rank == 3
    assert found.condition == np.inf
    # Checkpoints on the way are no substitute: the law holds at the end of a run.
    assert all(r.checkpoints == 1 for m in found.mends for r in m.runs)
    assert len(found.mends[0].runs) == 2
    assert found.mends[0].rank == 5


def test_good_designs_need_nothing(chinchilla: pl.DataFrame) -> None:
    rows = report(chinchilla, where="kept == 1")
    assert rows.reference == "the fit"
    assert rows.condition == pytest.approx(33, abs=1)
    grid = {"params": np.repeat([1e8, 1e9, 1e10], 3), "tokens": np.tile([1e9, 1e10, 1e11], 3)}
    square = report({"run": list("abcdefghi"), **grid}, "chinchilla", design=True)
    assert square.condition < 100
    full = report(bare(simulate.p2(seed=0)), "p2", design=True)
    assert full.condition < 500
    for found in (rows, square, full):
        assert found.mends == ()
        assert found.warnings == ()
        assert found.combinations == ()


def test_the_condition_number_by_hand() -> None:
    """Chinchilla's Jacobian written out, with centred logs, columns scaled to length 1."""
    n, d = np.repeat([1e8, 1e9, 1e10], 3), np.tile([1e9, 1e10, 1e11], 3)
    c = simulate.CHINCHILLA
    found = report(
        {"run": list("abcdefghi"), "params": n, "tokens": d},
        "chinchilla",
        design=True,
        at=c,
        residual="linear",
    )
    a, b = n ** -c["alpha"], d ** -c["beta"]
    logs = [np.log(v) - np.log(v).mean() for v in (n, d)]
    jac = np.stack([np.ones(9), a, b, a * logs[0], b * logs[1]], axis=1)
    assert found.condition == pytest.approx(np.linalg.cond(jac / np.linalg.norm(jac, axis=0)))


def test_what_is_open_moves_no_loss() -> None:
    table = simulate.p2(seed=1, rates=(0.25,), sizes=(5e8, 1.5e9))
    found = report(bare(table), "p2", design=True, at=simulate.P2)
    columns = {x: np.asarray(table[x]) for x in LAWS["p2"].inputs}
    assert len(found.combinations) == 2
    for change in found.combinations:
        step = 1e-4 / max(abs(v) for v in change.values())
        moved = dict(simulate.P2)
        for name, v in change.items():
            kind, _, own = name.rpartition(" ")
            if kind == "log":
                moved[own] *= np.exp(step * v)
            else:
                moved[own] += step * v
        ratio = LAWS["p2"].predict(moved, columns) / LAWS["p2"].predict(simulate.P2, columns)
        assert np.abs(ratio - 1).max() < 1e-7


@pytest.mark.parametrize("name", LAWS)
def test_every_law_without_losses(name: str) -> None:
    table = bare(simulate.p2(seed=1, rates=(0.0, 0.25), sizes=(5e8, 1e9)))
    table["avg_params"] = table["params"] * (1 - table["pruning_rate"] * table["tokens"] / 1e9)
    table["unique_tokens"] = table["tokens"] / 2
    table["precision"] = np.resize([4.0, 8.0, 16.0], len(table["params"]))
    table["lr_area"], table["lr_annealing"] = table["tokens"] / 1e6, table["tokens"] / 1e8
    if name == "sengupta":
        table["base_loss"] = 2.5
    found = report(table, name, design=True)
    assert 0 < found.rank <= found.parameters
    json.dumps(found.to_dict(), allow_nan=False)
    assert str(found)


@pytest.mark.parametrize(
    ("law", "rank"), [("E + F", 1), ("E + A/params^alpha", 2), ("E - A/params^alpha", 2)]
)
def test_laws_of_ones_own(law: str, rank: int) -> None:
    table = {"run": ["a", "b"], "params": [1e8, 1e9]}
    found = report(table, law, design=True)
    assert found.rank == rank
    assert (len(found.mends) > 0) == ("params" in law)


def test_groups_and_fixed_parameters() -> None:
    table = bare(simulate.p2(seed=1, sizes=(5e8, 1.5e9)))
    table["method"] = ["depth", "width"] * 60
    table["run"] = [f"{name}-{method}" for name, method in zip(table["run"], table["method"])]
    found = identify_design(table, "p2", design=True, fix={"alpha": 0.3})
    assert [r.group for r in found] == [{"method": "depth"}, {"method": "width"}]
    assert all(r.rank == r.parameters == 6 for r in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": {"foo": 1.0}}, "foo is not a free parameter of p2"),
        ({"at": {"alpha": 9.0}}, "alpha = 9: give a value from 0 to 5"),
        ({"at": {"E": 0.0}}, "E = 0: give a value above 0"),
        ({"at": {"gamma": 1.0}, "fix": {"gamma": -1.0}}, "gamma is not a free parameter"),
    ],
)
def test_points_that_cannot_be_taken(options: dict[str, Any], message: str) -> None:
    with pytest.raises(p2fit.FitError, match=message):
        identify_design(bare(simulate.p2(seed=1)), "p2", design=True, **options)


def test_the_command(tmp_path: Path) -> None:
    path = str(tmp_path / "plan.csv")
    pl.DataFrame(bare(simulate.p2(seed=1, sizes=(5e8, 1.5e9)))).write_csv(path)
    runner = CliRunner()
    text = runner.invoke(main, ["identify", path, "--law", "p2", "--design"])
    assert text.exit_code == 0
    assert "determined      gamma, delta, D_C and beta\n" in text.output
    assert "not determined  N_C, alpha and E\n" in text.output
    assert "local rank      6 of 7\n" in text.output
    assert "directions" not in text.output
    assert "mend: one more run with" in text.output
    found = runner.invoke(
        main, ["identify", path, "--law", "p2", "--design", "--at", "alpha=0.35", "--json"]
    )
    document = json.loads(found.output)
    assert document["at"]["alpha"] == 0.35
    assert document["undetermined"][0]["parameters"] == ["N_C", "alpha", "E"]
    assert document["mends"][0]["rank"] == 7
    wrong = runner.invoke(main, ["identify", path, "--law", "p2"])
    assert wrong.exit_code == 2
    assert wrong.stderr.count("\n") == 1
    assert "loss: no such column" in wrong.stderr
    piped = runner.invoke(
        main, ["identify", "-", "--law", "p2", "--design"], input=Path(path).read_bytes()
    )
    assert "local rank      6 of 7\n" in piped.output
