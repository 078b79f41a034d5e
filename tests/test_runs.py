"""Errors of runs: what the points of a run share, and where a run in progress goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.arrays import Array
from p2fit.cli import main
from p2fit.solver.effects import Effects
from tests import simulate

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "examples" / "p2_study" / "post_train.csv"


def curves(seed: int, *, level: float = 0.05, rate: float = 0.0, rho: float = 0.8) -> Any:
    """P² curves of 16 runs, which differ in their excess, with errors that follow each other."""
    rng = np.random.default_rng(seed)
    table = simulate.p2(
        seed=seed, sizes=(5e8, 1.5e9, 3e9, 8e9), rates=(0.1, 0.2, 0.3, 0.45), noise=0.0
    )
    run = np.repeat(np.arange(16), 20)
    logs = np.log(table["tokens"])
    centred = logs - (np.bincount(run, logs) / 20)[run]
    own = level * rng.standard_normal(16)[run] + rate * rng.standard_normal(16)[run] * centred
    error = rng.standard_normal(320)
    for i in np.flatnonzero(np.diff(run, prepend=-1) == 0):
        error[i] = rho * error[i - 1] + np.sqrt(1 - rho**2) * error[i]
    excess = (table["loss"] - table["base_loss"]) * np.exp(own)
    return {**table, "loss": (table["base_loss"] + excess) * np.exp(0.001 * error)}


# ---------------------------------------------------------------- the model


@st.composite
def shared(draw: st.DrawFn) -> Effects:
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    q = draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    n = sum(counts)
    return Effects(
        run=np.repeat(np.arange(len(counts)), counts),
        place=np.concatenate([np.cumsum(rng.uniform(0.1, 2, c)) for c in counts]),
        design=rng.standard_normal((q, n)),
        precision=rng.uniform(0.2, 5, n),
        spread=rng.uniform(0, 3, q) * draw(st.sampled_from([0.0, 1.0])),
        length=draw(st.sampled_from([0.0, 0.5, 4.0])),
    )


def covariance(effects: Effects) -> Array:
    """Written down as the model says it."""
    distance = np.abs(effects.place[:, None] - effects.place)
    near = np.exp(-distance / effects.length) if effects.length else 1.0 * (distance == 0)
    error = 1 / np.sqrt(effects.precision)
    own = near * np.outer(error, error) + (effects.design.T * effects.spread**2) @ effects.design
    return np.where(effects.run[:, None] == effects.run, own, 0.0)


@given(shared(), st.integers(0, 100))
def test_whitening_is_the_inverse_of_the_covariance(effects: Effects, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((3, len(effects.run)))
    dense = covariance(effects)
    white = effects.whitened(rows)
    np.testing.assert_allclose(white @ white.T, rows @ np.linalg.solve(dense, rows.T), rtol=1e-6)
    np.testing.assert_allclose(
        effects.pulled(white), np.linalg.solve(dense, rows.T).T, rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(effects.unwhitened(white), rows, rtol=1e-7, atol=1e-9)


def test_what_runs_share_is_found() -> None:
    found = [p2fit.fit(curves(seed, rate=0.05), errors="runs").runs for seed in range(12)]
    level, rate, sigma, near = (
        np.median([dict(f or {})[name] for f in found])
        for name in ("level", "rate", "sigma", "neighbours")
    )
    assert level == pytest.approx(0.05, rel=0.3)
    assert rate == pytest.approx(0.05, rel=0.3)
    assert sigma == pytest.approx(0.001, rel=0.35)
    assert near == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("runs", [100, 20_000])
def test_what_many_rows_share_is_found(runs: int) -> None:
    # In some rows of some runs; and what runs tell of each other is not written out.
    rng = np.random.default_rng(1)
    rows = 100_000 // runs
    tokens = np.tile(np.geomspace(1e8, 1e10, rows), runs)
    params = np.repeat(np.exp(rng.uniform(np.log(1e8), np.log(1e10), runs)), rows)
    own = np.repeat(0.02 * rng.standard_normal(runs), rows)
    error = 0.005 * rng.standard_normal(len(own))
    loss = p2fit.LAWS["chinchilla"].predict(
        simulate.CHINCHILLA, {"params": params, "tokens": tokens}
    )
    fit = p2fit.fit(
        {
            "run": np.char.add("r", np.repeat(np.arange(runs), rows).astype(str)),
            "params": params,
            "tokens": tokens,
            "loss": loss * np.exp(own + error),
        },
        "chinchilla",
    )
    assert fit.runs is not None
    # Of 100 runs a standard deviation is known to 7 %.
    assert fit.runs["level"] == pytest.approx(0.02, rel=0.25)
    assert fit.runs["sigma"] == pytest.approx(0.005, rel=0.1)
    for name, truth in simulate.CHINCHILLA.items():
        low, high = fit.parameters[name].interval or (None, None)
        assert low is not None
        assert high is not None
        assert low < truth < high


def test_intervals_hold_the_truth_and_are_narrower_than_those_of_rows() -> None:
    inside, widths = [], []
    for seed in range(20):
        table = curves(seed)
        both = [p2fit.fit(table, errors=errors) for errors in ("runs", "rows")]
        for name in ("gamma", "beta"):
            ends = [fit.parameters[name].interval for fit in both]
            (low, high), (below, above) = (
                (e[0] if e and e[0] is not None else -9.0, e[1] if e and e[1] is not None else 9.0)
                for e in ends
            )
            inside.append(low <= simulate.P2[name] <= high)
            widths.append((high - low) / (above - below))
    assert np.mean(inside) >= 0.85
    assert np.median(widths) < 0.7


@settings(max_examples=8)
@given(
    seed=st.integers(0, 50),
    tokens=st.sampled_from([1e-3, 1.0, 1e3]),
    params=st.sampled_from([1e-2, 1.0, 7.0]),
)
def test_units_and_the_order_of_rows_do_not_matter(seed: int, tokens: float, params: float) -> None:
    table = pl.DataFrame(curves(seed))
    other = table.sample(fraction=1, shuffle=True, seed=seed).with_columns(
        pl.col("tokens") * tokens, pl.col("params") * params
    )
    one, two = (p2fit.fit(t, errors="runs") for t in (table, other))
    for name in ("gamma", "beta"):
        a, b = one.parameters[name], two.parameters[name]
        assert a.estimate == pytest.approx(b.estimate, rel=2e-3)
        assert a.stderr == pytest.approx(b.stderr, rel=2e-2)
    assert dict(one.runs or {})["level"] == pytest.approx(dict(two.runs or {})["level"], rel=0.05)


def test_a_diverged_run_hardly_moves_it() -> None:
    table = curves(3)
    wrong = {**table, "loss": table["loss"] * np.where(np.array(table["run"]) == "run-7", 3, 1)}
    point = {"params": 2e9, "pruning_rate": 0.25, "tokens": 1e9, "base_loss": 2.0}
    good, bad = (p2fit.fit(t, errors="runs").interval(point, new_run=True) for t in (table, wrong))
    assert good is not None
    assert bad is not None
    assert float(bad[1] - bad[0]) < 3 * float(good[1] - good[0])


def test_intervals_of_every_kind_are_of_one_model() -> None:
    table = curves(1)
    fit, refitted = (p2fit.fit(table, errors="runs", bootstrap=n) for n in (0, 400))
    profiles = {p.parameter: p for p in p2fit.profile(table, errors="runs")}
    for name in ("gamma", "beta", "delta", "D_C"):
        ends, again = (np.array(f.parameters[name].interval, float) for f in (fit, refitted))
        np.testing.assert_allclose(
            np.array(profiles[name].interval, float), ends, rtol=0.05, atol=0.002
        )
        one, other = np.log((again, ends)) if name == "D_C" else (again, ends)
        assert 0.6 < np.ptp(one) / np.ptp(other) < 1.2


def test_laws_are_compared_with_errors_of_runs() -> None:
    table = curves(0, level=0.02)
    [found] = p2fit.compare(table, ["p2-no-size", "p2"], errors="runs")
    assert found.scores[0].law.name == "p2"
    assert all(s.fit is not None and s.fit.runs is not None for s in found.scores)


def test_exact_curves_share_nothing() -> None:
    fit = p2fit.fit(simulate.p2(seed=0, noise=0.0), errors="runs")
    assert fit.runs is None
    assert fit.parameters["beta"].estimate == pytest.approx(0.35, rel=1e-4)


def test_a_saved_fit_says_the_same(tmp_path: Path) -> None:
    fit = p2fit.fit(curves(1), errors="runs")
    fit.save(tmp_path / "fit.json")
    again = p2fit.load(tmp_path / "fit.json")
    assert isinstance(again, p2fit.Fit)
    assert again.runs == fit.runs
    point = {"params": 2e9, "pruning_rate": 0.25, "tokens": 1e9, "base_loss": 2.0}
    for new_run in (False, True):
        one, two = (f.interval(point, new_run=new_run) for f in (fit, again))
        np.testing.assert_allclose(np.array(one), np.array(two), rtol=1e-9)


# ---------------------------------------------------------------- runs in progress


def begun(table: Any, share: float = 0.6) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first part of each run, and the rest."""
    frame = pl.DataFrame(table)
    early = pl.col("tokens") <= share * pl.col("tokens").max().over("run")
    return frame.filter(early), frame.filter(~early)


