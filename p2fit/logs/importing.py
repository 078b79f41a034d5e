"""Loss curves from other people's logs: choose, convert, leave out, and say all of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import polars as pl

from p2fit.arguments import hold
from p2fit.curves.checking import REQUIRED, schema
from p2fit.curves.choosing import Source, check
from p2fit.curves.columns import with_run_by
from p2fit.curves.frames import is_table
from p2fit.curves.reading import Curves, from_frame, read_bytes
from p2fit.errors import SHOWN, CurvesError, Fault, FitError
from p2fit.logs.formats import place, read_log, sources, table_log
from p2fit.logs.log import Log
from p2fit.logs.names import Asked, Unit
from p2fit.logs.repeats import RECORD
from p2fit.logs.rows import (
    AGAIN,
    FACTS,
    LOG,
    ImportedRun,
    Taken,
    name_runs,
    take,
)
from p2fit.wording import printable, suggest

_SETTINGS = (*FACTS, "tokens_per_step", "loss_unit", "bytes_per_token")
_UNITS = get_args(Unit)
_RUNS = r"^[=+\-@\t]"  # what a spreadsheet takes for a formula
_COUNTS = ("params", "tokens", "step", "avg_params", "active_params", "seed", "final")


@dataclass(frozen=True)
class Imported:
    """Loss curves from logs, and the report. Made by :func:`import_logs`."""

    curves: Curves
    """They passed every check of the data format."""
    runs: tuple[ImportedRun, ...]
    """One entry per run and log."""
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Imported {len(self.runs)} runs: {self.curves!r}>"

    def _repr_html_(self) -> str:
        return self.curves._repr_html_()

    def csv(self) -> str:
        """The curves as the CSV that ``p2fit fit`` reads."""
        frame = self.curves.frame
        whole = [
            name
            for name in _COUNTS
            if name in frame.columns
            and frame[name].dtype == pl.Float64
            and frame.select(((pl.col(name) % 1 == 0) & (pl.col(name) < 2**53)).all()).item()
        ]
        return frame.with_columns(pl.col(whole).cast(pl.Int64)).write_csv()

    def to_dict(self) -> dict[str, Any]:
        """The report, in the types of JSON."""
        return {
            "rows": self.curves.frame.height,
            "runs": [asdict(run) for run in self.runs],
            "laws": self._laws(),
            "warnings": list(self.warnings),
        }

    def _laws(self) -> list[str]:
        found: list[str] = check(self.curves)["laws"] if "loss" in self.curves.frame.columns else []
        return found

    def _targets(self) -> list[str]:
        own = {"run", *(field["name"] for field in schema()["fields"])}
        return [n for n in self.curves.frame.columns if n not in own and not n.endswith("_stderr")]

    def summary(self) -> str:
        """The report for people."""
        lines = []
        for one in self.runs[:SHOWN]:
            unit = "" if one.unit == "nats" else f", converted from {one.unit}"
            lines.append(f"{one.source} ({one.format}): run {one.run}, {_count(one.rows, 'row')}")
            if one.loss:
                lines.append(f"  loss from {one.loss} ({one.kind}{unit}), tokens from {one.tokens}")
            if left := sum(one.dropped.values()):
                reasons = ", ".join(f"{n} {why}" for why, n in one.dropped.items())
                lines.append(f"  left out {left} of {_count(one.records, 'record')}: {reasons}")
        lines += _rest(len(self.runs), "runs")
        lines += [f"warning: {warning}" for warning in self.warnings[:SHOWN]]
        lines += _rest(len(self.warnings), "warnings")
        frame, left = self.curves.frame, sum(sum(one.dropped.values()) for one in self.runs)
        lines.append(
            f"{_count(frame.height, 'row')}, {_count(frame['run'].n_unique(), 'run')}; "
            f"{_count(left, 'record')} left out; "
            + (
                f"laws they can serve: {', '.join(self._laws()) or 'none'}"
                if "loss" in frame.columns
                else f"no loss; fit one with --target: {', '.join(self._targets())}"
            )
        )
        return "".join(line + "\n" for line in lines)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _rest(n: int, what: str) -> list[str]:
    return [f"... and {n - SHOWN} more {what} (--json has all)"] if n > SHOWN else []


def import_logs(
    paths: str | Path | Sequence[str | Path] | Source,
    *,
    columns: Mapping[str, str] | None = None,
    run_by: Sequence[str] | None = None,
    runs: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
    run_from_path: bool = False,
    params: float | None = None,
    tokens_per_step: float | None = None,
    pruning_rate: float | None = None,
    base_loss: float | None = None,
    method: str | None = None,
    family: str | None = None,
    seed: int | str | None = None,
    loss_unit: Unit | None = None,
    bytes_per_token: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Turn logs of training runs into loss curves.

    Reads Hugging Face's ``trainer_state.json``, a chart that W&B exported as CSV, W&B's history as
    JSONL, TensorBoard event files, the consoles of nanoGPT, modded-nanogpt and Megatron-LM,
    results of lm-evaluation-harness (which have no loss: for another target), and any other CSV or
    JSONL. A held-out loss is taken where the
    log has one, else the training loss, with a warning. Records without the loss, with a NaN or
    infinite one, and those that a resumed run wrote again are left out and counted: of records of
    one run at the same token count the later stays.

    Args:
        paths: files or folders, or a log in memory, a table as in :func:`p2fit.fit_each`. A folder
            is searched for runs: a ``trainer_state.json`` (or that of the last checkpoint) or
            event files.
        columns: column of the curves -> its name in the logs, ``{"loss": "eval_pile_loss"}``;
            ``step`` too, which ``tokens_per_step`` multiplies; or an expression, ``{"loss":
            "log(eval_ppl)"}``.
        run_by: columns of the logs of which each combination of values is a run.
        runs: a TOML file with a table per run, or such a mapping: run -> ``params``,
            ``pruning_rate``, ``base_loss``, ``method``, ``family``, ``seed``,
            ``tokens_per_step``, ``loss_unit``, ``bytes_per_token``. It comes before the
            arguments below, which hold for all runs.
        run_from_path: name the runs that have no name in their log by their folder or file, by as
            many parts of the path as tell them apart.
        params: parameter count before pruning.
        tokens_per_step: tokens in one optimizer step, over all devices.
        pruning_rate: share of the parameters removed.
        base_loss: loss of the unpruned model, in the unit of the losses.
        method, family, seed: what the run is.
        loss_unit: of the losses in the logs: ``nats`` per token (the default), ``bits`` per
            token, ``perplexity`` per token, or ``bits-per-byte``.
        bytes_per_token: bytes of text per token, for ``bits-per-byte``.
        progress: called with how many of how many logs are read.

    Raises:
        CurvesError: a log is broken, lacks what is needed, or breaks a rule of the data format.
        FitError: arguments that do not go together.
    """
    given = {
        "params": params,
        "tokens_per_step": tokens_per_step,
        "pruning_rate": pruning_rate,
        "base_loss": base_loss,
        "method": method,
        "family": family,
        "seed": seed,
        "loss_unit": loss_unit,
        "bytes_per_token": bytes_per_token,
    }
    tables = [paths] if is_table(paths) else []
    if not tables:
        hold("paths", paths, str | Path | Sequence[str | Path])
    files: list[Any] = [] if tables else [paths] if isinstance(paths, str | Path) else [*paths]  # type: ignore[misc]
    asked = Asked(
        with_run_by(columns, run_by),
        {k: v for k, v in given.items() if v is not None},
        *_tables(runs),
    )
    _verify(asked)
    found = list(dict.fromkeys(source for path in files for source in sources(path)))
    if not found and not tables:
        raise FitError("no log is named")
    logs: list[tuple[Log, tuple[str, ...]]] = [(table_log(table), ("run",)) for table in tables]
    for i, source in enumerate(found):
        logs += [(log, place(source)) for log in read_log(source)]
        if progress is not None:
            progress(i + 1, len(found))
    names = name_runs(logs, asked, run_from_path)
    known = sorted({run for runs_of in names for run in runs_of.unique()})
    for name in asked.runs:
        if name not in known:
            offer = suggest(name, known).replace("the columns are", "the runs are")
            raise CurvesError([Fault(asked.origin, None, None, f"no run {name}{offer}")])
    taken = [take(log, run, asked) for (log, _), run in zip(logs, names, strict=True)]
    return _join(taken, asked)


