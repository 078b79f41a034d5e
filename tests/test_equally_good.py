"""The range of predictions over parameters that fit equally well, against closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import p2fit
from p2fit.arrays import Array
from p2fit.curves.choosing import datasets
from p2fit.errors import LawError
from p2fit.laws.table import LAWS
from p2fit.solver.solving import Solved, solve_dataset
from p2fit.uncertainty.equally_good import prediction_range
from tests import simulate


def solved(table: dict[str, Any], law: str, **options: Any) -> Solved:
    return solve_dataset(datasets(table, law, **options)[0])


def ends(found: tuple[Array, Array] | None) -> tuple[Array, Array]:
    assert found is not None
    return found


def close(found: Array, expected: Any, width: Any) -> None:
    """Within 1 % of the interval's length, and of rounding."""
    assert np.all(np.abs(found - expected) < 0.01 * np.asarray(width) + 1e-6)


def test_none_where_all_is_determined() -> None:
    here = solved(simulate.chinchilla(seed=0), "chinchilla")
    assert prediction_range(here, {"params": 1e9, "tokens": 1e10}) is None


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_two_sizes(noise: float) -> None:
    """N_C/N^alpha + E passes through two points for many alpha: brute force over it."""
    table = simulate.p2(seed=1, sizes=(5e8, 1.5e9), noise=noise)
    here = solved(table, "p2")
    sizes = np.array([5e8, 2e8, 3e9, 8e9])
    point: dict[str, Any] = {"pruning_rate": 0.25, "tokens": 1e9, "base_loss": 2.7}
    low, high = ends(prediction_range(here, {"params": sizes, **point}))

    fitted = here.problem.natural(here.solution.z)
    alpha = np.linspace(1e-4, 5, 20001)
    small, large = (fitted["N_C"] / n ** fitted["alpha"] + fitted["E"] for n in (5e8, 1.5e9))
    scale = (small - large) / (5e8**-alpha - 1.5e9**-alpha)
    floor = large - scale * 1.5e9**-alpha
    possible: dict[str, Any] = {
        **{n: fitted[n] for n in ("gamma", "delta", "D_C", "beta")},
        "N_C": scale[floor >= 0],
        "alpha": alpha[floor >= 0],
        "E": floor[floor >= 0],
    }
    for i, size in enumerate(sizes):
        expected = LAWS["p2"].predict(possible, {"params": size, **point})
        width = np.ptp(expected)
        close(low[i], expected.min(), width)
        close(high[i], expected.max(), width)
    assert high[0] - low[0] < 1e-4  # at a size of the data there is nothing open
    assert high[3] - low[3] > 0.01


def test_one_rate() -> None:
    """At another rate the fitted part is multiplied by any power of the ratio, from -5 to 5."""
    here = solved(simulate.p2(seed=2, rates=(0.25,), noise=0.0), "p2")
    rates = np.array([0.25, 0.35, 0.1])
    point = {"params": 1.5e9, "tokens": 1e9, "base_loss": 0.0}
    low, high = ends(prediction_range(here, {"pruning_rate": rates, **point}))
    true = LAWS["p2"].predict(simulate.P2, {"pruning_rate": 0.25, **point})
    powers = (rates[:, None] / 0.25) ** np.array([-5.0, 5.0])
    np.testing.assert_allclose(low, true * powers.min(axis=1), rtol=1e-3)
    np.testing.assert_allclose(high, true * powers.max(axis=1), rtol=1e-3)


def test_one_token_count() -> None:
    """E and B/D^beta are one number, e: all of it may be either, with beta from 0 to 5."""
    here = solved(simulate.chinchilla(20, seed=3, tokens=1e10, noise=0.0), "chinchilla")
    tokens = np.array([1e10, 1e11, 3e9])
    low, high = ends(prediction_range(here, {"params": 1e9, "tokens": tokens}))
    c = simulate.CHINCHILLA
    size, e = c["A"] / 1e9 ** c["alpha"], c["E"] + c["B"] / 1e10 ** c["beta"]
    np.testing.assert_allclose(low, [size + e, size + e * 1e-5, size + e], rtol=1e-3)
    np.testing.assert_allclose(high, [size + e, size + e, size + e * (10 / 3) ** 5], rtol=1e-3)


