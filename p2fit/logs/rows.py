"""The rows that a log holds: which run, loss and tokens; converted, filtered, counted."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from p2fit.curves.against import falling
from p2fit.curves.checking import READ, schema
from p2fit.curves.proposing import words_of
from p2fit.curves.rows import NOTE, SETTINGS, row_names, rows_are_runs
from p2fit.errors import CurvesError, FitError
from p2fit.logs.log import Log
from p2fit.logs.names import (
    OTHER_UNITS,
    STEPS,
    TOKENS,
    Asked,
    Kind,
    Unit,
    choose_loss,
    fault,
    find_columns,
    has,
    mapped,
    proposed,
)
from p2fit.logs.repeats import RECORD, hold_apart
from p2fit.logs.results import RESULTS

#: What can be said of a run besides its log.
FACTS = ("params", "pruning_rate", "base_loss", "method", "family", "seed")
#: Column of a frame of rows from several logs: which.
LOG = "#log"

_TEXTS = ("method", "family", "seed")
#: Why a record is left out that was written again, by a resumed run or in a later log.
AGAIN = "at a step that comes again (the later wins)"


@dataclass(frozen=True)
class ImportedRun:
    """What was taken of a run from one log, and what was not."""

    run: str
    source: str
    """The file, or the folder of event files."""
    format: str
    """``Hugging Face Trainer``, ``W&B chart``, ``W&B history``, ``TensorBoard``, ``CSV``, ``JSONL``
    and so on."""
    records: int
    """Records of this run in the log."""
    rows: int
    """Rows in the curves. ``records`` is their sum with ``dropped``."""
    loss: str
    """The log's name of the loss that was taken; empty for results that have none."""
    kind: Kind
    unit: Unit
    """Of the log's losses. The curves are in nats per token."""
    tokens: str
    """Where the token counts come from."""
    dropped: Mapping[str, int]
    """Records left out, by reason."""


@dataclass
class Taken:
    """What was taken of one log."""

    log: Log
    names: Mapping[str, str]
    """Column -> its name in the log."""
    frame: pl.DataFrame
    """A row per record that is left: columns of the format, others asked for, and RECORD."""
    reports: dict[str, ImportedRun]
    """By run."""
    warnings: list[str]


# ---------------------------------------------------------------- which run a record is of


def name_runs(
    logs: Sequence[tuple[Log, tuple[str, ...]]], asked: Asked, run_from_path: bool
) -> list[pl.Series]:
    """The run of each record of each log."""
    nameless = [at for log, at in logs if log.run is None and _run_column(log, asked) is None]
    names = _tell_apart(nameless)
    if len(names) > 1 and not run_from_path:
        raise FitError(
            f"{len(names)} logs do not name their run: --run-from-path (run_from_path=True) names "
            "them by their folders or files, and --column run=NAME by a column"
        )
    found = []
    for log, at in logs:
        column = _run_column(log, asked)
        if column is None:
            if log.run is None and (rows := _rows_as_runs(log, asked)) is not None:
                found.append(rows)
                continue
            name = names[at] if log.run is None else log.run
            found.append(pl.Series("run", [name], dtype=pl.String).new_from_index(0, log.height))
            continue
        run = log.texts(column).alias("run")
        if run.null_count():
            raise CurvesError([log.fault(run.is_null().arg_true()[0], column, "empty: which run?")])
        found.append(run)
    return found


