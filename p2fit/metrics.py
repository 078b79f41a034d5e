"""How well a law fits: R², RMSE, MAPE, the mean Huber loss, and the average slope difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2fit.arrays import Array

#: Unit in which ``asd`` is given.
ASD_UNIT = "nats per billion tokens"


def r_squared(observed: Array, fitted: Array) -> float | None:
    """Share of the variance that is explained; None where nothing varies."""
    spread = float(np.sum((observed - observed.mean()) ** 2))
    if spread <= (1e-14 * float(np.abs(observed).max())) ** 2 * len(observed):
        return None
    return 1 - float(np.sum((observed - fitted) ** 2)) / spread


def rmse(observed: Array, fitted: Array) -> float:
    """Root mean square error, nats per token."""
    return float(np.sqrt(np.mean((observed - fitted) ** 2)))


def mape(observed: Array, fitted: Array) -> float:
    """Mean absolute error as a share of the observed loss (0.01 is 1 %)."""
    return float(np.mean(np.abs(observed - fitted) / observed))


def mean_huber(residuals: Array, delta: float) -> float:
    """Mean over rows of Huber's function (the objective is its weighted sum)."""
    size = np.abs(residuals)
    clipped = np.minimum(size, delta)
    return float(np.mean(clipped * (size - 0.5 * clipped)))


def asd(
    runs: Sequence[object] | np.ndarray, tokens: Array, observed: Array, fitted: Array
) -> float | None:
    """Average slope difference: does the curve fall as fast as it should?

    The mean over consecutive checkpoints of one run of |ΔL/ΔD - ΔL̂/ΔD|, averaged over runs, in
    nats per billion tokens. Rows come sorted by run, then tokens. Chen et al. (2025) report an
    ASD without its formula; this is p2fit's reading of it. None where no run has two checkpoints.
    """
    names = np.asarray(runs)
    same = names[1:] == names[:-1]
    if not same.any():
        return None
    gap = np.diff(observed - fitted)[same] / (np.diff(tokens)[same] / 1e9)
    _, run = np.unique(names[1:][same], return_inverse=True)
    return float(np.mean(np.bincount(run, np.abs(gap)) / np.bincount(run)))