# ---------------------------------------------------------------- what was asked for


def _verify(asked: Asked) -> None:
    """Raise if something asked for cannot be meant."""
    for column in asked.columns:
        if column in (RECORD, LOG):
            raise FitError(f"a column cannot be called {column}")
    for origin, facts in (("", asked.given), *asked.runs.items()):
        label = f"{asked.origin}: {origin}: " if origin else ""
        for name, value in facts.items():
            column = "tokens" if name == "tokens_per_step" else name
            if column in asked.columns:
                raise FitError(
                    f"{label}{column} is taken from {asked.columns[column]}, and {name} is given "
                    "too: give one of them"
                )
            if wrong := _wrong(name, value):
                raise FitError(label + wrong)


def _wrong(name: str, value: Any) -> str | None:
    """What is wrong with something said of a run; the data format has rules for the rest."""
    good: bool
    number, text = _is_number(value), isinstance(value, str) and printable(value) == value
    if name not in _SETTINGS:
        quotes = f'; a name with a dot needs quotes: ["a.{name}"]'
        offer = suggest(name, _SETTINGS).replace("the columns are", "the settings are")
        return f"no setting {name}{quotes if isinstance(value, Mapping) else offer}"
    if name == "loss_unit":
        return None if value in _UNITS else f"loss_unit is {value!r}: use {' or '.join(_UNITS)}"
    if name in ("method", "family"):
        good, what = text and value.strip() != "", "a text"
    elif name == "seed":
        good = text or (number and value % 1 == 0)
        what = "a whole number or text"
    elif name in ("tokens_per_step", "bytes_per_token"):
        good, what = number and value > 0, "a number above 0, such as 4e6"
    else:
        good, what = number, "a number, such as 1.2e9"
    return None if good else f"{name} is {value!r:.40}: it must be {what}"