def _rows_as_runs(log: Log, asked: Asked) -> pl.Series | None:
    """A run for each row of a table of results: one whose sizes or rates vary.

    Raises:
        CurvesError: they vary, and rows of one setting look like points of a curve.
    """
    if log.in_time or log.entries:
        return None
    own = {n: mapped(log, n, asked) if n in asked.columns else n for n in SETTINGS}
    own = {n: c for n, c in own.items() if c in log.columns}
    if not any(log.column(own[n]).n_unique() > 1 for n in ("params", "pruning_rate") if n in own):
        return None
    loss = choose_loss(log, asked)[0]
    # Columns of text tell settings apart as well.
    more = [c for c in log.header if log.column(c).dtype == pl.String and not _numeric(log, c)]
    names = list(dict.fromkeys([*own.values(), *(c for c in more if c != loss)]))
    found = mapped(log, "tokens", asked) if "tokens" in asked.columns else None
    found = found or next((c for c in (*TOKENS, *STEPS) if c in log.columns), None)
    tokens = None if found is None else log.numbers(found, READ["count"])
    settings = pl.DataFrame([log.column(c).alias(c) for c in names])
    if rows_are_runs(settings, tokens):
        log.notes.append(f"{log.source}: {NOTE}")
        return row_names(log.height)
    by = ",".join(c for c in names if settings[c].n_unique() > 1)
    raise fault(
        log,
        "no column run, params or rates vary, and rows of one setting look like points of a curve: "
        f"--run-by {by} names the runs, --run-by {by},{found} takes each row for one",
    )


def _numeric(log: Log, column: str) -> bool:
    cells = log.column(column)
    return cells.cast(pl.Float64, strict=False).null_count() == cells.null_count()


def _run_column(log: Log, asked: Asked) -> str | None:
    if "run" in asked.columns:
        return mapped(log, "run", asked)
    return "run" if log.run is None and "run" in log.columns else None


