"""Laws of another column than the loss, and chains of two fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.errors import CurvesError
from p2fit.laws.law import Law
from p2fit.scales import SCALES
from p2fit.solver.build import build
from p2fit.solver.least_squares import minimise
from tests import simulate

EXAMPLE = Path(__file__).parents[1] / "examples" / "olmo_downstream" / "olmo_downstream.csv"
SIGMOID = "chance + (top - chance)/(1 + exp(k*(loss - mid)))"
TRUTH = {"chance": 0.25, "top": 0.95, "k": 3.0, "mid": 2.7}
COLUMNS = ["loss"]


def curves(seed: int, runs: int = 40, noise: float = 0.01, questions: float = 2000) -> pl.DataFrame:
    """Losses by the Chinchilla law, accuracies by a sigmoid of the loss that was measured."""
    frame = pl.DataFrame(simulate.chinchilla(runs, seed=seed, noise=noise))
    share = Law.parse(SIGMOID, columns=COLUMNS).predict(TRUTH, {"loss": frame["loss"].to_numpy()})
    rng = np.random.default_rng(seed + 1000)
    counted = rng.binomial(int(questions), share) / questions if questions < np.inf else share
    return frame.with_columns(accuracy=pl.Series(counted))


def second(frame: Any, **options: Any) -> p2fit.Fit:
    return p2fit.fit(frame, SIGMOID, target="accuracy", **options)


def band(fit: p2fit.Fit, at: Any, **options: Any) -> Any:
    found = fit.interval(at, **options)
    assert found is not None
    return found


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return curves(0)


@pytest.fixture(scope="module")
def loss(frame: pl.DataFrame) -> p2fit.Fit:
    return p2fit.fit(frame, "chinchilla")


@pytest.fixture(scope="module")
def accuracy(frame: pl.DataFrame) -> p2fit.Fit:
    return second(frame)


# ---------------------------------------------------------------- the scale of a share


@given(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))
def test_the_angle_of_a_share_has_a_place_for_every_value(a: float, b: float) -> None:
    scale = SCALES["arcsine"]
    ends = scale.to(np.array([a, b]))
    assert scale.back(ends) == pytest.approx([a, b], abs=1e-12)
    assert (ends[0] < ends[1]) == (a < b) or abs(a - b) < 1e-12
    step = 1e-6
    slope = (scale.to(a + step) - scale.to(a - step)) / (2 * step)
    assert float(scale.slope(np.array(a))) == pytest.approx(slope, rel=1e-4)


def test_the_error_of_counting_is_the_same_everywhere() -> None:
    rng = np.random.default_rng(0)
    for share in (0.03, 0.25, 0.5, 0.9):
        angles = SCALES["arcsine"].to(rng.binomial(1000, share, 20000) / 1000)
        assert angles.std() == pytest.approx(1000**-0.5, rel=0.04)


@pytest.mark.parametrize("loss", [np.inf, 0.02])
def test_the_newton_step_knows_the_bend_of_the_scale(loss: float) -> None:
    """The optimum is where the objective, written out here, has no slope."""
    law = Law.parse(SIGMOID, columns=COLUMNS)
    x = np.linspace(1.9, 4.0, 30)
    y = np.clip(law.predict(TRUTH, {"loss": x}) + 0.03 * np.sin(9 * x), 0, 1)
    problem = build(law, {"loss": x}, y, np.ones(30), residual="arcsine", delta=loss)
    z = minimise(problem, problem.internal(TRUTH)[None]).z[0]

    def objective(z: Any) -> float:
        r = SCALES["arcsine"].to(problem.loss(z[None])[0]) - SCALES["arcsine"].to(y)
        clipped = np.minimum(abs(r), loss)
        return float((clipped * (abs(r) - 0.5 * clipped)).sum())

    for i in range(4):
        step = 1e-5 * np.eye(4)[i]
        assert abs(objective(z + step) - objective(z - step)) / 2e-5 < 1e-6 * objective(z) + 1e-7


# ---------------------------------------------------------------- fits


def test_the_parameters_come_back() -> None:
    exact = second(curves(1, questions=np.inf))
    assert exact.options["residual"] == "arcsine"
    for name, value in TRUTH.items():
        assert exact.parameters[name].estimate == pytest.approx(value, rel=1e-6)
    noisy = second(curves(1))
    for name, value in TRUTH.items():
        low, high = noisy.parameters[name].interval or (None, None)
        assert low is not None
        assert high is not None
        assert low < value < high


def test_it_is_at_the_lowest_of_many_searches(frame: pl.DataFrame, accuracy: p2fit.Fit) -> None:
    """Against a general optimiser from a hundred starts, on the squared angle."""
    from scipy.optimize import least_squares

    x, y = frame["loss"].to_numpy(), frame["accuracy"].to_numpy()

    def residual(theta: Any) -> Any:
        chance, top, k, mid = theta
        fitted = chance + (top - chance) / (1 + np.exp(np.clip(k * (x - mid), -500, 500)))
        return SCALES["arcsine"].to(fitted) - SCALES["arcsine"].to(y)

    rng = np.random.default_rng(0)
    starts = rng.uniform([0, 0.5, 0.5, 1.5], [0.5, 1, 10, 4], (100, 4))
    best = min(least_squares(residual, s, x_scale=[0.1, 0.1, 1, 0.1]).cost for s in starts)
    assert second(frame, loss="squared").objective == pytest.approx(best, rel=1e-6)
    assert accuracy.starts["agreed"] > 1


def test_0_and_1_are_shares_like_others() -> None:
    x = np.linspace(1.5, 5.0, 40)
    share = np.round(1 / (1 + np.exp(6 * (x - 3))), 2)
    assert {0.0, 1.0} <= set(share.tolist())
    found = p2fit.fit(
        {"run": [f"r{i}" for i in range(40)], "loss": x, "accuracy": share},
        "1/(1 + exp(k*(loss - mid)))",
        target="accuracy",
    )
    assert found.parameters["k"].estimate == pytest.approx(6, rel=0.02)
    assert found.metrics["mape"] is None
    low, high = band(found, {"loss": np.linspace(0.5, 8, 50)}, new_run=True)
    assert np.all((np.asarray(low) >= 0) & (np.asarray(high) <= 1))


@given(st.floats(0.05, 2.0), st.randoms(use_true_random=False))
@settings(max_examples=8)
def test_units_and_the_order_of_rows_do_not_matter(unit: float, random: Any) -> None:
    """The loss as an input in other units; the rows in another order."""
    frame = curves(2, runs=24)
    before = second(frame)
    order = list(range(frame.height))
    random.shuffle(order)
    moved = frame[order].with_columns(loss=pl.col("loss") * unit)
    after = second(moved)
    assert after.objective == pytest.approx(before.objective, rel=1e-7)
    at = np.array([2.2, 3.1])
    assert after.predict({"loss": at * unit}) == pytest.approx(
        before.predict({"loss": at}), rel=1e-5
    )


def test_residuals_follow_the_values() -> None:
    frame = curves(3)
    tenfold = frame.with_columns(score=10 * pl.col("accuracy"), gain=pl.col("accuracy") - 0.5)
    line = "a - b*loss"
    kinds = {
        name: p2fit.fit(tenfold, line, target=name).options["residual"]
        for name in ("accuracy", "score", "gain")
    }
    assert kinds == {"accuracy": "arcsine", "score": "log", "gain": "linear"}
    asked = p2fit.fit(tenfold, line, target="accuracy", residual="linear")
    assert asked.options["residual"] == "linear"
    assert asked.options["delta"] == pytest.approx(1e-3 * frame["accuracy"].to_numpy().mean())
    # In another unit the same rows give the same law.
    ranges = {"a": (-9.0, 9.0)}
    gain = p2fit.fit(tenfold, line, target="gain", ranges=ranges)
    milli = tenfold.with_columns(gain=1000 * pl.col("gain"))
    other = p2fit.fit(milli, line, target="gain", ranges={"a": (-9000, 9000)})
    assert other.estimates()["b"] == pytest.approx(1000 * gain.estimates()["b"], rel=1e-6)
    # A negative value is a value like others, to a law that has signs.
    signed = p2fit.fit(tenfold, line, target="gain", ranges={"a": (-9, 9)}, loss="squared")
    x, y = tenfold["loss"].to_numpy(), tenfold["gain"].to_numpy()
    slope, intercept = np.polyfit(x, y, 1)
    assert signed.estimates() == pytest.approx({"a": intercept, "b": -slope}, rel=1e-4)


def test_rows_without_the_target_are_left_out_and_counted(frame: pl.DataFrame) -> None:
    empty = frame.with_columns(
        accuracy=pl.when(pl.int_range(frame.height) % 4 > 0).then(pl.col("accuracy"))
    )
    found = second(empty)
    assert found.data["excluded"] == {"accuracy is empty": 10}
    assert found.objective == second(empty.drop_nulls("accuracy")).objective


def test_known_errors_of_the_target_weigh_its_rows(frame: pl.DataFrame) -> None:
    share = pl.col("accuracy")
    errors = (share * (1 - share) / 2000).sqrt()
    known = second(frame.with_columns(accuracy_stderr=errors), loss="squared")
    assert known.options["weights"] == "stderr"
    # On the angle the errors of counting are all one: so are the weights, and the fits.
    assert known.estimates() == pytest.approx(second(frame, loss="squared").estimates(), rel=1e-3)
    assert "s from accuracy_stderr" in str(known)


def test_it_is_saved_and_read_with_its_target(accuracy: p2fit.Fit, tmp_path: Path) -> None:
    accuracy.save(tmp_path / "a.json")
    again = p2fit.load(tmp_path / "a.json")
    assert isinstance(again, p2fit.Fit)
    assert again.target == "accuracy"
    assert again.to_dict() == accuracy.to_dict()
    assert "target      accuracy, all of it in [0, 1]: taken for a share" in str(again)
    assert "nats" not in str(again)
    assert again.law.latex("accuracy").startswith(r"\mathrm{accuracy} = ")


# ---------------------------------------------------------------- what hangs on a fit


def test_bootstrap_profile_compare_validate_and_identify(frame: pl.DataFrame) -> None:
    options: dict[str, Any] = {"target": "accuracy"}
    drawn = second(frame, bootstrap=200)
    plain = second(frame)
    at = {"loss": np.array([2.2, 3.0])}
    wide, narrow = (np.subtract(*(band(f, at))[::-1]) for f in (drawn, plain))
    assert wide == pytest.approx(narrow, rel=0.5)
    (mid,) = p2fit.profile(frame, SIGMOID, parameters=["mid"], **options)
    assert mid.interval == pytest.approx(plain.parameters["mid"].interval, rel=0.02)
    compared = p2fit.compare(frame, [SIGMOID, "top*exp(-k*loss)"], **options)[0]
    assert compared.scores[0].label == SIGMOID
    assert compared.scores[0].conditions["falls_with_tokens"] is None
    assert "RMSE arcsine" in str(compared)
    found = p2fit.validate(frame, SIGMOID, holdout=["k-fold:5"], **options)[0]
    assert found.score is not None
    assert found.score.asd is None
    assert 0.8 < (found.score.coverage or 0) <= 1
    assert found.points is not None
    assert set(found.points.to_dicts()[0]) >= {"accuracy", "predicted"}
    design = frame.drop("accuracy").select("run", "loss")
    report = p2fit.identify_design(design, SIGMOID, design=True, **options)[0]
    assert report.rank == report.parameters == 4


def test_what_the_data_leave_open_is_a_range(loss: p2fit.Fit) -> None:
    """Three losses for four parameters; the chain says the same."""
    x = np.repeat([2.2, 2.6, 3.0], 4)
    share = Law.parse(SIGMOID, columns=COLUMNS).predict(TRUTH, {"loss": x})
    share = share + 0.003 * np.random.default_rng(0).standard_normal(12)
    found = second({"run": [f"r{i}" for i in range(12)], "loss": x, "accuracy": share})
    assert found.identification["rank"] == 3
    ends = found.range({"loss": np.array([2.2, 1.9])})
    assert ends is not None
    width = ends[1] - ends[0]
    assert width[0] < 1e-3
    assert width[1] > 0.01
    at = {"params": 8e10, "tokens": 1e13}
    chained = p2fit.predict(found, at, through=loss)
    assert chained.leans.all()
    assert chained.range is not None
    assert chained.range[1] > chained.range[0]
    assert "leans on what the data leave open (chance, top, k, mid)" in " ".join(
        str(chained).split()
    )


def test_pictures_carry_its_name(accuracy: p2fit.Fit, frame: pl.DataFrame) -> None:
    pytest.importorskip("matplotlib")
    drawn = p2fit.plot(accuracy, "curves", curves=frame)
    assert drawn.get_supylabel() == "accuracy"
    axis = p2fit.plot(accuracy, "observed", curves=frame).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted accuracy", "observed accuracy")
    missed = p2fit.plot(accuracy, "residuals", curves=frame)
    assert missed.get_supylabel() == "observed − predicted, of accuracy"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda f, c: p2fit.report(f, curves=c), "a report is for laws of the loss"),
        (lambda f, c: p2fit.plot(f, "contours", curves=c), "contours is for laws of the loss"),
        (lambda f, c: p2fit.plan_tokens(f, {}, loss=[2.0]), "this fit predicts accuracy"),
        (lambda f, c: p2fit.plan_next(f, c), "a plan of runs is for laws of the loss"),
        (lambda f, c: p2fit.plan_compute(f, [1e20]), "a plan of compute is for laws of the loss"),
    ],
)
def test_what_is_for_losses_alone_says_so(
    what: Any, message: str, accuracy: p2fit.Fit, frame: pl.DataFrame
) -> None:
    with pytest.raises(p2fit.FitError, match=message):
        what(accuracy, frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "accuracy"}, "a law for accuracy must be given"),
        ({"target": "accuracy", "law": "a - b*accuracy"}, "predicts the accuracy: it cannot be"),
        ({"target": "loss", "law": "a - b*loss"}, "it cannot be an input; --target names another"),
        ({"target": "grade", "law": SIGMOID}, "needs grade, which the file lacks; it has run"),
        ({"target": "run", "law": SIGMOID}, "run is not a column of numbers"),
        ({"target": "name", "law": SIGMOID}, "is not a number"),
        ({"target": "none", "law": SIGMOID}, "none is empty in every row"),
        ({"target": "loss", "law": "chinchilla", "residual": "arcsine"}, "for shares in"),
        ({"target": "zero", "law": SIGMOID, "residual": "log"}, "log residuals are for values"),
    ],
)
def test_faults_are_clear(options: dict[str, Any], message: str, frame: pl.DataFrame) -> None:
    more = frame.with_columns(name=pl.lit("good"), none=pl.lit(None, pl.Float64), zero=pl.lit(0.0))
    law = options.pop("law", None)
    with pytest.raises((p2fit.FitError, p2fit.LawError, CurvesError), match=message):
        p2fit.fit(more, law, **options)


def test_rows_that_are_left_out_have_no_say_in_the_residual(
    frame: pl.DataFrame, accuracy: p2fit.Fit
) -> None:
    wrong = frame[:1].with_columns(run=pl.lit("wrong"), accuracy=pl.lit(-1.0))
    more = pl.concat([frame, wrong])
    found = second(more, where="run <> 'wrong'")
    assert found.options["residual"] == "arcsine"
    assert found.estimates() == pytest.approx(accuracy.estimates())
    assert second(more).options["residual"] == "linear"


def test_a_law_of_a_target_beside_base_loss_needs_no_losses(frame: pl.DataFrame) -> None:
    table = frame.with_columns(base_loss=pl.lit(2.0), pruning_rate=pl.lit(0.3)).drop("loss")
    law = "a - b*pruning_rate*base_loss/tokens^c"
    found = p2fit.fit(table, law, target="accuracy")
    assert found.target == "accuracy"
    with pytest.raises(p2fit.FitError, match="subtracted from losses; this law predicts accuracy"):
        p2fit.fit(table, law, target="accuracy", subtract_control=True)


def test_a_simulation_is_of_losses() -> None:
    with pytest.raises(p2fit.LawError, match="cannot be an input"):
        p2fit.simulate("a - b*loss", {"a": 1.0, "b": 0.1}, {"loss": [2.0, 3.0]})


# ---------------------------------------------------------------- chains


def test_a_chain_is_one_fit_after_the_other(loss: p2fit.Fit, accuracy: p2fit.Fit) -> None:
    at = {"params": [1e9, 7e10], "tokens": [2e10, 2e13]}
    found = p2fit.predict(accuracy, at, through=loss)
    middle = loss.predict({x: np.array(v) for x, v in at.items()})
    assert found.points["loss"].to_numpy() == pytest.approx(middle)
    assert found.predicted == pytest.approx(accuracy.predict({"loss": middle}))
    assert found.outside["params"][1] > 0.5  # of the first fit
    assert found.outside["loss"][1] < 0  # of the second
    assert found.outside["loss"][0] == 0
    text = " ".join(str(found).split())
    assert "through chinchilla: E + A/params^alpha + B/tokens^beta" in text
    assert "loss is outside the" in text
    document = json.loads(json.dumps(found.to_dict()))
    assert document["target"] == "accuracy"
    assert document["points"][0]["accuracy"] == pytest.approx(found.predicted[0])
    assert document["points"][0]["inputs"]["loss"] == pytest.approx(middle[0])


def test_a_chain_is_as_unsure_as_both_fits(loss: p2fit.Fit, accuracy: p2fit.Fit) -> None:
    at = {"params": 3e9, "tokens": 6e10}
    found = p2fit.predict(accuracy, at, through=loss)
    assert found.interval is not None
    assert found.new_run is not None
    columns = {x: np.array([v]) for x, v in at.items()}
    middle = {"loss": loss.predict(columns)}
    own = band(accuracy, middle)
    ends = band(loss, columns)
    carried = [accuracy.predict({"loss": end}) for end in ends]
    # To first order the two add as squares do.
    expected = np.hypot(own[1] - own[0], carried[0] - carried[1])
    assert found.interval[1] - found.interval[0] == pytest.approx(expected, rel=0.1)
    # A new run has the scatter of its loss and that of its accuracy.
    own = band(accuracy, middle, new_run=True)
    ends = band(loss, columns, new_run=True)
    carried = [accuracy.predict({"loss": end}) for end in ends]
    expected = np.hypot(own[1] - own[0], carried[0] - carried[1])
    assert found.new_run[1] - found.new_run[0] == pytest.approx(expected, rel=0.1)


def test_intervals_cover() -> None:
    """Over 40 seeds: of the accuracy at a loss, of a chain's mean and of its new runs, each within
    the data and beyond them. At 95 %, fewer than 34 of 40 come once in a thousand times."""
    at = {"params": np.array([3e9, 3e10]), "tokens": np.array([6e10, 3e12])}
    losses = {"loss": np.array([2.0, 2.7, 4.5])}
    truth = p2fit.LAWS["chinchilla"].predict(simulate.CHINCHILLA, at)
    law = Law.parse(SIGMOID, columns=COLUMNS)
    share, own = law.predict(TRUTH, {"loss": truth}), law.predict(TRUTH, losses)
    rng = np.random.default_rng(5)
    hits = np.zeros(7)
    for seed in range(40):
        frame = curves(seed, runs=30)
        then = second(frame)
        found = p2fit.predict(then, at, through=p2fit.fit(frame, "chinchilla"))
        measured = law.predict(TRUTH, {"loss": truth * np.exp(0.01 * rng.standard_normal(2))})
        counted = rng.binomial(2000, measured) / 2000
        ends = (band(then, losses), found.interval, found.new_run)
        values = np.concatenate([own, share, counted])
        low, high = np.concatenate(ends, axis=1)  # type: ignore[arg-type]
        assert np.all((low >= 0) & (high <= 1))
        hits += (low <= values) & (values <= high)
    assert hits.min() >= 34, hits


def test_a_chain_does_not_join_two_groups(frame: pl.DataFrame) -> None:
    parted = frame.with_columns(kind=pl.Series(["a", "b"] * (frame.height // 2)))
    first = p2fit.fit_each(parted, "chinchilla", by=["kind"])
    then = p2fit.fit_each(parted, SIGMOID, target="accuracy", by=["kind"])
    at = {"params": 3e9, "tokens": 6e10}
    with pytest.raises(p2fit.FitError, match="no chain: one fit is of kind = a, the other of b"):
        p2fit.predict(then[1], at, through=first[0])
    assert p2fit.predict(then[1], at, through=first[1]).group == {"kind": "b"}


def test_a_chain_of_bootstraps(frame: pl.DataFrame, loss: p2fit.Fit, accuracy: p2fit.Fit) -> None:
    at = {"params": 3e9, "tokens": 6e10}
    drawn = p2fit.predict(
        second(frame, bootstrap=400), at, through=p2fit.fit(frame, "chinchilla", bootstrap=400)
    )
    plain = p2fit.predict(accuracy, at, through=loss)
    assert drawn.interval is not None
    assert plain.interval is not None
    ratio = np.subtract(*drawn.interval) / np.subtract(*plain.interval)
    assert 0.6 < float(ratio[0]) < 1.5


def test_the_ladder_predicts_the_models_that_it_was_built_for() -> None:
    """Bhagia et al. 2024: from models up to 3B to the 7B and 13B; all four numbers are public."""
    ladder = "ladder == 1"
    first = p2fit.fit(EXAMPLE, "chinchilla", where=ladder)
    then = p2fit.fit(EXAMPLE, SIGMOID, target="hellaswag", where=ladder)
    targets = pl.read_csv(EXAMPLE).filter(pl.col("ladder") == 0)
    found = p2fit.predict(then, targets.select("params", "tokens"), through=first)
    measured = targets["hellaswag"].to_numpy()
    assert found.predicted == pytest.approx(measured, abs=0.01)
    assert found.new_run is not None
    assert np.all((found.new_run[0] < measured) & (measured < found.new_run[1]))


def test_the_commands_do_the_same(frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.write_csv(tmp_path / "c.csv")
    for name, more in (
        ("loss", ("--law", "chinchilla")),
        ("accuracy", ("--law", SIGMOID, "--target", "accuracy")),
    ):
        made = run("fit", tmp_path / "c.csv", *more, "-o", tmp_path / f"{name}.json")
        assert made.exit_code == 0, made.output
    chain = ("predict", tmp_path / "accuracy.json", "--through", tmp_path / "loss.json")
    found = run(*chain, "--params", "1B,7B", "--tokens", "1T", "--json")
    assert found.exit_code == 0, found.output
    fits = [p2fit.load(tmp_path / f"{n}.json") for n in ("loss", "accuracy")]
    at = {"params": [1e9, 7e9], "tokens": 1e12}
    expected = p2fit.predict(fits[1], at, through=fits[0])  # type: ignore[arg-type]
    assert json.loads(found.stdout) == expected.to_dict()
    from_file = run(*chain, "--at", tmp_path / "c.csv", "-o", tmp_path / "p.csv")
    assert from_file.exit_code == 0, from_file.output
    written = pl.read_csv(tmp_path / "p.csv")
    assert (written["predicted"] - written["accuracy"]).abs().max() < 0.1  # type: ignore[operator]
    plain = run("predict", tmp_path / "accuracy.json", "--set", "loss=2.1,2.9")
    assert plain.exit_code == 0, plain.output
    for arguments, message in (
        ((tmp_path / "loss.json", "--through", tmp_path / "accuracy.json"), "no chain"),
        ((tmp_path / "accuracy.json", "--through", tmp_path / "c.csv"), "not a fit"),
        ((tmp_path / "accuracy.json", "--through", tmp_path / "none.json"), "No such file"),
    ):
        bad = run("predict", *arguments, "--params", "1B", "--tokens", "1T")
        assert (bad.exit_code, bad.stdout) == (2, "")
        assert message in bad.stderr
        assert len(bad.stderr.splitlines()) == 1


# ---------------------------------------------------------------- by a posterior


def test_a_posterior_of_another_target_and_a_chain_of_two(
    frame: pl.DataFrame, loss: p2fit.Fit, accuracy: p2fit.Fit, tmp_path: Path
) -> None:
    fits = [
        p2fit.fit(frame, "chinchilla", backend="laplace"),
        p2fit.fit(frame, SIGMOID, target="accuracy", backend="laplace"),
    ]
    assert "noise of the angle of accuracy" in fits[1].summary()
    for name, found in fits[1].parameters.items():
        low, high = np.array(found.interval, float)
        assert low < TRUTH[name] < high
    points = {"params": [1e9, 3e10], "tokens": [2e10, 3e12]}
    plain = p2fit.predict(accuracy, points, through=loss)
    for i, fit in enumerate(fits):
        fit.save(tmp_path / f"{i}.json")
    first, last = (p2fit.load(tmp_path / f"{i}.json") for i in range(2))
    assert isinstance(first, p2fit.Fit)
    assert isinstance(last, p2fit.Fit)
    chained = p2fit.predict(last, points, through=first)
    assert chained.predicted == pytest.approx(plain.predicted, abs=0.01)
    widths = []
    for kind in ("interval", "new_run"):
        low, high = np.array(getattr(chained, kind))
        lower, higher = np.array(getattr(plain, kind))
        assert high - low == pytest.approx(higher - lower, rel=0.4)
        assert np.all((low >= 0) & (low < chained.predicted))
        assert np.all((high <= 1) & (chained.predicted < high))
        widths.append(high - low)
    assert np.all(widths[1] > widths[0])