def test_every_end_is_reached_by_parameters_that_fit_as_well(pruned_llama3: Any) -> None:
    """Three directions open at once, on real data: the displayed prediction is inside."""
    here = solved(pruned_llama3, "p2", pool=True)
    point: dict[str, Any] = {
        "params": 3e9,
        "pruning_rate": [0.25, 0.6],
        "tokens": 1e9,
        "base_loss": 0.7,
    }
    low, high = ends(prediction_range(here, point))
    natural = {n: float(v) for n, v in here.problem.natural(here.solution.z).items()}
    shown = LAWS["p2"].predict(natural, point)
    assert np.all((low <= shown) & (shown <= high))
    assert np.all(low >= 0.7)
    assert np.all(high - low > 0.1)


def test_open_parameters_that_move_nothing_leave_no_range() -> None:
    here = solved(simulate.chinchilla(60, seed=1, noise=0.0, B=0.0, E=2.0), "chinchilla")
    low, high = ends(prediction_range(here, {"params": 1e9, "tokens": [1e9, 1e12]}))
    np.testing.assert_allclose(low, high, rtol=1e-6)


def test_many_points_and_many_rows() -> None:
    """Beyond 24 points and 1024 rows the search thins out; what it finds holds for all of them."""
    here = solved(simulate.p2(seed=1, sizes=(5e8, 1.5e9), checkpoints=200), "p2")
    tokens = np.linspace(1e8, 3e9, 28).reshape(2, 14)
    point = {"params": 3e9, "pruning_rate": 0.25, "base_loss": 2.7}
    low, high = ends(prediction_range(here, {"tokens": tokens, **point}))
    assert low.shape == high.shape == (2, 14)
    one = ends(prediction_range(here, {"tokens": tokens[1, 7], **point}))
    close(low[1, 7], one[0], one[1] - one[0])
    close(high[1, 7], one[1], one[1] - one[0])


def test_what_cannot_be_asked() -> None:
    here = solved(simulate.chinchilla(20, seed=3, tokens=1e10), "chinchilla")
    with pytest.raises(LawError, match="needs tokens"):
        prediction_range(here, {"params": 1e9})
    with pytest.raises(LawError, match="tokens must be above 0"):
        prediction_range(here, {"params": 1e9, "tokens": 0.0})


def test_a_saved_fit_carries_the_range(tmp_path: Path) -> None:
    table = simulate.p2(seed=1, sizes=(5e8, 1.5e9), rates=(0.1, 0.2, 0.3, 0.4))
    fit = p2fit.fit(table)
    fit.save(tmp_path / "fit.json")
    saved = p2fit.load(tmp_path / "fit.json")
    assert isinstance(saved, p2fit.Fit)
    there = {"params": 3e9, "pruning_rate": 0.25, "base_loss": 2.7, "tokens": 1e9}
    inside = {**there, "params": 1.5e9}
    found, known = saved.range(there), saved.range(inside)
    exact = prediction_range(solve_dataset(datasets(table)[0]), there)
    assert found is not None
    assert known is not None
    assert exact is not None
    # The third size is open, a size of the data is not.
    assert found[1] - found[0] > 20 * (known[1] - known[0])
    assert exact[0] - 1e-6 <= found[0] <= exact[0] + 0.05 * (exact[1] - exact[0])
    assert exact[1] + 1e-6 >= found[1] >= exact[1] - 0.05 * (exact[1] - exact[0])
    assert p2fit.fit(simulate.p2(seed=1)).range(there) is None