def test_a_run_goes_on_as_the_normal_model_says() -> None:
    first, rest = begun(curves(5, rate=0.05))
    fit = p2fit.fit(first, errors="runs")
    runs = dict(fit.runs or {})
    own = first.filter(pl.col("run") == "run-6")
    tokens = rest.filter(pl.col("run") == "run-6")["tokens"].to_list()
    found = p2fit.predict_runs(fit, tokens=tokens, runs=["run-6"], curves=first)
    # The mean of what is ahead, given the rows, from the joint covariance of both.
    columns = {
        x: np.append(own[x].to_numpy(), [tokens if x == "tokens" else own[x][0]] * len(tokens))
        if x != "tokens"
        else np.append(own[x].to_numpy(), tokens)
        for x in fit.law.inputs
    }
    losses = fit.predict(columns)
    logs = np.log(columns["tokens"])
    n = own.height
    effect = (losses - columns["base_loss"]) / losses
    design = np.stack([effect, effect * (logs - logs[:n].mean())])
    steps = np.arange(len(logs)) * 1.0
    last = logs[n - 1] - logs[n - 2]
    steps[n:] = n - 1 + (logs[n:] - logs[n - 1]) / last
    place = logs if runs["along"] == "log tokens" else steps
    distance = np.abs(place[:, None] - place)
    near = np.exp(-distance / runs["length"]) if runs["length"] else 1.0 * (distance == 0)
    spread = np.array([runs["level"], runs["rate"]]) ** 2
    whole = runs["sigma"] ** 2 * near + (design.T * spread) @ design
    missed = np.log(losses[:n] / own["loss"].to_numpy())
    mean = np.log(losses[n:]) - whole[n:, :n] @ np.linalg.solve(whole[:n, :n], missed)
    np.testing.assert_allclose(found.frame["predicted"].to_numpy(), np.exp(mean), rtol=1e-8)


