"""Hold-outs: the right rows, nothing of them in the fit, and scores that say what they seem to."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.judging.scores import Points, Validation
from p2fit.judging.validation import validate
from p2fit.metrics import asd
from tests import simulate

SMALL: dict[str, Any] = {"checkpoints": 6, "seed": 0}
# Where only the rows matter: what is left to fit is linear, and quick.
QUICK: dict[str, Any] = {"fix": {"gamma": -1.3, "delta": 0.05, "alpha": 0.3, "beta": 0.35}}
QUICK_DENSE: dict[str, Any] = {"fix": {"alpha": 0.35, "beta": 0.37}}
EVERY = [
    "checkpoints:0.2",
    "tokens:0.2",
    "tokens:largest",
    "params:largest",
    "pruning_rate:largest",
    "run",
    "k-fold:3",
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def one(table: Any, holdout: str, **options: Any) -> Validation:
    [found] = validate(table, holdout=[holdout], **options)
    return found


def points(found: Validation) -> Points:
    assert found.points is not None
    return found.points


def held(found: Validation) -> set[tuple[str, float]]:
    """Run and tokens of what was held out."""
    document = found.to_dict()["points"]
    return {(p["run"], p["tokens"]) for p in document}


@pytest.fixture(scope="module")
def curves() -> dict[str, Any]:
    return simulate.p2(seed=0)


@pytest.fixture(scope="module")
def uneven() -> dict[str, Any]:
    """Runs of 10, 7 and 1 checkpoints, unevenly spaced."""
    tokens = [np.geomspace(1e8, 1e10, 10), np.linspace(2e8, 8e8, 7), np.array([5e9])]
    size = np.repeat([1e8, 4e8, 2e9], [10, 7, 1])
    table = simulate.chinchilla(seed=3, params=size, tokens=np.concatenate(tokens))
    return {**table, "run": list(np.repeat(["a", "b", "c"], [10, 7, 1]))}


# ---------------------------------------------------------------- which rows


def test_the_last_checkpoints_are_counted_run_by_run(uneven: dict[str, Any]) -> None:
    a, b = np.geomspace(1e8, 1e10, 10), np.linspace(2e8, 8e8, 7)
    found = one(uneven, "checkpoints:0.2", fix={"alpha": 0.348})
    assert held(found) == {("a", t) for t in a[-2:]} | {("b", b[-1])}
    assert (found.fitted, found.held_out) == (15, 3)
    assert found.about == "the last 20 % of each run's checkpoints"


def test_the_last_tokens_are_a_share_of_the_range(uneven: dict[str, Any]) -> None:
    a, b = np.geomspace(1e8, 1e10, 10), np.linspace(2e8, 8e8, 7)
    found = one(uneven, "tokens:0.2", fix={"alpha": 0.348})
    expected = {("a", t) for t in a[a > 1e8 + 0.8 * 9.9e9]}
    assert len(expected) == 1
    assert held(found) == expected | {("b", t) for t in b[b > 2e8 + 0.8 * 6e8]}


def test_one_checkpoint_of_a_run_always_stays() -> None:
    table = simulate.p2(**{**SMALL, "checkpoints": 2})
    found = one(table, "checkpoints:0.9", fix={"gamma": -1.3, "alpha": 0.3})
    assert found.held_out == 9
    assert found.fitted == 9


@pytest.mark.parametrize("column", ["params", "pruning_rate", "tokens"])
def test_the_largest_value_of_an_input(column: str) -> None:
    table = pl.DataFrame(simulate.p2(**SMALL))
    found = one(table, f"{column}:largest")
    top = table.filter(pl.col(column) == pl.col(column).max())
    assert held(found) == set(top.select("run", "tokens").iter_rows())


def test_rates_that_came_out_alike_are_held_out_together() -> None:
    """A rate asked for is a little different at every size; others stay apart."""
    table = pl.DataFrame(simulate.p2(**SMALL))
    # 0.15, 0.25 and 0.35 of the layers, less where the embeddings weigh more
    less = pl.col("params").replace_strict({5e8: 0.86, 1.5e9: 0.93, 3e9: 1.0})
    found = one(table.with_columns(pl.col("pruning_rate") * less), "pruning_rate:largest")
    top = table.filter(pl.col("pruning_rate") == 0.35)
    assert held(found) == set(top.select("run", "tokens").iter_rows())
    assert found.about == "pruning_rate = 0.301 to 0.35, the largest of 3 values"
    # Where every rate is near the next, the largest is the largest.
    close = pl.col("pruning_rate").replace_strict({0.15: 0.33, 0.25: 0.34, 0.35: 0.35})
    found = one(table.with_columns(close), "pruning_rate:largest", **QUICK)
    assert held(found) == set(top.select("run", "tokens").iter_rows())


def test_each_run_is_left_out_once() -> None:
    table = pl.DataFrame(simulate.p2(**SMALL))
    found = one(table, "run", **QUICK)
    assert held(found) == set(table.select("run", "tokens").iter_rows())
    assert [f.data["runs"] for f in found.fits] == [8] * 9


def test_of_many_runs_a_twentieth_is_left_out_at_a_time() -> None:
    rows = np.arange(61)
    params, tokens = 1e8 * 2.0 ** (rows % 8), 1e9 * 2.0 ** (rows // 8)
    loss = 1.8 + 480 * params**-0.35 + 2100 * tokens**-0.37
    names = [f"r{i}" for i in rows]
    many = {"run": names, "params": params, "tokens": tokens, "loss": loss}
    found = one(many, "run", law="chinchilla", **QUICK_DENSE)
    assert found.about == "each of 20 random parts of the 61 runs in turn"
    assert {r for r, _ in held(found)} == set(names)
    assert sorted(f.data["runs"] for f in found.fits) == [57, *[58] * 19]


def test_folds_are_whole_runs_drawn_by_the_seed() -> None:
    table = simulate.p2(**SMALL)
    found = one(table, "k-fold:4", seed=1, **QUICK)
    assert found.held_out == 54
    assert sorted(f.data["runs"] for f in found.fits) == [6, 7, 7, 7]
    assert one(table, "k-fold:4", seed=1, **QUICK).to_dict() == found.to_dict()
    assert one(table, "k-fold:4", seed=2, **QUICK).to_dict()["folds"] != found.to_dict()["folds"]
    assert len(one(table, "k-fold", **QUICK).fits) == 5


# ---------------------------------------------------------------- nothing seen


@functools.cache
def untouched(holdout: str) -> Validation:
    return one(simulate.p2(**SMALL), holdout)


@pytest.mark.parametrize("holdout", EVERY)
@settings(max_examples=2)
@given(data=st.data())
def test_an_outlier_in_the_held_out_part_changes_no_fitted_number(
    holdout: str, data: st.DataObject
) -> None:
    table = simulate.p2(**SMALL)
    before = untouched(holdout)
    loss = np.array(table["loss"])
    if len(before.fits) > 1:
        names = list(dict.fromkeys(table["run"]))
        name = data.draw(st.sampled_from(names))
    else:
        name = data.draw(st.sampled_from(sorted({r for r, _ in held(before)})))
    rows = [
        i
        for i, r in enumerate(table["run"])
        if r == name and (r, table["tokens"][i]) in held(before)
    ]
    loss[data.draw(st.sampled_from(rows))] *= data.draw(st.floats(0.5, 3.0))
    after = one({**table, "loss": loss}, holdout)
    mine = [i for i, r in enumerate(points(before).run) if r == name]
    same = [
        (a, b)
        for a, b in zip(before.fits, after.fits)
        if len(before.fits) == 1 or a.objective == b.objective
    ]
    assert same, "no fold left the outlier out"
    for fit, again in same:
        assert (fit.parameters, fit.metrics) == (again.parameters, again.metrics)
        assert fit.covariance == again.covariance
    for a, b in (
        (points(before).predicted, points(after).predicted),
        (points(before).interval, points(after).interval),
        (points(before).range, points(after).range),
        *zip(points(before).baselines.values(), points(after).baselines.values()),
    ):
        np.testing.assert_array_equal(np.asarray(a)[..., mine], np.asarray(b)[..., mine])


# ---------------------------------------------------------------- scores


def test_scores_against_an_independent_computation(curves: dict[str, Any]) -> None:
    frame = pl.DataFrame(curves).with_columns(row=pl.int_range(pl.len()).over("run"))
    early, late = frame.filter(pl.col("row") < 16), frame.filter(pl.col("row") >= 16)
    fit = p2fit.fit(early.drop("row"), errors="rows")
    columns = {x: late[x].to_numpy() for x in fit.law.inputs}
    loss, predicted = late["loss"].to_numpy(), fit.predict(columns)
    band = fit.interval(columns, new_run=True)
    assert band is not None

    score = one(curves, "checkpoints:0.2", errors="rows").score
    assert score is not None
    error = loss - predicted
    excess = loss - late["base_loss"].to_numpy()
    assert score.rows == 36
    assert score.rmse == pytest.approx(np.sqrt(np.mean(error**2)))
    assert score.mape == pytest.approx(np.mean(np.abs(error) / loss))
    assert score.asd == pytest.approx(
        asd(late["run"].to_list(), columns["tokens"], loss, predicted)
    )
    assert score.r2 is None
    assert score.r2_excess == pytest.approx(1 - np.sum(error**2) / excess.var() / 36)
    assert score.coverage == pytest.approx(np.mean((band[0] <= loss) & (loss <= band[1])))

    last, power = score.skills
    naive = np.repeat(early.filter(pl.col("row") == 15)["loss"].to_numpy(), 4)
    assert last.baseline == "last value"
    assert last.rmse == pytest.approx(np.sqrt(np.mean((loss - naive) ** 2)))
    assert last.skill == pytest.approx(1 - score.rmse / last.rmse)
    own = p2fit.fit(early.filter(pl.col("run") == "run-4"), "a + b/tokens^c")
    there = own.predict({"tokens": late.filter(pl.col("run") == "run-4")["tokens"].to_numpy()})
    rows = points(one(curves, "checkpoints:0.2"))
    mine = [i for i, r in enumerate(rows.run) if r == "run-4" and rows.held_out[i]]
    assert power.baseline == "power law"
    assert rows.baselines["power law"][mine] == pytest.approx(there)


def test_each_run_has_its_own_score(curves: dict[str, Any]) -> None:
    found = one(curves, "pruning_rate:largest")
    assert list(found.runs) == ["run-2", "run-5", "run-8"]
    assert found.score is not None
    squares = [s.rows * s.rmse**2 for s in found.runs.values() if s is not None]
    assert found.score.rmse == pytest.approx(np.sqrt(sum(squares) / 60))


def test_curves_nearby_carry_the_loss_above_base_loss() -> None:
    table = simulate.p2(**SMALL)
    found = points(one(table, "pruning_rate:largest"))
    frame = pl.DataFrame(table).with_columns(above=pl.col("loss") - pl.col("base_loss"))
    low, middle, top = (
        frame.filter(pl.col("pruning_rate") == r)["above"].to_numpy() for r in (0.15, 0.25, 0.35)
    )
    base = frame.filter(pl.col("pruning_rate") == 0.35)["base_loss"].to_numpy()
    assert len(top) == 18
    nearest = found.baselines["nearest curve"][found.held_out]
    assert nearest == pytest.approx(base + middle)
    share = np.log(0.35 / 0.25) / np.log(0.15 / 0.25)
    two = found.baselines["two nearest"][found.held_out]
    assert two == pytest.approx(base + middle + share * (low - middle))


def test_neighbours_are_read_at_the_same_tokens() -> None:
    """Interpolated in log tokens; the end of a curve that does not reach them."""
    tokens = [1e9, 4e9, 1e9, 2e9, 4e9, 8e9]
    table = {
        "run": ["a", "a", "b", "b", "b", "b"],
        "params": [1e8] * 2 + [4e8] * 4,
        "tokens": tokens,
        "loss": [4.0, 3.0, 3.5, 3.1, 2.7, 2.5],
    }
    found = points(one(table, "params:largest", law="E + B/tokens^beta + 0*params", fix={"E": 1}))
    assert found.baselines["nearest curve"][2:] == pytest.approx([4.0, 3.5, 3.0, 3.0], abs=1e-6)
    assert np.isnan(found.baselines["two nearest"][2:]).all()


def test_single_rows_have_the_nearest_row_for_a_baseline() -> None:
    found = one(simulate.chinchilla(30, seed=1), "run", **QUICK_DENSE)
    p = points(found)
    logs = np.log(np.stack([p.columns["params"], p.columns["tokens"]], axis=1))
    gaps = np.linalg.norm(logs[:, None] - logs, axis=2) + np.diag(np.full(30, np.inf))
    assert p.baselines["nearest curve"] == pytest.approx(p.loss[gaps.argmin(axis=1)])
    assert found.score is not None
    assert found.score.asd is None
    assert found.score.r2 is not None
    assert found.score.r2_excess is None


# ---------------------------------------------------------------- what is not determined


def test_two_sizes_give_a_range_for_a_third_and_no_score(curves: dict[str, Any]) -> None:
    found = one(curves, "params:largest")
    assert found.score is None
    assert set(found.runs.values()) == {None}
    document = found.to_dict()
    assert document["score"] is None
    for point in document["points"]:
        assert point["predicted"] is None
        assert point["interval"] is None
        low, high = point["range"]
        assert low < high
    assert any("2 distinct values of params, 3 needed" in w for w in found.warnings)
    assert "a range for each point, and no score" in str(found)
    exact = one(simulate.p2(seed=0, noise=0.0), "params:largest")
    for point in exact.to_dict()["points"]:
        assert point["range"][0] <= point["loss"] + 1e-6
        assert point["loss"] - 1e-6 <= point["range"][1]


def test_an_undetermined_direction_that_the_held_out_points_do_not_need() -> None:
    """One rate leaves gamma open; at that rate, later checkpoints do not depend on it."""
    found = one(simulate.p2(seed=0, rates=[0.25]), "checkpoints:0.2")
    assert found.fits[0].identification["undetermined"]
    assert found.score is not None
    assert found.score.rows == found.held_out == 12
    assert np.isnan(points(found).range).all()


def test_bounds_that_hold_what_two_sizes_leave_open() -> None:
    """At an end of alpha's range and at E = 0 nothing else fits as well: a number, a score."""
    found = one(
        "examples/p2_study_large/post_train.csv",
        "params:largest",
        where="method like '%:%'",
        pool=True,
        subtract_control=True,
        burn_in=0.1,
        loss="squared",
    )
    assert found.fits[0].identification["undetermined"]
    assert found.score is not None
    assert found.score.rows == found.held_out == 30
    assert np.isnan(points(found).range).all()


