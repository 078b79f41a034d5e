"""Columns held against each other: what one says of another that is not so."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

#: Columns that count steps.
STEPS = ("step", "global_step", "iteration", "iter")
_BASE = 0.02  # of base_loss: what two measurements of one model may differ by
_RATE = 0.02  # a rate and what is left of the parameters
_ROWS = 4  # of a run, from which it can be seen to rise
_RISE, _JUMPS = 0.02, 3.0  # of the log of the loss; of its typical change between rows
_DECAYED = 0.7  # of the highest learning rate, at the end of a run
_FLOPS = (0.3, 3.0)  # times 6 FLOPs per parameter kept and token

#: The row in a frame, the column and what is wrong.
Contradiction = tuple[int, str, str]


def contradictions(frame: pl.DataFrame) -> Iterator[Contradiction]:
    """What cannot be, at its first row; ``frame`` has numbers where the format has them."""
    have = {n for n, dtype in frame.schema.items() if dtype == pl.Float64}
    frame = frame.with_row_index("#row")
    if {"loss", "base_loss", "pruning_rate", "tokens"} <= have:
        base = pl.col("base_loss")
        wrong = frame.filter(
            (pl.col("pruning_rate") == 0)
            & (pl.col("tokens") == 0)
            & ((pl.col("loss") - base).abs() > _BASE * base)
        )
        if wrong.height:
            row = wrong.row(0, named=True)
            yield (
                row["#row"],
                "base_loss",
                f"{row['base_loss']:g}, but the unpruned model has loss {row['loss']:g} at 0 "
                "tokens in this row: base_loss is that loss, on the same text",
            )
    step = next((name for name in STEPS if name in have), None)
    if step and "tokens" in have and "run" in frame.columns:
        found = falling(frame, step)
        if found is not None:
            at, words = found
            yield at, "tokens", words


def falling(frame: pl.DataFrame, step: str) -> tuple[int, str] | None:
    """Where tokens do not go with the steps of a run: its ``#row``, and in words.

    Of records at one step the last counts, as after a resume.
    """
    kept = frame.filter(pl.col(step).is_not_null() & pl.col("tokens").is_not_null())
    kept = kept.unique(["run", step], keep="last", maintain_order=True).sort("run", step)
    still = (
        kept.group_by("run", maintain_order=True)
        .agg(pl.col("tokens").n_unique(), pl.len(), pl.col("#row").first(), at=pl.first("tokens"))
        .filter((pl.col("tokens") == 1) & (pl.col("len") > 1))
    )
    if still.height:
        row = still.row(0, named=True)
        return row["#row"], (
            f"{row['at']:.15g} in all of run {row['run']}, while its {step} rises from row to row"
        )
    before = pl.col("tokens").shift().over("run")
    fell = kept.with_columns(before=before).filter(pl.col("tokens") < pl.col("before"))
    if not fell.height:
        return None
    row = fell.row(0, named=True)
    return row["#row"], (
        f"{row['tokens']:.15g} at {step} {row[step]:.15g} of run {row['run']}, after "
        f"{row['before']:.15g} at an earlier one: the count started again"
    )


def doubts(frame: pl.DataFrame) -> Iterator[str]:
    """What is hardly so, with both numbers."""
    have = {n for n, dtype in frame.schema.items() if dtype == pl.Float64}
    if {"params", "pruning_rate", "active_params"} <= have:
        gone = 1 - pl.col("active_params") / pl.col("params")
        rows = frame.with_columns(gone=gone).filter(
            (pl.col("gone") - pl.col("pruning_rate")).abs() > _RATE
        )
        if rows.height:
            row = rows.row(0, named=True)
            yield (
                f"pruning_rate is {row['pruning_rate']:.3g} in {rows.height} rows where "
                f"1 - active_params/params is another, {row['gone']:.3g} in the first"
            )
    if {"params", "tokens", "flops"} <= have:
        kept = 1 - pl.col("pruning_rate").fill_null(0) if "pruning_rate" in have else pl.lit(1.0)
        due = 6 * pl.col("params") * kept * pl.col("tokens")
        ratio = (
            frame.filter(pl.col("tokens") > 0).select(pl.col("flops") / due).to_series().median()
        )
        if isinstance(ratio, float) and not _FLOPS[0] <= ratio <= _FLOPS[1]:
            yield (
                f"flops is {ratio:.3g} times 6 per parameter kept and token (the middle of all "
                "rows): one of the three is another count"
            )
    if {"run", "tokens", "loss"} <= set(frame.columns) and {"tokens", "loss"} <= have:
        yield from _rising(frame)
    if {"tokens", "learning_rate"} <= have and "run" in frame.columns and "final" not in frame:
        yield from _decaying(frame)


def _rising(frame: pl.DataFrame) -> Iterator[str]:
    """Runs whose loss turns up before they end, by more than it otherwise jumps."""
    known = frame.filter((pl.col("tokens") > 0) & (pl.col("loss") > 0)).sort("run", "tokens")
    runs = known.group_by("run", maintain_order=True).agg(
        low=pl.col("loss").min(),
        at=pl.col("tokens").get(pl.col("loss").arg_min()),
        last=pl.last("loss"),
        end=pl.last("tokens"),
        rows=pl.len(),
        jump=pl.col("loss").log().diff().abs().median(),
    )
    rise = (pl.col("last") / pl.col("low")).log()
    up = runs.filter((pl.col("rows") >= _ROWS) & (rise > _RISE) & (rise > _JUMPS * pl.col("jump")))
    if up.height:
        row = up.row(0, named=True)
        more = f", and so in {up.height - 1} more runs" if up.height > 1 else ""
        yield (
            f"the loss of run {row['run']} rises from {row['low']:.4g} at {row['at']:.4g} tokens "
            f"to {row['last']:.4g} at its end{more}: if it diverged or saw its text too often, no "
            "law of tokens holds for it"
        )


def _decaying(frame: pl.DataFrame) -> Iterator[str]:
    """Runs that are looked at while their learning rate falls."""
    known = frame.filter((pl.col("tokens") > 0) & (pl.col("learning_rate") > 0))
    highest = pl.col("learning_rate").arg_max()
    after = known.sort("run", "tokens").group_by("run", maintain_order=True)
    runs = after.agg(
        left=pl.last("learning_rate") / pl.col("learning_rate").max(),
        rows=pl.len() - highest,
    ).filter((pl.col("left") < _DECAYED) & (pl.col("rows") > 2))
    if runs.height:
        row = runs.row(0, named=True)
        many = f"{runs.height} runs, in {row['run']}" if runs.height > 1 else f"run {row['run']}"
        yield (
            f"the learning rate falls along {many} to {row['left']:.2g} of its highest: the rows "
            "before the end of such a run lie above those of a run that ends there; a column final "
            "(1 in the last row, else 0) leaves them out of laws of pre-training"
        )