def _is_number(value: Any) -> bool:
    """Whether something is a finite number; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2.0**1023  # of an int of any size, too


def _tables(
    runs: str | Path | Mapping[str, Mapping[str, Any]] | None,
) -> tuple[Mapping[str, Mapping[str, Any]], str]:
    """The table of runs, and where it is from."""
    if runs is None:
        return {}, ""
    if isinstance(runs, Mapping):
        origin, document = "runs", runs
    else:
        import tomllib

        origin, data = read_bytes(runs)
        try:
            document = tomllib.loads(data.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise CurvesError([Fault(origin, None, None, "not UTF-8: save it as UTF-8")]) from None
        except (
            ValueError,
            RecursionError,
        ) as error:  # or a number of more digits than Python reads
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise CurvesError([Fault(origin, None, None, f"not TOML: {why}")]) from None
    for name, table in document.items():
        if not isinstance(table, Mapping):
            what = "not in the table of a run: put it below [NAME], the run's name"
            raise CurvesError([Fault(origin, None, str(name), what)])
    return document, origin


# ---------------------------------------------------------------- all logs together


def _join(taken: Sequence[Taken], asked: Asked) -> Imported:
    frame = pl.concat(
        [one.frame.with_columns(pl.lit(i, pl.UInt32).alias(LOG)) for i, one in enumerate(taken)],
        how="diagonal_relaxed",
    )
    key = [name for name in ("run", "tokens") if name in frame.columns]
    last = pl.struct(key).is_last_distinct() if len(key) == 2 else pl.lit(True)
    for run, i, n in frame.filter(~last).group_by("run", LOG).len().iter_rows():
        reports, old = taken[i].reports, taken[i].reports[run]
        dropped = {**old.dropped, AGAIN: old.dropped.get(AGAIN, 0) + n}
        reports[run] = replace(old, rows=old.rows - n, dropped=dropped)
    frame = frame.filter(last)
    reports = [report for one in taken for report in one.reports.values()]
    source = taken[0].log.source if len(taken) == 1 else f"{len(taken)} logs"
    if not frame.height:
        reasons = sum((Counter(report.dropped) for report in reports), Counter[str]())
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "no records"
        raise CurvesError([Fault(source, None, None, f"no row is left: {why}")])

    first = [f["name"] for f in schema()["fields"] if f["name"] in frame.columns]
    try:
        needs = REQUIRED if any(one.loss for one in reports) else ("run",)
        table = frame.select(*first, pl.exclude(*first, RECORD, LOG))
        curves = from_frame(table, needs=needs)
    except CurvesError as error:
        faults = dict.fromkeys(_place(fault, frame, taken, asked) for fault in error.faults)
        count = len(faults) + error.count - len(error.faults)
        raise CurvesError(list(faults), count) from None
    warnings = [warning for one in taken for warning in one.warnings]
    if {"held-out", "training"} <= {report.kind for report in reports if report.rows}:
        warnings.append(
            "some runs have a held-out loss and others a training loss: do not mix them"
        )
    texts = curves.frame.select(pl.col(pl.String).drop_nulls().str.contains(_RUNS).any())
    if any(texts.row(0)):
        warnings.append(
            "cells that begin with = + - or @ are formulas to a spreadsheet, which may run them: "
            "open these curves there as text only"
        )
    return Imported(replace(curves, source=source), tuple(reports), tuple(dict.fromkeys(warnings)))


def _place(fault: Fault, frame: pl.DataFrame, taken: Sequence[Taken], asked: Asked) -> Fault:
    """A fault of the table, as one of the log that the row is from, or of what was given."""
    if fault.line is None:
        return fault
    row = frame.row(fault.line - 1, named=True)
    run, column = row["run"], str(fault.column)
    if column in asked.of(run):
        own = column in asked.runs.get(run, {})
        origin = f"{asked.origin}: {run}" if own else "given"
        return Fault(origin, None, column, fault.message, fault.kind)
    one: Taken = taken[row[LOG]]
    name = one.names.get(column, column)
    if column == "tokens":
        name = f"tokens from {one.reports[run].tokens}"
    elif column in ("loss", "base_loss") and name != column:  # the value may be a converted one
        name = f"{column} from {name}"
    message = re.sub(r" on row \d+", " in another record", fault.message)
    message = re.sub(r"(; so are all of \d+ rows): .*", r"\1", message)  # names of the table
    record: int = row[RECORD]
    return one.log.fault(record, name, message, fault.kind)
