"""The doors of the command line: quantities, and the options of the commands that take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from tests import simulate
from tests.fuzz.fuzzing import COUNT, watched

NUMBERS = st.sampled_from(
    [
        *(
            "1",
            "0",
            "-1",
            "8B",
            "1e9",
            "1.5T",
            "350M",
            "1e300",
            "1e-300",
            "1e308",
            "5e-324",
            "1e999",
        ),
        *(
            "nan",
            "inf",
            "-inf",
            "1e",
            ".",
            "1..2",
            "9" * 30,
            "9" * 5000,
            "0x10",
            "1_0",
            "١",
            "½",
            "",
        ),
    ]
)
NAMES = st.sampled_from(
    [
        "E",
        "alpha",
        "beta",
        "N_C",
        "params",
        "tokens",
        "run",
        "loss",
        "family",
        "kept",
        "x",
        "1",
        "é",
    ]
)
PARTS = (
    NUMBERS
    | NAMES
    | st.sampled_from("+-*/^()[]=<>,:;.%'\"#@&|~ \\\n\x1b\ud800")
    | st.text(max_size=4)
)
ANY = st.lists(
    PARTS | st.sampled_from(["..", ":", ",", "=", " and ", " or ", "not "]), max_size=8
).map("".join)
QUANTITIES = st.one_of(
    NUMBERS,
    st.tuples(NUMBERS, NUMBERS).map("..".join),
    st.tuples(NUMBERS, NUMBERS, NUMBERS).map(lambda t: f"{t[0]}..{t[1]}:{t[2]}"),
    st.lists(NUMBERS, max_size=4).map(",".join),
    ANY,
)
PAIRS = st.tuples(NAMES, NUMBERS | NAMES | ANY).map("=".join)
RANGES = st.tuples(NAMES, NUMBERS, NUMBERS).map(lambda t: f"{t[0]}={t[1]}..{t[2]}")
WHERE = st.tuples(NAMES, st.sampled_from(["=", "<", ">=", "IN", "LIKE", "IS"]), PARTS).map(" ".join)

#: Options of every command that fits, and what may stand behind them.
FITTING: dict[str, st.SearchStrategy[str]] = {
    "--law": st.sampled_from(["p2", "chinchilla", "E + A/params^alpha"]) | ANY,
    "--column": PAIRS | ANY,
    "--target": NAMES | ANY,
    "--where": WHERE | ANY,
    "--by": NAMES | ANY,
    "--fix": PAIRS | ANY,
    "--tie": PAIRS | ANY,
    "--range": RANGES | PAIRS | ANY,
    "--start": PAIRS | ANY,
    "--residual": st.sampled_from(["log", "linear", "arcsine", ""]),
    "--loss": st.sampled_from(["huber", "squared", "x"]),
    "--delta": QUANTITIES,
    "--weights": st.sampled_from(["rows", "runs", "stderr", "x"]),
    "--cluster": NAMES | ANY,
    "--min-tokens": QUANTITIES,
    "--burn-in": QUANTITIES | st.sampled_from(["10%", "100%", "-1%"]),
    "--seed": NUMBERS,
    "--bootstrap": st.sampled_from(["0", "20", "-1", "x", "1e9"]),
}
POINT = {"--params": "1B", "--pruning-rate": "0.2", "--base-loss": "2"}
USING: dict[str, tuple[list[str], dict[str, st.SearchStrategy[str]]]] = {
    "predict": (["predict"], {"--tokens": QUANTITIES}),
    "tokens": (
        ["plan", "tokens"],
        {"--gain": QUANTITIES, "--loss": QUANTITIES, "--recover": QUANTITIES},
    ),
    "compute": (["plan", "compute"], {"--flops": QUANTITIES, "--sparsity": QUANTITIES}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    pl.DataFrame(simulate.p2(seed=0)).write_csv(folder / "curves.csv")
    p2fit.fit(folder / "curves.csv").save(folder / "fit.json")
    p2fit.fit(simulate.chinchilla(seed=0)).save(folder / "dense.json")
    return folder


def no_number(text: str) -> float:
    raise AssertionError(f"{text} in JSON")


def call(words: list[str]) -> None:
    """Run a command in this process: it does its work, or ends in a line and exit code 2."""
    with watched():
        found = CliRunner().invoke(main, words)
    assert isinstance(found.exception, SystemExit | None), (words, found.exception)
    assert found.exit_code in (0, 2, 3), words
    if found.exit_code == 2:
        assert found.stderr.strip(), words
        assert found.stdout == "", words
    elif "--json" in words:
        json.loads(found.stdout, parse_constant=no_number)


def drawn(draw: Any, options: dict[str, st.SearchStrategy[str]], most: int) -> list[str]:
    names = draw(st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=most))
    return [word for name in names for word in (name, draw(options[name]))]


@given(data=st.data())
@settings(max_examples=COUNT)
def test_any_quantity_is_used_or_refused(data: st.DataObject, saved: Path) -> None:
    draw = data.draw
    command, own = USING[draw(st.sampled_from(sorted(USING)))]
    point = {**POINT, **({"--tokens": "1e9"} if command == ["predict"] else {})}
    options = own | dict.fromkeys(point, QUANTITIES)
    asked = drawn(draw, options, 3)
    given_ = [word for pair in point.items() if pair[0] not in asked for word in pair]
    fit = "dense.json" if command == ["plan", "compute"] else "fit.json"
    if fit == "dense.json":
        given_ = []
    call([*command, str(saved / fit), *given_, *asked, "--json"])


@given(data=st.data())
@settings(max_examples=COUNT // 4)
def test_any_option_of_a_fit_is_used_or_refused(data: st.DataObject, saved: Path) -> None:
    call(["fit", str(saved / "curves.csv"), *drawn(data.draw, FITTING, 3), "--json"])
