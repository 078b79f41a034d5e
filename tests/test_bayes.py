"""The Bayesian backend: the density, its coordinates, the draws, and what a fit says of them."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jsonschema
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pytensor.compile.mode import Mode
from scipy import stats

import p2fit
from p2fit.bayes import checks, fitting, laplace, leaving_out, sampling
from p2fit.bayes.build import posterior
from p2fit.bayes.coordinates import Coordinates
from p2fit.bayes.functions import NUMPY, jax_functions
from p2fit.bayes.posterior import Posterior
from p2fit.bayes.priors import parse
from p2fit.bayes.pymc import pymc_model
from p2fit.cli import main
from p2fit.curves.choosing import datasets
from p2fit.diagnostics import ALONG
from p2fit.errors import FitError
from p2fit.laws.table import LAWS
from p2fit.solver.build import build
from tests import simulate
from tests import test_formulas as formulas

SCHEMA = json.loads(
    (Path(p2fit.__file__).parent / "schemas" / "fit.schema.json").read_text(encoding="utf-8")
)

#: Besiroglu et al. 2024: estimates and standard errors on these rows.
PUBLISHED = {
    "A": (482.01, 124.5),
    "B": (2085.43, 1293.3),
    "E": (1.8172, 0.026),
    "alpha": (0.3478, 0.0154),
    "beta": (0.3658, 0.0206),
}


def built(source: Any, law: str | None = None, **options: Any) -> tuple[Posterior, Any]:
    own = {k: options.pop(k) for k in ("noise", "prior") if k in options}
    dataset = fitting.with_runs(datasets(source, law, **options)[0], options)
    _, found, start = fitting.build_posterior(dataset, fitting.BayesOptions(**own))
    return found, start


CURVES = simulate.p2(seed=0, offset=0.01, checkpoints=6)
# Slopes of their own for every run, which no parameter of the law can follow.
BENT = {
    **CURVES,
    "loss": np.array(CURVES["loss"])
    * (np.array(CURVES["tokens"]) / 3e8)
    ** np.repeat(np.random.default_rng(1).normal(0, 0.05, 9), 6),
}
KAPLAN = simulate.chinchilla(30, seed=0)
SHORT = simulate.p2(seed=0, offset=0.01, checkpoints=3)  # too short for rates
UNEVEN = {k: np.delete(np.asarray(v), [1, 2, 3, 4, 9, 20]) for k, v in BENT.items()}
LONG = simulate.p2(seed=0, offset=0.01, checkpoints=40)
ONE_LONG = {
    k: np.asarray(v)[np.r_[:40, [40 * i + j for i in range(1, 9) for j in (5, 20, 39)]]]
    for k, v in LONG.items()
}
# A law whose runs do not differ in proportion to an excess.
DENSE = {
    "run": np.repeat([f"r{i}" for i in range(12)], 8),
    "params": np.repeat(np.geomspace(1e8, 4e9, 12), 8),
    "tokens": np.tile(np.geomspace(1e9, 2e10, 8), 12),
}
DENSE["loss"] = LAWS["chinchilla"].predict(simulate.CHINCHILLA, DENSE) * np.exp(
    np.repeat(np.random.default_rng(2).normal(0, 0.005, 12), 8)
    + np.random.default_rng(3).normal(0, 0.002, 96)
)
POSTERIORS: dict[str, dict[str, Any]] = {
    "one row per run": {"source": simulate.chinchilla(30, seed=1)},
    "runs with offsets": {"source": CURVES},
    "runs that the law fits badly": {"source": BENT},
    "the same with standard errors": {
        "source": {**BENT, "loss_stderr": np.geomspace(1e-3, 1e-2, len(BENT["loss"]))}
    },
    "runs too short for rates": {"source": SHORT},
    "runs of different lengths": {"source": UNEVEN},
    "a long run among short ones": {"source": ONE_LONG},
    "more rows than fit into one kernel": {"source": simulate.chinchilla(4200, seed=1)},
    "runs without a base model": {"source": DENSE},
    "rows as independent": {"source": CURVES, "errors": "rows"},
    "normal noise": {"source": CURVES, "noise": "normal"},
    "standard errors": {
        "source": {**CURVES, "loss_stderr": np.geomspace(1e-3, 1e-2, len(CURVES["loss"]))}
    },
    "own priors": {
        "source": simulate.chinchilla(30, seed=1),
        "prior": ["alpha ~ Uniform(0.1, 0.9)", "A ~ LogNormal(6, 1)", "beta ~ HalfNormal(1)"],
    },
    "a coefficient to a power": {
        "source": KAPLAN,
        "law": "kaplan-n",
        "prior": ["N_c ~ LogNormal(30, 5)", "alpha_N ~ Gamma(2, 10)"],
    },
    "fixed and tied": {"source": CURVES, "fix": {"gamma": -1.3}, "tie": {"beta": "alpha"}},
    "terms of other signs": {
        "source": simulate.chinchilla(30, seed=1),
        "law": "3 + A/params^alpha - B*tokens^beta",
    },
    **{name: {"source": formulas.table(name, 5e-3), "law": name} for name in formulas.CASES},
    "no coefficients, of one's own": {
        "source": KAPLAN,
        "law": "((A/params)^(alpha/beta) + (B/tokens))^beta + base*exp(-tokens/(r*params))",
    },
    "a formula with priors and offsets": {
        "source": CURVES,
        "law": "p2-shifted",
        "fix": {"gamma": -1.3},
        "tie": {"beta": "alpha"},
        "prior": ["D_0 ~ LogNormal(16, 1)", "E ~ LogNormal(1, 1)", "alpha ~ Uniform(0.1, 0.9)"],
    },
    "priors for what is inside": {
        "source": formulas.table("skaling", 5e-3),
        "law": "skaling",
        "prior": ["A ~ LogNormal(12, 2)", "E ~ HalfNormal(3)"],
    },
    "a stated range": {
        "source": formulas.table("precision", 5e-3),
        "law": "precision",
        "ranges": {"gamma": (0.0, 10.0), "alpha": (-1.0, 1.0), "E": (0.5, 3.0)},
    },
}


Case = tuple[Coordinates, Any, Any]


@pytest.fixture(params=POSTERIORS, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    """Coordinates of a posterior, five points where it has its mass, and what JAX makes of it."""
    coordinates, mode = sampling.prepare(*built(**POSTERIORS[request.param]))
    steps = np.random.default_rng(0).standard_normal((5, len(mode.x)))
    d = len(mode.x)
    by_jax = sampling.value_and_slope(
        Coordinates(coordinates.posterior, ()), laplace.Mode(np.zeros(d), np.eye(d))
    )
    return coordinates, coordinates.x(mode.x + steps @ mode.root.T), by_jax


# ---------------------------------------------------------------- the density


def test_pymc_and_jax_give_the_same_density_and_gradient(
    case: tuple[Coordinates, Any, Any],
) -> None:
    map_, points, by_jax = case
    own = map_.posterior
    model = pymc_model(own)
    mode = Mode(linker="py", optimizer="None")
    density = model.compile_logp(jacobian=False, mode=mode)
    slope = model.compile_dlogp(jacobian=False, mode=mode)
    for x in points:
        expected = float(density({"x": x}))
        value, gradient = by_jax(x)
        assert own.log_density(x) == pytest.approx(expected, rel=1e-9)
        assert value == pytest.approx(expected, rel=1e-9)
        by_pymc = np.asarray(slope({"x": x}))
        assert gradient == pytest.approx(by_pymc, rel=1e-6, abs=1e-7 * np.abs(by_pymc).max())


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_sums_over_runs_and_what_spreads_them_are_numpys_and_each_others_derivatives(
    lengths: list[int], seed: int
) -> None:
    functions = jax_functions()
    run = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    rng = np.random.default_rng(seed)
    rows, each = rng.normal(size=len(run)), rng.normal(size=len(lengths))
    with jax.enable_x64(True):
        summed, by_sums = jax.vjp(lambda x: functions.sums(x, run, starts), rows)
        given_, by_spread = jax.vjp(lambda x: functions.spread(x, run, starts), each)
        (back,), (forth,) = by_sums(jax.numpy.asarray(each)), by_spread(jax.numpy.asarray(rows))
    assert summed == pytest.approx(NUMPY.sums(rows, run, starts), abs=1e-12)
    assert np.array_equal(given_, each[run])
    assert np.array_equal(back, each[run])
    assert forth == pytest.approx(NUMPY.sums(rows, run, starts), abs=1e-12)


def test_many_points_at_once_are_as_one_by_one(case: Case) -> None:
    own, points = case[0].posterior, case[1]
    each = [own.log_density(x) for x in points]
    assert own.in_batches(own.log_density, points) == pytest.approx(each)


def test_coordinates_go_there_and_back_with_their_jacobian(
    case: tuple[Coordinates, Any, Any],
) -> None:
    map_, points, _ = case
    own = map_.posterior
    for x in points:
        w, h = map_.w(x), 1e-6
        assert map_.x(w) == pytest.approx(x, abs=1e-9)
        columns = [(map_.x(w + h * e) - map_.x(w - h * e)) / (2 * h) for e in np.eye(len(w))]
        volume = np.linalg.slogdet(np.array(columns))[1]
        assert map_.density(w) == pytest.approx(own.log_density(x) + volume, abs=1e-6)


def test_far_off_there_is_no_density_but_no_crash(case: Case) -> None:
    _, points, at = case
    missing = 0
    for far in 10.0 ** np.arange(1, 7):
        for sign in (-1, 1):
            for axis in np.eye(points.shape[1]):
                try:
                    value, slope = at(points[0] + sign * far * axis)
                    assert math.isfinite(value)
                    assert np.isfinite(slope).all()
                except sampling.NoDensityError:
                    missing += 1
    assert missing


@pytest.mark.parametrize("noise", ["student-t", "normal"])
@pytest.mark.parametrize("data", ["P²", "uneven", "dense", "errors"])
def test_what_runs_share_is_integrated_out(data: str, noise: Any) -> None:
    """The density of a run is that of its rows with their whole covariance, written out."""
    sources: dict[str, Any] = {"P²": CURVES, "uneven": UNEVEN, "dense": DENSE}
    known = np.geomspace(1e-3, 1e-2, len(CURVES["loss"]))
    sources["errors"] = {**CURVES, "loss_stderr": known}
    own, start = built(sources[data], noise=noise)
    runs = own.runs
    assert runs is not None
    assert runs.logs is not None
    assert runs.excess == (data != "dense")
    rng = np.random.default_rng(0)
    for x in start + 0.3 * rng.standard_normal((3, len(start))):
        found, values = own.log_likelihood(x), {n: float(v) for n, v in own.natural(x).items()}
        fitted = own.fitted(x)
        level = 1 - own.problem.offset / fitted if runs.excess else np.ones(len(fitted))
        sigma = np.hypot(values["sigma"], 0.0 if own.errors is None else own.errors)
        far = np.abs(np.subtract.outer(runs.place, runs.place)) / values["length"]
        whole = np.exp(-far) * np.outer(sigma, sigma)
        whole += values["tau"] ** 2 * np.outer(level, level)
        whole += values["rate"] ** 2 * np.outer(level * runs.logs, level * runs.logs)
        for run in range(len(found)):
            rows = runs.run == run
            r, cov = (own.observed - np.log(fitted))[rows], whole[np.ix_(rows, rows)]
            if noise == "normal":
                expected = stats.multivariate_normal(cov=cov).logpdf(r)
            else:
                expected = stats.multivariate_t(shape=cov, df=values["nu"]).logpdf(r)
            assert found[run] == pytest.approx(float(expected), rel=1e-7, abs=1e-6)


def test_simulated_rows_have_the_covariance_of_the_model() -> None:
    own, start = built(CURVES, noise="normal")
    drawn = own.simulate(np.broadcast_to(start, (4000, len(start))), np.random.default_rng(0))
    white = own.whitened(drawn, start)
    rows = np.stack([*white.effects, white.rows[:, own.runs.starts]])  # type: ignore[union-attr]
    squares = [float((e**2).mean()) for e in white.effects]
    assert rows.mean() == pytest.approx(0.0, abs=0.02)
    total = (white.rows**2).sum(1) + sum((e**2).sum(1) for e in white.effects)
    freedom = len(own.observed)  # of the squares of independent normals
    assert total.mean() == pytest.approx(freedom, abs=5 * math.sqrt(2 * freedom / 4000))
    assert max(squares) < 1.01


KNOWN = ("params", "tokens", "pruning_rate", "base_loss", "avg_params")
PLAIN = [n for n, law in LAWS.items() if law.monomial and set(law.inputs) <= set(KNOWN)]


PLAIN = [n for n in PLAIN if LAWS[n].coefficients]


@pytest.mark.parametrize("law", [*PLAIN, *formulas.CASES, "annealing"])
def test_losses_of_the_prior_are_plausible(law: str) -> None:
    """Over a usual range of sizes, rates and tokens."""
    rng = np.random.default_rng(0)
    n = 40
    columns = {
        "params": np.exp(rng.uniform(np.log(1e8), np.log(1e10), n)),
        "tokens": np.exp(rng.uniform(np.log(1e9), np.log(1e11), n)),
        "pruning_rate": rng.uniform(0.1, 0.6, n),
        "base_loss": rng.uniform(2.2, 2.9, n),
        "precision": rng.choice([3.0, 4.0, 6.0, 8.0, 16.0], n),
        "lr_area": rng.uniform(1, 400, n),
        "lr_annealing": np.maximum(rng.uniform(-20, 40, n), 0),
    }
    columns["avg_params"] = columns["params"]
    columns["unique_tokens"] = columns["tokens"] / rng.choice([1.0, 4.0, 16.0], n)
    columns = {k: v for k, v in columns.items() if k in LAWS[law].inputs}
    y = np.full(n, 3.0)
    problem = build(LAWS[law], columns, y, np.ones(n))
    own = posterior(problem, None)
    losses = own.in_batches(own.fitted, own.prior_draws(2000))
    usable = np.all(losses > 0, axis=1)  # the others are outside the posterior
    assert usable.mean() > (0.95 if law != "annealing" else 0.4)
    losses = losses[usable]
    middle = np.median(losses, axis=1)
    assert 1.5 < np.median(middle) < 7.0
    assert np.mean((middle > 0.5) & (middle < 30)) > 0.8
    assert np.mean((losses > 0.1) & (losses < 100)) > 0.9


def test_prior_draws_follow_the_prior() -> None:
    own, _ = built(simulate.chinchilla(30, seed=1), prior=["A ~ LogNormal(6, 1)"])
    drawn = own.natural(own.prior_draws(4000))
    assert stats.kstest(np.log(drawn["A"]), stats.norm(6, 1).cdf).pvalue > 1e-3
    assert stats.kstest(np.log(drawn["alpha"]), stats.norm(np.log(0.35), 0.8).cdf).pvalue > 1e-3
    assert stats.kstest(drawn["nu"], stats.gamma(2, scale=10).cdf).pvalue > 1e-3


def test_a_law_has_the_same_posterior_as_a_formula() -> None:
    """With priors in the formula's units, and x moved from one path's sizes to the other's."""
    prior = ["E ~ LogNormal(0.5, 1)", "A ~ LogNormal(6, 2)", "B ~ HalfNormal(5000)"]
    source = simulate.chinchilla(30, seed=1)
    law = "E + A*exp(-alpha*log(params)) + B/tokens^beta"
    plain, _ = built(source, "chinchilla", prior=prior)
    general, start = built(source, law, prior=prior)
    assert type(plain) is not type(general)
    for x in start + 0.1 * np.random.default_rng(0).standard_normal((5, len(start))):
        values = general.natural(x)
        y = np.array(x)
        y[:3] = plain.problem.internal({n: float(values[n]) for n in plain.problem.law.free})[:3]
        y[:3] = np.log(y[:3])
        assert plain.names == general.names
        assert general.log_density(x) == pytest.approx(plain.log_density(y), rel=1e-10)


