"""Loss curves: read a CSV file, check every cell, hand over a table that nobody checks again.

The rules are those of ``schemas/curves.schema.json``; nothing here repeats them. Sizes are
absolute counts (parameters, tokens) and losses are in nats per token.
"""

import codecs
import contextlib
import csv
import hashlib
import io
import itertools
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO

import polars as pl

from p2fit.curves.checking import REQUIRED, Table
from p2fit.curves.frames import frame_of, is_table
from p2fit.curves.selecting import check_selected
from p2fit.errors import FRAME, CurvesError, Fault, FitError
from p2fit.files import opening
from p2fit.wording import printable

_PACKED = {
    b"\x1f\x8b": "gzip; unpack it first",
    b"BZh": "bzip2; unpack it first",
    b"\xfd7zXZ\0": "xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstandard; unpack it first",
    b"PK\x03\x04": "zip or Excel; unpack it, or save the sheet as CSV",
    b"PAR1": "Parquet; save it as CSV",
    codecs.BOM_UTF16_LE: "UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16; save it as UTF-8",
}
_QUOTES = "a quote is not closed, or has text after it"
_UNMAPPED: Mapping[str, str] = {}


@dataclass(frozen=True)
class Curves:
    """Loss curves that passed every check."""

    frame: pl.DataFrame
    """One row per evaluation, by run, then tokens, where there are runs. Float64 or String columns:
    numbers wherever the schema or the caller asks for them, or where every nonempty cell is one.
    Empty is null."""
    source: str
    """The path as given, ``<stdin>`` or ``<frame>``."""
    sha256: str
    """Of the bytes read; of a frame, of ``frame`` written as CSV."""
    renamed: Mapping[str, str]
    """The mapping in use: column -> its name in the file, or an expression."""
    notes: tuple[str, ...] = ()
    """What the reader should know of them."""
    escaped: pl.DataFrame | None = None
    """Rows that a filter left out before the checks, as they would not have passed them; null where
    a cell broke a rule. None where all rows passed."""

    def __repr__(self) -> str:
        rows = f"{self.frame.height} rows of {', '.join(self.frame.columns)}"
        return printable(shorten(f"<Curves {self.source}: {rows}>", 200, placeholder=" …>"))

    def _repr_html_(self) -> str:
        return self.frame._repr_html_()


def read_curves(
    path: str | Path | BinaryIO | Any,
    *,
    columns: Mapping[str, str] = _UNMAPPED,
    needs: Collection[str] = REQUIRED,
    numeric: Collection[str] = (),
    where: str | None = None,
) -> Curves:
    """Read and check a CSV file of loss curves, or a table in memory.

    Other columns of the schema may be absent or have empty cells; what is filled obeys its rule.

    Where ``avg_params`` is needed and absent but ``active_params`` (the count at the moment of
    each row) is there, it is integrated: the mean active count over the tokens so far,
    (1/D)∫₀ᴰ N(t)dt (Jin et al. 2025), by the trapezoid rule over the rows of the run, N taken as
    constant from tokens = 0 to the first row. A row with tokens = 0 has its own ``active_params``.

    Args:
        path: a file, an open binary file, ``"-"`` for standard input, or a table as in
            :func:`from_frame`.
        columns: column -> the name it has in the file, ``{"loss": "loss_pile"}``. It replaces a
            column of that name; the source stays, under its own name, as a further column.
        needs: columns that must exist and be filled; those that the schema does not know are
            numbers.
        numeric: further such columns, all of them numbers.
        where: a filter (SQL); where rows have faults only those that it takes are checked.

    Raises:
        CurvesError: every fault of the file.
    """
    if is_table(path):
        return from_frame(path, columns=columns, needs=needs, numeric=numeric, where=where)
    source, data = read_bytes(path)
    table = parse(source, data)
    frame, escaped = check_selected(table, columns, needs, numeric, where)
    digest = hashlib.sha256(data).hexdigest()
    return Curves(frame, source, digest, dict(columns), tuple(table.notes), escaped)


def from_frame(
    frame: Any,
    *,
    columns: Mapping[str, str] = _UNMAPPED,
    needs: Collection[str] = REQUIRED,
    numeric: Collection[str] = (),
    where: str | None = None,
) -> Curves:
    """Check loss curves that are in memory, as ``read_curves`` does a file; faults name rows.

    Args:
        frame: a table of numbers and strings, as :func:`p2fit.curves.frames.frame_of` takes it:
            of Polars, pandas or Arrow, column name -> values, or a list of records. NaN is an empty
            cell.
        columns, needs, numeric, where: as in ``read_curves``.

    Raises:
        CurvesError: every fault.
    """
    table = Table(FRAME)
    try:
        cells = frame_of(frame)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise CurvesError([Fault(FRAME, None, None, f"not a table: {error}")]) from None
    table.header = cells.columns
    for name, dtype in cells.schema.items():
        if dtype.is_nested() or dtype in (pl.Object, pl.Binary, pl.Duration):
            table.fault_header(name, f"neither numbers nor strings but {dtype}")
    table.stop_at_faults()
    table.cells = cells.rename({name: str(i) for i, name in enumerate(cells.columns)})
    table.lines = range(1, cells.height + 1)
    checked, escaped = check_selected(table, columns, needs, numeric, where)
    digest = hashlib.sha256(checked.write_csv().encode()).hexdigest()
    return Curves(checked, FRAME, digest, dict(columns), tuple(table.notes), escaped)