def test_three_sizes_determine_a_fourth() -> None:
    table = simulate.p2(**SMALL, sizes=(2e8, 5e8, 1.5e9, 3e9))
    found = one(table, "params:largest")
    assert found.score is not None
    assert found.score.coverage is not None


# ---------------------------------------------------------------- what is asked for


def test_the_papers_three_by_default(curves: dict[str, Any]) -> None:
    found = validate(curves)
    assert [v.holdout for v in found] == [
        "checkpoints:0.2",
        "params:largest",
        "pruning_rate:largest",
    ]


def test_a_default_that_the_curves_do_not_allow_is_skipped() -> None:
    table = simulate.p2(**SMALL, sizes=[5e8])
    skipped = {v.holdout: v.skipped for v in validate(table)}
    assert skipped == {
        "checkpoints:0.2": None,
        "params:largest": "1 distinct value of params, 2 needed",
        "pruning_rate:largest": None,
    }
    found = {v.holdout: v.skipped for v in validate(simulate.chinchilla(9, seed=0))}
    assert found == {
        "checkpoints:0.2": "no run has enough checkpoints: 1 at most",
        "params:largest": None,
        "run": None,
    }


def test_a_validation_for_each_group_and_hold_out() -> None:
    table = pl.DataFrame(simulate.p2(**SMALL))
    both = pl.concat(
        [
            table.with_columns(pl.lit("depth").alias("method")),
            table.with_columns(pl.lit("width").alias("method"), pl.col("run") + "w"),
        ]
    )
    found = validate(both, holdout=["checkpoints:0.2", "k-fold:2"])
    assert [(v.group["method"], v.holdout) for v in found] == [
        ("depth", "checkpoints:0.2"),
        ("depth", "k-fold:2"),
        ("width", "checkpoints:0.2"),
        ("width", "k-fold:2"),
    ]
    assert found[0].score == found[2].score


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        ("nonsense", "'nonsense' is not a hold-out; there are checkpoints:0.2, tokens:0.2"),
        ("params:smallest", "is not a hold-out; there are"),
        ("checkpoints", "is not a hold-out; there are"),
        ("checkpoints:1.5", "checkpoints:1.5: a share lies between 0 and 1"),
        ("checkpoints:nan", "checkpoints:nan: a share lies between 0 and 1"),
        ("checkpoints:0.01", "no run has enough checkpoints: 6 at most"),
        ("avg_params:largest", "avg_params is not an input of p2"),
        ("k-fold:1", "k-fold:1: at least 2 folds are needed"),
        ("k-fold:x", "is not a hold-out"),
        ("k-fold:10", "9 runs, 10 needed"),
    ],
)
def test_an_impossible_hold_out(holdout: str, message: str, tmp_path: Path) -> None:
    table = pl.DataFrame(simulate.p2(**SMALL))
    with pytest.raises(p2fit.FitError, match=message):
        validate(table, holdout=[holdout])
    table.write_csv(tmp_path / "curves.csv")
    found = run("validate", tmp_path / "curves.csv", "--holdout", holdout)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_nothing_is_left_to_hold_out() -> None:
    table = {"run": ["a"], "params": [1e8], "tokens": [1e9], "loss": [3.0]}
    with pytest.raises(p2fit.FitError, match="run: 1 run, 2 needed"):
        validate(table)
    with pytest.raises(p2fit.FitError, match="give a list"):
        validate(table, holdout="run")


