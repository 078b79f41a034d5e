"""Whether a fitted law behaves as a loss does."""

from __future__ import annotations

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.curves.choosing import (
    Dataset,
)
from p2fit.errors import LawError
from p2fit.fit import Fit

#: What a law of losses should do.
CONDITIONS = ("falls_with_tokens", "rises_with_pruning_rate", "tends_to_base_loss")

_CONTEXTS = 500  # rows at which the conditions are checked


# ---------------------------------------------------------------- conditions


def _has_base_loss(frame: pl.DataFrame) -> bool:
    return "base_loss" in frame.columns and not frame["base_loss"].null_count()


def _base_loss(frame: pl.DataFrame) -> Array:
    """The base model's loss of each row, 0 where the file does not have it."""
    if _has_base_loss(frame):
        return frame["base_loss"].cast(pl.Float64).to_numpy()
    return np.zeros(frame.height)


def check_conditions(dataset: Dataset, fit: Fit) -> dict[str, bool | None]:
    frame = dataset.frame.gather_every(max(1, dataset.frame.height // _CONTEXTS))
    rows = {x: frame[x].to_numpy()[:, None] for x in dataset.law.inputs}
    met: dict[str, bool | None] = dict.fromkeys(CONDITIONS)
    if dataset.options.target != "loss":
        return met

    def along(name: str, values: Array) -> Array:
        """The loss along values of one input, at the other inputs of each row."""
        return fit.predict({**rows, name: values})

    try:
        if "tokens" in rows:
            tokens = np.geomspace(rows["tokens"].min(), 10 * rows["tokens"].max(), 40)
            met["falls_with_tokens"] = bool(np.all(np.diff(along("tokens", tokens)) < 0))
        rates = rows.get("pruning_rate", np.zeros(0))
        if np.any(rates > 0):
            low = rates[rates > 0].min()
            steps = np.diff(along("pruning_rate", np.geomspace(low / 10, rates.max(), 40)))
            met["rises_with_pruning_rate"] = bool(np.all(steps > 0))
            if _has_base_loss(frame):
                # As near to a rate of 0 as a float comes: a small power of it falls slowly.
                ends = along("pruning_rate", np.array([1e-300, low])) - _base_loss(frame)[:, None]
                met["tends_to_base_loss"] = bool(
                    np.all(np.abs(ends[:, 0]) < 0.01 * np.abs(ends[:, 1]))
                )
    except LawError:  # a parameter has no finite value: nothing can be said
        pass
    return met
