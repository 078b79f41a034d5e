"""Curves from known parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import p2fit
from p2fit.cli import main
from tests.simulate import CHINCHILLA, P2

DESIGN = {"params": [1e9, 1e9, 3e9, 3e9], "tokens": [1e9, 2e9, 1e9, 2e9]}
MANY = pl.DataFrame({"run": np.repeat([f"{i:05d}" for i in range(4000)], 3)}).with_columns(
    params=1e9, tokens=pl.Series(np.tile([1e9, 2e9, 3e9], 4000))
)


def test_without_noise_it_is_the_law_and_fitting_gives_it_back() -> None:
    size, tokens = np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(1e9, 1e12, 5))
    found = p2fit.simulate("chinchilla", CHINCHILLA, {"params": size, "tokens": tokens})
    assert p2fit.check(found)["runs"] == 5
    fit = p2fit.fit(found)
    for name, value in CHINCHILLA.items():
        assert fit.parameters[name].estimate == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.8, 1.0])
def test_noise_is_as_asked(correlation: float) -> None:
    exact = p2fit.simulate("chinchilla", CHINCHILLA, MANY)["loss"]
    noisy = p2fit.simulate("chinchilla", CHINCHILLA, MANY, noise=0.01, correlation=correlation)
    errors = np.log((noisy["loss"] / exact).to_numpy()).reshape(-1, 3)
    assert errors.std(axis=0) == pytest.approx(0.01, rel=0.05)
    found = np.corrcoef(errors.T)
    assert found[0, 1] == pytest.approx(correlation, abs=0.05)
    assert found[0, 2] == pytest.approx(correlation**2, abs=0.05)
    between = np.corrcoef(errors[:-1, 2], errors[1:, 0])[0, 1]
    assert between == pytest.approx(0, abs=0.05)


def test_rows_that_differ_in_tokens_alone_are_a_run() -> None:
    found = p2fit.simulate("chinchilla", CHINCHILLA, DESIGN)
    assert found["run"].to_list() == ["run-0", "run-0", "run-1", "run-1"]
    assert found["params"].to_list() == DESIGN["params"]


def test_seeds() -> None:
    a, b, c = (
        p2fit.simulate("chinchilla", CHINCHILLA, DESIGN, noise=0.01, seed=s) for s in (1, 1, 2)
    )
    assert a.equals(b)
    assert not a.equals(c)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"E": 1}}, "A, alpha, B and beta not given"),
        ({"parameters": {**CHINCHILLA, "F": 1}}, "F is none"),
        ({"parameters": {**CHINCHILLA, "E": -9}}, "no finite loss above 0 at params = 1e"),
        ({"design": {"params": 1e9}}, "tokens is not given"),
        ({"design": {"params": 1, "tokens": 1e9}}, "params: 1 is below"),
        ({"noise": -1}, "from 0 up"),
        ({"correlation": 1.1}, "a correlation is in"),
        ({"seed": -1}, "from 0 up"),
    ],
)
def test_bad_requests(changes: dict[str, Any], message: str) -> None:
    asked = {"law": "chinchilla", "parameters": CHINCHILLA, "design": DESIGN, **changes}
    with pytest.raises(p2fit.FitError, match=message):
        p2fit.simulate(**asked)


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "curves.csv"
    asked: list[object] = ["simulate", "--law", "p2", "--params", "1B,3B", "--base-loss", 2.5]
    asked += ["--pruning-rate", ".1,.2,.4", "--tokens", "1B..100B:20"]
    asked += ["--noise", 0.002, "--correlation", 0.8, "--seed", 3]
    asked += [word for n, v in P2.items() for word in ("--set", f"{n}={v}")]
    code, stdout, _ = run(*asked)
    assert code == 0
    assert run(*asked, "-o", out)[1] == ""
    assert out.read_text(encoding="utf-8") == stdout
    frame = p2fit.read_curves(out).frame
    assert frame.height == 2 * 3 * 20
    again = p2fit.simulate(
        "p2", P2, frame.drop("run", "loss"), noise=0.002, correlation=0.8, seed=3
    )
    assert again["loss"].to_list() == pytest.approx(frame["loss"].to_list(), rel=1e-12)
    # The same design from a file, and a law with a column of its own.
    code, stdout, _ = run("simulate", out, *asked[1:3], *asked[-14:], "--noise", 0)
    assert code == 0
    bits = ["--set", "bits=2,4,8", "--set", "E=1.5", "--set", "A=3", "--set", "a=.5"]
    code, stdout, _ = run("simulate", "--law", "E + A/bits^a", *bits)
    assert code == 0
    assert pl.read_csv(stdout.encode())["loss"].to_list() == pytest.approx(
        [1.5 + 3 / b**0.5 for b in (2, 4, 8)]
    )


def test_bad_commands(tmp_path: Path) -> None:
    law = ("simulate", "--law", "E + A/params^a", "--set", "E=1", "--set", "A=9")
    for arguments, message in (
        (law, "give the design as a file, or"),
        ((*law, "--params", "1B"), "a not given"),
        ((*law, tmp_path / "none.csv"), "no such file"),
        (("simulate", "--law", "nowhere", "--params", "1B"), "no law is called nowhere"),
    ):
        code, _, stderr = run(*arguments)
        assert code == 2
        assert message in stderr
