"""Logs of training runs as their tools write them, read into columns; nothing is chosen here.

Hugging Face's ``trainer_state.json``, Weights & Biases' exported CSV and history JSONL, TensorBoard
event files, and any CSV or JSONL. :mod:`p2fit.logs.importing` makes loss curves of them.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from p2fit import extras
from p2fit.curves.checking import KEPT
from p2fit.curves.columns import Expression
from p2fit.curves.reading import no_text, parse, read_bytes
from p2fit.errors import CurvesError, Fault, FitError

STATE = "trainer_state.json"
EVENTS = "tfevents"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


_Column = Callable[[], pl.Series | list[Any]]


@dataclass
class Log:
    """What one file, or one run in it, holds."""

    source: str
    """The file, or the folder of event files."""
    format: str
    columns: dict[str, _Column]
    """Name -> what makes its column: text, or values of any kind; None where a record lacks it."""
    height: int
    """How many records."""
    run: str | None = None
    """The name that the log itself gives."""
    lines: Sequence[int] = ()
    """The line of each record, where the file has lines."""
    entries: str = ""
    """The list in the file that the records are entries of."""
    in_time: bool = False
    """Whether the records are in the order of their writing."""
    averaged: Mapping[str, int] = field(default_factory=dict)
    """Column -> how many of its values are means of several."""
    notes: list[str] = field(default_factory=list)
    """What the reader should know besides."""

    _made: dict[str, pl.Series] = field(default_factory=dict)
    _worked_out: set[str] = field(default_factory=set)

    def work_out(self, expression: Expression) -> None:
        """Add a column that an expression makes, under its text.

        Raises:
            CurvesError: a cell that it cannot be worked out of.
        """
        values, refused = expression.values(self.column, self.height)
        if refused:
            kind = f"from {expression.text}"
            faults = [self.fault(row, name, why, kind) for row, name, why in refused[:KEPT]]
            raise CurvesError(faults, len(refused))
        self.columns[expression.text] = lambda: values
        self._worked_out.add(expression.text)

    @property
    def header(self) -> list[str]:
        """The columns that the file has."""
        return [name for name in self.columns if name not in self._worked_out]

    def column(self, name: str) -> pl.Series:
        """Float64, or String where not all are numbers; one value per record, null for none."""
        if name not in self._made:
            self._made[name] = _series(self.columns[name]())
        return self._made[name]

    def texts(self, name: str) -> pl.Series:
        """A column as it is written: whole numbers of any size, for one."""
        values = self.columns[name]()
        return values if isinstance(values, pl.Series) else _strings(values)

    def numbers(self, name: str, read: Callable[[str], float | None] | None = None) -> pl.Series:
        """A column as numbers; ``read`` reads what is none by itself, such as 8B.

        Raises:
            CurvesError: it has something else; the message says where.
        """
        text = self.column(name)
        if text.dtype != pl.String:
            return text
        numbers = text.cast(pl.Float64, strict=False)
        if read is not None:
            odd = text.filter(numbers.is_null()).unique().drop_nulls()
            spelled = {cell: value for cell in odd if (value := read(cell)) is not None}
            if spelled:
                numbers = numbers.fill_null(
                    text.replace_strict(spelled, default=None, return_dtype=pl.Float64)
                )
        bad = (numbers.is_null() & text.is_not_null()).arg_true()
        if len(bad):
            wrong = "is not a number"
            faults = [self.fault(i, name, f"{text[i]!r} {wrong}", wrong) for i in bad.head(KEPT)]
            raise CurvesError(faults, len(bad))
        return numbers

    def fault(self, record: int, column: str | None, message: str, kind: str = "") -> Fault:
        line = self.lines[record] if self.lines else None
        if self.entries:
            column = f"{self.entries}[{record}].{column}"
        return Fault(self.source, line, column, message, kind)


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
    return path.parts[1:] or ("run",)


def read_log(source: Path) -> list[Log]:
    """Read one of :func:`sources`: a log per run that it names, or one.

    Raises:
        CurvesError: the file cannot be read, or is broken; the message says where.
        FitError: tensorboard is needed and not installed.
    """
    if source.is_dir():
        return [_tensorboard(source, sorted(source.glob(f"*{EVENTS}*")))]
    if EVENTS in source.name and source.is_file():
        return [_tensorboard(source, [source])]
    name, data = read_bytes("-" if str(source) == "-" else source)
    if source.suffix == ".wandb":
        raise _broken(name, "W&B's own binary file: export the run's history as CSV or JSONL")
    if why := no_text(data):
        raise _broken(name, why)
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.lstrip()[:1] in (b"{", b"["):
        return [_json(name, data, source.suffix in (".jsonl", ".ndjson"))]
    return _csv(name, data)


def _broken(source: str, message: str, line: int | None = None) -> CurvesError:
    return CurvesError([Fault(source, line, None, message)])


# ---------------------------------------------------------------- JSON


class _Records:
    """Records of different keys, gathered column by column."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[list[int], list[Any]]] = {}
        self.height = 0

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if value is None:
                continue
            if not isinstance(value, int | float | str) or isinstance(value, bool):
                value = json.dumps(value)[:50]
            rows, values = self.found.setdefault(name, ([], []))
            rows.append(self.height)
            values.append(value)
        self.height += 1

    def columns(self) -> dict[str, _Column]:
        return {name: partial(self._dense, name) for name in self.found}

    def _dense(self, name: str) -> list[Any]:
        dense: list[Any] = [None] * self.height
        for row, value in zip(*self.found[name], strict=True):
            dense[row] = value
        return dense


