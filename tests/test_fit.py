"""From curves to a fit: what goes in, what comes out."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.curves.options import OptionNames
from p2fit.fit import to_json
from p2fit.fitting import FitOptions
from tests import simulate

SCHEMA = json.loads(
    (Path(p2fit.__file__).parent / "schemas" / "fit.schema.json").read_text(encoding="utf-8")
)


AT = {"params": 8e9, "pruning_rate": 0.3, "base_loss": 2.0, "tokens": 1e9}


def extended(table: dict[str, Any], extra: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A table with further rows."""
    return {c: [*v, *extra[c]] for c, v in table.items()}


@pytest.fixture(scope="module")
def fit() -> p2fit.Fit:
    return p2fit.fit(simulate.p2(seed=0))


# ---------------------------------------------------------------- the law


def test_the_law_follows_from_the_columns() -> None:
    p2 = simulate.p2(seed=0)
    assert p2fit.fit(p2).law.name == "p2"
    assert "pruning_rate and base_loss" in p2fit.fit(p2).data["chosen"]
    table = simulate.chinchilla(seed=1)
    assert p2fit.fit(table).law.name == "chinchilla"
    averaged = {**table, "avg_params": table["params"]}
    assert p2fit.fit(averaged).law.name == "average-params"
    assert p2fit.fit(averaged, "chinchilla").data["chosen"] == ""


def test_a_law_that_lacks_columns_says_what_the_file_can_serve() -> None:
    with pytest.raises(p2fit.FitError, match="p2 needs base_loss and pruning_rate") as error:
        p2fit.fit(simulate.chinchilla(seed=1), "p2")
    assert "can serve chinchilla, kaplan-n, kaplan-d" in str(error.value)


def test_active_params_are_averaged() -> None:
    table = simulate.chinchilla(seed=1)
    fit = p2fit.fit({**table, "active_params": table["params"]})
    assert fit.law.name == "average-params"
    assert fit.objective == pytest.approx(p2fit.fit(table).objective)


def test_a_users_own_law_uses_any_column() -> None:
    table = simulate.chinchilla(seed=1)
    own = {
        "run": table["run"],
        "loss": table["loss"],
        "size": table["params"],
        "seen": table["tokens"],
    }
    fit = p2fit.fit(own, "E + A/size^alpha + B/seen^beta")
    expected = p2fit.fit(table)
    assert fit.law.name == "custom"
    assert fit.objective == pytest.approx(expected.objective, rel=1e-9)


def test_an_input_that_is_not_positive_is_named() -> None:
    table = simulate.chinchilla(seed=1)
    table["sparsity"] = [0.0] * 60
    with pytest.raises(p2fit.FitError, match="sparsity must be above 0 in this law; in 60 rows"):
        p2fit.fit(table, "E + A*sparsity^a/params^alpha")


def test_p2_is_p2_as_a_users_formula(fit: p2fit.Fit) -> None:
    own = p2fit.fit(simulate.p2(seed=0), p2fit.LAWS["p2"].formula)
    assert own.objective == fit.objective


# ---------------------------------------------------------------- rows


def test_rows_without_tokens_are_kept_and_never_fitted(fit: p2fit.Fit) -> None:
    start = {c: [v[0]] for c, v in simulate.p2(seed=0).items()} | {"tokens": [0.0], "loss": [9.0]}
    found = p2fit.fit(extended(simulate.p2(seed=0), start))
    assert found.objective == fit.objective
    assert found.data["excluded"] == {"tokens = 0 (kept, never fitted)": 1}
    assert found.data["rows"] == 181


def test_the_base_model_is_reported_and_left_out(fit: p2fit.Fit) -> None:
    base = {c: [v[0]] for c, v in simulate.p2(seed=0).items()}
    base |= {"pruning_rate": [0.0], "run": ["base"], "loss": [2.9]}
    found = p2fit.fit(extended(simulate.p2(seed=0), base))
    assert found.objective == fit.objective
    assert found.data["excluded"] == {"pruning_rate = 0 (the base model)": 1}


