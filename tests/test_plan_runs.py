"""Base models to choose and runs to make next."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import p2fit
from p2fit.cli import main
from p2fit.curves.points import crossed_points
from tests import simulate

MODELS = pl.DataFrame(
    {"name": ["1B", "3B", "2B"], "params": [1e9, 3e9, 2e9], "base_loss": [2.8, 2.6, 2.7]}
)
DESIGN = crossed_points(
    {
        "params": [5e8, 1e9, 3e9, 8e9],
        "pruning_rate": [0.1, 0.2, 0.5],
        "base_loss": [2.6],
        "tokens": [1e9, 2e10],
    }
)
WANTED = {"params": 8e9, "pruning_rate": 0.3, "base_loss": 2.6, "tokens": 1e11}


@pytest.fixture(scope="module")
def pruned() -> p2fit.Fit:
    return p2fit.fit(simulate.p2(seed=0, offset=0.002))


@pytest.fixture(scope="module")
def methods() -> list[p2fit.Fit]:
    table = pl.concat(
        pl.DataFrame(simulate.p2(seed=i, E=3.2 + i / 20)).with_columns(
            run=pl.lit(m) + pl.col("run"), method=pl.lit(m)
        )
        for i, m in enumerate(("depth", "2:4"))
    )
    return p2fit.fit_each(table)


# ---------------------------------------------------------------- base models


def test_the_lowest_predicted_loss_comes_first(pruned: p2fit.Fit) -> None:
    found = p2fit.plan_choose(pruned, MODELS, 8e8, flops=4.8e18)
    for c in found.candidates:
        assert c.pruning_rate == pytest.approx(1 - 8e8 / c.params)
        assert c.tokens == pytest.approx(1e9)
        at = {"params": c.params, "pruning_rate": c.pruning_rate, "tokens": c.tokens}
        base = MODELS.filter(name=c.name)["base_loss"][0]
        assert c.loss.value == pytest.approx(float(pruned.predict({**at, "base_loss": base})))
    losses = [c.loss.value for c in found.candidates]
    assert losses == sorted(losses)
    assert sum(c.best or 0 for c in found.candidates) == pytest.approx(1)
    assert sum(c.rank or 0 for c in found.candidates) == pytest.approx(6)


def test_a_close_call_is_said_to_be_one(pruned: p2fit.Fit) -> None:
    sizes = [1.5e9, 3e9]
    at = {"params": sizes, "pruning_rate": [1 / 3, 2 / 3], "tokens": 1e9}
    excess = pruned.predict({**at, "base_loss": 0.0})
    even = MODELS.head(2).with_columns(params=pl.Series(sizes), base_loss=pl.Series(5 - excess))
    found = p2fit.plan_choose(pruned, even, 1e9, tokens=1e9)
    assert all(0.1 < (c.best or 0) < 0.9 for c in found.candidates)
    far = even.with_columns(base_loss=pl.Series([3.0, 1.0]))
    assert p2fit.plan_choose(pruned, far, 1e9, tokens=1e9).candidates[0].best == 1


def test_every_method_is_tried_or_the_one_named(methods: list[p2fit.Fit]) -> None:
    found = p2fit.plan_choose(methods, MODELS, 5e8, flops=3e18)
    assert len(found.candidates) == 6
    by = {(c.name, c.group["method"]): c for c in found.candidates}
    assert by["1B", "depth"].tokens == pytest.approx(1e9)
    assert by["1B", "2:4"].tokens == pytest.approx(0.5e9)  # computed dense
    named = MODELS.with_columns(method=pl.Series(["depth", "2:4", "width"]))
    found = p2fit.plan_choose(methods, named, 5e8, flops=3e18)
    assert {(c.name, c.group["method"]) for c in found.candidates} == {
        ("1B", "depth"),
        ("3B", "2:4"),
    }
    assert "not fitted, left out: 2B" in str(found)


def test_what_is_smaller_than_deployed_is_left_out(pruned: p2fit.Fit) -> None:
    found = p2fit.plan_choose(pruned, MODELS, 1.5e9, tokens=1e9)
    assert [c.name for c in found.candidates] == ["2B", "3B"]
    assert "left out: 1B" in str(found)
    unpruned = p2fit.plan_choose(pruned, MODELS, 1e9, tokens=1e9).candidates[0]
    assert (unpruned.pruning_rate, unpruned.loss.value) == (0, 2.8)


def test_no_draws_no_probabilities() -> None:
    fit = p2fit.fit(simulate.p2(seed=0, sizes=(1e9,), rates=(0.2, 0.3)), "p2")
    found = p2fit.plan_choose(fit, MODELS, 5e8, tokens=1e9)
    assert {c.best for c in found.candidates} == {None}
    assert "no probabilities" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deploy_params": 1e9}, "the budget as FLOPs or as tokens"),
        ({"deploy_params": 1e9, "flops": 1e20, "tokens": 1e9}, "the budget as FLOPs or as tokens"),
        ({"deploy_params": 0, "tokens": 1e9}, "above 0"),
        ({"deploy_params": 1e12, "tokens": 1e9}, "no candidate has at least 1e"),
    ],
)
def test_bad_choices(pruned: p2fit.Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(p2fit.FitError, match=message):
        p2fit.plan_choose(pruned, MODELS, **options)


def test_choosing_needs_a_law_of_pruning(chinchilla: pl.DataFrame) -> None:
    with pytest.raises(p2fit.FitError, match="does not predict pruned models"):
        p2fit.plan_choose(p2fit.fit(chinchilla), MODELS, 1e9, tokens=1e9)


# ---------------------------------------------------------------- runs


def test_each_run_narrows_what_is_wanted(pruned: p2fit.Fit) -> None:
    found = p2fit.plan_next(pruned, DESIGN, at=WANTED, count=5)
    errors = [found.stderr, *(r.stderr for r in found.runs)]
    assert len(found.runs) == 5
    assert all(a > b for a, b in itertools.pairwise(errors))
    for before, run in zip(errors, found.runs):
        assert run.gain == pytest.approx(1 - (run.stderr / before) ** 2)
    interval = pruned.interval(WANTED)
    assert interval is not None
    assert pruned.covariance is not None
    stderr = np.log(interval[1] / interval[0]) / 2 / pruned.covariance["critical"]
    assert found.stderr == pytest.approx(stderr, rel=0.5)


def test_one_number_by_hand() -> None:
    # One parameter: the loss itself. Its variance v and the noise s² are all there is.
    table = {"run": [f"r{i}" for i in range(20)], "x": 1.0, "loss": 2.0}
    noise = np.random.default_rng(0).normal(0, 0.01, 20)
    frame = pl.DataFrame(table).with_columns(loss=pl.Series(2 * np.exp(noise)))
    fit = p2fit.fit(frame, p2fit.Law.parse("E*x", columns=["x"]), loss="squared")
    draws = fit.draws()
    assert draws is not None
    v = float(np.var(np.log(draws["E"])))
    s2 = float(fit.metrics["scatter"] or 0.0) ** 2
    runs = {"run": ["a", "a", "a"], "x": [1.0, 1.0, 1.0], "tokens": [1e9, 2e9, 3e9]}
    for correlation in (0.0, 0.9):
        found = p2fit.plan_next(fit, runs, at={"x": 1.0}, correlation=correlation)
        s = s2 * correlation ** np.abs(np.subtract.outer(range(3), range(3)))
        information = np.ones(3) @ np.linalg.solve(s, np.ones(3))
        assert found.runs[0].rows == 3
        assert found.runs[0].stderr == pytest.approx((1 / (1 / v + information)) ** 0.5, rel=0.05)
        d = p2fit.plan_next(fit, runs, correlation=correlation)
        assert d.runs[0].gain == pytest.approx(0.5 * math.log(1 + v * information), rel=0.05)


def test_the_first_pick_is_the_best_per_flop(pruned: p2fit.Fit) -> None:
    table = pl.DataFrame(DESIGN)
    (pick,) = p2fit.plan_next(pruned, DESIGN, at=WANTED).runs
    worth = {}
    for i in range(table.height):
        (alone,) = p2fit.plan_next(pruned, table[i], at=WANTED).runs
        worth[f"row {i + 1}"] = alone.gain / (alone.flops or math.nan)
    assert pick.run == max(worth, key=lambda name: worth[name])
    at = table[int(pick.run.split()[1]) - 1].row(0, named=True)
    kept = at["params"] * (1 - at["pruning_rate"])
    assert pick.flops == pytest.approx(6 * kept * at["tokens"])


def test_budgets_and_costs(pruned: p2fit.Fit) -> None:
    found = p2fit.plan_next(pruned, DESIGN, at=WANTED, count=50, flops=1e20)
    assert sum(r.flops or 0 for r in found.runs) <= 1e20
    assert len(found.runs) < 24
    none = p2fit.plan_next(pruned, DESIGN, at=WANTED, flops=1e10)
    assert none.runs == ()
    assert "no candidate costs as little as" in str(none)
    own = pl.DataFrame(DESIGN).with_columns(flops=pl.Series(np.arange(1.0, 25.0)))
    assert p2fit.plan_next(pruned, own, flops=1).runs[0].run == "row 1"
    with pytest.raises(p2fit.FitError, match="flops is a number above 0"):
        p2fit.plan_next(pruned, own.with_columns(flops=0.0))


def test_posterior_or_bootstrap_or_covariance(chinchilla: pl.DataFrame) -> None:
    design = crossed_points({"params": [1e8, 1e9, 1e10], "tokens": [1e10, 1e11]})
    wanted = {"params": 7e10, "tokens": 1.4e12}
    errors = []
    for bootstrap in (0, 500):
        fit = p2fit.fit(chinchilla, where="kept == 1", bootstrap=bootstrap)
        found = p2fit.plan_next(fit, design, at=wanted)
        errors.append(found.stderr)
    assert errors[0] == pytest.approx(errors[1], rel=0.3)


def test_what_is_open_is_settled_first(pruned_llama3: pl.DataFrame) -> None:
    fit = p2fit.fit(pruned_llama3)  # one token count
    rest = {"params": 3.2127e9, "base_loss": 2.2, "pruning_rate": 0.3}
    runs = {**rest, "tokens": [81.92e6, 819.2e6], "flops": 1.0}
    found = p2fit.plan_next(fit, runs, at={**rest, "tokens": 819.2e6})
    assert [r.run for r in found.runs] == ["row 2"]
    assert found.runs[0].gain > 0.5
    assert "counts as spread" in str(found).replace("\n", " ")


def test_bad_plans(pruned: p2fit.Fit) -> None:
    few = p2fit.fit(simulate.p2(seed=0, sizes=(1e9,), rates=(0.2, 0.3)), "p2")
    with pytest.raises(p2fit.FitError, match="no intervals to narrow"):
        p2fit.plan_next(few, DESIGN)
    for options in ({"count": 0}, {"flops": 0}, {"correlation": 1.0}):
        with pytest.raises(p2fit.FitError, match="count is from 1 up"):
            p2fit.plan_next(pruned, DESIGN, **options)
    with pytest.raises(p2fit.FitError, match="tokens is not given"):
        p2fit.plan_next(pruned, {"params": 1e9, "pruning_rate": 0.2, "base_loss": 2.0})


# ---------------------------------------------------------------- the command line


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_commands_are_the_functions(
    pruned: p2fit.Fit, methods: list[p2fit.Fit], tmp_path: Path
) -> None:
    one, two, models, runs, at = (
        tmp_path / n for n in ("fit.json", "fits.json", "models.csv", "runs.csv", "at.csv")
    )
    pruned.save(one)
    two.write_text(json.dumps([f.to_dict() for f in methods]))
    MODELS.write_csv(models)
    pl.DataFrame(DESIGN).write_csv(runs)
    pl.DataFrame(WANTED).write_csv(at)
    asked = ("plan", "choose", two, models, "--deploy-params", "500M", "--flops", "3e18")
    choice = p2fit.plan_choose(methods, models, 5e8, flops=3e18)
    assert json.loads(run(*asked, "--json")[1]) == choice.to_dict()
    assert run(*asked)[1] == str(choice)
    asked_next = ("plan", "next", one, runs, "--at", at, "--count", 2, "--flops", "1e21")
    found = p2fit.plan_next(pruned, runs, at=at, count=2, flops=1e21)
    assert json.loads(run(*asked_next, "--json")[1]) == found.to_dict()
    assert run(*asked_next)[1] == str(found)
    code, _, stderr = run("plan", "next", one, models)
    assert code == 2
    assert "tokens: no such column" in stderr
