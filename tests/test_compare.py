"""Comparing laws: who wins, by how much, on which rows, and under which conditions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from p2fit import FitError, fit, get_law
from p2fit.cli import main
from p2fit.curves.choosing import datasets
from p2fit.judging.comparison import Comparison, _folds, _left_out, compare
from p2fit.solver.solving import solve_dataset
from tests import simulate

CHINCHILLA = "E + A/params^alpha + B/tokens^beta"


def one(source: Any, laws: Any = (), **options: Any) -> Comparison:
    [found] = compare(source, laws, **options)
    return found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def dense() -> dict[str, Any]:
    return simulate.chinchilla(16, seed=1)


def test_the_true_law_wins_by_more_than_two_standard_errors(dense: dict[str, Any]) -> None:
    found = one(dense, ["kaplan-n", "E + A/params^alpha", "chinchilla"])
    best, *others = found.scores
    assert best.label == "chinchilla"
    assert best.difference is None
    assert best.loss is not None
    for score in others:
        assert score.difference is not None
        assert score.difference_squares is not None
        assert score.difference.value > 2 * score.difference.stderr > 0
        assert score.loss == pytest.approx(best.loss + score.difference.value)
        assert score.difference_squares.value > 0
    losses = [score.loss for score in found.scores]
    assert losses == sorted(losses, key=float)  # type: ignore[arg-type]
    assert (found.rows, found.runs, found.folds) == (16, 16, 16)


def test_the_true_p2_law_wins_and_meets_the_conditions() -> None:
    found = one(simulate.p2(seed=0, checkpoints=4), ["chinchilla-pruned", "p2"], pool=True)
    p2, pruned = found.scores
    assert p2.label == "p2"
    assert set(p2.conditions.values()) == {True}
    assert pruned.conditions["tends_to_base_loss"] is False
    assert pruned.r2 < p2.r2 <= 1  # type: ignore[operator]
    assert found.runs == 9
    assert p2.fit.metrics["r2_excess"] == pytest.approx(p2.r2)


def test_what_overflows_on_the_way_says_nothing() -> None:
    curves = simulate.p2(seed=0, checkpoints=3, rates=(0.1, 0.3, 0.9))
    steep = "base_loss + (exp(k*pruning_rate) - 1) * (D_C/tokens^beta + E)"
    [comparison] = compare(curves, ["p2", steep])  # where warnings are errors
    assert comparison.scores[0].label == "p2"


def test_equal_laws_tie_exactly(dense: dict[str, Any]) -> None:
    first, second = one(dense, [CHINCHILLA, "chinchilla"]).scores
    assert (first.label, second.label) == (CHINCHILLA, "chinchilla")
    assert second.difference is not None
    assert (second.difference.value, second.difference.stderr) == (0, 0)
    assert (first.loss, first.rmse_log, first.mape) == (second.loss, second.rmse_log, second.mape)


def test_a_run_never_helps_to_predict_itself(dense: dict[str, Any]) -> None:
    """However far off one run is, its own prediction stays where it was."""
    off = {**dense, "loss": np.where(np.arange(16) == 3, 3, 1) * dense["loss"]}
    predicted = []
    for curves in (dense, off):
        [dataset] = datasets(curves, "chinchilla", loss="squared")
        fitted, faults = _left_out(
            dataset, solve_dataset(dataset), _folds(dataset)[1], lambda: None
        )
        assert not faults
        predicted.append(fitted)
    gap = np.abs(predicted[0] / predicted[1] - 1)
    assert gap[3] < 1e-8
    assert np.sum(gap > 1e-6) == 15  # all the others saw it


def test_runs_of_several_rows_are_left_out_whole() -> None:
    curves = pl.DataFrame(simulate.p2(seed=3, checkpoints=3))
    seen: list[tuple[int, int]] = []
    found = one(curves, ["p2-no-size", "kaplan-d"], progress=lambda *step: seen.append(step))
    assert (found.rows, found.runs, found.folds) == (27, 9, 9)
    assert seen == [(i, 18) for i in range(1, 19)]


def test_many_runs_are_left_out_in_twenty_parts() -> None:
    curves = simulate.chinchilla(70, seed=2)
    found = one(curves, ["chinchilla", "kaplan-n"], seed=5)
    assert (found.runs, found.folds) == (70, 20)
    assert "20 parts of the runs, drawn with seed 5" in str(found)


def test_all_laws_see_the_same_rows() -> None:
    curves = pl.DataFrame(simulate.p2(seed=4, checkpoints=4)).with_columns(
        final=(pl.col("tokens") > 3e8).cast(pl.Int64)
    )
    base = curves.filter(pl.col("pruning_rate") == 0.15).with_columns(
        run=pl.concat_str(pl.lit("base-"), "run"), pruning_rate=0.0
    )
    found = one(pl.concat([curves, base]), ["p2-no-size", "chinchilla"])
    assert {s.fit.data["used"] for s in found.scores} == {27}
    assert found.rows == 27
    # 12 rows of base models for p2's sake, 9 undecayed ones for chinchilla's.
    assert sorted(found.excluded.values()) == [9, 12]


def test_groups_are_compared_each_on_its_own() -> None:
    one_family = pl.DataFrame(simulate.p2(seed=5, checkpoints=3)).with_columns(family=pl.lit("a"))
    other = one_family.with_columns(family=pl.lit("b"), run=pl.concat_str(pl.lit("b-"), "run"))
    found = compare(pl.concat([one_family, other]), ["p2-no-size", "kaplan-d"])
    assert [dict(c.group) for c in found] == [{"family": "a"}, {"family": "b"}]
    assert [c.rows for c in found] == [27, 27]
    assert found[0].scores[0].loss == pytest.approx(found[1].scores[0].loss)


def test_a_law_that_violates_the_conditions_is_flagged() -> None:
    curves = simulate.p2(seed=6, checkpoints=3)
    rising = "base_loss + C*(1 - pruning_rate)^kappa*tokens^mu + F*tokens^nu"
    found = one(curves, [rising, "kaplan-d"], pool=True)
    flagged = next(s for s in found.scores if s.label == rising)
    assert flagged.conditions == {
        "falls_with_tokens": False,
        "rises_with_pruning_rate": False,
        "tends_to_base_loss": False,
    }


def test_conditions_that_do_not_apply_are_neither_met_nor_missed(dense: dict[str, Any]) -> None:
    scores = {s.label: s.conditions for s in one(dense, ["chinchilla", "kaplan-n"]).scores}
    assert scores["chinchilla"]["falls_with_tokens"] is True
    assert set(scores["kaplan-n"].values()) == {None}


def test_likelihood_criteria_only_where_they_mean_something(dense: dict[str, Any]) -> None:
    laws = ["chinchilla", "kaplan-n"]
    many = simulate.chinchilla(61, seed=3)  # in twenty parts: quick
    found = one(many, laws, loss="squared")
    (a, b), n = found.scores, 61
    assert a.aicc is not None
    assert b.aicc is not None
    assert a.aicc < b.aicc
    # By the textbook: five parameters and the scatter.
    deviance = n * np.log(2 * a.fit.objective / n)
    assert a.aicc == pytest.approx(deviance + 12 + 2 * 6 * 7 / (n - 7))
    assert a.bic == pytest.approx(deviance + 6 * np.log(n))
    assert "AICc" in str(found)
    for source, options, why in (
        (many, {}, "Huber's loss is not a likelihood"),
        (dense, {"loss": "squared"}, "16 runs, and 40 are needed"),
    ):
        found = one(source, laws, **options)
        assert {s.aicc for s in found.scores} == {s.bic for s in found.scores} == {None}
        assert f"no AICc or BIC: {why}" in found.notes


def test_what_is_held_is_held_where_a_law_has_it(dense: dict[str, Any]) -> None:
    own = get_law("kaplan-d").restrict({"alpha_D": 0.1})
    found = one(dense, ["chinchilla", own], fix={"alpha": 0.35}, tie={"B": "A"})
    held = {s.label: (dict(s.law.fixed), dict(s.law.tied)) for s in found.scores}
    assert held == {
        "chinchilla": ({"alpha": 0.35}, {"B": "A"}),
        "kaplan-d": ({"alpha_D": 0.1}, {}),
    }
    assert "alpha = 0.35, alpha_D = 0.1, B = A, in the laws that have them" in str(found)


def test_a_law_that_cannot_predict_comes_last_and_says_so() -> None:
    # A straight line through the first seven runs is below 0 at the eighth.
    size = np.linspace(0.1, 1.0, 8)
    loss = np.append(3 - 3.2 * size[:7], 0.05)
    curves = {"run": [f"r{i}" for i in range(8)], "params": 1e9 * size, "tokens": [1e9] * 8}
    found = one({**curves, "loss": loss}, ["E - A*(params/1e9)", "kaplan-n"])
    assert [s.label for s in found.scores] == ["kaplan-n", "E - A*(params/1e9)"]
    assert found.scores[1].loss is None
    json.dumps([c.to_dict() for c in [found]], allow_nan=False)


def test_a_range_and_a_start_go_to_the_laws_that_have_the_parameter(dense: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"ranges": {"k": (0.2, 0.3)}, "start": {"k": 0.25}}
    found = one(dense, ["chinchilla", "skaling"], **asked)
    by_name = {s.label: s.fit for s in found.scores}
    assert 0.2 <= by_name["skaling"].parameters["k"].estimate <= 0.3  # type: ignore[operator]
    alone = fit(dense, "chinchilla")
    assert by_name["chinchilla"].objective == pytest.approx(alone.objective)


@pytest.mark.parametrize(
    ("laws", "options", "fault"),
    [
        ("chinchilla", {}, "give a list of laws"),
        (["chinchilla"], {}, "a comparison takes two laws and more; here chinchilla"),
        (["chinchilla", "kaplan-n"], {"bootstrap": 100}, "leave bootstrap out"),
        (["chinchilla", "kaplan-n"], {"fix": {"gamma": 1}}, "no law here has gamma"),
        (["chinchilla", "kaplan-n"], {"ranges": {"gamma": (0, 1)}}, "no law here has gamma"),
        (
            ["chinchilla", "skaling"],
            {"start": {"alpha_N": 1}},
            "no law here takes a start for alph",
        ),
        (["chinchilla", "kaplan-n"], {"tie": {"alpha": "alpha_N"}}, "has alpha and alpha_N"),
        (["chinchilla", "kaplan-n"], {"where": "params < 0"}, "no row is left"),
        (["chinchilla", "kaplan-n"], {"where": "run < 'run-0002'"}, "2 runs are too few"),
        (["chinchilla", "p2"], {}, "p2 needs"),
    ],
)
def test_faults(laws: Any, options: dict[str, Any], fault: str, dense: dict[str, Any]) -> None:
    with pytest.raises(FitError, match=fault):
        compare(dense, laws, **options)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def file(dense: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "curves.csv"
    pl.DataFrame(dense).rename({"loss": "val"})[:10].write_csv(path)
    return path


def test_the_command_says_what_the_function_finds(file: Path) -> None:
    arguments = ("compare", file, "--law", "kaplan-n", "--law", "kaplan-d", "--column", "loss=val")
    expected = one(file, ["kaplan-n", "kaplan-d"], columns={"loss": "val"})
    found = run(*arguments, "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == json.loads(json.dumps(expected.to_dict(), allow_nan=False))
    text = run(*arguments).stdout
    assert text == str(expected)
    assert max(map(len, text.splitlines())) <= 100


def test_by_default_all_laws_that_the_columns_serve(file: Path) -> None:
    found = json.loads(run("compare", file, "--column", "loss=val", "--json").stdout)
    assert {law["law"] for law in found["laws"]} == {"chinchilla", "kaplan-n", "kaplan-d"}


def test_standard_input_is_read_once(dense: dict[str, Any]) -> None:
    data = pl.DataFrame(dense)[:6].write_csv().encode()
    found = CliRunner().invoke(
        main, ["compare", "-", "--law", "kaplan-n", "--law", "kaplan-d"], input=data
    )
    assert found.exit_code == 0, found.output
    assert "<stdin>: 6 rows, 6 runs" in found.stdout


def test_faults_are_one_line_and_exit_code_2(file: Path) -> None:
    found = run("compare", file, "--law", "chinchilla", "--column", "loss=val")
    assert (found.exit_code, found.stdout) == (2, "")
    assert len(found.stderr.splitlines()) == 1