def test_rows_below_the_base_loss_are_counted_and_named() -> None:
    table = simulate.p2(seed=0)
    loss = np.array(table["loss"])
    loss[[4, 5]] = np.asarray(table["base_loss"])[[4, 5]] - 0.01
    found = p2fit.fit({**table, "loss": loss})
    assert any(w.startswith("2 rows have loss below base_loss") for w in found.warnings)
    assert any("run-0" in w for w in found.warnings)


def test_undecayed_rows_are_left_out_of_pre_training_laws() -> None:
    table = simulate.chinchilla(seed=1)
    final = [1] * 50 + [0] * 10
    found = p2fit.fit({**table, "final": final})
    assert found.data["used"] == 50
    assert list(found.data["excluded"].values()) == [10]
    assert "include-undecayed" in next(iter(found.data["excluded"]))
    assert p2fit.fit({**table, "final": final}, include_undecayed=True).data["used"] == 60
    with pytest.raises(p2fit.FitError, match="no row is left to fit"):
        p2fit.fit({**table, "final": [0] * 60})


def test_min_tokens_and_burn_in() -> None:
    table = simulate.p2(seed=0)
    tokens = np.asarray(table["tokens"])
    assert p2fit.fit(table, min_tokens=3e8).data["used"] == int((tokens >= 3e8).sum())
    found = p2fit.fit(table, burn_in=0.1)
    assert found.data["used"] == int((tokens >= 1e8).sum())
    assert found.data["excluded"] == {"the first 10% of a run's tokens": 9}


def test_where_takes_rows_by_sql(chinchilla: pl.DataFrame) -> None:
    assert p2fit.fit(chinchilla, where="kept == 1").data["used"] == 240
    assert p2fit.fit(chinchilla, where="kept = 1 and params > 1e9").data["used"] < 240
    for bad in ("kept >", "foo == 1", "kept + 1"):
        with pytest.raises(p2fit.FitError, match="--where"):
            p2fit.fit(chinchilla, where=bad)


def test_families_and_methods_are_never_pooled_silently() -> None:
    table = simulate.p2(seed=0, sizes=(2e8, 5e8, 1.5e9, 3e9, 6e9, 1e10))
    method = [
        "depth" if r < 0.3 or i % 40 < 20 else "width" for i, r in enumerate(table["pruning_rate"])
    ]
    table |= {"family": ["llama"] * len(method), "method": method}
    fits = p2fit.fit_each(table)
    assert [f.group for f in fits] == [
        {"family": "llama", "method": "depth"},
        {"family": "llama", "method": "width"},
    ]
    assert sum(f.data["used"] for f in fits) == len(method)
    with pytest.raises(p2fit.FitError, match="2 groups"):
        p2fit.fit(table)
    assert p2fit.fit(table, pool=True).data["used"] == len(method)
    assert len(p2fit.fit_each(table, by=["family"])) == 1
    with pytest.raises(p2fit.FitError, match="by and pool contradict"):
        p2fit.fit_each(table, by=["family"], pool=True)
    # A law of pre-training is not split by default.
    assert len(p2fit.fit_each(table, "chinchilla")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "cubic"}, "residual is 'cubic': use log or linear"),
        ({"loss": "l1"}, "loss is 'l1'"),
        ({"delta": 0}, "delta is 0"),
        ({"delta": math.inf}, "delta is inf"),
        ({"weights": "none"}, "weights is 'none'"),
        ({"burn_in": 1.5}, "burn_in is 1.5"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"by": ["colour"]}, "no column colour"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(p2fit.FitError, match=message):
        p2fit.fit(simulate.chinchilla(seed=1), **options)


# ---------------------------------------------------------------- fixing, tying, weighing


