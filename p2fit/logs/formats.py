"""Logs of training runs as their tools write them, read into columns; nothing is chosen here.

Hugging Face's ``trainer_state.json``, Weights & Biases' exported CSV and history JSONL, TensorBoard
event files, and any CSV or JSONL. :mod:`p2fit.logs.importing` makes loss curves of them.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from p2fit.curves.checking import Table
from p2fit.curves.frames import frame_of
from p2fit.curves.reading import no_text, parse, read_bytes
from p2fit.errors import FRAME, CurvesError, Fault
from p2fit.logs.consoles import console_log
from p2fit.logs.log import Column, Log, Records, broken
from p2fit.logs.results import is_results, results_log
from p2fit.logs.tensorboard import tensorboard
from p2fit.wording import HALVED, halved, printable

STATE = "trainer_state.json"
EVENTS = "tfevents"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def sources(path: str | Path) -> list[Path]:
    """The logs in a folder, one per run; a file is one by itself.

    A run's folder has a ``trainer_state.json`` (else the one of its last checkpoint is taken) or
    event files; what lies below it is left alone.

    Raises:
        CurvesError: no log in the folder, or no permission to read it.
    """
    if not Path(path).is_dir():
        return [Path(path)]
    try:
        found = list(_walk(Path(path)))
    except OSError as error:
        raise CurvesError([Fault(str(path), None, None, error.strerror or str(error))]) from None
    if not found:
        what = f"no {STATE} and no TensorBoard event files in this folder"
        raise CurvesError([Fault(str(path), None, None, what)])
    return found


def _walk(path: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(path, onerror=stop):
        folder = Path(name)
        checkpoints = [f for f in folders if _CHECKPOINT.fullmatch(f)]
        states = [folder / f / STATE for f in sorted(checkpoints, key=lambda f: int(f[11:]))]
        states = [s for s in states if s.is_file()]
        folders.sort()
        if STATE in files:
            states.append(folder / STATE)
        if states:
            yield states[-1]
        elif any(EVENTS in file for file in files):
            yield folder
        else:
            continue
        folders.clear()  # the rest is this run's own


def place(source: Path) -> tuple[str, ...]:
    """The parts of a path by which its run can be named."""
    path = Path(os.path.abspath(source))
    if path.name == STATE:
        path = path.parent
        if _CHECKPOINT.fullmatch(path.name):
            path = path.parent
    elif path.is_file():
        path = path.parent if EVENTS in path.name else path.with_suffix("")
    return tuple(map(printable, path.parts[1:])) or ("run",)


def read_log(source: Path) -> list[Log]:
    """Read one of :func:`sources`: a log per run that it names, or one.

    Raises:
        CurvesError: the file cannot be read, or is broken; the message says where.
        FitError: tensorboard is needed and not installed.
    """
    if source.is_dir():
        return [tensorboard(source, sorted(source.glob(f"*{EVENTS}*")))]
    if EVENTS in source.name and source.is_file():
        return [tensorboard(source, [source])]
    name, data = read_bytes("-" if str(source) == "-" else source)
    if source.suffix == ".wandb":
        raise broken(name, "W&B's own binary file: export the run's history as CSV or JSONL")
    if why := no_text(data):
        raise broken(name, why)
    data = data.removeprefix(codecs.BOM_UTF8)
    if (log := console_log(name, data.decode(errors="replace"))) is not None:
        return [log]
    if data.lstrip()[:1] in (b"{", b"["):
        return [_json(name, data, source.suffix in (".jsonl", ".ndjson"))]
    return _csv(name, data)


def table_log(source: Any) -> Log:
    """A log that is a table in memory, such as the frame of W&B's ``run.history()``.

    Raises:
        CurvesError: it is no table.
    """
    try:
        frame = frame_of(source)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise broken(FRAME, f"not a table: {error}") from None

    def column(name: str) -> pl.Series:
        own = frame[name]
        return own.cast(pl.Float64 if own.dtype.is_numeric() else pl.String)

    plain = [
        n for n, d in frame.schema.items() if not d.is_nested() and d not in (pl.Object, pl.Binary)
    ]
    columns: dict[str, Column] = {name: partial(column, name) for name in plain}
    rows = range(1, frame.height + 1)
    form, in_time = ("W&B history", True) if _is_history(columns) else ("table", False)
    return Log(FRAME, form, columns, frame.height, lines=rows, in_time=in_time)


def _is_history(names: Collection[str]) -> bool:
    return "_step" in names and ("_timestamp" in names or "_runtime" in names)


# ---------------------------------------------------------------- JSON


def _json(source: str, data: bytes, by_line: bool) -> Log:
    """A ``trainer_state.json``, or one object per line."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise broken(source, "not UTF-8: save it as UTF-8", line) from None
    if text.lstrip()[:2] == "{'":
        why = "Hugging Face's Trainer prints no steps: import the trainer_state.json it saves"
        raise broken(source, why)
    if not by_line:
        try:
            whole = _loads(source, text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise broken(source, _why(error), error.lineno) from None
        else:
            return results_log(source, whole) if is_results(whole) else _state(source, whole)
    records, lines = Records(), []
    for number, one in enumerate(text.split("\n"), 1):
        if not one.strip():
            continue
        try:
            record = _loads(source, one, number)
        except json.JSONDecodeError as error:
            raise broken(source, _why(error), number) from None
        if not isinstance(record, dict):
            raise broken(source, "not a JSON object: one object per line is needed", number)
        records.add(record)
        lines.append(number)
    wandb = _is_history(records.found)
    return Log(
        source,
        "W&B history" if wandb else "JSONL",
        records.columns(),
        records.height,
        lines=lines,
        in_time=wandb,
    )


def _loads(source: str, text: str, line: int | None = None) -> Any:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise broken(source, "not a log: JSON nested too deep", line) from None
    except ValueError:
        raise broken(source, "a number of more than 4300 digits", line) from None
    if halved(text, found):
        raise broken(source, HALVED, line)
    return found


def _why(error: json.JSONDecodeError) -> str:
    return f"not JSON, character {error.colno}: {error.msg}"


def _state(source: str, state: Any) -> Log:
    history = state.get("log_history") if isinstance(state, dict) else None
    if history is None:
        raise broken(
            source,
            "neither a trainer_state.json (no log_history), nor results of lm-evaluation-harness, "
            "nor one JSON object per line",
        )
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise broken(source, "log_history is not a list of objects")
    records = Records()
    for entry in history:
        records.add(entry)
    return Log(
        source,
        "Hugging Face Trainer",
        records.columns(),
        records.height,
        entries="log_history",
        in_time=True,
    )


# ---------------------------------------------------------------- CSV


def _csv(source: str, data: bytes) -> list[Log]:
    if b"," not in data.lstrip().partition(b"\n")[0] and b" " in data.strip():
        raise broken(
            source,
            "text of a kind that is not known; read are the consoles of nanoGPT, modded-nanogpt, "
            "Megatron-LM and torchtune: else make a CSV of it with the columns step and val_loss",
        )
    table = parse(source, data)
    table.stop_at_faults()
    header = [name.strip() for name in table.header]
    named = {name: i for i, name in enumerate(header) if name}  # pandas leaves its index nameless
    if twice := sorted({name for name in named if header.count(name) > 1}):
        raise broken(source, f"{twice[0]} is the name of {header.count(twice[0])} columns", 1)

    def column(name: str) -> pl.Series:
        text = table.cells.to_series(named[name]).str.strip_chars().alias(name)
        return text.set(text == "", None)

    def log(names: Mapping[str, str], form: str, run: str | None = None) -> Log:
        columns: dict[str, Column] = {name: partial(column, old) for name, old in names.items()}
        return Log(source, form, columns, table.cells.height, run, table.lines)

    spread = [n for n in named if {f"{n}__MIN", f"{n}__MAX"} <= named.keys()]
    if not spread and (metric := _long(named)):
        return [_from_long(source, table, {n: column(n) for n in named}, metric)]
    if {"iter", "tokens", "total_tokens"} <= named.keys():  # tokens are those of one device
        own = {n: "total_tokens" if n == "tokens" else n for n in named}
        return [log(own, "litgpt")]
    if not spread:
        return [log({name: name for name in named}, "CSV")]

    # A chart of W&B: its x axis first, then "run - metric" with its least and greatest value.
    extra = {f"{n}__{end}" for n in spread for end in ("MIN", "MAX")}
    own = {name: name for name in named if name not in spread and name not in extra}
    runs: dict[str | None, dict[str, str]] = {}
    for name in spread:
        run, dash, metric = name.rpartition(" - ")
        runs.setdefault(run if dash else None, {})[metric] = name
    logs = []
    for name_of_run, metrics in runs.items():
        logs.append(log(own | metrics, "W&B chart", name_of_run))
        logs[-1].averaged = {
            metric: int((column(f"{name}__MIN") != column(f"{name}__MAX")).sum())
            for metric, name in metrics.items()
        }
    return logs


# A row a metric and step, as MLflow and Aim give them.
_METRIC = ("key", "metric", "metric.name", "metric_name", "metric name", "tag")
_TIMES = ("timestamp", "time", "wall time", "wall_time")
_RUN = ("run", "run.name", "run name", "run_name", "run_id", "run_uuid", "run.hash", "run hash")


def _long(names: Collection[str]) -> str | None:
    """The column that names the metric of a row, where each row has one."""
    plain = {name.lower() for name in names}
    if not {"value", "step"} <= plain:
        return None
    return next((name for name in names if name.lower() in _METRIC), None)


def _from_long(source: str, table: Table, columns: Mapping[str, pl.Series], metric: str) -> Log:
    """A record for each run and step, with a column for each metric (and its context)."""
    own = {name.lower(): series for name, series in columns.items()}
    runs = next((own[name] for name in _RUN if name in own), None)
    names = columns[metric].fill_null("")
    if "context" in own:
        words = own["context"].fill_null("").str.replace_all(r"[^A-Za-z0-9]+", " ")
        words = words.str.replace(r"^\s*subset\b", "").str.strip_chars().str.replace_all(" ", "_")
        names = pl.select(
            pl.when(words == "").then(names).otherwise(words + "/" + names)
        ).to_series()
    used = {metric.lower(), "step", "value", "context", *_RUN, *_TIMES}
    rest = {n: series for n, series in columns.items() if n.lower() not in used}
    found: list[dict[str, Any]] = []
    lines: list[int] = []
    open_at: dict[tuple[Any, Any], dict[str, Any]] = {}
    for i, (name, step, value) in enumerate(zip(names, own["step"], own["value"], strict=True)):
        run = None if runs is None else runs[i]
        record = open_at.get((run, step))
        if record is None or name in record:  # what comes again is a record of its own
            record = {"run": run, "step": step, **{n: series[i] for n, series in rest.items()}}
            open_at[run, step] = record
            found.append(record)
            lines.append(table.lines[i])
        record[name] = value
    records = Records()
    for record in found:
        records.add(record)
    return Log(source, "metrics by row", records.columns(), records.height, lines=lines)