def test_a_stated_range_is_a_prior() -> None:
    ranges = {"gamma": (0.5, 8.0), "alpha": (-1.0, 1.0), "beta": (0.0, 1.0), "E": (0.5, 3.0)}
    own, _ = built(formulas.table("precision", 5e-3), "precision", ranges=ranges)
    drawn = own.natural(own.prior_draws(4000))
    for name, (low, high) in ranges.items():
        assert np.mean((drawn[name] > low) & (drawn[name] < high)) == pytest.approx(0.95, abs=0.02)
    own, _ = built(simulate.chinchilla(30, seed=1), "chinchilla", ranges={"A": (100.0, 900.0)})
    sizes = own.natural(own.prior_draws(4000))["A"]
    assert np.mean((sizes > 100) & (sizes < 900)) == pytest.approx(0.95, abs=0.02)


def test_some_of_the_rows_have_the_same_parameters() -> None:
    own, start = built(CURVES, "p2-shifted")
    assert own.runs is not None
    found = own.log_likelihood(start)
    parts = [np.flatnonzero(own.unit < 4), np.flatnonzero(own.unit >= 4)]
    each = [own.rows(p).log_likelihood(start) for p in parts]
    assert np.concatenate(each) == pytest.approx(found, rel=1e-9)


# ---------------------------------------------------------------- fits


