"""What is held out: the ways to split curves into a fitted and a held-out part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from p2fit.arrays import Array, Index
from p2fit.curves.choosing import Dataset
from p2fit.curves.points import merge_close_levels
from p2fit.errors import FitError

#: Hold-outs, as they are written.
KNOWN = (
    "checkpoints:0.2",
    "tokens:0.2",
    "params:largest (or another input of the law)",
    "run",
    "k-fold:5",
)

PAPER = ("checkpoints:0.2", "params:largest", "pruning_rate:largest")
PLAIN = ("checkpoints:0.2", "params:largest", "run")

#: Up to this many runs, one is left out at a time; beyond it, a twentieth of them.
SINGLY = 60
FOLDS = 20


# ---------------------------------------------------------------- what is held out


@dataclass(frozen=True)
class Split:
    about: str
    folds: Sequence[Index]  # rows held out, ascending


def parse_holdout(holdout: str) -> tuple[str, float]:
    """Kind of a hold-out, and its share or number of folds."""
    kind, _, value = holdout.partition(":")
    known = FitError(f"{holdout!r} is not a hold-out; there are {', '.join(KNOWN)}")
    if kind in ("checkpoints", "tokens") and value != "largest":
        try:
            share = float(value)
        except ValueError:
            raise known from None
        if not 0 < share < 1:
            raise FitError(f"{holdout}: a share lies between 0 and 1")
        return kind, share
    if kind == "k-fold":
        value = value or "5"
        if not (value.isdecimal() and len(value) < 10):  # of thousands, Python makes no number
            raise known
        if int(value) < 2:
            raise FitError(f"{holdout}: at least 2 folds are needed")
        return kind, int(value)
    if holdout == "run" or (kind and value == "largest"):
        return holdout, 0
    raise known


def split(dataset: Dataset, holdout: str) -> Split | str:
    """The rows of each fold; or why there are none."""
    kind, value = parse_holdout(holdout)
    frame, inputs = dataset.frame, dataset.law.inputs
    runs = frame["run"].to_numpy()
    names, run = np.unique(runs, return_inverse=True)
    rows = np.arange(frame.height)
    if kind in ("checkpoints", "tokens"):
        if not has_tokens(frame):
            return "the curves have no tokens, or not in every row"
        cut = (
            _last_checkpoints(run, value)
            if kind == "checkpoints"
            else _last_tokens(run, frame["tokens"].to_numpy(), value)
        )
        if not cut.any():
            most = int(np.bincount(run).max())
            return f"no run has enough checkpoints: {most} at most"
        what = "checkpoints" if kind == "checkpoints" else "range of tokens"
        return Split(f"the last {100 * value:g} % of each run's {what}", [rows[cut]])
    if kind.endswith(":largest"):
        x = kind.removesuffix(":largest")
        if x not in inputs:
            return f"{x} is not an input of {dataset.law.name} (which has {', '.join(inputs)})"
        column = frame[x].to_numpy()
        distinct = len(np.unique(column))
        if distinct < 2:
            return f"1 distinct value of {x}, 2 needed"
        values = np.unique(column)
        levels = merge_close_levels(values) if x == "pruning_rate" else np.split(values, distinct)
        low, high = levels[-1][[0, -1]]
        span = f"{high:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return Split(f"{x} = {span}, the largest of {len(levels)} values", [rows[column >= low]])
    unit = dataset.options.cluster
    labels = frame[unit].cast(pl.String).fill_null("").to_numpy()
    names, cluster = np.unique(labels, return_inverse=True)
    count = len(names)
    folds = int(value) if kind == "k-fold" else count if count <= SINGLY else FOLDS
    what = f"run{'s' * (count != 1)}" if unit == "run" else f"values of {unit}"
    if count < max(folds, 2):
        return f"{count} {what}, {max(folds, 2)} needed"
    if folds == count:
        about = f"each of {count} {what} in turn"
    else:
        about = f"each of {folds} random parts of the {count} {what} in turn"
    part = parts_of(count, dataset.options.seed, folds)[cluster]
    order = np.argsort(part, kind="stable")
    return Split(about, np.split(order, np.cumsum(np.bincount(part))[:-1]))


def parts_of(count: int, seed: int, folds: int | None = None) -> Index:
    """The part with which each of so many runs is left out, from 0.

    Args:
        folds: how many random parts; None: each run is one, or, of many, a twentieth of them.
    """
    folds = folds or (count if count <= SINGLY else FOLDS)
    if folds == count:
        return np.arange(count)
    return np.random.default_rng(seed).permutation(count) % folds


def has_tokens(frame: pl.DataFrame) -> bool:
    """Whether every row has tokens; a user's own law may do without."""
    return "tokens" in frame.columns and not frame["tokens"].null_count()


def _last_checkpoints(run: Index, share: float) -> Any:
    """The last rows of each run, their number rounded; one stays at least."""
    count = np.bincount(run)
    held = np.minimum(np.floor(share * count + 0.5), count - 1)
    start = np.cumsum(count) - count
    return np.arange(len(run)) - start[run] >= (count - held)[run]


def _last_tokens(run: Index, tokens: Array, share: float) -> Any:
    start = np.flatnonzero(np.diff(run, prepend=-1))
    low, high = np.minimum.reduceat(tokens, start), np.maximum.reduceat(tokens, start)
    return tokens > (high - share * (high - low))[run]
