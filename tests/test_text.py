"""Names, files and terminals of any kind: text that people did not choose."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from tests import simulate

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pl.DataFrame(simulate.p2(seed=0)).write_csv(folder / "curves.csv")
    p2fit.fit(folder / "curves.csv").save(folder / "fit.json")
    return folder


def named(name: str) -> pl.DataFrame:
    """Curves of which one run, one family and one column have this name."""
    frame = pl.DataFrame(simulate.p2(seed=0))
    first = frame["run"] == frame["run"][0]
    frame = frame.with_columns(pl.when(first).then(pl.lit(name)).otherwise("run").alias("run"))
    return frame.with_columns(family=pl.lit(name), final=pl.lit(name))


NAMES = st.text(
    st.sampled_from("ab\x1b[31m\x07\x9b\u202e\r\n=,\"'é—\x00") | st.characters(codec="utf-8"),
    min_size=1,
    max_size=12,
)


@given(name=NAMES)
@settings(max_examples=25)
def test_no_name_reaches_the_terminal_as_a_command(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("named")
    named(name).write_csv(folder / "curves.csv")
    (folder / "log.jsonl").write_text(
        "".join(json.dumps({"run": name, "step": i, "eval_loss": 3 - i / 9}) + "\n" for i in (1, 2))
    )
    options = ["--params", "1e9", "--tokens-per-step", "1e6"]
    for words in (
        ["check", str(folder / "curves.csv")],
        ["check", str(folder / "curves.csv"), "--column", f"loss={name}"],
        ["fit", str(folder / "curves.csv"), "--by", name],
        ["fit", str(folder / "curves.csv"), "--where", f"run = '{name}'"],
        ["fit", str(folder / "curves.csv"), "--law", name],
        ["import", str(folder / "log.jsonl"), *options, "-o", str(folder / "made.csv")],
        [name],
    ):
        found = CliRunner().invoke(main, words, color=True)
        assert found.exit_code in (0, 2, 3), found.exception
        assert not OBEYED.search(found.output), words


@pytest.mark.parametrize("charset", ["latin-1", "cp1252", "ascii"])
def test_a_terminal_that_lacks_characters(charset: str, saved: Path) -> None:
    runner, curves, fit = CliRunner(charset=charset), saved / "curves.csv", saved / "fit.json"
    for words in (
        ["fit", "--help"],
        ["laws"],
        ["fit", curves],
        ["fit", curves, "--json"],
        ["compare", curves, "--law", "p2", "--law", "p2-no-size"],
        ["plan", "tokens", fit, "--params", "1B", "--pruning-rate", "0.2", "--base-loss", "2"],
        ["predict", fit, "--params", "é"],
        ["simulate", "E", "--set", "E=2", "--params", "1B"],
    ):
        found = runner.invoke(main, list(map(str, words)))
        assert found.exit_code in (0, 2), found.exception
        assert isinstance(found.exception, SystemExit | None)


def test_json_is_the_same_in_any_encoding(saved: Path) -> None:
    curves = pl.read_csv(saved / "curves.csv").with_columns(family=pl.lit("é—𝛼"))
    curves.write_csv(saved / "é.csv")
    texts = [
        CliRunner(charset=c).invoke(main, ["fit", str(saved / "é.csv"), "--json"]).stdout_bytes
        for c in ("utf-8", "latin-1", "ascii")
    ]
    assert len({json.dumps(json.loads(t)) for t in texts}) == 1


def test_a_file_name_of_any_bytes(saved: Path) -> None:
    name = os.fsdecode(os.fsencode(saved) + b"/b\xff\x1b[1m")
    try:
        (saved / "curves.csv").rename(name + ".csv")
    except (OSError, ValueError):
        pytest.skip("the file system keeps to UTF-8")
    run = CliRunner()
    try:
        made = run.invoke(main, ["fit", name + ".csv", "-o", name + ".json"])
        page = run.invoke(main, ["report", name + ".csv", "-o", name + ".html"])
        lost = run.invoke(main, ["fit", name])
    finally:
        Path(name + ".csv").rename(saved / "curves.csv")
    assert (made.exit_code, page.exit_code, lost.exit_code) == (0, 0, 2)
    fit = p2fit.load(name + ".json")
    assert isinstance(fit, p2fit.Fit)
    assert fit.data["source"].endswith(r"b\udcff\u001b[1m.csv")


@pytest.mark.parametrize("option", ["--where", "--law", "--by", "--cluster", "--target", "--tie"])
def test_bytes_that_are_no_text_are_refused(option: str, saved: Path) -> None:
    value = os.fsdecode(b"x\xff=1")
    found = CliRunner().invoke(main, ["fit", str(saved / "curves.csv"), option, value])
    assert found.exit_code == 2
    assert isinstance(found.exception, SystemExit)


@pytest.mark.parametrize("name", ["log.jsonl", "trainer_state.json"])
def test_half_a_character_in_a_log_is_refused(name: str, tmp_path: Path) -> None:
    entry = r'{"step": 1, "eval_loss": 2.5, "run": "a\ud83d"}'
    whole = entry if name.endswith("l") else '{"log_history": [' + entry + "]}"
    (tmp_path / name).write_text(whole)
    with pytest.raises(p2fit.CurvesError, match="half of a surrogate pair"):
        p2fit.import_logs(tmp_path / name, params=1e9, tokens_per_step=1e6)
    (tmp_path / name).write_text(whole.replace(r"\ud83d", r"\ud83d\ude00"))
    p2fit.import_logs(tmp_path / name, params=1e9, tokens_per_step=1e6)


def test_a_name_that_a_spreadsheet_would_run_is_kept_and_said(tmp_path: Path) -> None:
    name = '=HYPERLINK("http://a.b")'
    (tmp_path / "log.jsonl").write_text(json.dumps({"run": name, "step": 1, "eval_loss": 2.5}))
    found = p2fit.import_logs(tmp_path / "log.jsonl", params=1e9, tokens_per_step=1e6)
    assert any("spreadsheet" in line for line in found.warnings)
    assert pl.read_csv(found.csv().encode())["run"].to_list() == [name]


@pytest.mark.parametrize("sign", "=+-@")
def test_cells_of_every_file_are_those_that_were_given(sign: str, tmp_path: Path) -> None:
    name, made, points = f'{sign}HYPERLINK("http://a.b")', tmp_path / "out.csv", tmp_path / "at.csv"
    curves, fit = tmp_path / "curves.csv", tmp_path / "fit.json"
    table = named(name).drop("final")
    table.write_csv(curves)
    table.head(3).drop("loss").write_csv(points)
    p2fit.fit(curves).save(fit)
    for words in (
        ["predict", fit, "--at", points, "-o", made],
        ["simulate", points, "--law", "E/params^x", "--set", "E=2", "--set", "x=0.1", "-o", made],
    ):
        assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
        given, found = pl.read_csv(points), pl.read_csv(made)
        assert found["run"].to_list() == given["run"].to_list() == [name] * 3
        assert found["family"].to_list() == given["family"].to_list()


@pytest.mark.parametrize("chain", [" OR params > 1", " AND params > 1", "+1", " IS NOT NULL"])
@pytest.mark.parametrize("count", [300, 9001])
def test_a_filter_of_many_terms_is_refused_before_it_ends_the_process(
    chain: str, count: int, saved: Path
) -> None:
    with pytest.raises(p2fit.FitError, match="more than 200 operators"):
        p2fit.fit(saved / "curves.csv", where="params > 1" + chain * count)


def test_a_filter_may_name_many_values(saved: Path) -> None:
    runs = pl.read_csv(saved / "curves.csv")["run"].unique().to_list()
    names = ", ".join(f"'{name}'" for name in [*runs, *(f"a-b-{i}" for i in range(2000))])
    fit = p2fit.fit(saved / "curves.csv", where=f"run IN ({names})")
    assert fit.objective == p2fit.fit(saved / "curves.csv").objective


def test_a_range_may_be_as_wide_as_numbers_go(saved: Path) -> None:
    words = ["predict", str(saved / "fit.json"), "--params", "1B", "--pruning-rate", "0.2"]
    words += ["--base-loss", "2", "--json"]
    found = CliRunner().invoke(main, [*words, "--tokens", "1e-300..1e300"])
    assert found.exit_code == 2
    assert "give absolute counts" in found.stderr
    wide = CliRunner().invoke(main, [*words, "--tokens", "1e4..1e300:5"])
    assert wide.exit_code == 0
    for ends in ("1e3..1e300:10000", "1..2:10000"):
        words += ["--params", ends, "--tokens", "1e9..1e10:10000"]
        found = CliRunner().invoke(main, words)
        assert found.exit_code == 2
        assert "combinations of inputs" in found.stderr
