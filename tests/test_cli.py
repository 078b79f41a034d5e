"""The command line, through the public door."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import polars as pl
import pytest
from click.testing import CliRunner, Result

import p2fit
from p2fit.cli import main
from tests import simulate

SCHEMA = json.loads(
    (Path(p2fit.__file__).parent / "schemas" / "fit.schema.json").read_text(encoding="utf-8")
)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("curves") / "curves.csv"
    pl.DataFrame(simulate.p2(seed=0)).write_csv(path)
    return path


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.csv"
    pl.DataFrame(simulate.chinchilla(seed=1)).write_csv(path)
    return path


def test_fit_prints_a_summary(curves: Path) -> None:
    found = run("fit", curves)
    assert found.exit_code == 0
    assert found.stderr == ""
    assert found.stdout == p2fit.fit(curves).summary()


def test_json_is_all_of_standard_output(curves: Path) -> None:
    found = run("fit", curves, "--json")
    document = json.loads(found.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document == p2fit.fit(curves).to_dict()


def test_standard_input(curves: Path, dense: Path) -> None:
    found = run("fit", "-", "--json", stdin=curves.read_bytes())
    assert found.exit_code == 0
    document = json.loads(found.stdout)
    assert document["data"]["source"] == "<stdin>"
    assert document["objective"] == p2fit.fit(curves).objective
    # A law that needs a second reading gets one.
    column = pl.read_csv(dense).rename({"params": "active_params"}).with_columns(params=1e9)
    again = run("fit", "-", "--json", stdin=column.write_csv().encode())
    assert json.loads(again.stdout)["law"] == "average-params"


def test_options_reach_the_fit(curves: Path, dense: Path) -> None:
    found = json.loads(
        run(
            *("fit", curves, "--fix", "gamma=-1.3", "--tie", "beta=alpha", "--loss", "squared"),
            *("--residual", "linear", "--weights", "runs", "--min-tokens", "100M"),
            *("--burn-in", "10%", "--where", "params > 1e9", "--seed", 3, "--json"),
        ).stdout
    )
    expected = p2fit.fit(
        curves,
        fix={"gamma": -1.3},
        tie={"beta": "alpha"},
        loss="squared",
        residual="linear",
        weights="runs",
        min_tokens=1e8,
        burn_in=0.1,
        where="params > 1e9",
        seed=3,
    )
    assert found == expected.to_dict()
    delta = run("fit", dense, "--delta", "1e-5", "--law", "kaplan-n", "--json")
    assert json.loads(delta.stdout)["options"]["delta"] == 1e-5


def test_columns_of_another_name(dense: Path, tmp_path: Path) -> None:
    renamed = pl.read_csv(dense).rename({"loss": "loss_pile", "params": "nonembedding"})
    renamed.write_csv(tmp_path / "foreign.csv")
    names = ("--column", "loss=loss_pile", "--column", "params=nonembedding")
    found = run("fit", tmp_path / "foreign.csv", *names, "--json")
    assert json.loads(found.stdout)["objective"] == p2fit.fit(dense).objective
    text = run("fit", tmp_path / "foreign.csv", *names).stdout
    assert "loss taken from loss_pile" in text
    assert "params taken from nonembedding" in text


def test_groups(dense: Path, tmp_path: Path) -> None:
    two = pl.read_csv(dense).with_columns(train_set=pl.Series(["c4", "pile"] * 30))
    two.write_csv(tmp_path / "two.csv")
    found = run(
        "fit", tmp_path / "two.csv", "--by", "train_set", "--json", "-o", tmp_path / "f.json"
    )
    document = json.loads(found.stdout)
    assert [d["group"] for d in document] == [{"train_set": "c4"}, {"train_set": "pile"}]
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8")) == document
    shown = run("fit", tmp_path / "two.csv", "--by", "train_set").stdout
    assert shown.count("parameter ") == 2
    scores, values = shown.split("\nall groups\n\n")[1].split("\n\n")
    for d, score, value in zip(document, scores.splitlines()[1:], values.splitlines()[1:]):
        assert score.split()[:3] == [d["group"]["train_set"], "30", "30"]
        assert score.split()[3] == f"{d['metrics']['r2']:.3g}"
        estimates = [f"{p['estimate']:.3g}" for p in d["parameters"].values()]
        assert value.split() == [d["group"]["train_set"], *estimates]


def test_a_fit_with_warnings_exits_0(curves: Path) -> None:
    found = run("fit", curves, "--where", "params < 2e9")
    assert found.exit_code == 0
    assert "warning: N_C, alpha and E are not separately determined" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law", "p3"], "no law is called p3"),
        (["--law", "E + sin(params)"], "functions: exp(x), log(x)"),
        (["--range", "E=1"], "'E=1' is not of the form PARAMETER=LOW..HIGH"),
        (["--range", "E=2..1"], "E cannot lie between 2 and 1"),
        (["--start", "alpha=0.3"], "its optimum is found without a start"),
        (["--law", "average-params"], "average-params needs avg_params"),
        (["--where", "kept == 1"], 'unable to find column "kept"'),
        (["--where", "params > 1e20"], "no row is left to fit (180: params > 1e20 does not hold)"),
        (["--by", "colour"], "no column colour"),
        (["--cluster", "colour"], "no column colour"),
        (["--column", "loss=los"], "no column los to take it from"),
        (["--fix", "omega=1"], "omega is not a parameter of p2"),
        (["--fix", "gamma"], "is not of the form PARAMETER=NUMBER"),
        (["--fix", "gamma=x"], "is not a number"),
        (["--min-tokens", "8Q"], "is not a number (8B, 350M, 20e9)"),
        (["--burn-in", "120%"], "is not a share below 100%"),
        (["--delta", "0"], "delta is 0"),
        (["--fix", "E=1", "--fix", "E=2"], "E is given twice"),
        (["--seed", "-1"], "seed is -1"),
        (["--bootstrap", "10"], "bootstrap is 10"),
        (["-o", "/nowhere/fit.json"], "/nowhere/fit.json: No such file"),
    ],
)
def test_what_the_user_can_mend_is_said_and_exits_2(
    arguments: list[str], message: str, curves: Path
) -> None:
    found = run("fit", curves, *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("command", ["fit", "check"])
def test_faults_name_file_line_and_column(command: str, curves: Path, tmp_path: Path) -> None:
    lines = curves.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    cells = lines[16].split(",")
    cells[header.index("pruning_rate")] = "1.3"
    lines[16] = ",".join(cells)
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(lines), encoding="utf-8")
    found = (
        run(command, bad, "-o", tmp_path / "out.json") if command == "fit" else run(command, bad)
    )
    assert found.exit_code == 2
    assert found.stderr == f"{bad}:17: pruning_rate: 1.3 is not in [0, 1)\n"
    assert not (tmp_path / "out.json").exists()


def test_an_empty_cell_that_the_law_needs_is_a_fault(curves: Path, tmp_path: Path) -> None:
    table = pl.read_csv(curves).with_columns(
        base_loss=pl.when(pl.col("run") == "run-1").then(None).otherwise(pl.col("base_loss"))
    )
    table.write_csv(tmp_path / "holes.csv")
    found = run("fit", tmp_path / "holes.csv")
    assert found.exit_code == 2
    assert found.stderr.splitlines()[0].startswith(f"{tmp_path / 'holes.csv'}:22: base_loss: ")
    # Another law does not need it.
    assert run("fit", tmp_path / "holes.csv", "--law", "chinchilla").exit_code == 0


def test_no_such_file() -> None:
    found = run("fit", "nowhere.csv")
    assert (found.exit_code, found.stderr) == (2, "nowhere.csv: no such file\n")


def test_check(curves: Path) -> None:
    found = run("check", curves)
    assert found.exit_code == 0
    assert "180 rows, 9 runs, no faults" in found.stdout
    assert "p2, p2-no-size, chinchilla" in found.stdout
    assert json.loads(run("check", curves, "--json").stdout)["rows"] == 180
    lacking = run("check", curves, "--law", "average-params")
    assert lacking.exit_code == 2
    assert "average-params needs avg_params" in lacking.stderr


def test_laws() -> None:
    table = run("laws").stdout
    assert all(name in table for name in p2fit.LAWS)
    page = run("laws", "p2").stdout
    assert r"\rho^{-\gamma}" in page
    assert "arXiv 2411.10272" in page.replace("\n", " ")
    facts = json.loads(run("laws", "chinchilla", "--json").stdout)
    assert facts["columns"] == ["run", "params", "tokens", "loss"]
    assert len(json.loads(run("laws", "--json").stdout)) == len(p2fit.LAWS)
    assert run("laws", "p3").exit_code == 2


def test_schema() -> None:
    assert json.loads(run("schema").stdout)["primaryKey"] == ["run", "tokens"]


def test_version_and_module() -> None:
    assert run("--version").stdout == f"p2fit, version {p2fit.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "p2fit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"p2fit, version {p2fit.__version__}\n"


def test_fitting_imports_nothing_heavy(dense: Path, tmp_path: Path) -> None:
    curves = tmp_path / "p2.csv"
    pl.DataFrame(simulate.p2(seed=0)).write_csv(curves)
    code = (
        "import sys\nfrom p2fit.cli import main\n"
        f"main(['fit', {str(dense)!r}], standalone_mode=False)\n"
        f"main(['fit', {str(curves)!r}], standalone_mode=False)\n"
        f"main(['fit', {str(curves)!r}, '--latex'], standalone_mode=False)\n"
        f"main(['fit', {str(curves)!r}, '--format', 'markdown'], standalone_mode=False)\n"
        "main(['cite', 'p2'], standalone_mode=False)\n"
        "heavy = {'scipy', 'jax', 'pymc', 'arviz', 'matplotlib', 'torch', 'pandas', 'pytest'}\n"
        "heavy |= {'numpy.random', 'numpy.ma', 'numpy.polynomial'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_closed_pipe_is_no_traceback(curves: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "p2fit", "fit", str(curves), "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr


def test_a_law_in_a_terminal_fits_its_width(curves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run("fit", curves).stdout == p2fit.fit(curves).summary()  # piped: always the same


#: What prints no table: notes, BibTeX, files, pictures, pages.
WITHOUT_TABLE = {"check", "cite", "import", "plot", "report", "schema", "simulate"}


def test_whatever_prints_a_table_prints_it_in_any_form() -> None:
    def every(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield name, command
            return
        context = click.Context(command)
        for one in command.list_commands(context):
            found = command.get_command(context, one)
            if found is not None and one != "run":  # p2fit-adapters tests its own
                yield from every(found, f"{name} {one}".strip())

    commands = dict(every(main, ""))
    assert set(commands) >= WITHOUT_TABLE
    for name, command in commands.items():
        options = {option for p in command.params for option in p.opts}
        assert ("--format" in options) == (name not in WITHOUT_TABLE), name
