"""Loss curves with known parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from p2fit import LAWS

CHINCHILLA = {"E": 1.8, "A": 480.0, "alpha": 0.348, "B": 2100.0, "beta": 0.366}
P2 = {
    "gamma": -1.3,
    "delta": 0.05,
    "N_C": 800.0,
    "alpha": 0.3,
    "D_C": 3600.0,
    "beta": 0.35,
    "E": 3.2,
}


def chinchilla(
    n: int = 60,
    *,
    seed: int,
    noise: float = 0.01,
    outliers: float = 0.0,
    params: Any = None,
    tokens: Any = None,
    **truth: Any,
) -> dict[str, Any]:
    """One row per run; sizes and tokens spread evenly in their logs unless given."""
    rng = np.random.default_rng(seed)
    params = np.exp(rng.uniform(np.log(4e7), np.log(1e10), n)) if params is None else params
    tokens = np.exp(rng.uniform(np.log(1e9), np.log(1e12), n)) if tokens is None else tokens
    params, tokens = (np.asarray(v, float) for v in np.broadcast_arrays(params, tokens))
    columns = {"params": params, "tokens": tokens}
    loss = LAWS["chinchilla"].predict({**CHINCHILLA, **truth}, columns)
    loss = loss * np.exp(noise * rng.standard_normal(len(loss)))
    far = rng.random(len(loss)) < outliers
    loss = np.where(far, loss * np.exp(rng.uniform(0.1, 0.6, len(loss))), loss)
    return {"run": [f"run-{i:04d}" for i in range(len(loss))], **columns, "loss": loss}


def p2(
    *,
    seed: int,
    sizes: Sequence[float] = (5e8, 1.5e9, 3e9),
    rates: Sequence[float] = (0.15, 0.25, 0.35),
    checkpoints: int = 20,
    noise: float = 0.002,
    offset: float = 0.0,
    **truth: Any,
) -> dict[str, Any]:
    """Curves over sizes and rates, with independent noise and an offset per run (log scale)."""
    rng = np.random.default_rng(seed)
    tokens = np.linspace(0.05, 1, checkpoints) * 1e9
    grid = np.meshgrid(sizes, rates, tokens, indexing="ij")
    size, rate, seen = (v.ravel() for v in grid)
    columns = {
        "params": size,
        "pruning_rate": rate,
        "tokens": seen,
        "base_loss": 2.9 - 0.25 * np.log10(size / 5e8),
    }
    loss = LAWS["p2"].predict({**P2, **truth}, columns)
    run = np.repeat(np.arange(len(sizes) * len(rates)), checkpoints)
    shift = offset * rng.standard_normal(run.max() + 1)[run]
    loss = loss * np.exp(noise * rng.standard_normal(len(loss)) + shift)
    return {"run": [f"run-{i}" for i in run], **columns, "loss": loss}
