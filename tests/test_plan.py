"""Tokens to buy, compute to split: closed forms against brute force, published values."""

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
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.plan import compute
from p2fit.plan.quantities import Quantity, spread
from p2fit.plan.tokens import tokens_by_search, tokens_in_closed_form
from p2fit.show.parts import or_never
from tests import simulate
from tests import test_formulas as formulas

POINT = {"params": 8e9, "pruning_rate": 0.3, "base_loss": 2.6}

#: Published values, and what the closed form gives for them at 5.76e23 FLOPs: a, tokens per
#: parameter. Hoffmann et al. trained 20 tokens per parameter; their rounded coefficients say 93.
BESIROGLU = {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}
HOFFMANN = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}


@pytest.fixture(scope="module")
def pruned() -> p2fit.Fit:
    return p2fit.fit(simulate.p2(seed=0, offset=0.002))


@pytest.fixture(scope="module")
def dense(chinchilla: pl.DataFrame) -> p2fit.Fit:
    return p2fit.fit(chinchilla, where="kept == 1")


def exact(law: str, **truth: float) -> p2fit.Fit:
    """A fit to curves without noise: it has these parameters."""
    points = itertools.product(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 1e12, 6))
    size, tokens = np.array(list(points)).T
    columns = {"params": size, "tokens": tokens, "avg_params": size}
    loss = p2fit.LAWS[law].predict(truth, columns)
    table = {"run": [f"run-{i}" for i in range(36)], **columns, "loss": loss}
    return p2fit.fit(table, law)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("kind", "asked"),
    [("loss", 2.95), ("loss", 2.9), ("gain", 0.01), ("gain", 0.2), ("gain per billion", 1e-3)],
)
def test_closed_form_against_search(pruned: p2fit.Fit, kind: str, asked: float) -> None:
    by_form = spread(pruned, lambda p: tokens_in_closed_form(pruned.law, p, POINT, asked, kind))  # type: ignore[arg-type,return-value]
    by_search = spread(pruned, lambda p: tokens_by_search(pruned.law, p, POINT, asked, kind))
    assert by_form.value == pytest.approx(by_search.value, rel=1e-9)
    assert by_form.draws is not None
    assert by_search.draws is not None
    inside = (by_form.draws > 2) & (by_form.draws < 1e23)
    assert inside.sum() > 100
    assert by_form.draws[inside] == pytest.approx(by_search.draws[inside], rel=1e-9)


@given(
    size=st.floats(1e9, 1e11),
    rate=st.floats(0.05, 0.7),
    base=st.floats(1, 4),
    above=st.floats(0.05, 2),
    gain=st.floats(1e-4, 0.3),
)
def test_the_plan_does_what_was_asked(
    pruned: p2fit.Fit, size: float, rate: float, base: float, above: float, gain: float
) -> None:
    at = {"params": size, "pruning_rate": rate, "base_loss": base}
    floor = float(pruned.predict({**at, "tokens": 1e300}))
    plan = p2fit.plan_tokens(pruned, at, loss=[floor + above], gain=[gain])
    to_loss, to_gain = (goal.tokens.value for goal in plan.goals)
    assert pruned.predict({**at, "tokens": to_loss}) == pytest.approx(floor + above, rel=1e-9)
    once, twice = (float(pruned.predict({**at, "tokens": n * to_gain})) for n in (1, 2))
    assert once - twice == pytest.approx(gain, rel=1e-6, abs=1e-12)


def test_below_what_the_law_tends_to_is_never(pruned: p2fit.Fit) -> None:
    plan = p2fit.plan_tokens(pruned, POINT, loss=[2.6, 1.0])
    for goal in plan.goals:
        assert goal.tokens.value == math.inf
        assert goal.flops is not None
        assert goal.flops.value == math.inf
        assert goal.tokens.reached == 0
        assert goal.to_dict()["tokens"]["value"] is None
    assert "never" in str(plan)
    assert "the law does not go there" in str(plan)
    json.dumps(plan.to_dict(), allow_nan=False)


