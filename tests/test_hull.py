"""The convex hull of a design, and what is said beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

import p2fit
from p2fit.hull import beyond, corners
from tests import simulate


def ranges(columns: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {x: {"min": float(v.min()), "max": float(v.max())} for x, v in columns.items()}


@given(st.integers(0, 500), st.integers(2, 4), st.integers(5, 200))
def test_distances_are_those_of_another_method(seed: int, inputs: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    columns = {f"x{i}": 10 ** rng.uniform(0, 3, rows) for i in range(inputs)}
    asked = {f"x{i}": 10 ** rng.uniform(-1, 4, 6) for i in range(inputs)}
    outermost = corners(columns)
    assert outermost is not None
    found = beyond(outermost, ranges(columns), asked)
    places = np.log10(np.array([[p[x] for x in columns] for p in outermost]))
    for i, distance in enumerate(found):
        point = np.log10([asked[x][i] for x in columns])
        heavy = 1e6  # holds the sum of the shares to 1
        matrix = np.vstack([(places - point).T, np.full(len(places), heavy)])
        wanted = nnls(matrix, np.append(np.zeros(inputs), heavy))[1]
        assert distance == pytest.approx(wanted if wanted >= 0.01 else 0, abs=2e-3)


@given(st.integers(0, 500), st.integers(2, 3), st.integers(4, 60))
def test_what_lies_between_the_data_is_not_outside(seed: int, inputs: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    columns = {f"x{i}": 10 ** rng.uniform(0, 3, rows) for i in range(inputs)}
    share = rng.dirichlet(np.ones(rows), 5)
    between = {x: 10 ** (share @ np.log10(v)) for x, v in columns.items()}
    outermost = corners(columns)
    assert outermost is not None
    # The outermost points in some hundred directions stand for all of them.
    assert beyond(outermost, ranges(columns), between).max() < 0.05


def test_an_empty_corner_is_outside() -> None:
    rng = np.random.default_rng(0)
    params = 10 ** rng.uniform(8, 10, 80)
    tokens = params * 10 ** rng.uniform(1, 1.6, 80)  # compute-optimal runs, more or less
    fit = p2fit.fit(simulate.chinchilla(seed=0, params=params, tokens=tokens), "chinchilla")
    middle, corner = {"params": 1e9, "tokens": 2e10}, {"params": 1.1e8, "tokens": 2e11}
    assert float(tokens.max()) > 2e11
    inside, outside = (p2fit.predict(fit, point) for point in (middle, corner))
    assert "together" not in {x for x, v in inside.outside.items() if np.any(v)}
    assert float(outside.outside["together"][0]) == pytest.approx(1.2, abs=0.2)
    assert "combination" in outside.summary()
    # Beyond the range of one input, that input is named.
    far = p2fit.predict(fit, {"params": 1e9, "tokens": 1e13})
    assert not far.outside["together"][0]
    assert far.outside["tokens"][0] > 0


def test_one_input_has_no_corners() -> None:
    assert corners({"tokens": np.geomspace(1, 10, 5), "params": np.ones(5)}) is None