def test_fixed_parameters_stay() -> None:
    found = p2fit.fit(simulate.p2(seed=0), fix={"gamma": -1.0})
    gamma = found.parameters["gamma"]
    assert (gamma.estimate, gamma.fixed, gamma.stderr) == (-1.0, True, None)
    assert found.identification["parameters"] == 6


def test_a_coefficient_fixed_at_zero_takes_its_term_with_it() -> None:
    table = simulate.p2(seed=0)
    with pytest.raises(p2fit.LawError, match="alpha is left without a term: fix it too"):
        p2fit.fit(table, fix={"N_C": 0.0})
    found = p2fit.fit(table, fix={"N_C": 0.0, "alpha": 1.0})
    law = "base_loss + pruning_rate^gamma * params^-delta * (D_C/tokens^beta + E)"
    assert found.objective == pytest.approx(p2fit.fit(table, law).objective, rel=1e-9)


def test_all_exponents_fixed_leaves_a_linear_problem() -> None:
    table = simulate.chinchilla(seed=1, noise=0.0)
    found = p2fit.fit(table, fix={"alpha": 0.348, "beta": 0.366})
    assert found.parameters["A"].estimate == pytest.approx(480, rel=1e-6)


def test_groups_count_their_own_rows(chinchilla: pl.DataFrame) -> None:
    halves = chinchilla.with_columns(half=pl.col("params") > 1e9)
    fits = p2fit.fit_each(halves, by=["half"], where="kept == 1")
    assert sum(f.data["rows"] for f in fits) == 245
    for f in fits:
        assert f.data["rows"] == f.data["used"] + sum(f.data["excluded"].values())
    (only,) = p2fit.fit_each(halves, by=["half"], where="params > 1e9")
    # A filter may be meant to leave a group out.
    assert not any("no row is left" in w for w in only.warnings)
    short = chinchilla.with_columns(long=pl.col("tokens") > 1e10)
    (long,) = p2fit.fit_each(short, by=["long"], min_tokens=1e10)
    assert any("long = 0: no row is left to fit" in w for w in long.warnings)


def test_tied_parameters_are_equal() -> None:
    found = p2fit.fit(simulate.chinchilla(seed=1), tie={"beta": "alpha"})
    assert found.parameters["beta"].estimate == found.parameters["alpha"].estimate
    assert found.parameters["beta"].tied == "alpha"
    own = p2fit.fit(simulate.chinchilla(seed=1), "E + A/params^a + B/tokens^a")
    assert own.objective == pytest.approx(found.objective, rel=1e-9)


@given(st.sampled_from(["E", "A", "alpha", "B", "beta"]), st.integers(0, 20))
@settings(max_examples=15)
def test_fixing_at_the_optimum_changes_nothing(name: str, seed: int) -> None:
    table = simulate.chinchilla(40, seed=seed)
    free = p2fit.fit(table)
    value = free.parameters[name].estimate
    assert value is not None
    held = p2fit.fit(table, fix={name: value})
    assert held.objective == pytest.approx(free.objective, rel=1e-6)
    other = p2fit.fit(table, fix={name: value * 1.3 + 0.01})
    assert other.objective >= free.objective * (1 - 1e-9)


def test_a_conventional_coefficient_is_fixed_as_written() -> None:
    table = simulate.chinchilla(60, seed=1)
    free = p2fit.fit(table, "(N_c/params)^alpha_N", loss="squared")
    value = free.parameters["N_c"].estimate
    assert value is not None
    held = p2fit.fit(table, "kaplan-n", loss="squared", fix={"N_c": value})
    assert held.objective == pytest.approx(free.objective, rel=1e-8)
    assert held.parameters["alpha_N"].estimate == pytest.approx(
        free.parameters["alpha_N"].estimate, rel=1e-6
    )