def test_progress_counts_fits() -> None:
    seen: list[tuple[int, int]] = []
    validate(
        simulate.p2(**SMALL),
        holdout=["run", "checkpoints:0.2"],
        progress=lambda done, total: seen.append((done, total)),
        **QUICK,
    )
    assert seen == [(i, 10) for i in range(1, 11)]


def test_a_law_without_tokens() -> None:
    table = simulate.chinchilla(12, seed=0, tokens=1e12)
    own = {"run": table["run"], "loss": table["loss"], "size": table["params"]}
    found = one(own, "size:largest", law="E + A/size^alpha")
    assert found.score is not None
    assert [s.baseline for s in found.score.skills] == ["nearest curve", "two nearest"]
    with pytest.raises(p2fit.FitError, match="have no tokens"):
        one(own, "checkpoints:0.2", law="E + A/size^alpha")


# ---------------------------------------------------------------- in and out


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("validate") / "curves.csv"
    pl.DataFrame(simulate.p2(**SMALL)).write_csv(path)
    return path


def test_the_command_prints_every_hold_out(path: Path) -> None:
    found = run("validate", path)
    assert found.exit_code == 0
    each, every = found.stdout.split("\nall hold-outs\n")
    made = validate(path)
    assert each == "\n".join(str(v) for v in made)
    rows = [line.split() for line in every.splitlines()[2:] if line][:-1]
    assert [row[0] for row in rows] == [v.holdout for v in made]
    for row, v in zip(rows, made):
        if v.score is None:
            assert row[1:] == [str(v.held_out), *"—————"]
            continue
        best = min(v.score.skills, key=lambda k: k.rmse)
        assert row[1:3] == [str(v.held_out), f"{v.score.rmse:.3g}"]
        assert row[-3:] == [f"{best.skill:+.2f}", *best.baseline.split()]
    assert max(map(len, found.stdout.splitlines())) <= 100


