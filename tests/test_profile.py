"""Profile likelihood."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

import p2fit
from p2fit import FitError
from p2fit.cli import main
from p2fit.solver.least_squares import Minimum, minimise
from p2fit.uncertainty import profiles
from p2fit.uncertainty.profiles import Profile, profile
from tests import simulate


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def by_name(profiles: list[Profile]) -> dict[str, Profile]:
    return {p.parameter: p for p in profiles}


@pytest.fixture(scope="module")
def published(chinchilla: pl.DataFrame) -> dict[str, Profile]:
    return by_name(profile(chinchilla, where="kept == 1"))


@pytest.fixture(scope="module")
def two_sizes() -> dict[str, Profile]:
    return by_name(profile(simulate.p2(seed=1, sizes=(5e8, 1.5e9))))


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    path = tmp_path / "curves.csv"
    pl.DataFrame(simulate.chinchilla(seed=1)).write_csv(path)
    return path


def check(p: Profile) -> None:
    """What holds for every profile."""
    assert list(p.values) == sorted(p.values)
    assert len(p.values) == len(p.rises)
    rises = np.array(p.rises)
    lowest = int(np.argmin(rises))
    assert rises[lowest] >= -1e-6 * p.threshold
    assert (np.diff(rises[: lowest + 1]) <= 1e-6 * p.threshold).all()
    assert (np.diff(rises[lowest:]) >= -1e-6 * p.threshold).all()
    assert p.estimate is not None
    low, high = p.interval
    assert low is None or low < p.estimate
    assert high is None or high > p.estimate
    for end in p.interval:
        if end is not None:
            rise = np.interp(end, p.values, p.rises) / p.threshold
            assert rise == pytest.approx(1, abs=0.02)
    json.dumps(p.to_dict(), allow_nan=False)


@pytest.mark.parametrize("runs", [12, 72])
def test_a_parabola_has_the_interval_of_the_fit(runs: int) -> None:
    rng = np.random.default_rng(0)
    run = np.repeat(np.arange(runs), 72 // runs)
    x = 1e9 * np.exp(rng.uniform(0, 4, 72))
    loss = 2 + 0.5 * (x / 1e9) ** -0.3 + 0.4 * (x / 1e9) ** -0.6
    loss = loss + 1e-6 * rng.standard_normal(runs)[run] + 1e-7 * rng.standard_normal(72)
    table = {"run": [f"run-{i:02d}" for i in run], "x": x, "loss": loss}
    law = "E + A/(x/1e9)^0.3 + B/(x/1e9)^0.6"
    found = profile(table, law, loss="squared", residual="linear")
    assert [p.parameter for p in found] == ["E", "A", "B"]
    for p in found:
        check(p)
        assert p.calibration == "covariance"
        for end, expected in zip(p.interval, p.fitted or ()):
            assert end is not None
            assert expected is not None
            assert p.estimate is not None
            assert end - p.estimate == pytest.approx(expected - p.estimate, rel=1e-3)
        assert p.asymmetry == pytest.approx(1, abs=2e-3)
        assert p.note == ""


def test_the_minimum_is_the_optimum(published: dict[str, Profile], chinchilla: Any) -> None:
    fit = p2fit.fit(chinchilla, where="kept == 1")
    for name, p in published.items():
        check(p)
        assert p.estimate == fit.parameters[name].estimate
        assert p.fitted == fit.parameters[name].interval
        assert p.values[int(np.argmin(p.rises))] == pytest.approx(p.estimate)


def test_the_published_intervals(published: dict[str, Profile]) -> None:
    """Those of 4000 bootstraps (Besiroglu et al. 2024), each end to a fifth of the width."""
    for name, ends in {
        "A": (285, 744),
        "B": (1042, 5810),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }.items():
        change = math.log if published[name].log else float
        width = change(ends[1]) - change(ends[0])
        for found, expected in zip(published[name].interval, ends):
            assert found is not None
            assert abs(change(found) - change(expected)) < 0.21 * width, name


def test_a_tiny_delta_does_not_make_it_noise(chinchilla: pl.DataFrame) -> None:
    (p,) = profile(chinchilla, where="kept == 1", delta=1e-5, parameters=["beta"])
    check(p)
    assert p.fitted is not None
    for found, expected in zip(p.interval, p.fitted):
        assert found == pytest.approx(expected, abs=0.1 * 0.04)


def test_what_is_not_determined_is_open(two_sizes: dict[str, Profile]) -> None:
    """Two sizes bound each of N_C, alpha and E on one side only, where E or N_C would be < 0."""
    assert two_sizes["alpha"].interval[1] is None
    assert two_sizes["N_C"].interval[1] is None
    assert two_sizes["E"].interval[0] is None
    for name, p in two_sizes.items():
        check(p)
        assert p.fitted is None
        assert p.calibration == "rows"
        assert any("too few runs" in w for w in p.warnings)
        assert any("2 distinct values of params" in w for w in p.warnings) == (
            name in ("N_C", "alpha", "E")
        )


def test_a_flat_profile_is_open_on_both_sides() -> None:
    data = simulate.chinchilla(n=40, seed=1, tokens=1e10)
    found = by_name(profile(data, parameters=["alpha", "B", "beta"]))
    for name in ("B", "beta"):
        p = found[name]
        assert p.interval == (None, None)
        assert p.note == "flat"
        assert p.asymmetry is None
        assert p.calibration == "mean"
        assert p.fitted is None
    assert found["alpha"].calibration == "covariance"
    assert "flat" in found["B"].summary()


def test_a_crooked_profile_is_where_the_covariance_says_nothing() -> None:
    found = profile(simulate.p2(seed=1), parameters=["alpha", "E"], errors="rows")
    for p in found:
        check(p)
    alpha, e = found
    assert alpha.fitted == (None, None)
    assert None not in alpha.interval
    assert alpha.asymmetry is not None
    assert alpha.asymmetry > 2
    assert "wider above" in alpha.note
    assert e.note == "open below"


def test_a_coefficient_at_0_is_profiled_upward() -> None:
    (p,) = profile(simulate.chinchilla(seed=3, E=0.0), parameters=["E"])
    assert p.estimate == 0
    assert p.interval[0] is None
    assert p.interval[1] == pytest.approx(0.0127, rel=0.05)
    assert min(p.values) > 0
    assert (np.diff(p.rises) >= 0).all()
    json.dumps(p.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("free", "options"),
    [
        (["beta"], {"fix": {"E": 1.8, "A": 480, "alpha": 0.348, "B": 2100}}),
        (["A"], {"fix": {"E": 1.8, "beta": 0.366, "alpha": 0.348, "B": 2100}}),
        (["E", "A", "alpha", "B"], {"tie": {"beta": "alpha"}}),
        (["E", "A", "alpha", "beta"], {"tie": {"B": "A"}, "loss": "squared"}),
    ],
)
def test_fixed_and_tied(free: list[str], options: dict[str, Any]) -> None:
    found = profile(simulate.chinchilla(seed=3), **options)
    assert [p.parameter for p in found] == free
    for p in found:
        check(p)
        assert None not in p.interval


def test_a_tied_pair_is_held_together() -> None:
    """The same law written with one name has the same profile."""
    data = simulate.chinchilla(seed=3)
    (tied,) = profile(data, tie={"beta": "alpha"}, parameters=["alpha"])
    (one,) = profile(data, "E + A/params^alpha + B/tokens^alpha", parameters=["alpha"])
    assert tied.interval == pytest.approx(one.interval, rel=1e-3)


def test_an_exponent_that_is_the_power_of_a_coefficient() -> None:
    """At b_D = 0 the law has no a_D: the range ends just above."""
    data = simulate.chinchilla(n=40, seed=1, tokens=1e10)
    found = by_name(profile(data, "E + (a_D/tokens)^b_D"))
    assert found["b_D"].interval == (None, None)
    for p in found.values():
        check(p)


def test_rows_must_outnumber_what_is_determined() -> None:
    with pytest.raises(FitError, match="4 rows for a local rank of 4"):
        profile(simulate.chinchilla(n=4, seed=1))


def test_exact_data() -> None:
    for p in profile(simulate.chinchilla(seed=3, noise=0.0), parameters=["A", "alpha"]):
        assert p.interval == pytest.approx((p.estimate, p.estimate), rel=1e-6)


def test_a_lower_objective_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(problem: Any, z: Any, **rest: Any) -> Minimum:
        found = minimise(problem, z, **rest)
        everything = len(problem.names) == 5
        return replace(found, value=found.value * 1.01) if everything else found

    monkeypatch.setattr(profiles, "minimise", worse)
    (p,) = profile(simulate.chinchilla(seed=3), parameters=["alpha"])
    assert "profiling alpha found an objective below that of the fit" in p.warnings[-1]


def test_each_group_has_its_own() -> None:
    one, two = simulate.p2(seed=1), simulate.p2(seed=2)
    table = {k: [*one[k], *two[k]] for k in one}
    count = len(one["run"])
    table["run"] = [f"{'ab'[i >= count]}-{r}" for i, r in enumerate(table["run"])]
    table["family"] = ["llama"] * count + ["qwen"] * count
    seen: list[tuple[int, int]] = []
    found = profile(table, parameters=["beta"], progress=lambda *at: seen.append(at))
    assert [p.group for p in found] == [{"family": "llama"}, {"family": "qwen"}]
    assert seen == [(1, 2), (2, 2)]
    assert "family = qwen" in found[1].summary()
    assert found[0].interval == pytest.approx(profile(one, parameters=["beta"])[0].interval)


def test_the_command(curves: Path, tmp_path: Path) -> None:
    picture = tmp_path / "profile.png"
    found = run("profile", curves, "--parameter", "alpha", "--parameter", "E", "--plot", picture)
    assert found.exit_code == 0, found.output
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0].split("  ")[0] == "parameter"
    assert [line.split()[0] for line in lines[1:]] == ["E", "alpha"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_is_all_of_standard_output(curves: Path) -> None:
    found = run("profile", curves, "--json", "--parameter", "beta")
    assert json.loads(found.stdout) == json.loads(
        json.dumps([p.to_dict() for p in profile(str(curves), parameters=["beta"])])
    )


def test_faults_in_one_line(curves: Path) -> None:
    found = run("profile", curves, "--parameter", "gamma")
    assert found.exit_code == 2
    assert found.stderr == (
        "gamma is not a free parameter of chinchilla; these are E, A, alpha, B, beta\n"
    )
    found = run("profile", curves, "--fix", "alpha=0.3", "--parameter", "alpha")
    assert found.exit_code == 2
    assert "alpha is not a free parameter" in found.stderr
    found = run("profile", curves, "--plot", "profile.txt")
    assert found.exit_code == 2
    assert ".png" in found.stderr


def test_the_picture(published: dict[str, Profile], two_sizes: dict[str, Profile]) -> None:
    from p2fit.laws.typesetting import symbol
    from p2fit.pictures.checks import draw_profiles

    for found in (published, two_sizes):
        figure = draw_profiles(list(found.values()))
        assert [a.get_title() for a in figure.axes] == [f"${symbol(name, {})}$" for name in found]
    with pytest.raises(FitError, match="no profile has anything to draw"):
        draw_profiles([])
