"""What a command reads it never replaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import polars as pl
import pytest
from click.testing import CliRunner, Result

import p2fit
from p2fit.cli import main
from p2fit.cli.values import Output
from tests import simulate
from tests.test_docs import commands

ROOT = Path(__file__).parents[1]
LOG = ROOT / "tests" / "logs" / "resumed"

#: Every option that names a file to write: its command with a file that it reads, IN.
CASES: dict[tuple[str, ...], str] = {
    ("fit", "-o"): "fit IN",
    ("fit", "--save-trace"): "fit IN --backend bayes",
    ("import", "-o"): "import IN --params 1M --tokens-per-step 512",
    ("plot", "-o"): "plot FIT --curves IN",
    ("predict", "-o"): "predict FIT --at IN",
    ("profile", "--plot"): "profile IN",
    ("report", "-o"): "report IN",
    (
        "simulate",
        "-o",
    ): "simulate IN --law E+A/params^alpha --set E=2 --set A=480 --set alpha=.3",
    ("validate", "--plot"): "validate IN",
}


def outputs() -> set[tuple[str, ...]]:
    found = set()
    for words in commands(main):
        command: click.Command | None = main
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        assert command is not None
        for option in command.params:
            if isinstance(option.type, Output):
                found.add((*words, option.opts[0]))
            # A path that is not one of these is read.
            writes = {"-o", "--output", "--plot", "--save-trace"} & set(option.opts)
            assert not writes or isinstance(option.type, Output), words
    return found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "fit.json"
    p2fit.fit(simulate.p2(seed=0)).save(path)
    return path


def test_every_output_is_tried() -> None:
    assert outputs() == set(CASES)


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard", "another spelling"])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_an_input_is_not_replaced(
    case: tuple[str, ...], link: str, fit: Path, tmp_path: Path
) -> None:
    own = tmp_path / "in.png"  # a name that every command takes for its output
    pl.DataFrame(simulate.p2(seed=0)).write_csv(own)
    other = tmp_path / "out.png"
    if link == "itself":
        other = own
    elif link == "symbolic":
        other.symlink_to(own)
    elif link == "hard":
        os.link(own, other)
    else:
        (tmp_path / "sub").mkdir()
        other = tmp_path / "sub" / ".." / "in.png"
    before = own.read_bytes()
    words = CASES[case].replace("FIT", str(fit)).replace("IN", str(own)).split()
    found = run(*words, case[-1], other)
    assert found.exit_code == 2, found.output
    assert "this file is read, and would be replaced" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert own.read_bytes() == before


def test_a_fit_and_the_curves_it_names_are_inputs_too(fit: Path, tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    pl.DataFrame(simulate.p2(seed=0)).write_csv(curves)
    saved = tmp_path / "fit.json"
    assert run("fit", curves, "-o", saved).exit_code == 0
    for target in (curves, saved):
        before = target.read_bytes()
        found = run("report", saved, "-o", target)
        assert found.exit_code == 2
        assert target.read_bytes() == before


def test_two_outputs_do_not_share_a_file(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    pl.DataFrame(simulate.p2(seed=0)).write_csv(curves)
    target = tmp_path / "fit.json"
    found = run("fit", curves, "--backend", "bayes", "-o", target, "--save-trace", target)
    assert found.exit_code == 2
    assert "two outputs go to this file" in found.stderr
    assert not target.exists()


def test_an_interrupt_ends_sampling_and_writes_nothing(tmp_path: Path) -> None:
    curves, target = tmp_path / "curves.csv", tmp_path / "fit.json"
    pl.DataFrame(simulate.p2(seed=0)).write_csv(curves)
    target.write_text("as it was")
    script = (
        "import os, signal\n"
        "from p2fit import fitting\n"
        "import p2fit.bayes.fitting as bayes\n"
        "from p2fit.cli import main\n"
        "sample = bayes.sampling.sample\n"
        "def interrupted(*args, progress=None, **options):\n"
        "    def tick(done, total):\n"
        "        if done >= 200: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return sample(*args, progress=tick, **options)\n"
        "bayes.sampling.sample = interrupted\n"
        f"main(['fit', {str(curves)!r}, '--backend', 'bayes', '--draws', '100000',"
        f" '-o', {str(target)!r}])\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode != 0
    assert "nan" not in found.stdout.lower()
    assert "Traceback" not in found.stderr
    assert target.read_text() == "as it was"