def test_how_probable_it_is_to_be_reached(pruned: p2fit.Fit) -> None:
    floor = float(pruned.predict({**POINT, "tokens": 1e300}))
    plan = p2fit.plan_tokens(pruned, POINT, loss=[floor - 0.3, floor + 0.01, floor + 0.3])
    shares = [goal.tokens.reached for goal in plan.goals]
    assert shares[0] == 0
    assert 0.2 < (shares[1] or 0) < 0.9
    assert shares[2] == 1
    unsure = plan.goals[1].tokens
    assert unsure.interval is not None
    assert unsure.interval[1] == math.inf  # more than 2.5 % of the draws never get there
    for goal in plan.goals[2:]:
        assert goal.tokens.interval is not None
        low, high = goal.tokens.interval
        assert low < goal.tokens.value < high


def test_compute_is_of_what_is_kept(pruned: p2fit.Fit) -> None:
    (goal,) = p2fit.plan_tokens(pruned, POINT, gain=[0.02]).goals
    assert goal.flops is not None
    assert goal.flops.value == pytest.approx(6 * 0.7 * 8e9 * goal.tokens.value)
    (told,) = p2fit.plan_tokens(pruned, POINT, gain=[0.02], kept=8e9).goals
    assert told.flops is not None
    assert told.flops.value == pytest.approx(6 * 8e9 * goal.tokens.value)
    table = pl.DataFrame(simulate.p2(seed=0)).with_columns(method=pl.lit("2:4"))
    plan = p2fit.plan_tokens(p2fit.fit(table), POINT, gain=[0.02])
    assert plan.kept == 8e9  # N:M is computed dense


def test_winning_back_what_pruning_cost(pruned: p2fit.Fit, tmp_path: Path) -> None:
    plan = p2fit.plan_tokens(pruned, POINT, recover=[0.5, 0.8], pruned_loss=4.6)
    for goal, target in zip(plan.goals, (3.6, 3.0)):
        assert goal.loss == pytest.approx(target)
        at = {**POINT, "tokens": goal.tokens.value}
        assert pruned.predict(at) == pytest.approx(target, rel=1e-9)
    curves = tmp_path / "curves.csv"
    head = "run,params,pruning_rate,base_loss,tokens,loss\n"
    rows = "a,8e9,0.3,2.6,0,4.5\nb,8e9,0.3,2.6,0,4.7\na,8e9,0.3,2.6,1e9,3\nc,8e9,0.2,2.6,0,3.5\n"
    curves.write_text(head + rows, encoding="utf-8")
    measured = p2fit.plan_tokens(pruned, POINT, recover=[0.5, 0.8], curves=curves)
    assert measured.to_dict() == plan.to_dict()
    with pytest.raises(
        p2fit.FitError, match=r"no row of tokens = 0 at .*params = 7e\+09; there are 3"
    ):
        p2fit.plan_tokens(pruned, {**POINT, "params": 7e9}, recover=[0.5], curves=curves)


def test_a_law_without_closed_form() -> None:
    table = simulate.p2(seed=3)
    law = "base_loss + pruning_rate^g * (D_C/tokens^beta + T/tokens + E)"
    fit = p2fit.fit(table, law)
    assert (
        tokens_in_closed_form(
            fit.law, {n: np.array([v]) for n, v in fit.estimates().items()}, POINT, 3, "loss"
        )
        is None
    )
    at = {"pruning_rate": 0.3, "base_loss": 2.6}
    loss = float(fit.predict({**at, "tokens": 7.7e8}))
    plan = p2fit.plan_tokens(fit, at, loss=[loss, 2.6], gain=[0.02])
    assert plan.goals[0].tokens.value == pytest.approx(7.7e8, rel=1e-9)
    assert plan.goals[0].flops is None  # it knows no parameter count
    assert plan.goals[1].tokens.value == math.inf
    d = plan.goals[2].tokens.value
    once, twice = (float(fit.predict({**at, "tokens": n * d})) for n in (1, 2))
    assert once - twice == pytest.approx(0.02, rel=1e-6)


