"""Predictions from a fit, through the API and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import p2fit
from p2fit.cli import main
from p2fit.errors import CurvesError
from tests import simulate

POINT = {"params": 8e9, "pruning_rate": 0.3, "base_loss": 2.6, "tokens": 1e9}


@pytest.fixture(scope="module")
def pruned() -> p2fit.Fit:
    return p2fit.fit(simulate.p2(seed=0, offset=0.002))


@pytest.fixture(scope="module")
def dense(chinchilla: pl.DataFrame) -> p2fit.Fit:
    return p2fit.fit(chinchilla, where="kept == 1")


def test_it_is_what_the_fit_says(pruned: p2fit.Fit) -> None:
    tokens = [1e8, 1e9, 1e11]
    found = p2fit.predict(pruned, {**POINT, "tokens": tokens})
    at = {**POINT, "tokens": np.array(tokens)}
    assert found.predicted == pytest.approx(pruned.predict(at))
    assert found.interval is not None
    assert found.new_run is not None
    assert np.array_equal(found.interval, pruned.interval(at) or ())
    assert np.array_equal(found.new_run, pruned.interval(at, new_run=True) or ())
    assert found.range is None
    assert not found.leans.any()
    assert np.all(found.new_run[0] < found.interval[0])


def test_distance_outside_the_data_in_decades(dense: p2fit.Fit) -> None:
    span = dense.data["range"]["tokens"]
    tokens = [span["min"] / 10, span["min"], span["max"], 100 * span["max"]]
    found = p2fit.predict(dense, {"params": 1e9, "tokens": tokens})
    assert found.outside["tokens"] == pytest.approx([-1, 0, 0, 2])
    assert found.outside["params"].tolist() == [0, 0, 0, 0]
    assert "tokens 2 decades above" in str(found).replace("\n", " ")


def test_undetermined_directions_are_flagged(pruned_llama3: pl.DataFrame) -> None:
    fit = p2fit.fit(pruned_llama3)
    at = {"params": 3.2127e9, "base_loss": 2.2, "pruning_rate": 0.3, "tokens": [81.92e6, 1e10]}
    found = p2fit.predict(fit, at)
    assert found.leans.tolist() == [False, True]
    assert found.range is not None
    assert found.range[1][1] - found.range[0][1] > 0.1
    assert "1 of 2 predictions lean" in str(found)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [p["leans"] for p in document["points"]] == [False, True]


def test_a_rate_of_0_is_the_base_model(pruned: p2fit.Fit) -> None:
    found = p2fit.predict(pruned, {**POINT, "pruning_rate": 0})
    assert found.predicted[0] == 2.6
    assert found.interval is not None
    assert found.interval[0][0] == found.interval[1][0] == 2.6
    assert found.to_dict()["points"][0]["decades_outside"]["pruning_rate"] is None


def test_without_intervals() -> None:
    fit = p2fit.fit(simulate.p2(seed=0, sizes=(1e9,), rates=(0.2, 0.3)), "p2")
    found = p2fit.predict(fit, POINT)
    assert found.interval is None
    assert "no intervals" in str(found)
    assert found.to_dict()["points"][0]["interval"] is None


def test_points_keep_their_order_and_their_other_columns(dense: p2fit.Fit, tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("name,tokens,params\nb,2e11,1e9\na,1e10,8e9\n", encoding="utf-8")
    found = p2fit.predict(dense, file)
    assert found.frame["name"].to_list() == ["b", "a"]
    assert found.predicted[1] == pytest.approx(dense.predict({"params": 8e9, "tokens": 1e10}))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"params": 8e9}, "tokens is not given"),
        ({"params": 8, "tokens": 1e9}, "params: 8 is below 1e4"),
        ({"params": 8e9, "tokens": -1}, "tokens: -1 is below 0"),
        ({"params": [8e9, 9e9], "tokens": [1e9, 1e9, 1e9]}, "of one shape"),
        ({"params": 8e9, "tokens": float("nan")}, "tokens: empty cell"),
        ({"params": 8e9, "tokens": 0}, "no finite loss at params = 8e"),
    ],
)
def test_bad_points(dense: p2fit.Fit, points: dict[str, float], message: str) -> None:
    with pytest.raises(p2fit.FitError, match=message):
        p2fit.predict(dense, points)


def test_bad_files(dense: p2fit.Fit, tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    file.write_text("params,token\n8e9,1e9\n", encoding="utf-8")
    with pytest.raises(CurvesError, match="tokens: no such column; did you mean token"):
        p2fit.predict(dense, file)


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_the_command_line(dense: p2fit.Fit, tmp_path: Path) -> None:
    saved, out = tmp_path / "fit.json", tmp_path / "out.csv"
    dense.save(saved)
    asked = ("predict", saved, "--params", "1B,8B", "--tokens", "10B..1T", "-o", out)
    code, stdout, _ = run(*asked, "--json")
    assert code == 0
    points = json.loads(stdout)["points"]
    assert len(points) == 18  # two sizes, four per decade and both ends
    assert [p["inputs"]["tokens"] for p in points[:9:4]] == [1e10, 1e11, 1e12]
    frame = pl.read_csv(out)
    assert frame["predicted"].to_list() == pytest.approx([p["loss"] for p in points])
    assert run(*asked)[1] == str(
        p2fit.predict(dense, {x: [p["inputs"][x] for p in points] for x in ("params", "tokens")})
    )
    code, stdout, _ = run("predict", saved, "--at", out, "--json")
    assert json.loads(stdout)["points"][3]["loss"] == pytest.approx(points[3]["loss"])


def test_groups(tmp_path: Path) -> None:
    table = pl.concat(
        pl.DataFrame(simulate.p2(seed=i)).with_columns(
            run=pl.lit(m) + pl.col("run"), method=pl.lit(m)
        )
        for i, m in enumerate(("depth", "width"))
    )
    curves, saved, out = (tmp_path / n for n in ("curves.csv", "fit.json", "out.csv"))
    table.write_csv(curves)
    assert run("fit", curves, "-o", saved)[0] == 0
    asked = ["predict", saved, "--json"]
    asked += [word for x, v in POINT.items() for word in (f"--{x.replace('_', '-')}", str(v))]
    every = json.loads(run(*asked, "-o", out)[1])
    assert [one["group"]["method"] for one in every] == ["depth", "width"]
    assert pl.read_csv(out)["method"].to_list() == ["depth", "width"]
    one = json.loads(run(*asked, "--group", "method=width")[1])
    assert one == every[1]
    code, _, stderr = run(*asked, "--group", "method=2:4")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "it has method=depth; method=width" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the law's inputs by options"),
        (("--params", "8B", "--at", "x.csv"), "give the law's inputs by options"),
        (("--params", "8B..1B", "--tokens", "1B"), "a range goes up"),
        (("--params", "0..1B", "--tokens", "1B"), "a range goes up"),
        (("--params", "1B..8B:1", "--tokens", "1B"), "a range has 2 to 10000 points"),
        (("--params", "8B:3", "--tokens", "1B"), "is no range"),
        (("--params", "much", "--tokens", "1B"), "is not a number"),
        (("--params", "8B", "--tokens", "1B", "--base-loss", "2"), "does not read base_loss"),
        (("--params", "8B", "--set", "params=1B"), "params is given twice"),
        (("--at", "nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_bad_requests(
    dense: p2fit.Fit, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    dense.save(tmp_path / "fit.json")
    code, _, stderr = run("predict", tmp_path / "fit.json", *arguments)
    assert code == 2
    assert message in stderr


def test_not_a_fit(tmp_path: Path) -> None:
    file = tmp_path / "curves.json"
    for text in ("{}", "a,b\n", "[]", "3"):
        file.write_text(text, encoding="utf-8")
        code, _, stderr = run("predict", file, "--params", "8B")
        assert (code, stderr.count("\n")) == (2, 1), text
        assert stderr.startswith(str(file))