def _series(values: pl.Series | list[Any]) -> pl.Series:
    if isinstance(values, pl.Series):
        return values
    try:
        return pl.Series(values, dtype=pl.Float64)
    except (TypeError, OverflowError):
        return _strings(values)


def _strings(values: list[Any]) -> pl.Series:
    return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)


def _json(source: str, data: bytes, by_line: bool) -> Log:
    """A ``trainer_state.json``, or one object per line."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _broken(source, "not UTF-8: save it as UTF-8", line) from None
    if not by_line:
        try:
            whole = _loads(source, text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise _broken(source, _why(error), error.lineno) from None
        else:
            return _state(source, whole)
    records, lines = _Records(), []
    for number, one in enumerate(text.split("\n"), 1):
        if not one.strip():
            continue
        try:
            record = _loads(source, one, number)
        except json.JSONDecodeError as error:
            raise _broken(source, _why(error), number) from None
        if not isinstance(record, dict):
            raise _broken(source, "not a JSON object: one object per line is needed", number)
        records.add(record)
        lines.append(number)
    wandb = "_step" in records.found and not records.found.keys().isdisjoint(
        ("_timestamp", "_runtime")
    )
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
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise _broken(source, "not a log: JSON nested too deep", line) from None
    except ValueError:
        raise _broken(source, "a number of more than 4300 digits", line) from None


def _why(error: json.JSONDecodeError) -> str:
    return f"not JSON, character {error.colno}: {error.msg}"


def _state(source: str, state: Any) -> Log:
    history = state.get("log_history") if isinstance(state, dict) else None
    if history is None:
        raise _broken(
            source, "neither a trainer_state.json (no log_history) nor one JSON object per line"
        )
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise _broken(source, "log_history is not a list of objects")
    records = _Records()
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
    table = parse(source, data)
    table.stop_at_faults()
    header = [name.strip() for name in table.header]
    named = {name: i for i, name in enumerate(header) if name}  # pandas leaves its index nameless
    if twice := sorted({name for name in named if header.count(name) > 1}):
        raise _broken(source, f"{twice[0]} is the name of {header.count(twice[0])} columns", 1)

    def column(name: str) -> pl.Series:
        text = table.cells.to_series(named[name]).str.strip_chars().alias(name)
        return text.set(text == "", None)

    def log(names: Mapping[str, str], form: str, run: str | None = None) -> Log:
        columns: dict[str, _Column] = {name: partial(column, old) for name, old in names.items()}
        return Log(source, form, columns, table.cells.height, run, table.lines)

    spread = [n for n in named if {f"{n}__MIN", f"{n}__MAX"} <= named.keys()]
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


# ---------------------------------------------------------------- TensorBoard


def _tensorboard(source: Path, files: Iterable[Path]) -> Log:
    """The scalars of event files; what was logged at one step in a row is one record."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise FitError(
            f"{source}: TensorBoard event files need tensorboard: {extras.command('tensorboard')}"
        ) from None
    from google.protobuf.message import DecodeError

    events: list[Any] = []
    notes: list[str] = []
    for file in files:
        name, data = read_bytes(file)
        if not data:
            raise _broken(name, "the file is empty")
        try:
            for record in _tfrecords(name, data, masked_crc32c, notes):
                events.append(Event.FromString(record))
        except (DecodeError, struct.error):
            raise _broken(name, "not a TensorBoard event file, or damaged") from None
    records, at = _Records(), None
    now: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.wall_time):  # one file per start
        for value in event.summary.value:
            if value.HasField("simple_value"):
                number = value.simple_value
            elif value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                try:
                    number = float(make_ndarray(value.tensor))
                except (TypeError, ValueError):  # text
                    continue
            else:
                continue
            if at != event.step or value.tag in now:
                if now:
                    records.add(now)
                now, at = {"step": event.step}, event.step
            now[value.tag] = number
    if now:
        records.add(now)
    if not records.height:
        raise _broken(str(source), "no scalars in the event files")
    columns = records.columns()
    return Log(str(source), "TensorBoard", columns, records.height, in_time=True, notes=notes)


def _tfrecords(
    source: str, data: bytes, checksum: Callable[[bytes], int], notes: list[str]
) -> Iterator[bytes]:
    """The records of a file; one that its writer had not finished is noted and left out.

    A record is its length (uint64), a check sum of that, the data, and a check sum of them.

    Raises:
        struct.error: a check sum that does not hold.
    """
    start = 0
    while (body := start + 12) <= len(data):
        length, check = struct.unpack_from("<QI", data, start)
        if check != checksum(data[start : start + 8]):
            raise struct.error
        end = body + length
        if end + 4 > len(data):
            break
        record = data[body:end]
        if struct.unpack_from("<I", data, end) != (checksum(record),):
            raise struct.error
        yield record
        start = end + 4
    if start < len(data):
        notes.append(f"{source} ends in the middle of a record, which is left out")
