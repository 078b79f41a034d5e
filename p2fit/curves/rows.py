"""Tables without a column for the run: whether each of their rows is one."""

from __future__ import annotations

import polars as pl

#: What a run has one of, besides what it is called.
SETTINGS = ("params", "pruning_rate", "base_loss", "family", "method", "seed")
_MOST = 4  # rows of equal settings that a table of results may have: more of them are a curve

#: Said of every table whose rows are taken for runs.
NOTE = "no column run, and no settings that follow each other: each row is taken for a run"


def rows_are_runs(settings: pl.DataFrame, tokens: pl.Series | None) -> bool:
    """Whether each row is a run of its own, as in a table of results.

    It is where no two rows have the same settings, or where those that do are few, stand apart and
    none of them is at 0 tokens: the points of a curve follow each other.

    Args:
        settings: what a run has one of; a row per row.
        tokens: of the rows, where there are any.
    """
    if tokens is None or settings.height <= 1:
        return True
    if not settings.width:
        return False
    key = settings.hash_rows()
    most: int = key.value_counts()["count"].max()  # type: ignore[assignment]
    following = bool((key == key.shift()).any())
    return most == 1 or (most <= _MOST and not following and not bool((tokens == 0).any()))


def row_names(height: int) -> pl.Series:
    """A name for each row, in the order of the rows."""
    width = len(str(height))
    return pl.Series("run", [f"row {i:0{width}d}" for i in range(1, height + 1)], dtype=pl.String)
