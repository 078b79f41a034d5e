"""Many refits by either engine: the same ends, whatever the law, the scale and the data."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.arrays import Array
from p2fit.fit import to_json
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS
from p2fit.solver import compiled, refits
from p2fit.solver.build import build
from p2fit.solver.least_squares import Minimum
from p2fit.solver.problem import Problem
from p2fit.solver.search import solve
from tests import simulate

#: Parameters with which a law is simulated.
TRUTHS: dict[str, dict[str, float]] = {
    "chinchilla": simulate.CHINCHILLA,
    "p2": simulate.P2,
    "kaplan-n": {"N_c": 8.8e13, "alpha_N": 0.076},
    "skaling": {"E": 1.7, "A": 20.0, "alpha": 0.2, "B": 40.0, "beta": 0.2, "k": 1.5},
    "shifted": {**simulate.CHINCHILLA, "N_0": 1e7, "D_0": 1e9},
    "chance + (top - chance)/(1 + exp(k*(loss - mid)))": {
        "chance": 0.25,
        "top": 0.95,
        "k": 3.0,
        "mid": 2.7,
    },
}


def ended(engine: str, problem: Problem, start: Array, **data: Array) -> Minimum:
    """Refits on losses or weights, (count, n), by one of the engines."""
    count = len(next(iter(data.values())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refits, "_CELLS", 1)  # NumPy does the first batch
        patch.setattr(refits, "PAYS", 0 if engine == "jax" else math.inf)
        many = refits.Refits(problem, start)
        found = many(count, lambda numbers: {n: v[numbers] for n, v in data.items()}, damping=0.02)
    assert many.engine == engine
    return found


def agree(one: Minimum, other: Minimum, problem: Problem) -> None:
    assert np.array_equal(one.converged, other.converged)
    np.testing.assert_allclose(one.value, other.value, rtol=1e-9, atol=problem.floor)


@pytest.mark.parametrize("name", TRUTHS)
@settings(max_examples=4)
@given(st.data())
def test_both_engines_end_at_the_same_objectives(name: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    n, count = data.draw(st.integers(20, 300), "rows"), data.draw(st.integers(1, 40), "refits")
    columns = {
        "params": np.exp(rng.uniform(17, 24, n)),
        "tokens": np.exp(rng.uniform(20, 27, n)),
        "pruning_rate": rng.uniform(0.1, 0.5, n),
        "base_loss": rng.uniform(2.0, 3.0, n),
        "loss": rng.uniform(1.5, 4.0, n),
    }
    law, truth = LAWS.get(name) or Law.parse(name, columns=list(columns)), dict(TRUTHS[name])
    if data.draw(st.booleans(), "a term is 0"):
        for bounded in law.coefficients[-1:]:
            truth[bounded] = 0.0
    noise = data.draw(st.sampled_from([1e-4, 0.01, 0.1]), "noise")
    y = law.predict(truth, columns) * np.exp(noise * rng.standard_normal(n))
    scales = ["log", "linear", *(["arcsine"] if "chance" in law.parameters else [])]
    weights = rng.uniform(0.5, 2.0, n) * (rng.random(n) < 0.9)
    problem = build(
        law,
        {x: columns[x] for x in law.inputs},
        y,
        weights if data.draw(st.booleans(), "weighted") else np.ones(n),
        residual=data.draw(st.sampled_from(scales), "scale"),
        delta=data.draw(st.sampled_from([1e-3, 0.01, math.inf]), "delta"),
    )
    start = solve(problem).z
    if data.draw(st.booleans(), "other losses"):
        given = {"y": y * np.exp(noise * rng.standard_normal((count, n)))}
    else:
        given = {"weights": problem.weights * rng.multinomial(n, np.full(n, 1 / n), count)}
    agree(ended("jax", problem, start, **given), ended("numpy", problem, start, **given), problem)


def test_numpy_goes_on_with_what_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = simulate.chinchilla(50, seed=1)
    law = LAWS["chinchilla"]
    problem = build(law, {x: columns[x] for x in law.inputs}, columns["loss"], np.ones(50))
    start = solve(problem).z
    y = problem.y * np.exp(0.05 * np.random.default_rng(0).standard_normal((30, 50)))
    expected = ended("numpy", problem, start, y=y)
    monkeypatch.setattr(compiled, "MOST", 1)
    assert not compiled.refitting(problem, 30)(start, y, np.ones((30, 50)), 0.02).converged.any()
    agree(ended("jax", problem, start, y=y), expected, problem)


# ---------------------------------------------------------------- the bootstrap


@pytest.mark.parametrize("law", ["chinchilla", "skaling"])
@pytest.mark.parametrize("resample", ["runs", "wild"])
def test_a_large_bootstrap_says_so_and_has_the_same_numbers(
    law: str, resample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = pl.DataFrame(simulate.chinchilla(80, seed=2))
    many: dict[str, Any] = {"law": law, "bootstrap": 300, "resample": resample, "seed": 5}
    usual = p2fit.fit(table, **many)
    monkeypatch.setattr(refits, "PAYS", 1e5)
    large = p2fit.fit(table, **many)
    below = p2fit.fit(table, **{**many, "bootstrap": 100})
    for fit in (usual, below):
        assert "JAX" not in fit.summary()
        assert fit.bootstrap is not None
        assert "engine" not in fit.bootstrap
    assert "300 draws over 80, refitted by JAX" in large.summary()
    for name, own in usual.parameters.items():
        assert large.parameters[name].stderr == pytest.approx(own.stderr, rel=1e-6)
        assert large.parameters[name].interval == pytest.approx(own.interval, rel=1e-6)
    large.save(tmp_path / "fit.json")
    again = p2fit.load(tmp_path / "fit.json")
    assert isinstance(again, p2fit.Fit)
    assert again.summary() == large.summary()


def test_without_jax_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = simulate.chinchilla(40, seed=3)
    usual = to_json(p2fit.fit(table, bootstrap=60))
    monkeypatch.setattr(refits, "PAYS", 0)
    monkeypatch.setitem(sys.modules, "jax", None)
    assert to_json(p2fit.fit(table, bootstrap=60)) == usual


def test_a_small_bootstrap_imports_no_jax_and_a_large_one_leaves_its_precision() -> None:
    code = (
        "import sys, p2fit\nfrom p2fit.solver import refits\nfrom tests import simulate\n"
        "table = simulate.chinchilla(60, seed=4)\n"
        "p2fit.fit(table, bootstrap=500)\nprint('jax' in sys.modules)\n"
        "refits.PAYS = 0\n"
        "p2fit.fit(table, bootstrap=50)\nprint(sys.modules['jax'].numpy.ones(1).dtype)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\nfloat32\n", "")
