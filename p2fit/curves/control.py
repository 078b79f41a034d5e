"""Pruned models beside their control: the unpruned model, trained on as they are.

The P² law has the loss fall towards base_loss, L₀, the loss of the model before pruning. That
wants a base that more training does not change. Its control says whether it does: the run with
``pruning_rate`` = 0 of the same model (``family``, ``params``, and ``base_loss`` to a thousandth,
for it may be measured anew) that was trained in the same way: ``teacher``, ``training`` and
``learning_rate`` (to four digits, as logs have it), where there are any, and ``seed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

#: A control that moves by more than this share of the smallest excess breaks the law's premise.
SHARE = 0.1

_MODEL = ("family", "params", "teacher", "training", "_base", "_rate")


def subtract_control(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Losses without the drift of their control: loss − (control − base_loss) at the same tokens.

    Controls at the same tokens are averaged. Rows with ``tokens`` = 0 have nothing to subtract.

    Returns:
        The frame, and the pruned runs that have rows without a control, which are as they were.
    """
    frame = _keyed(frame)
    keys = [c for c in (*_MODEL, "seed", "tokens") if c in frame.columns]
    drift = (
        _controls(frame)
        .group_by(keys)
        .agg((pl.col("loss") - pl.col("base_loss")).mean().alias("_drift"))
    )
    joined = frame.join(drift, on=keys, how="left", nulls_equal=True, maintain_order="left")
    wanting = (pl.col("pruning_rate") > 0) & (pl.col("tokens") > 0) & pl.col("_drift").is_null()
    without = joined.filter(wanting)["run"].unique(maintain_order=True).to_list()
    here = pl.when(pl.col("tokens") > 0).then(pl.col("_drift")).otherwise(0.0).fill_null(0.0)
    return joined.with_columns(pl.col("loss") - here).drop(
        "_drift", "_base", "_rate", strict=False
    ), without


def control_drift(pruned: pl.DataFrame, frame: pl.DataFrame) -> dict[str, float] | None:
    """How the controls in ``frame`` of the models in ``pruned`` move, from its first tokens on.

    Returns:
        ``low`` and ``high``, their least and largest loss less base_loss, and ``excess``, the
        smallest excess over base_loss at the end of a pruned run, in nats per token; None without
        a control.
    """
    frame, here = _keyed(frame), _keyed(pruned)
    models = [c for c in _MODEL if c in frame.columns]
    controls = (
        _controls(frame)
        .join(here.select(models).unique(), on=models, nulls_equal=True)
        .filter(pl.col("tokens") >= pruned["tokens"].min())
    )
    if controls.is_empty():
        return None
    moved = controls["loss"] - controls["base_loss"]
    ends = pruned.sort("tokens").group_by("run", maintain_order=True).last()
    found = moved.min(), moved.max(), (ends["loss"] - ends["base_loss"]).min()
    low, high, excess = map(float, found)  # type: ignore[arg-type]
    return {"low": low, "high": high, "excess": excess}


def drift_warning(control: Mapping[str, Any]) -> str | None:
    """A warning where a control moves by more than :data:`SHARE` of the smallest excess."""
    low, high, smallest = (control[name] for name in ("low", "high", "excess"))
    if control["subtracted"] or max(-low, high) <= SHARE * smallest:
        return None
    return (
        f"the unpruned controls move by {low:+.2g} to {high:+.2g} nats while they are trained on; "
        f"the smallest excess over base_loss is {smallest:.2g}. The law takes base_loss for "
        "settled: --subtract-control takes the movement off, or leave these runs out"
    )


def _keyed(frame: pl.DataFrame) -> pl.DataFrame:
    keys = [pl.col("base_loss").round(3).alias("_base")]
    if "learning_rate" in frame.columns:
        keys.append(pl.col("learning_rate").round_sig_figs(4).alias("_rate"))
    return frame.with_columns(keys)


def _controls(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter((pl.col("pruning_rate") == 0) & (pl.col("tokens") > 0))