def test_json_is_plain_and_never_nan(path: Path) -> None:
    arguments = [part for holdout in EVERY for part in ("--holdout", holdout)]
    found = run("validate", path, *arguments, "--json")
    assert found.exit_code == 0

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(found.stdout, parse_constant=refuse)
    assert [v["holdout"] for v in document] == EVERY
    assert document[0] == one(path, EVERY[0]).to_dict()


def test_many_runs_are_shown_worst_first() -> None:
    found = one(simulate.chinchilla(30, seed=0), "run", **QUICK_DENSE)
    assert "and 10 more runs, better predicted" in str(found)
    worst = max(found.runs, key=lambda name: found.runs[name].rmse)  # type: ignore[union-attr]
    lines = str(found).splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("run "))
    assert lines[header + 1].startswith(worst)


def test_pictures(path: Path, tmp_path: Path) -> None:
    chosen = ("--holdout", "pruning_rate:largest", "--where", "params > 1e9")
    found = run("validate", path, *chosen, "--plot", tmp_path / "validate.png")
    assert found.exit_code == 0
    assert (tmp_path / "validate.png").stat().st_size > 10_000
    figure = importlib.import_module("p2fit.pictures.checks").draw_validation(validate(path))
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 12
    assert "params:largest\nrun-6" in titles
    dense = validate(simulate.chinchilla(20, seed=0), **QUICK_DENSE)
    figure = importlib.import_module("p2fit.pictures.checks").draw_validation(dense)
    assert [axis.get_title() for axis in figure.axes] == ["params:largest", "run"]


def test_a_picture_of_another_kind_is_refused_first(path: Path) -> None:
    found = run("validate", path, "--plot", "validate.bmp")
    assert found.exit_code == 2
    assert "a picture's name ends in .png" in found.stderr