@pytest.fixture(scope="module")
def kept(chinchilla: pl.DataFrame) -> pl.DataFrame:
    return chinchilla.filter(pl.col("kept") == 1)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trace") / "trace.nc"


@pytest.fixture(scope="module")
def nuts(kept: pl.DataFrame, trace: Path) -> p2fit.Fit:
    return p2fit.fit(kept, "chinchilla", backend="bayes", save_trace=trace)


@pytest.fixture(scope="module")
def quick(kept: pl.DataFrame) -> p2fit.Fit:
    return p2fit.fit(kept, "chinchilla", backend="laplace")


@pytest.fixture(scope="module")
def two_sizes() -> p2fit.Fit:
    curves = simulate.p2(seed=0, sizes=(5e8, 3e9), checkpoints=8)
    return p2fit.fit(curves, "p2", backend="bayes", draws=2000)  # how six runs differ mixes slowly


def test_chinchilla_is_within_a_published_standard_error(
    nuts: p2fit.Fit, kept: pl.DataFrame
) -> None:
    assert nuts.converged
    d = nuts.diagnostics or {}
    assert d["divergences"] == 0
    assert d["r_hat"] <= 1.01
    assert min(d["ess_bulk"], d["ess_tail"]) >= 400
    resampled = p2fit.fit(kept, "chinchilla", bootstrap=400).parameters
    for name, (value, stderr) in PUBLISHED.items():
        found, other = nuts.parameters[name], resampled[name].interval
        assert found.estimate == pytest.approx(value, abs=stderr)
        assert found.interval is not None
        assert other is not None
        assert found.interval[0] < other[1]  # type: ignore[operator]
        assert other[0] < found.interval[1]  # type: ignore[operator]