def test_units_of_a_formula_do_not_matter(chinchilla: pl.DataFrame) -> None:
    at = {"params": 8e9}
    plans = [
        p2fit.plan_tokens(p2fit.fit(chinchilla, law, where="kept == 1"), at, gain=[0.01])
        for law in ("chinchilla", "E + A/(params/1e9)^alpha + B/(tokens/1e9)^beta")
    ]
    first, second = (plan.goals[0].tokens.value for plan in plans)
    assert first == pytest.approx(second, rel=1e-4)


def test_undetermined_is_a_range(pruned_llama3: pl.DataFrame) -> None:
    fit = p2fit.fit(pruned_llama3)
    at = {"params": 3e9, "base_loss": 2.2, "pruning_rate": 0.3}
    plan = p2fit.plan_tokens(fit, at, loss=[2.8])
    found = plan.goals[0].tokens.range
    assert found is not None
    assert found[1] > 10 * found[0]
    assert "read the range" in str(plan)


def test_no_intervals_no_probability() -> None:
    fit = p2fit.fit(simulate.p2(seed=0, sizes=(1e9,), rates=(0.2, 0.3)), "p2")
    plan = p2fit.plan_tokens(fit, {**POINT, "params": 1e9}, gain=[0.01])
    assert plan.goals[0].tokens.interval is None
    assert plan.goals[0].tokens.reached is None
    assert "no intervals" in str(plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to plan for"),
        ({"loss": [-1]}, "loss is in nats"),
        ({"gain": [0]}, "gain is in nats"),
        ({"recover": [1.2], "pruned_loss": 4}, "at most 1"),
        ({"recover": [0.5]}, "needs the loss right after pruning"),
        ({"recover": [0.5], "pruned_loss": 2.5}, "nothing to win back"),
    ],
)
def test_bad_plans(pruned: p2fit.Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(p2fit.FitError, match=message):
        p2fit.plan_tokens(pruned, POINT, **options)


def test_bad_models(pruned: p2fit.Fit, dense: p2fit.Fit, chinchilla: pl.DataFrame) -> None:
    with pytest.raises(p2fit.FitError, match="base_loss is not given"):
        p2fit.plan_tokens(pruned, {"params": 8e9, "pruning_rate": 0.3}, gain=[0.1])
    with pytest.raises(p2fit.FitError, match=r"pruning_rate: 1\.2 is not in"):
        p2fit.plan_tokens(pruned, {**POINT, "pruning_rate": 1.2}, gain=[0.1])
    with pytest.raises(p2fit.FitError, match="needs base_loss"):
        p2fit.plan_tokens(dense, {"params": 8e9}, recover=[0.5], pruned_loss=3)
    with pytest.raises(p2fit.FitError, match="does not read tokens"):
        p2fit.plan_tokens(p2fit.fit(chinchilla, "kaplan-n"), {"params": 8e9}, gain=[0.1])


# ---------------------------------------------------------------- compute


def test_published_values() -> None:
    for law, size in (("chinchilla", "params"), ("average-params", "avg_params")):
        plan = p2fit.plan_compute(exact(law, **BESIROGLU), [5.76e23])
        assert plan.size == size
        assert plan.a is not None
        assert round(plan.a.value, 3) == 0.513
        assert plan.budgets[0].ratio.value == pytest.approx(18.4, abs=0.05)
    plan = p2fit.plan_compute(exact("chinchilla", **HOFFMANN), [5.76e23])
    assert plan.budgets[0].a.value == pytest.approx(0.28 / 0.62, rel=1e-6)
    assert plan.budgets[0].ratio.value == pytest.approx(92.6, abs=0.1)
    # Before rounding: two digits move the answer by a half.
    unrounded = {"E": 0.5267228, "A": 6.0073404, "B": 6.0179186}
    truth = {n: math.exp(v) for n, v in unrounded.items()}
    truth |= {"alpha": 0.33917084, "beta": 0.2849083}
    plan = p2fit.plan_compute(exact("chinchilla", **truth), [5.76e23])
    assert plan.budgets[0].ratio.value == pytest.approx(58.9, abs=0.1)


def test_optimum_against_brute_force(dense: p2fit.Fit) -> None:
    plan = p2fit.plan_compute(dense, [1e20, 5.76e23])
    p = dense.estimates()
    for budget in plan.budgets:

        def slope(n: float, c: float = budget.flops) -> float:  # of the loss along 6 N D = C
            falls = p["alpha"] * p["A"] / n ** p["alpha"]
            return float(p["beta"] * p["B"] / (c / 6 / n) ** p["beta"] - falls)

        low, high = 1e6, 1e13
        for _ in range(100):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        assert budget.size.value == pytest.approx(low, rel=1e-9)
        n, d = budget.size.value, budget.tokens.value
        assert 6 * n * d == pytest.approx(budget.flops, rel=1e-9)
        grid = n * np.geomspace(0.1, 10, 2001)
        losses = dense.predict({"params": grid, "tokens": budget.flops / 6 / grid})
        assert losses.min() == pytest.approx(budget.loss.value, rel=1e-9)
        assert budget.loss.value == pytest.approx(float(dense.predict({"params": n, "tokens": d})))
    decade = math.log(5.76e23 / 1e20)
    grown = math.log(plan.budgets[1].size.value / plan.budgets[0].size.value)
    assert plan.a is not None
    assert plan.b is not None
    assert plan.a.value == pytest.approx(grown / decade)
    assert plan.a.value + plan.b.value == pytest.approx(1)
    assert plan.a == plan.budgets[0].a
    assert plan.a.interval is not None
    assert plan.a.interval[0] < plan.a.value < plan.a.interval[1]


def test_search_against_the_closed_form(dense: p2fit.Fit) -> None:
    budgets = np.array([1e18, 5.76e23])

    def by(find: Any) -> Any:
        return spread(dense, lambda p: find(dense.law, p, {}, "params", budgets)[:, 3:])

    form, search = by(compute._closed), by(compute._searched)
    assert search.value == pytest.approx(form.value, rel=1e-9)
    assert search.draws == pytest.approx(form.draws, rel=1e-6)


def test_a_coupling_leaves_the_optimum_where_it_was() -> None:
    # E + S^k falls as S does: the optimum is that of the sum inside, in closed form.
    truth = {"E": 1.7, "A": 2e5, "alpha": 0.6, "B": 3e6, "beta": 0.65, "k": 0.55}
    inside = exact("chinchilla", **{n: v for n, v in truth.items() if n != "k"} | {"E": 0.0})
    form = p2fit.plan_compute(inside, [1e20, 1e24])
    plan = p2fit.plan_compute(exact("skaling", **truth), [1e20, 1e24])
    assert plan.a is plan.b is plan.g is None
    for one, other in zip(plan.budgets, form.budgets):
        assert one.size.value == pytest.approx(other.size.value, rel=1e-6)
        assert one.tokens.value == pytest.approx(other.tokens.value, rel=1e-6)
        assert one.a.value == pytest.approx(other.a.value, rel=1e-6)
        assert one.loss.value == pytest.approx(1.7 + other.loss.value**0.55, rel=1e-6)


@pytest.mark.parametrize("law", ["shifted", "bounded-rational", "kaplan-joint", "precision"])
def test_any_law_has_its_optimum_on_the_line(law: str) -> None:
    fit = p2fit.fit(formulas.table(law, 2e-3, seed=1), law, loss="squared")
    at = {"precision": 6.0} if law == "precision" else {}
    plan = p2fit.plan_compute(fit, [1e19, 1e21], at=at)
    for budget in plan.budgets:
        n, d, c = budget.size.value, budget.tokens.value, budget.flops
        assert 6 * n * d == pytest.approx(c, rel=1e-12)
        grid = n * np.concatenate([np.geomspace(1e-6, 1e6, 4001), [1 - 1e-3, 1 + 1e-3]])
        losses = fit.predict({**at, "params": grid, "tokens": c / 6 / grid})
        near = losses[np.abs(np.log(grid / n)) < 1]
        assert budget.loss.value == pytest.approx(float(near.min()), rel=1e-9)
        lower = bool(np.nanmin(losses) < budget.loss.value * (1 - 1e-9))  # a bound, far off
        assert lower == any(f"at {c:.3g} FLOPs the law is lower" in note for note in plan.notes)
        more = p2fit.plan_compute(fit, [c * 0.999, c * 1.001], at=at).budgets
        grown = math.log(more[1].size.value / more[0].size.value) / math.log(1.001 / 0.999)
        assert budget.a.value == pytest.approx(grown, rel=1e-4)
        assert budget.size.interval is not None
        assert budget.size.interval[0] < n < budget.size.interval[1]
    text = str(plan)
    assert "a of each budget" in text
    json.dumps(plan.to_dict(), allow_nan=False)


def test_pruned_parameters_cost_no_compute() -> None:
    points = itertools.product(np.geomspace(1e8, 1e10, 6), [0.1, 0.5], np.geomspace(1e9, 1e12, 6))
    size, rate, tokens = np.array(list(points)).T
    columns = {"params": size, "pruning_rate": rate, "tokens": tokens}
    loss = p2fit.LAWS["chinchilla-pruned"].predict(BESIROGLU, columns)
    run = [f"run-{i}" for i in range(len(loss))]
    fit = p2fit.fit({"run": run, **columns, "loss": loss}, "chinchilla-pruned")
    (one,) = p2fit.plan_compute(fit, [1e22], at={"pruning_rate": 0.3}).budgets
    (dense,) = p2fit.plan_compute(exact("chinchilla", **BESIROGLU), [1e22]).budgets
    assert 0.7 * one.size.value == pytest.approx(dense.size.value, rel=1e-6)
    assert one.tokens.value == pytest.approx(dense.tokens.value, rel=1e-6)


def test_draws_without_an_optimum_are_counted() -> None:
    # Few runs with much noise: in some draws the loss does not fall with one of the two.
    fit = p2fit.fit(simulate.chinchilla(10, seed=5, noise=0.08), "chinchilla", loss="squared")
    assert "% of the draws there is no optimum" in " ".join(p2fit.plan_compute(fit, [1e22]).notes)


def test_intervals_of_the_bootstrap_and_the_jackknife_agree(chinchilla: pl.DataFrame) -> None:
    ends = []
    for bootstrap in (0, 1000):
        fit = p2fit.fit(chinchilla, where="kept == 1", bootstrap=bootstrap)
        budget = p2fit.plan_compute(fit, [1e22]).budgets[0]
        assert budget.size.interval is not None
        ends.append(np.log(budget.size.interval))
    assert ends[0] == pytest.approx(ends[1], abs=0.3 * float(np.ptp(ends[0])))


def test_intervals_cover_the_truth() -> None:
    p = simulate.CHINCHILLA
    alpha, beta = p["alpha"], p["beta"]
    g = (alpha * p["A"] / (beta * p["B"])) ** (1 / (alpha + beta))
    size = g * (1e22 / 6) ** (beta / (alpha + beta))
    saturated = (p["B"] * (1 - 2**-beta) / 0.01) ** (1 / beta)
    hits = np.zeros(2)
    for seed in range(30):
        fit = p2fit.fit(simulate.chinchilla(60, seed=seed))
        found = (
            p2fit.plan_compute(fit, [1e22]).budgets[0].size,
            p2fit.plan_tokens(fit, {"params": 8e9}, gain=[0.01]).goals[0].tokens,
        )
        for i, (quantity, truth) in enumerate(zip(found, (size, saturated))):
            assert quantity.interval is not None
            hits[i] += quantity.interval[0] <= truth <= quantity.interval[1]
    assert np.all(hits >= 26)


def test_sparse_runs_reach_their_average() -> None:
    plan = p2fit.plan_compute(exact("average-params", **BESIROGLU), [1e22], sparsity=0.8)
    (one,) = plan.budgets
    assert one.sparse is not None
    run = p2fit.schedules.Schedule(
        "geometric",
        0.8,
        one.sparse.start.value,
        one.sparse.end.value,
        one.tokens.value,
        one.sparse.dense.value,
    )
    assert run.avg_params() == pytest.approx(one.size.value)
    assert run.compute() == pytest.approx(1e22)
    assert run.compute(one.sparse.start.value) == pytest.approx(0.25e22)
    assert run.compute(one.sparse.end.value) == pytest.approx(0.75e22)
    assert one.sparse.final.value == pytest.approx(0.2 * one.sparse.dense.value)
    assert "25 % to 75 %" in str(plan)


def test_no_optimum(pruned: p2fit.Fit, chinchilla: pl.DataFrame) -> None:
    with pytest.raises(p2fit.FitError, match="reads base_loss, which is another for every size"):
        p2fit.plan_compute(pruned, [1e22])
    with pytest.raises(p2fit.FitError, match="does not read both params"):
        p2fit.plan_compute(p2fit.fit(chinchilla, "kaplan-n"), [1e22])
    flat = p2fit.fit(chinchilla, "skaling", where="kept == 1", fix={"B": 0})
    with pytest.raises(p2fit.FitError, match="falls all the way to one token"):
        p2fit.plan_compute(flat, [1e22])
    rows = pl.read_csv("examples/sparsellm_1b/sparsellm_1b.csv")
    fit = p2fit.fit(rows, fix={"alpha": 0.3473, "beta": 0.3672})
    with pytest.raises(p2fit.FitError, match="does not fall with tokens"):
        p2fit.plan_compute(fit, [1e22])
    for flops in ([], [0], [math.nan]):
        with pytest.raises(p2fit.FitError, match="amounts of compute"):
            p2fit.plan_compute(exact("chinchilla", **BESIROGLU), flops)
    with pytest.raises(p2fit.FitError, match="a sparsity is for laws of avg_params"):
        p2fit.plan_compute(exact("chinchilla", **BESIROGLU), [1e22], sparsity=0.5)


def test_fixed_exponents_and_other_units(chinchilla: pl.DataFrame) -> None:
    fixed = p2fit.fit(chinchilla, where="kept == 1", fix={"alpha": 0.35, "beta": 0.35})
    plan = p2fit.plan_compute(fixed, [1e22])
    assert plan.budgets[0].a.value == pytest.approx(0.5)
    tied = p2fit.fit(chinchilla, where="kept == 1", tie={"beta": "alpha"})
    assert p2fit.plan_compute(tied, [1e22]).budgets[0].a.value == pytest.approx(0.5)


# ---------------------------------------------------------------- quantities


def test_quantities_scale() -> None:
    one = Quantity(2.0, (1.0, math.inf), (2.0, 3.0), 0.5)
    assert one.scaled(2) == Quantity(4.0, (2.0, math.inf), (4.0, 6.0), 0.5)
    assert one.to_dict() == {"value": 2, "interval": [1, None], "range": [2, 3], "reached": 0.5}


# ---------------------------------------------------------------- the command line


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, [str(a) for a in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_commands_are_the_functions(pruned: p2fit.Fit, dense: p2fit.Fit, tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    pruned.save(file)
    asked = ["plan", "tokens", file, "--params", "8B", "--pruning-rate", ".2,.3"]
    asked += ["--base-loss", 2.6, "--loss", 2.95, "--gain", 0.01, "--recover", "80%"]
    asked += ["--pruned-loss", 4.6, "--gain-per-billion", 0.001, "--kept", "5B"]
    plans = [
        p2fit.plan_tokens(
            pruned,
            {**POINT, "pruning_rate": rate},
            loss=[2.95],
            recover=[0.8],
            gain=[0.01],
            gain_per_billion=[0.001],
            pruned_loss=4.6,
            kept=5e9,
        )
        for rate in (0.2, 0.3)
    ]
    assert json.loads(run(*asked, "--json")[1]) == [plan.to_dict() for plan in plans]
    each, every = run(*asked)[1].split("\ntokens, all of them\n")
    assert each == f"{plans[0]}\n{plans[1]}"
    rows = [line.split() for line in every.splitlines()[-2:]]
    assert rows == [
        [f"{plan.at['pruning_rate']}", *(or_never(goal.tokens.value, 3) for goal in plan.goals)]
        for plan in plans
    ]
    dense.save(file)
    code, stdout, _ = run("plan", "compute", file, "--flops", "1e22", "--json")
    assert code == 0
    decades = [1e20, 1e21, 1e22, 1e23, 1e24]
    assert json.loads(stdout) == p2fit.plan_compute(dense, decades).to_dict()
    code, stdout, _ = run("plan", "compute", file, "--flops", "1e20..1e24")
    assert stdout == str(p2fit.plan_compute(dense, decades))


def test_tokens_for_every_pruned_model_of_the_curves(tmp_path: Path) -> None:
    table = pl.DataFrame(simulate.p2(seed=0, noise=0.0)).with_columns(method=pl.lit("depth"))
    right_after = table.group_by("run", maintain_order=True).first()
    right_after = right_after.with_columns(pl.lit(0.0).alias("tokens"), pl.col("loss") + 2)
    others = table.head(20).with_columns(pl.lit("w").alias("run"), method=pl.lit("width"))
    control = right_after.head(1).with_columns(
        pl.lit("c").alias("run"), pruning_rate=pl.lit(0.0), loss="base_loss"
    )
    file, curves = tmp_path / "fit.json", tmp_path / "curves.csv"
    pl.concat([table, right_after, others, control]).write_csv(curves)
    fit = p2fit.fit(table, "p2")
    fit.save(file)
    code, stdout, _ = run(
        "plan", "tokens", file, "--curves", curves, "--recover", "50%", "--gain", 0.01, "--json"
    )
    assert code == 0
    plans = json.loads(stdout)
    models = table.select("params", "pruning_rate", "base_loss").unique().sort(pl.all())
    assert [plan["at"] for plan in plans] == models.to_dicts()
    for plan in plans:
        alone = p2fit.plan_tokens(fit, plan["at"], recover=[0.5], gain=[0.01], curves=curves)
        assert plan == alone.to_dict()
    shown = run("plan", "tokens", file, "--curves", curves, "--gain", 0.01)[1]
    assert shown.count("\n") > 9
    assert shown.split("all of them\n")[1].split()[:3] == ["params", "pruning_rate", "base_loss"]
    # A filter of the fit takes whole runs, their rows of tokens = 0 too.
    p2fit.fit(table, "p2", where="pruning_rate > 0.2 and tokens > 1e8").save(file)
    code, stdout, _ = run("plan", "tokens", file, "--curves", curves, "--recover", "50%", "--json")
    fewer = [plan["at"] for plan in json.loads(stdout)]
    assert fewer == models.filter(pl.col("pruning_rate") > 0.2).to_dicts()
    curves.write_text(
        "run,method,params,pruning_rate,base_loss,tokens,loss\nc,depth,1e9,0,3,1e9,3\n"
    )
    code, _, stderr = run("plan", "tokens", file, "--curves", curves, "--gain", 0.01)
    assert code == 2
    assert "curves.csv: no row of the fit's group" in stderr


def test_bad_commands_say_so_in_one_line(dense: p2fit.Fit, tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    dense.save(file)
    for arguments, message in (
        (("tokens", file, "--params", "8B"), "nothing to plan for"),
        (("tokens", file, "--gain", "0.1"), "params is not given"),
        (("compute", file, "--flops", "1e22", "--pruning-rate", "0.3"), "does not read"),
        (("compute", file, "--flops", "1e22", "--sparsity", "0.3"), "for laws of avg_params"),
    ):
        code, _, stderr = run("plan", *arguments)
        assert (code, stderr.count("\n")) == (2, 1)
        assert message in stderr
