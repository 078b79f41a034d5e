"""The doors of the command line: quantities, and the options of the commands that take them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.cli.values import Output
from tests import simulate
from tests.fuzz.fuzzing import COUNT, corpus, watched
from tests.test_docs import commands


def found(words: tuple[str, ...]) -> click.Command:
    """A command by its words."""
    command: click.Command | None = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    return command


NUMBERS = st.sampled_from(
    [
        *("1", "0", "-1", "8B", "1e9", "1.5T", "350M", "1e300", "1e-300", "1e308", "5e-324"),
        *("1e999", "nan", "inf", "-inf", "1e", ".", "1..2", "0x10", "1_0", "١", "²", ""),
        *("9" * 30, "9" * 5000),
    ]
)
NAMES = st.sampled_from(
    ["E", "alpha", "beta", "N_C", "params", "tokens", "run", "loss", "family", "kept", "x", "é"]
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
HOLDOUTS = st.tuples(
    st.sampled_from(["checkpoints", "tokens", "params", "k-fold", "run", "x", ""]),
    st.sampled_from(["largest", "0.2", "2", "²", "-1"]) | NUMBERS,
).map(":".join)
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
#: What each command needs to do something, in a folder with curves and fits.
FIT = ["curves.csv", "--law", "E + A/params^alpha"]
AT = ["--params", "1B", "--pruning-rate", "0.2", "--base-loss", "2"]
BASES: dict[tuple[str, ...], list[str]] = {
    ("check",): ["curves.csv"],
    ("cite",): ["p2"],
    ("compare",): [*FIT, "--law", "E + A/tokens^alpha"],
    ("explain",): ["open"],
    ("fit",): FIT,
    ("identify",): FIT,
    ("import",): ["log.jsonl", "--params", "1M", "--tokens-per-step", "512"],
    ("laws",): [],
    ("plan", "choose"): ["fit.json", "points.csv", "--deploy-params", "1B", "--tokens", "1B"],
    ("plan", "compute"): ["dense.json", "--flops", "1e21"],
    ("plan", "continue"): ["fit.json", "--tokens", "1e12"],
    ("plan", "next"): ["fit.json", "points.csv"],
    ("plan", "tokens"): ["fit.json", *AT],
    ("plot",): ["fit.json", "-o", "out.svg"],
    ("predict",): ["fit.json", *AT, "--tokens", "1e9"],
    ("profile",): FIT,
    ("schema",): [],
    ("simulate",): ["--law", "E/params^x", "--set=E=2", "--set=x=0.1", "--params", "1B..9B:3"],
    ("validate",): FIT,
}  # fmt: skip
READ = st.sampled_from(["curves.csv", "fit.json", "dense.json", "points.csv", "no.csv", ".", ""])
WRITTEN = st.sampled_from(["out.json", "out.csv", "out.html", "out.svg", "out", "no/out.csv", "."])
COUNTS = {"--params", "--tokens", "--pruning-rate", "--base-loss", "--gain", "--loss", "--recover"}
COUNTS |= {"--pruned-loss", "--gain-per-billion", "--kept", "--flops", "--sparsity"}
#: A sampler takes seconds by its nature.
SLOW = {"--backend", "--chains", "--draws", "--tune", "--save-trace", "--help"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    table = pl.DataFrame(simulate.p2(seed=0, checkpoints=5))
    table.write_csv(folder / "curves.csv")
    table.unique("run", maintain_order=True).head(3).drop("loss").write_csv(folder / "points.csv")
    p2fit.fit(folder / "curves.csv").save(folder / "fit.json")
    p2fit.fit(simulate.chinchilla(seed=0)).save(folder / "dense.json")
    (folder / "log.jsonl").write_text('{"step": 1, "val_loss": 3.5}\n{"step": 2, "val_loss": 3}\n')
    return folder


def no_number(text: str) -> float:
    raise AssertionError(f"{text} in JSON")


def call(words: list[str], folder: Path) -> None:
    """Run a command in this process: it does its work, or ends in a line and exit code 2."""
    with contextlib.chdir(folder), watched():
        found = CliRunner().invoke(main, words)
    assert isinstance(found.exception, SystemExit | None), (words, found.exception)
    assert found.exit_code in (0, 2, 3), words
    if found.exit_code == 2:
        assert found.stderr.strip(), words
        assert found.stdout == "", words
    elif "--json" in words:
        json.loads(found.stdout, parse_constant=no_number)


def values(option: click.Parameter) -> st.SearchStrategy[str] | None:
    """What may stand behind an option; None of a flag."""
    name = option.opts[0]
    if isinstance(option, click.Option) and option.is_flag:
        return None
    if isinstance(option.type, Output):
        return WRITTEN
    if isinstance(option.type, click.Path):
        return READ
    if isinstance(option.type, click.Choice):
        return st.sampled_from([*option.type.choices, "x", ""])
    if name == "--holdout":
        return HOLDOUTS | ANY
    return FITTING.get(name, QUANTITIES | PAIRS | ANY)


OPTIONS = {
    words: {
        option.opts[0]: values(option)
        for option in found(words).params
        if isinstance(option, click.Option) and not SLOW & set(option.opts)
    }
    for words in BASES
}


def drawn(draw: Any, options: Mapping[str, st.SearchStrategy[str] | None], most: int) -> list[str]:
    names = draw(st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=most))
    return [w for n in names for w in (n, *([] if options[n] is None else [draw(options[n])]))]


@given(data=st.data())
@settings(max_examples=COUNT)
def test_any_quantity_is_used_or_refused(data: st.DataObject, saved: Path) -> None:
    words = data.draw(st.sampled_from([("plan", "tokens"), ("plan", "compute"), ("predict",)]))
    counts = dict.fromkeys(OPTIONS[words].keys() & COUNTS, QUANTITIES)
    call([*words, *BASES[words], *drawn(data.draw, counts, 3), "--json"], saved)


@given(data=st.data())
@settings(max_examples=COUNT // 4)
def test_any_option_of_a_fit_is_used_or_refused(data: st.DataObject, saved: Path) -> None:
    call(["fit", "curves.csv", *drawn(data.draw, FITTING, 3), "--json"], saved)


@given(data=st.data())
@settings(max_examples=COUNT // 40)
def test_any_option_of_any_command_is_used_or_refused(data: st.DataObject, saved: Path) -> None:
    words = data.draw(st.sampled_from(sorted(BASES)))
    if OPTIONS[words]:
        call([*words, *BASES[words], *drawn(data.draw, OPTIONS[words], 3)], saved)


@pytest.mark.parametrize("words", corpus("options"))
def test_what_was_once_too_much(words: bytes, saved: Path) -> None:
    call(words.decode().splitlines(), saved)


def test_every_command_is_attacked() -> None:
    every = {words for words in commands(main) if not isinstance(found(words), click.Group)}
    assert set(BASES) == every - {("report",)}  # it takes seconds, and what fit takes
