"""Records that a log has again, as after a resume; and those that only look like it."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from p2fit.curves.rows import SETTINGS
from p2fit.errors import CurvesError
from p2fit.logs.log import Log

#: Column of a frame of rows that says which record of its log a row is.
RECORD = "#record"


def hold_apart(log: Log, frame: pl.DataFrame, names: Mapping[str, str], own: str | None) -> None:
    """Raise where records that would count as written again are of other settings.

    Args:
        log: the log.
        frame: its records: ``run``, ``tokens``, ``loss`` and RECORD.
        names: column -> its name in the log.
        own: the column of the log that names the run, if one does.

    Raises:
        CurvesError: the place, and how to keep the runs apart.
    """
    frame = frame.filter(pl.col("tokens").is_not_null() & pl.col("loss").is_not_null())
    if not frame.select(pl.struct("run", "tokens").is_duplicated().any()).item():
        return
    measured = {names[n] for n in ("loss", "tokens", "step", "loss_stderr") if n in names}
    settings = {names[n] for n in SETTINGS if n in names}
    for column in log.columns:
        if column in measured or column == own or (log.in_time and column not in settings):
            continue
        at = frame.select("run", "tokens", RECORD).with_columns(
            value=log.column(column).gather(frame[RECORD])
        )
        other = pl.col("value") != pl.col("value").first().over("run", "tokens")
        differ = at.filter(other.fill_null(False))
        if differ.is_empty() or not (column in settings or _is_setting(at, differ)):
            continue
        new = differ.row(0, named=True)
        old = at.filter((pl.col("run") == new["run"]) & (pl.col("tokens") == new["tokens"]))
        by = [] if own is None else [own]
        what = (
            f"{new['value']}, where an earlier record of run {new['run']} at as many tokens has "
            f"{old['value'][0]}: not one run; --run-by {','.join([*by, column])} keeps them apart"
        )
        raise CurvesError([log.fault(new[RECORD], column, what)])


def _is_setting(at: pl.DataFrame, differ: pl.DataFrame) -> bool:
    """Whether a column tells runs apart, rather than changes as a run goes on: it is constant
    while the tokens rise, or has no more values than one token count has records."""
    at = at.filter(pl.col("run").is_in(differ["run"].unique().implode()))
    tokens = pl.col("tokens")
    passes = at.with_columns(start=(tokens <= tokens.shift()).cum_sum().over("run").fill_null(0))
    constant = passes.group_by("run", "start").agg(pl.col("value").n_unique() == 1)
    one = constant.group_by("run").agg(pl.col("value").all())["value"].any()
    most = at.group_by("run", "tokens").len().group_by("run").agg(pl.col("len").max())
    few = at.group_by("run").agg(pl.col("value").n_unique()).join(most, on="run")
    return one or bool((few["value"] <= few["len"]).any())