def test_its_own_points_help_and_the_intervals_hold() -> None:
    inside, better = [], []
    for seed in range(10):
        first, rest = begun(curves(seed, level=0.1, rate=0.05))
        fit = p2fit.fit(first, errors="runs")
        tokens = rest["tokens"].unique().sort().to_list()
        found = p2fit.predict_runs(fit, tokens=tokens, curves=first).frame
        both = found.join(rest.select("run", "tokens", "loss"), on=["run", "tokens"])
        assert both.height == rest.height
        loss = both["loss"].to_numpy()
        low, high = (both[end].to_numpy() for end in ("low", "high"))
        inside += ((low <= loss) & (loss <= high)).tolist()
        wrong = [np.sqrt(np.mean((both[c].to_numpy() - loss) ** 2)) for c in ("predicted", "law")]
        better.append(wrong[0] / wrong[1])
    assert 0.88 <= np.mean(inside) <= 1.0
    assert np.median(better) < 0.6


def test_the_end_of_measured_runs_is_predicted_better_than_by_their_own_power_law() -> None:
    [found] = p2fit.validate(
        STUDY,
        holdout=["checkpoints:0.2"],
        errors="runs",
        where="method = 'depth' and seed = 1",
        subtract_control=True,
        burn_in=0.1,
    )
    assert found.score is not None
    skills = {s.baseline: s.skill for s in found.score.skills}
    assert skills["power law"] is not None
    assert skills["power law"] > 0.4
    assert found.score.coverage is not None
    assert found.score.coverage >= 0.9