def _tell_apart(places: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Place -> the shortest end of it that no other has, of as many parts for all."""
    distinct = list(dict.fromkeys(places))
    for n in range(1, max(map(len, distinct), default=0) + 1):
        names = ["/".join(at[-n:]) for at in distinct]
        if len(set(names)) == len(names):
            return dict(zip(distinct, names, strict=True))
    return {}


# ---------------------------------------------------------------- the rows of a log


def take(log: Log, run: pl.Series, asked: Asked) -> Taken:
    """The rows that a log holds: chosen, in nats and tokens, and what was given beside it.

    Args:
        log: the log.
        run: the run of each of its records.
        asked: what the caller said.

    Raises:
        CurvesError: something is missing, not clear or not a number.
    """
    facts = {name: asked.of(name) for name in run.unique(maintain_order=True)}
    if log.format == RESULTS and "loss" not in asked.columns:
        return _results(log, run, asked, facts)
    loss, kind = choose_loss(log, asked)
    plain = "loss" not in asked.columns or loss in log.header
    if (
        plain
        and OTHER_UNITS.intersection(words_of(loss))
        and not all("loss_unit" in f for f in facts.values())
    ):
        raise fault(log, f"{loss} may not be in nats per token: say what it is with --loss-unit")
    names = find_columns(log, loss, asked)
    _need(log, names, facts, asked)
    frame = _from_other_records(_frame(log, run, names))
    _rise(log, frame, names, facts)
    counted = {
        name: float(f["tokens_per_step"]) for name, f in facts.items() if "tokens_per_step" in f
    }
    if counted:
        per_step = pl.col("run").replace_strict(counted, default=None, return_dtype=pl.Float64)
        other = pl.col("tokens") if "tokens" in names else None
        steps = pl.when(per_step.is_not_null()).then(pl.col("step") * per_step)
        frame = frame.with_columns(tokens=steps.otherwise(other))

    hold_apart(log, frame, names, _run_column(log, asked))
    total = dict(frame.group_by("run").len().iter_rows())
    dropped: dict[str, dict[str, int]] = {name: {} for name in facts}
    for why, rule in _rules(log, loss):
        left = frame.filter(rule)
        if left.height < frame.height:
            for name, n in frame.filter(~rule).group_by("run").len().iter_rows():
                dropped[name][why] = n
        frame = left

    reports = {
        name: ImportedRun(
            run=name,
            source=log.source,
            format=log.format,
            records=total[name],
            rows=total[name] - sum(dropped[name].values()),
            loss=loss,
            kind=kind,
            unit=fact.get("loss_unit", "nats"),
            tokens=f"{names['step']} × {counted[name]:.15g}"
            if name in counted
            else names["tokens"],
            dropped=dropped[name],
        )
        for name, fact in facts.items()
    }
    warnings = [*log.notes, *_warnings(log, loss, kind, reports)]
    step = None if "step" in asked.columns or not counted else names["step"]
    if step == "_step" or (step == "Step" and log.format == "W&B chart"):
        warnings.append(
            f"{log.source}: {step} counts calls of wandb.log unless the run said "
            "otherwise; --column step=NAME takes another column"
        )
    return Taken(log, names, _complete(frame, facts), reports, warnings)


def _results(
    log: Log, run: pl.Series, asked: Asked, facts: Mapping[str, Mapping[str, Any]]
) -> Taken:
    """Results that have no loss: all of their numbers."""
    names = {name: name for name in log.header}
    names |= {column: mapped(log, column, asked) for column in asked.columns if column != "run"}
    frame = _complete(_frame(log, run, names), facts)
    reports = {
        name: ImportedRun(
            run=name,
            source=log.source,
            format=log.format,
            records=log.height,
            rows=log.height,
            loss="",
            kind="results",
            unit="nats",
            tokens="",
            dropped={},
        )
        for name in facts
    }
    return Taken(log, names, frame, reports, log.notes)


def _need(
    log: Log, names: Collection[str], facts: Mapping[str, Mapping[str, Any]], asked: Asked
) -> None:
    """Raise if what a run needs is neither in its log nor given."""
    for run, known in facts.items():
        if "tokens_per_step" in known and "step" not in names:
            raise fault(log, f"no steps: name them with --column step=NAME; {has(log)}", run)
        missing = [] if "tokens_per_step" in known or "tokens" in names else ["tokens"]
        missing += [] if "params" in known or "params" in names else ["params"]
        if missing and (what := proposed(log, asked, missing)):
            raise fault(log, what)
        if "tokens_per_step" not in known and "tokens" not in names:
            what = "no token counts: give --tokens-per-step, or --column tokens=NAME"
            raise fault(log, what, run)
        if "params" not in known and "params" not in names:
            raise fault(log, "no params: give --params, or params in the table of runs", run)
        if known.get("loss_unit") == "bits-per-byte" and "bytes_per_token" not in known:
            raise fault(log, "bits per byte need --bytes-per-token", run)


def _rise(
    log: Log,
    frame: pl.DataFrame,
    names: Mapping[str, str],
    facts: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise where the log's own count of tokens does not go with its steps."""
    if not {"step", "tokens"} <= names.keys() or names["step"] == names["tokens"]:
        return
    counted = [run for run, fact in facts.items() if "tokens_per_step" in fact]
    rows = frame.rename({RECORD: "#row"}).filter(
        pl.col("loss").is_not_null() & ~pl.col("run").is_in(counted)
    )
    if found := falling(rows, "step"):
        row, words = found
        what = f"{words}; give --tokens-per-step"
        raise CurvesError([log.fault(row, names["tokens"], what)])


def _frame(log: Log, run: pl.Series, names: Mapping[str, str]) -> pl.DataFrame:
    """One row per record; what the format has as numbers is numbers."""
    numeric = {f["name"]: f.get("p2fit:unit") for f in schema()["fields"] if f["type"] == "number"}
    numeric["step"] = None
    data = [run.rename("run")]
    for column, name in names.items():
        if column in numeric:
            values = log.numbers(name, READ.get(numeric[column] or ""))
        else:
            values = log.texts(name) if column in _TEXTS else log.column(name)
        data.append(values.alias(column))
    return pl.DataFrame(data).with_row_index(RECORD)


def _from_other_records(frame: pl.DataFrame) -> pl.DataFrame:
    """With tokens and learning rates that stand on other records of a run: tokens by their steps,
    where they go with them, and the rate as it last was."""
    if "step" not in frame.columns:
        return frame
    frame = frame.sort("run", "step", RECORD)
    if "tokens" in frame.columns and frame["tokens"].null_count():
        ratio = pl.col("tokens") / pl.col("step")
        ratio = pl.when(pl.col("step") > 0).then(ratio)
        even = (ratio.max() - ratio.min()).over("run") <= 1e-9 * ratio.max().over("run")
        frame = frame.with_columns(
            tokens=pl.coalesce(
                "tokens",
                pl.col("tokens").max().over("run", "step"),
                pl.when(even).then(pl.col("step") * ratio.max().over("run")),
            )
        )
    if "learning_rate" in frame.columns:
        frame = frame.with_columns(pl.col("learning_rate").forward_fill().over("run"))
    return frame.sort(RECORD)


def _rules(log: Log, loss: str) -> Iterator[tuple[str, pl.Expr]]:
    """What a record must be to stay, one rule after the other, and the words for those that go."""
    yield f"without {loss}", pl.col("loss").is_not_null()
    yield f"with {loss} NaN or infinite", pl.col("loss").is_finite()
    yield "without a step or token count", pl.col("tokens").is_finite().fill_null(False)
    yield AGAIN, pl.struct("run", "tokens").is_last_distinct()
    if log.in_time:
        # What was written before at a later step is of the part that a resumed run threw away.
        next_low = pl.col("tokens").cum_min(reverse=True).shift(-1).over("run")
        went_back = "beyond where a resume went back to"
        yield went_back, next_low.is_null() | (pl.col("tokens") < next_low)


def _warnings(log: Log, loss: str, kind: Kind, reports: Mapping[str, ImportedRun]) -> Iterator[str]:
    for run, report in reports.items():
        if not report.rows:
            yield f"{log.source}: no row of run {run} is left"
    if kind == "training":
        yield (
            f"{log.source}: {loss} is a training loss by its name, often a mean over several "
            "steps, on data that the model learns from; take a held-out loss where there is one"
        )
    if means := log.averaged.get(loss, 0):
        yield (
            f"{log.source}: {means} of the points of run {log.run} are means of several that W&B "
            "pooled (__MIN and __MAX differ); the history as JSONL has them all"
        )


def _complete(frame: pl.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """With what was given of the runs, and losses in nats per token."""

    def given(column: str, kind: Any) -> pl.Expr:
        values = {run: f[column] for run, f in facts.items() if column in f}
        return pl.col("run").replace_strict(
            list(values), [kind(v) for v in values.values()], default=None,
            return_dtype=pl.String if kind is str else pl.Float64,
        )  # fmt: skip

    for column in FACTS:
        if any(column in f for f in facts.values()):
            new = given(column, str if column in _TEXTS else float)
            old = [pl.col(column)] if column in frame.columns else []
            frame = frame.with_columns(pl.coalesce(new, *old).alias(column))
    unit = pl.col("run").replace_strict(
        list(facts), [f.get("loss_unit", "nats") for f in facts.values()], return_dtype=pl.String
    )
    if any("bytes_per_token" in f for f in facts.values()):
        size = given("bytes_per_token", float)
    else:
        size = pl.lit(None, pl.Float64)
    factor = (
        pl.when(unit == "bits").then(math.log(2))
        .when(unit == "bits-per-byte").then(math.log(2) * size)
        .otherwise(1.0)
    )  # fmt: skip
    perplexity = unit == "perplexity"
    nats: dict[str, pl.Expr] = {
        column: pl.when(perplexity).then(pl.col(column).log()).otherwise(pl.col(column) * factor)
        for column in ("loss", "base_loss")
        if column in frame.columns
    }
    if "loss_stderr" in frame.columns:  # of a logarithm: relative
        relative = pl.col("loss_stderr") / pl.col("loss")
        wide = pl.col("loss_stderr") * factor
        nats["loss_stderr"] = pl.when(perplexity).then(relative).otherwise(wide)
    return frame.with_columns(**nats)