def read_stdin() -> bytes:
    """All of standard input."""
    if sys.stdin is None:
        raise FitError("standard input is closed")
    with contextlib.suppress(OSError, ValueError):  # not a file of the system's
        opening(sys.stdin.fileno())
    return sys.stdin.buffer.read()


def read_bytes(path: str | Path | BinaryIO) -> tuple[str, bytes]:
    """Name and bytes of the source."""
    if path == "-":
        return "<stdin>", read_stdin()
    if not isinstance(path, str | Path):
        if not hasattr(path, "read"):
            raise FitError(f"{path!r} is no curves: give a path, a table or a binary file")
        name = getattr(path, "name", None)
        return printable(name) if isinstance(name, str) else "<stream>", path.read()
    opening(path)
    try:
        return printable(str(path)), Path(path).read_bytes()
    except FileNotFoundError:
        why = "no such file"
    except IsADirectoryError:
        why = "a directory, not a file"
    except PermissionError:
        why = "no permission to read it"
    except OSError as error:
        why = error.strerror or str(error)
    raise CurvesError([Fault(printable(str(path)), None, None, why)])


def no_text(data: bytes) -> str | None:
    """Why a file has no text to read, if it has none."""
    kind = next((kind for magic, kind in _PACKED.items() if data.startswith(magic)), None)
    if kind or b"\0" in data:
        return f"not a text file: {kind or 'it has zero bytes'}"
    return None if data.removeprefix(codecs.BOM_UTF8).strip() else "the file is empty"


def parse(source: str, data: bytes) -> Table:
    """Split a file into cells. Plain text goes through Polars; the rest, which Polars would mend
    or refuse without naming a line, through the csv module."""
    table = Table(source)
    data = data.removeprefix(codecs.BOM_UTF8)
    header = io.BytesIO(data.lstrip()).readline()
    if why := no_text(data):
        table.fault(None, None, why)
    elif b"," not in header and (b";" in header or b"\t" in header):
        name = "semicolon" if b";" in header else "tab"
        table.fault(1, None, f"looks {name}-separated: save it with commas")
    table.stop_at_faults()
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not _parse_plain(table, data):
        _parse_csv(table, data)
    return table


def _parse_plain(table: Table, data: bytes) -> bool:
    """Fill ``table`` if every line is one record of the same width; else say no."""
    if b'"' in data or b"\n\n" in data or data.startswith(b"\n"):
        return False
    try:
        header = io.BytesIO(data).readline().decode().rstrip("\n").split(",")
        cells = pl.read_csv(
            data,
            has_header=False,
            skip_lines=1,
            schema={str(i): pl.String for i in range(len(header))},
            quote_char=None,
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError):
        return False
    # Polars refuses long rows and pads short ones, so the count of commas finds the short.
    if data.count(b",") != (len(header) - 1) * (cells.height + 1):
        return False
    table.header, table.cells, table.lines = header, cells, range(2, cells.height + 2)
    table.tidy = data.isascii() and not any(space in data for space in (b" ", b"\t", b"\v", b"\f"))
    return True


def _parse_csv(table: Table, data: bytes) -> None:
    """Fill ``table`` through the csv module, with a fault for every record that does not fit."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        table.fault(data.count(b"\n", 0, error.start) + 1, None, "not UTF-8: save it as UTF-8")
        text = data.decode(errors="replace")
    records = _records(io.StringIO(text, newline="\n").readlines())
    line, header = next(records, (1, [""]))
    if header is None:
        table.fault(line, None, _QUOTES)
        raise CurvesError(table.faults)
    width = len(header)
    lines: list[int] = []
    empty = pl.DataFrame(schema={str(i): pl.String for i in range(width)})
    chunks = [empty]
    while batch := list(itertools.islice(records, 1 << 10)):  # few Python strings at a time
        rows = []
        for line, row in batch:
            if row is None:
                table.fault(line, None, _QUOTES)
            elif len(row) != width:
                cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
                table.fault(line, None, f"{cells}, header has {width}", "cells")
            else:
                rows.append(row)
                lines.append(line)
        chunks.append(pl.DataFrame(rows, schema=empty.schema, orient="row"))
    table.header, table.cells, table.lines = header, pl.concat(chunks), lines


def _records(lines: Sequence[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Line and cells of each record that is not blank; None for one whose quotes do not work.

    After such a record reading resumes on the line below its first, so that one open quote does
    not swallow the faults of the rest.
    """
    start = 0
    while start < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), strict=True)
        line = start + 1
        try:
            for row in reader:
                if len(row) > 1 or any(cell.strip() for cell in row):
                    yield line, row
                line = start + reader.line_num + 1
            return
        except csv.Error:
            yield line, None
            start = line