def test_a_plan_for_runs_in_progress() -> None:
    first, _ = begun(curves(2))
    fit = p2fit.fit(first, errors="runs")
    plan = p2fit.plan_continue(fit, tokens=2e9, loss=2.6, curves=first)
    assert len(plan.runs) == 16
    assert [r.end for r in plan.runs] == sorted(r.end for r in plan.runs)
    assert sum(r.lowest or 0 for r in plan.runs) == pytest.approx(1)
    one, two = plan.runs[0], plan.runs[3]
    assert one.below[two.run] + two.below[one.run] == pytest.approx(1)
    for run in plan.runs:
        assert run.interval is not None
        assert run.interval[0] < run.end < run.interval[1]
        assert run.to_target is not None
        assert (run.to_target <= 2e9) == (run.end <= 2.6)
    ended = p2fit.plan_continue(fit, tokens=2e9, runs=["run-1"], curves=first)
    assert [r.run for r in ended.runs] == ["run-1"]
    with pytest.raises(p2fit.FitError, match="no run is in progress"):
        p2fit.plan_continue(fit, tokens=1e6, curves=first)


# ---------------------------------------------------------------- the command line


def test_the_commands(tmp_path: Path) -> None:
    first, _ = begun(curves(4))
    path, saved = tmp_path / "curves.csv", tmp_path / "fit.json"
    first.write_csv(path)

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, list(words))

    made = run("fit", str(path), "--errors", "runs", "-o", str(saved))
    assert made.exit_code == 0, made.output
    assert "in their excess" in made.output
    ahead = run("predict", str(saved), "--run", "run-3", "--tokens", "1B,2B", "--json")
    document = json.loads(ahead.output)
    assert [(p["run"], p["tokens"]) for p in document["points"]] == [("run-3", 1e9), ("run-3", 2e9)]
    new = tmp_path / "new.csv"
    first.filter(pl.col("run") == "run-5").with_columns(run=pl.lit("later")).write_csv(new)
    later = run("predict", str(saved), "--curves", str(new), "--tokens", "1B", "-o", f"{new}.out")
    assert later.exit_code == 0, later.output
    assert "later" in pl.read_csv(f"{new}.out")["run"].to_list()
    plan = run("plan", "continue", str(saved), "--tokens", "2B", "--loss", "2.6", "--json")
    assert len(json.loads(plan.output)["runs"]) == 16
    for words, said in (
        (("predict", str(saved), "--run", "run-99", "--tokens", "1B"), "no run is called run-99"),
        (("predict", str(saved), "--run", "run-3", "--params", "1B"), "give --tokens alone"),
    ):
        wrong = run(*words)
        assert wrong.exit_code == 2
        assert said in wrong.output
    plain = tmp_path / "plain.json"
    run("fit", str(path), "--errors", "rows", "-o", str(plain))
    wrong = run("plan", "continue", str(plain), "--tokens", "2B")
    assert wrong.exit_code == 2
    assert "no --errors rows" in " ".join(wrong.output.split())


def test_what_errors_of_runs_are_not_for() -> None:
    with pytest.raises(p2fit.FitError, match="each run has one"):
        p2fit.fit(simulate.chinchilla(seed=0), errors="runs")
    with pytest.raises(p2fit.FitError, match="leave weights out"):
        p2fit.fit(curves(0), errors="runs", weights="runs")