def test_laplace_has_the_same_medians(nuts: p2fit.Fit, quick: p2fit.Fit) -> None:
    assert (quick.diagnostics or {})["pareto_k"] < laplace.TRUST
    for name, found in nuts.parameters.items():
        assert found.stderr is not None
        away = quick.parameters[name].estimate - found.estimate  # type: ignore[operator]
        assert abs(away) < 0.1 * found.stderr
        assert quick.parameters[name].stderr == pytest.approx(found.stderr, rel=0.1)


def test_laplace_refuses_where_weights_are_wild(kept: pl.DataFrame) -> None:
    # Two sizes at one token count each: nearly everything is prior.
    own, start = built(kept, "chinchilla")
    coordinates, mode = sampling.prepare(own, start)
    narrow = laplace.Mode(mode.x + 3 * np.sqrt((mode.root**2).sum(1)), 0.05 * mode.root)
    assert laplace.importance(coordinates.log_density, narrow).pareto_k > laplace.TRUST


def test_a_fit_survives_json_with_its_draws(nuts: p2fit.Fit, tmp_path: Path) -> None:
    nuts.save(tmp_path / "fit.json")
    document = json.loads((tmp_path / "fit.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, SCHEMA)
    again = p2fit.load(tmp_path / "fit.json")
    assert isinstance(again, p2fit.Fit)
    assert again.to_dict() == nuts.to_dict()
    at = {"params": [1e9, 7e10], "tokens": [2e10, 1.4e12]}
    assert again.predict(at) == pytest.approx(nuts.predict(at))
    for new_run in (False, True):
        ends = nuts.interval(at, new_run=new_run)
        assert ends is not None
        assert again.interval(at, new_run=new_run) == pytest.approx(np.array(ends))
    mean, point = nuts.interval(at), nuts.interval(at, new_run=True)
    assert mean is not None
    assert point is not None
    assert np.all(point[0] < mean[0])
    assert np.all(mean[1] < point[1])


def test_the_trace_opens_in_arviz(nuts: p2fit.Fit, trace: Path) -> None:
    import xarray

    draws = xarray.open_dataset(trace, group="posterior", engine="h5netcdf")
    assert draws["alpha"].shape == (4, 1000)
    assert float(draws["alpha"].median()) == pytest.approx(nuts.parameters["alpha"].estimate)
    by_run = xarray.open_dataset(trace, group="log_likelihood", engine="h5netcdf")
    assert by_run["run"].shape == (4, 1000, 240)
    draws.close()
    by_run.close()


def test_two_sizes_leave_a_direction_open(two_sizes: p2fit.Fit) -> None:
    d = two_sizes.diagnostics or {}
    assert d["divergences"] == 0
    assert d["r_hat"] <= 1.01
    assert two_sizes.converged
    share = (two_sizes.posterior or {})["contraction"]
    assert share["alpha"] < 0.7 < 0.95 < min(share["gamma"], share["beta"], share["delta"])
    # Seen sizes are predicted well, an unseen one is not: its band is far wider.
    inside = {"params": 5e8, "pruning_rate": 0.25, "tokens": 1e9, "base_loss": 2.9}
    outside = {**inside, "params": 7e10}
    (low, high), (lower, higher) = (two_sizes.interval(x) for x in (inside, outside))  # type: ignore[misc]
    assert higher - lower > 3 * (high - low)
    truth = p2fit.LAWS["p2"].predict(simulate.P2, outside)
    assert lower < truth < higher


def test_the_summary_shows_both_backends_side_by_side(nuts: p2fit.Fit) -> None:
    text = nuts.summary()
    assert "least squares" in text
    assert "contraction" in text
    assert "0 divergences" in text
    assert "NOT CONVERGED" not in text
    failed = replace(nuts, converged=False, diagnostics={**(nuts.diagnostics or {}), "r_hat": 1.2})
    assert failed.summary().splitlines()[0].startswith("NOT CONVERGED  R-hat 1.200")


def test_what_the_data_do_not_move_is_named() -> None:
    # One token count: any beta fits as well as any other.
    curves = simulate.chinchilla(40, seed=1, tokens=1e10)
    # As many draws as by default: of a few hundred, the variance is known to a tenth at best.
    fit = p2fit.fit(curves, "chinchilla", backend="bayes")
    assert any(w.startswith("beta: posterior = prior") for w in fit.warnings)
    assert "posterior = prior" in fit.summary()
    assert not fit.parameters["beta"].identified


def test_priors_of_ones_own_move_the_posterior(kept: pl.DataFrame) -> None:
    fit = p2fit.fit(kept, "chinchilla", backend="laplace", prior=["alpha ~ Normal(0.5, 0.005)"])
    assert fit.parameters["alpha"].estimate == pytest.approx(0.47, abs=0.05)
    assert "alpha ~ Normal(0.5, 0.005)" in fit.summary()


@pytest.mark.parametrize(
    ("prior", "half", "twice"),
    [
        ("Normal(0.36, 0.04)", "Normal(0.36, 0.02)", "Normal(0.36, 0.08)"),
        ("LogNormal(-1, 0.1)", "LogNormal(-1, 0.05)", "LogNormal(-1, 0.2)"),
        ("HalfNormal(0.3)", "HalfNormal(0.15)", "HalfNormal(0.6)"),
        ("HalfStudentT(4, 0.3)", "HalfStudentT(4, 0.15)", "HalfStudentT(4, 0.6)"),
        ("Gamma(40, 110)", "Gamma(160, 440)", "Gamma(10, 27.5)"),
        ("Uniform(0.2, 0.6)", "Uniform(0.3, 0.5)", None),
    ],
)
def test_priors_of_other_widths_do_what_weights_say(
    kept: pl.DataFrame, prior: str, half: str, twice: str | None
) -> None:
    few = kept.sort("params", "tokens").gather_every(8)

    def at(text: str, **more: Any) -> p2fit.Fit:
        return p2fit.fit(few, "chinchilla", backend="laplace", prior=[f"alpha ~ {text}"], **more)

    one = at(prior, prior_sensitivity=True)
    assert one.posterior is not None
    found = one.posterior["prior_sensitivity"]
    assert set(found) == set(one.posterior["priors"])
    for kind, text in (("halved", half), ("doubled", twice)):
        said = found["alpha"][kind]
        if text is None:
            assert said["parameters"] is None  # beyond the ends there are no draws
            continue
        assert said["parameters"] is not None
        other = at(text)
        for name, moved in said["parameters"].items():
            own, again = one.parameters[name], other.parameters[name]
            near = 0.1 * (own.stderr or 0.0)
            assert moved["median"] == pytest.approx(again.estimate, abs=near), name
            assert moved["interval"] == pytest.approx(again.interval, abs=6 * near), name


def test_a_conclusion_that_hangs_on_a_prior_is_named(kept: pl.DataFrame) -> None:
    firm = ["alpha ~ Normal(0.6, 0.03)"]
    one = p2fit.fit(kept, backend="laplace", prior=firm, prior_sensitivity=True)
    assert any(line.startswith("alpha hangs on the prior of alpha") for line in one.warnings)
    assert "hangs on it" in one.summary()
    sound = p2fit.fit(kept, backend="laplace", prior_sensitivity=True)
    assert not any("prior" in line for line in sound.warnings)
    assert "hangs on it" not in sound.summary()
    jsonschema.validate(json.loads(json.dumps(one.to_dict())), SCHEMA)


def test_the_draws_of_laplace_carry_to_a_processor_with_other_eigenvectors(
    kept: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = p2fit.fit(kept, "chinchilla", backend="laplace")
    true = np.linalg.eigh

    def other(matrix: Any) -> Any:  # as good, by its definition
        lengths, axes = true(matrix)
        return lengths, axes * np.where(np.arange(len(lengths)) % 2, 1, -1)

    monkeypatch.setattr(np.linalg, "eigh", other)
    again = p2fit.fit(kept, "chinchilla", backend="laplace")
    for name, one in fit.parameters.items():
        assert again.parameters[name].stderr == pytest.approx(one.stderr, rel=1e-3)
        assert again.parameters[name].estimate == pytest.approx(one.estimate, rel=1e-4)


@pytest.mark.parametrize("law", formulas.CASES)
def test_known_parameters_of_any_law_come_back(law: str) -> None:
    truth, _ = formulas.CASES[law]
    fit = p2fit.fit(formulas.table(law, 2e-3, seed=3), law, backend="laplace")
    away = []
    for name, value in truth.items():
        draws = (fit.posterior or {})["draws"][name]
        positive = fit.law.ranges[name][0] >= 0
        draws, value = (np.log(draws), np.log(value)) if positive else (draws, value)
        away.append((np.median(draws) - value) / np.std(draws))
    assert np.sqrt(np.mean(np.square(away))) < 1.5
    assert np.max(np.abs(away)) < 3


def test_a_posterior_of_two_modes_says_so() -> None:
    n = np.geomspace(1e6, 1e11, 60)
    noise = 2e-3 * np.random.default_rng(0).standard_normal(60)
    loss = (1.5 + 30 * n**-0.2 + 3e5 * n**-0.9) * np.exp(noise)
    curves = {"run": [f"run-{i}" for i in range(60)], "params": n, "loss": loss}
    law = "E + A/params^a + B/params^b"  # the two terms can change places
    fit = p2fit.fit(curves, law, backend="bayes", draws=200, tune=200, chains=2)
    assert not fit.converged
    assert (fit.diagnostics or {})["modes"] == 2
    assert (fit.diagnostics or {})["r_hat"] > 1.5
    assert "the posterior has 2 modes" in fit.summary()
    with pytest.raises(FitError, match="the posterior has 2 modes"):
        p2fit.fit(curves, law, backend="laplace")
    prior = ["a ~ Normal(0.2, 0.05)", "b ~ Normal(0.9, 0.1)"]
    chosen = p2fit.fit(curves, law, backend="laplace", prior=prior)
    assert chosen.parameters["a"].estimate == pytest.approx(0.2, abs=0.02)


@pytest.fixture(scope="module")
def coupled(kept: pl.DataFrame) -> p2fit.Fit:
    return p2fit.fit(kept, "skaling", backend="bayes")


def test_a_coupled_law_is_sampled_well(coupled: p2fit.Fit, nuts: p2fit.Fit) -> None:
    d = coupled.diagnostics or {}
    assert coupled.converged
    assert d["divergences"] == 0
    assert d["r_hat"] <= 1.01
    assert min(d["ess_bulk"], d["ess_tail"]) >= 400
    k = (coupled.posterior or {})["draws"]["k"]
    assert np.median(k) == pytest.approx(0.81, abs=0.02)
    assert np.quantile(k, 0.975) < 1  # Chinchilla's law is outside
    at = {"params": 1e9, "tokens": 2e10}
    assert coupled.predict(at) == pytest.approx(nuts.predict(at), rel=2e-3)
    (plan,) = p2fit.plan_compute(coupled, [5.76e23]).budgets
    assert plan.ratio.interval is not None
    low, high = plan.ratio.interval
    assert low < 20 < high


def test_both_paths_have_the_same_medians(kept: pl.DataFrame, quick: p2fit.Fit) -> None:
    law = "E + A*exp(-alpha*log(params)) + B/tokens^beta"
    general = p2fit.fit(kept, law, backend="laplace")
    for name, found in quick.parameters.items():
        assert found.stderr is not None
        away = general.parameters[name].estimate - found.estimate  # type: ignore[operator]
        assert abs(away) < 0.1 * found.stderr


def test_a_formula_of_ones_own_from_the_command_line(tmp_path: Path) -> None:
    path, fit = tmp_path / "curves.csv", tmp_path / "fit.json"
    pl.DataFrame(formulas.table("precision", 5e-3)).write_csv(path)
    law = "E + A/(params*(1 - exp(-precision/g)))^alpha + B/tokens^beta"
    options = ["--law", law, "--range", "g=0.1..30", "--start", "g=3", "--fix", "beta=0.36"]
    asked = ["fit", str(path), "--backend", "laplace", *options, "--prior", "E ~ Normal(1.7, 0.3)"]
    found = CliRunner().invoke(main, [*asked, "-o", str(fit)])
    assert found.exit_code == 0, found.output
    assert "contraction" in found.stdout
    again = p2fit.load(fit)
    assert isinstance(again, p2fit.Fit)
    assert (again.posterior or {})["priors"]["g"] == "LogNormal(0.549306, 1.42595)"
    assert again.parameters["g"].estimate == pytest.approx(2.8, rel=0.1)
    points = tmp_path / "points.csv"
    points.write_text("params,tokens,precision\n1e9,1e10,4\n", encoding="utf-8")
    predicted = CliRunner().invoke(main, ["predict", str(fit), "--at", str(points), "--json"])
    assert predicted.exit_code == 0, predicted.output


def test_fixed_and_tied_parameters_are_held(kept: pl.DataFrame) -> None:
    fit = p2fit.fit(kept, "chinchilla", backend="laplace", fix={"E": 1.8}, tie={"beta": "alpha"})
    assert fit.parameters["E"].estimate == 1.8
    draws = fit.draws()
    assert draws is not None
    assert np.array_equal(draws["alpha"], draws["beta"])
    assert np.all(draws["E"] == 1.8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alpha ~ Normal(0.35)", "takes mean and sd"),
        ("alpha ~ Cauchy(0, 1)", "no distribution Cauchy"),
        ("alpha = 3", "not of the form"),
        ("omega ~ Normal(0, 1)", "not a free parameter"),
        ("alpha ~ Normal(0.35, -1)", "must be above 0"),
        ("A ~ Uniform(0, 1)", "a coefficient takes"),
        ("alpha ~ Uniform(-1, 1)", "from 0 up"),
    ],
)
def test_a_bad_prior_is_refused(text: str, says: str) -> None:
    with pytest.raises(FitError, match=says):
        parse([text], LAWS["chinchilla"])


@pytest.mark.parametrize(
    "options",
    [{"weights": "runs"}, {"bootstrap": 100}, {"noise": "cauchy"}],
)
def test_what_has_no_meaning_is_refused(kept: pl.DataFrame, options: dict[str, Any]) -> None:
    with pytest.raises(FitError):
        p2fit.fit(kept, "chinchilla", backend="laplace", **options)


@pytest.mark.parametrize("name", [f.name for f in fields(p2fit.BayesOptions)])
def test_least_squares_says_what_is_for_bayes(kept: pl.DataFrame, name: str) -> None:
    given: dict[str, Any] = {name: getattr(p2fit.BayesOptions(), name)}
    with pytest.raises(FitError, match=f"{name} goes with the backend bayes"):
        p2fit.fit(kept, "chinchilla", **given)


# ---------------------------------------------------------------- along runs


def wandering(seed: int, runs: int = 16, rows: int = 30) -> dict[str, Any]:
    """Chinchilla curves with a level of each run and errors that follow each other closely."""
    rng, rho = np.random.default_rng(seed), 0.98
    columns = {
        "params": np.repeat(np.geomspace(1e8, 4e9, runs), rows),
        "tokens": np.tile(np.geomspace(1e9, 2e11, rows), runs),
    }
    errors = rng.standard_normal((runs, rows))
    for i in range(1, rows):
        errors[:, i] = rho * errors[:, i - 1] + math.sqrt(1 - rho**2) * errors[:, i]
    level = np.repeat(rng.standard_normal(runs), rows)
    loss = LAWS["chinchilla"].predict(simulate.CHINCHILLA, columns)
    loss = loss * np.exp(0.004 * errors.ravel() + 0.003 * level)
    names = [f"r{i:02d}" for i in range(runs)]
    return {"run": np.repeat(names, rows), **columns, "loss": loss}


def drawn(own: Posterior, start: Any) -> Any:
    coordinates, mode = sampling.prepare(own, start)
    return coordinates.x(laplace.importance(coordinates.log_density, mode).x)


@pytest.mark.parametrize("seed", range(3))
def test_the_check_along_runs_finds_a_noise_model_that_is_wrong(seed: int) -> None:
    own, start = built(wandering(seed))
    assert own.runs is not None
    found = checks.along_runs(own, drawn(own, start))
    assert found is not None
    assert min(found.values()) > ALONG
    offsets = replace(own, runs=replace(own.runs, along=None, logs=None))
    found = checks.along_runs(offsets, drawn(offsets, start[: len(offsets.names)]))
    assert found is not None
    assert found["correlation"] < ALONG


def test_the_check_along_runs_finds_a_law_that_is_wrong() -> None:
    curves = wandering(0)
    share = curves["tokens"] / curves["tokens"].max()
    bent = {**curves, "loss": curves["loss"] * (1 - 0.05 * share**4)}  # a rate that decays
    own, start = built(bent)
    found = checks.along_runs(own, drawn(own, start))
    assert found is not None
    assert found["shape"] < ALONG


def test_rows_drawn_from_the_model_are_as_odd_as_predicted() -> None:
    own, start = built(CURVES)
    rng, shares = np.random.default_rng(0), []
    points = np.broadcast_to(start, (200, len(start)))
    for _ in range(60):
        simulated = replace(own, observed=own.simulate(start, rng))
        shares.append(list((checks.along_runs(simulated, points) or {}).values()))
    for column in np.array(shares).T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3


def test_errors_that_follow_each_other_do_not_mislead() -> None:
    fit = p2fit.fit(wandering(0), backend="laplace")
    low, high = fit.parameters["E"].interval or (None, None)
    assert low is not None
    assert high is not None
    assert low < simulate.CHINCHILLA["E"] < high
    assert fit.converged
    assert not any("independent" in w for w in fit.warnings)
    posterior = fit.posterior or {}
    assert set(posterior["noise"]) == {"sigma", "nu", "tau", "rate", "length"}
    assert posterior["runs"]["along"] in ("log tokens", "rows")
    jsonschema.validate(fit.to_dict(), SCHEMA)
    assert "runs differ in level and rate; errors correlated along" in fit.summary()
    rows = p2fit.fit(wandering(0), backend="laplace", errors="rows")
    assert any("taken for independent" in w for w in rows.warnings)
    assert (rows.diagnostics or {})["along_runs"] is None
    at = {"params": 1e9, "tokens": 2e10}
    mean, point = (fit.interval(at, new_run=n) for n in (False, True))
    assert mean is not None
    assert point is not None
    assert point[0] < mean[0] < mean[1] < point[1]


def test_a_posterior_that_fails_along_runs_is_not_converged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    curves = tmp_path / "curves.csv"
    pl.DataFrame(wandering(0)).write_csv(curves)
    right = fitting._runs
    wrong = lambda *a: replace(right(*a), along=None, logs=None)  # type: ignore[type-var]  # noqa: E731
    monkeypatch.setattr(fitting, "_runs", wrong)
    saved = tmp_path / "fit.json"
    asked = ["fit", str(curves), "--backend", "laplace", "-o", str(saved)]
    found = CliRunner().invoke(main, asked)
    assert found.exit_code == 3
    assert found.stdout.startswith("NOT CONVERGED  neighbours in a run are correlated")
    again = p2fit.load(saved)
    assert isinstance(again, p2fit.Fit)
    assert not again.converged


def test_a_cluster_of_runs_of_several_rows_is_refused() -> None:
    curves = {**wandering(0, runs=8), "pair": np.repeat(["a", "b", "c", "d"], 60)}
    with pytest.raises(FitError, match="values of pair, not both"):
        p2fit.fit(curves, backend="laplace", cluster="pair")
    single = {**simulate.chinchilla(40, seed=1), "pair": np.repeat(np.arange(20), 2).astype(str)}
    fit = p2fit.fit(single, backend="laplace", cluster="pair")
    assert set((fit.posterior or {})["noise"]) == {"sigma", "nu", "tau"}


def test_a_parameter_with_a_name_of_the_noise_is_refused() -> None:
    with pytest.raises(FitError, match="sigma is what a posterior calls"):
        p2fit.fit(KAPLAN, "E + A/params^sigma", backend="laplace")


# ---------------------------------------------------------------- calibration


def test_truths_rank_evenly_among_their_draws() -> None:
    """Simulation-based calibration in small; benchmarks/sbc.py does it at length."""
    curves = simulate.chinchilla(25, seed=2)
    columns = {k: np.asarray(curves[k]) for k in ("params", "tokens")}
    y = np.asarray(curves["loss"])
    problem = build(LAWS["chinchilla"], columns, y, np.ones(25))
    own = posterior(problem, None, noise="normal", typical=2.7)
    rng, ranks = np.random.default_rng(0), []
    for truth in own.prior_draws(40, seed=3):
        simulated = replace(own, observed=own.simulate(truth, rng))
        draws = leaving_out.draw(simulated, truth, 0)
        draws = draws[np.linspace(0, len(draws) - 1, 99).astype(int)]
        ranks.append((draws < truth).sum(axis=0) // 25)
    for column in np.array(ranks).T:
        assert stats.chisquare(np.bincount(column, minlength=4)).pvalue > 1e-3


# ---------------------------------------------------------------- leaving runs out


def test_psis_agrees_with_refits() -> None:
    own, start = built(simulate.p2(seed=0, offset=0.01, checkpoints=4))
    found = leaving_out.elpd(own, start)
    assert found.by_run.shape == (9,)
    assert 0 <= found.refitted <= 9
    for run in np.flatnonzero(~found.exact)[:2]:
        refitted = leaving_out.refit(own, start, int(run))
        assert found.by_run[run] == pytest.approx(refitted, abs=0.3)


def test_any_law_predicts_left_out_runs() -> None:
    own, start = built(simulate.p2(seed=0, offset=0.01, checkpoints=4), "p2-shifted")
    found = leaving_out.elpd(own, start)
    run = int(np.flatnonzero(~found.exact)[0])
    assert found.by_run[run] == pytest.approx(leaving_out.refit(own, start, run), abs=0.3)


def test_laws_are_compared_by_predictive_density() -> None:
    curves = simulate.chinchilla(24, seed=1)
    [found] = p2fit.compare(curves, ["kaplan-joint", "chinchilla"], backend="bayes")
    best, other = found.scores
    assert best.label == "chinchilla"
    assert best.elpd is not None
    assert other.elpd is not None
    assert other.difference_elpd is not None
    assert other.difference_elpd.value == pytest.approx(other.elpd - best.elpd)
    assert other.difference_elpd.value < -2 * other.difference_elpd.stderr
    assert "predictive density" in str(found)


# ---------------------------------------------------------------- the command line


def test_the_command_exits_3_where_draws_fail(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    pl.DataFrame(simulate.chinchilla(40, seed=3)).write_csv(path)
    few = ("--backend", "bayes", "--draws", "100", "--tune", "300", "--chains", "2")
    arguments = ["fit", str(path), *few]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 3
    assert found.stdout.startswith("NOT CONVERGED")
    allowed = CliRunner().invoke(main, [*arguments, "--allow-unconverged"])
    assert allowed.exit_code == 0
    assert allowed.stdout == found.stdout  # seeded


def test_the_command_is_the_function(kept: pl.DataFrame, tmp_path: Path) -> None:
    kept.write_csv(tmp_path / "curves.csv")
    prior = "alpha ~ Normal(0.35, 0.1)"
    options = ("--backend", "laplace", "--noise", "normal", "--prior", prior, "--json")
    found = CliRunner().invoke(main, ["fit", str(tmp_path / "curves.csv"), *options])
    assert found.exit_code == 0
    expected = p2fit.fit(
        tmp_path / "curves.csv", backend="laplace", noise="normal", prior=[prior]
    ).to_dict()
    expected["options"]["prior"] = [prior]
    assert json.loads(found.stdout) == expected