def test_each_run_weighs_the_same_on_request() -> None:
    table = simulate.p2(seed=0)
    longer = extended(
        table,
        {c: list(v[:20]) for c, v in table.items()}
        | {"tokens": [t + 1e6 for t in table["tokens"][:20]]},
    )
    rows, runs = (p2fit.fit(longer, errors="rows", weights=w) for w in ("rows", "runs"))
    assert rows.parameters["gamma"].estimate != runs.parameters["gamma"].estimate
    # With runs of one length there is nothing to weigh.
    same = p2fit.fit(table, weights="runs")
    rows = p2fit.fit(table, errors="rows")
    assert same.objective == pytest.approx(rows.objective, rel=1e-12)


def test_standard_errors_of_the_losses_weigh_the_rows() -> None:
    table = simulate.chinchilla(120, seed=3, noise=0.002)
    rng = np.random.default_rng(0)
    loud = rng.random(120) < 0.5
    loss = np.asarray(table["loss"]) * np.exp(np.where(loud, 0.05, 0.0) * rng.standard_normal(120))
    table |= {"loss": loss, "loss_stderr": np.where(loud, 0.05, 0.002) * loss}
    weighed = p2fit.fit(table, loss="squared")
    assert weighed.options["weights"] == "stderr"
    assert weighed.options["tau"] < 0.002
    equal = p2fit.fit(table, loss="squared", weights="rows")
    assert "tau" not in equal.options
    error = {
        f: abs((x.parameters["alpha"].estimate or 0) - 0.348)
        for f, x in (("w", weighed), ("e", equal))
    }
    assert error["w"] < error["e"]
    with pytest.raises(p2fit.FitError, match="weights by stderr need a loss_stderr column"):
        p2fit.fit(simulate.chinchilla(seed=1), weights="stderr")


def test_scatter_beyond_the_standard_errors_is_found() -> None:
    table = simulate.chinchilla(400, seed=4, noise=0.01)
    table["loss_stderr"] = 0.004 * np.asarray(table["loss"])
    fit = p2fit.fit(table, loss="squared")
    assert fit.options["tau"] == pytest.approx(np.sqrt(0.01**2 - 0.004**2), rel=0.15)
    partly = {**table, "loss_stderr": [None, *table["loss_stderr"][1:]]}
    found = p2fit.fit(partly, loss="squared")
    assert found.options["weights"] == "rows"
    assert "loss_stderr is empty in 1 rows, so it is not used for weights" in found.warnings


@pytest.mark.parametrize(
    ("law", "options", "message"),
    [
        ("-A/params^alpha", {}, "no loss above 0"),
        ("A/params^alpha - 100", {}, "no loss above 0"),
        ("loss*A", {}, "cannot be an input"),
        (
            "+".join(f"A{i}/params^0.{i}" for i in range(1, 12)),
            {},
            "the law has 11 coefficients; at most 10",
        ),
        ("E + 1/(B*tokens^beta)", {}, "B divides: write it as a factor"),
        ("+".join(["params^a"] * 2000), {}, "too long"),
        ("E + 1" + "0" * 400, {}, "only numbers"),
        ("E + (A/params)^alpha", {"fix": {"A": 0}}, "alpha is left without a term"),
    ],
)
def test_laws_that_cannot_be_fitted(law: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((p2fit.FitError, p2fit.LawError), match=message):
        p2fit.fit(simulate.chinchilla(seed=1), law, **options)


def test_a_law_far_above_the_data_is_fitted_without_intervals() -> None:
    fit = p2fit.fit(simulate.chinchilla(seed=1), fix={"E": 99.0})
    assert fit.parameters["A"].estimate == 0
    assert fit.covariance is None


def test_what_is_monomial_once_fixed_is_fitted() -> None:
    table = simulate.chinchilla(seed=1)
    expected = p2fit.fit(table, "E + A/params^alpha").objective
    for law, fix in (("E + s*A/params^alpha", {"s": 1}), ("E + A/params^(k*alpha)", {"k": 1})):
        assert p2fit.fit(table, law, fix=fix).objective == pytest.approx(expected, rel=1e-8)
    zero = p2fit.fit(table, "E + A/params^alpha + C*exp(-tokens/g)", fix={"C": 0, "g": 1})
    assert zero.objective == pytest.approx(expected, rel=1e-8)


def test_rows_without_tokens_serve_a_law_without_tokens() -> None:
    table = simulate.chinchilla(seed=1)
    tokens = [None if i % 2 else t for i, t in enumerate(table["tokens"])]
    fit = p2fit.fit({**table, "tokens": tokens, "x": table["params"]}, "E + A/x^alpha")
    assert fit.data["used"] == 60


WRONG: dict[str, Any] = {
    "bootstrap": "100", "seed": 1.5, "pool": "yes", "include_undecayed": 1, "min_tokens": "1B",
    "burn_in": True, "delta": "1e-3", "fix": "alpha=.3", "tie": [("alpha", "beta")],
    "ranges": {"alpha": "0..1"}, "start": {"alpha": "0.3"}, "columns": ["loss"], "where": 3,
    "by": "family", "run_by": "model", "cluster": None, "target": 3, "residual": "lg", "loss": 2,
    "weights": ["rows"], "resample": "rows", "subtract_control": "no",
    "errors": "row",
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(p2fit.Options)])
def test_an_option_of_another_type_is_named_with_what_to_use(name: str) -> None:
    value = WRONG[name]
    with pytest.raises(p2fit.FitError) as caught:
        p2fit.fit(simulate.chinchilla(seed=0), **{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}: use ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.predict({**AT, "params": "8B"}), "params is '8B': use numbers"),
        (lambda fit: fit.interval({**AT, "pruning_rate": "30%"}), "pruning_rate is '30%'"),
        (lambda fit: fit.save(3), "path is 3: use a text or a path"),
        (lambda fit: p2fit.load(3), "path is 3: use a text or a path"),  # type: ignore[arg-type]
        (lambda fit: p2fit.plan_tokens(fit, AT, gain=0.01), "gain is 0.01: use a list of numbers"),  # type: ignore[arg-type]
        (lambda fit: p2fit.plan_compute(fit, 1e21), "flops is 1e+21: use a list of numbers"),  # type: ignore[arg-type]
        (lambda fit: p2fit.plan_next(fit, AT, count="2"), "count is '2': use a whole number"),  # type: ignore[arg-type]
        (lambda fit: p2fit.profile(AT, parameters="gamma"), "parameters is 'gamma': use a list"),
        (lambda fit: p2fit.identify_design(AT, at="x"), "at is 'x': use a mapping of names"),  # type: ignore[arg-type]
        (lambda fit: p2fit.import_logs(3), "paths is 3: use a text or a path or a list of"),  # type: ignore[arg-type]
        (lambda fit: p2fit.read_curves(None), "None is no curves: give a path, a table"),
        (lambda fit: p2fit.report([1]), "a report takes loss curves, or fits"),  # type: ignore[arg-type]
        (lambda fit: p2fit.Law.parse(3), "formula is 3: use a text"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_said_in_one_line(
    call: Any, message: str, fit: p2fit.Fit
) -> None:
    with pytest.raises((p2fit.FitError, p2fit.LawError)) as caught:
        call(fit)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    values: dict[str, Any] = {
        "bootstrap": np.int64(50),
        "fix": {"E": np.float32(1.5)},
        "ranges": {"alpha": [0, 1]},
        "pool": np.True_,
    }
    assert p2fit.Options(**values).bootstrap == 50


def test_groups_by_numbers_are_in_their_order_and_told_apart() -> None:
    table = simulate.chinchilla(60, seed=1)
    fits = p2fit.fit_each({**table, "g": [10.0, 2.0, 2.0000001] * 20}, by=["g", "g"])
    assert [f.group["g"] for f in fits] == ["2", "2.0000001", "10"]
    with pytest.raises(p2fit.FitError, match="by is 'run': use a list of texts"):
        p2fit.fit(table, by="run")


# ---------------------------------------------------------------- what comes out


def test_a_fit_is_immutable(fit: p2fit.Fit) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.objective = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "make",
    [
        lambda: p2fit.fit(simulate.p2(seed=0)),
        lambda: p2fit.fit(simulate.p2(seed=0, sizes=(5e8, 1.5e9))),
        lambda: p2fit.fit(simulate.p2(seed=0), fix={"gamma": -1.3}, tie={"beta": "alpha"}),
        lambda: p2fit.fit(simulate.chinchilla(6, seed=1), weights="runs"),
        lambda: p2fit.fit(simulate.chinchilla(seed=1), "E + A/params^a"),
        lambda: p2fit.fit(simulate.chinchilla(seed=1, noise=0.0)),
        lambda: p2fit.fit({k: v[:1] for k, v in simulate.chinchilla(seed=1).items()}),
    ],
)
def test_json_round_trip_under_the_schema(make: Any, tmp_path: Path) -> None:
    found = make()
    found.save(tmp_path / "fit.json")
    document = json.loads(
        (tmp_path / "fit.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    jsonschema.validate(document, SCHEMA)
    again = p2fit.load(tmp_path / "fit.json")
    assert isinstance(again, p2fit.Fit)
    assert again.to_dict() == found.to_dict()
    assert again.summary() == found.summary()
    columns = {x: 0.3 if x == "pruning_rate" else 2e9 for x in found.law.inputs}
    np.testing.assert_array_equal(again.predict(columns), found.predict(columns))


def test_several_groups_are_a_list(tmp_path: Path) -> None:
    table = simulate.chinchilla(60, seed=1)
    fits = p2fit.fit_each({**table, "train_set": ["a"] * 30 + ["b"] * 30}, by=["train_set"])
    (tmp_path / "fits.json").write_text(to_json(fits), encoding="utf-8")
    jsonschema.validate(json.loads(to_json(fits)), SCHEMA)
    again = p2fit.load(tmp_path / "fits.json")
    assert isinstance(again, list)
    assert [f.group for f in again] == [{"train_set": "a"}, {"train_set": "b"}]


@pytest.mark.parametrize("text", ["", "{}", "[{}]", '{"law": "p2"}', "3", "not json"])
def test_a_file_that_is_no_fit(text: str, tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text(text, encoding="utf-8")
    with pytest.raises(p2fit.FitError, match=r"fit\.json"):
        p2fit.load(tmp_path / "fit.json")


def test_a_file_is_written_whole_or_not_at_all(fit: p2fit.Fit, tmp_path: Path) -> None:
    target = tmp_path / "fit.json"
    target.write_text("before", encoding="utf-8")
    with pytest.raises(p2fit.FitError, match="No such file"):
        fit.save(tmp_path / "nowhere" / "fit.json")
    fit.save(target)
    assert json.loads(target.read_text(encoding="utf-8"))["law"] == "p2"
    assert list(tmp_path.iterdir()) == [target]


def test_a_pipe_is_written_to_and_a_link_followed(fit: p2fit.Fit, tmp_path: Path) -> None:
    fit.save("/dev/null")
    assert not Path("/dev/null").is_file()
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    fit.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert p2fit.load(tmp_path / "real.json")


def test_metrics() -> None:
    table = simulate.p2(seed=0)
    fit = p2fit.fit(table, errors="rows")
    columns = {x: np.asarray(table[x]) for x in fit.law.inputs}
    y, fitted = np.asarray(table["loss"]), fit.predict(columns)
    r = np.abs(np.log(fitted / y))
    clipped = np.minimum(r, 1e-3)
    m = fit.metrics
    assert m["rmse"] == pytest.approx(np.sqrt(np.mean((fitted - y) ** 2)))
    assert m["mape"] == pytest.approx(np.mean(np.abs(fitted - y) / y))
    assert m["huber"] == pytest.approx(np.mean(clipped * (r - clipped / 2)))
    assert fit.objective == pytest.approx(180 * float(m["huber"] or 0))
    assert m["r2"] == pytest.approx(1 - np.sum((fitted - y) ** 2) / np.sum((y - y.mean()) ** 2))
    above = y - columns["base_loss"]
    assert m["r2_excess"] == pytest.approx(
        1 - np.sum((fitted - y) ** 2) / np.sum((above - above.mean()) ** 2)
    )
    slopes = np.diff((y - fitted).reshape(9, 20)) / np.diff(columns["tokens"].reshape(9, 20) / 1e9)
    assert m["asd"] == pytest.approx(np.abs(slopes).mean(axis=1).mean())


@pytest.mark.parametrize(
    ("agreed", "tried", "words"),
    [
        (12, 12, "all starts agree"),
        (11, 12, "many starts agree"),
        (3, 12, "many starts agree"),
        (2, 12, "few starts agree"),
        (1, 3, "few starts agree"),
        (1, 1, "from one start"),
    ],
)
def test_the_summary_says_in_words_how_many_starts_agree(
    fit: p2fit.Fit, agreed: int, tried: int, words: str
) -> None:
    found = dataclasses.replace(fit, starts={"tried": tried, "agreed": agreed})
    (line,) = (line for line in found.summary().splitlines() if line.startswith("objective"))
    assert line.endswith(f" (sum), {words}")


def test_the_summary_says_what_was_done(fit: p2fit.Fit) -> None:
    text = fit.summary()
    for part in ("base_loss + pruning_rate^-gamma", "180 of 180 rows, 9 runs", "starts agree"):
        assert part in text
    assert "of log residuals" in text
    assert "points of a run by" in text
    assert all(len(line) <= 100 and line == line.rstrip() for line in text.splitlines())
    html = fit._repr_html_()
    assert html.startswith("<table>")
    assert "95 % interval" in html


def test_a_source_may_be_a_path_a_frame_or_curves(tmp_path: Path) -> None:
    table = simulate.p2(seed=0)
    pl.DataFrame(table).write_csv(tmp_path / "curves.csv")
    expected = p2fit.fit(table).objective
    assert p2fit.fit(pl.DataFrame(table)).objective == expected
    assert p2fit.fit(tmp_path / "curves.csv").objective == pytest.approx(expected, rel=1e-9)
    curves = p2fit.read_curves(tmp_path / "curves.csv")
    assert p2fit.fit(curves).data["source"] == str(tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open("rb") as file:
        assert p2fit.fit(file).objective == pytest.approx(expected, rel=1e-9)


def test_the_typed_options_are_those_of_a_fit() -> None:
    """What editors and type checkers know of the options, and what help() shows of them."""
    typed = {n: hint.__forward_arg__ for n, hint in OptionNames.__annotations__.items()}
    assert typed == {field.name: field.type for field in fields(p2fit.Options)}
    beyond = {n: h.__forward_arg__ for n, h in FitOptions.__annotations__.items() if n not in typed}
    assert beyond.keys() == {field.name for field in fields(p2fit.BayesOptions)}
    takers = (p2fit.fit, p2fit.fit_each, p2fit.compare, p2fit.profile, p2fit.report)
    for taker in (*takers, p2fit.identify_design):
        shown = inspect.signature(taker).parameters
        assert {field.name for field in fields(p2fit.Options)} <= shown.keys(), taker
        assert "options" not in shown


def test_a_misspelt_option_is_refused_here_and_by_the_type_checker() -> None:
    table = simulate.chinchilla(8, seed=0)
    # The comments are checked: mypy complains of one that is not needed.
    with pytest.raises(p2fit.FitError, match="no option is called bootstrp"):
        p2fit.fit(table, bootstrp=40)  # type: ignore[call-arg]
    with pytest.raises(p2fit.FitError, match="backend is 'bayse'"):
        p2fit.fit(table, backend="bayse")  # type: ignore[arg-type]
    with pytest.raises(p2fit.FitError, match="loss is 'hubr'"):
        p2fit.fit(table, loss="hubr")  # type: ignore[arg-type]
