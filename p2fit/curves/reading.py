"""Loss curves: read a CSV file, check every cell, hand over a table that nobody checks again.

The rules are those of ``schemas/curves.schema.json``; nothing here repeats them. Sizes are
absolute counts (parameters, tokens) and losses are in nats per token.
"""

import codecs
import csv
import hashlib
import io
import itertools
import json
import math
import operator
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

SHOWN = 20  # faults in the text of an error
KEPT = 1000  # faults kept of a hopeless file; the rest is counted
FRAME = "<frame>"

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
_SUFFIX = re.compile(r"([+-]?\d+(?:\.\d+)?) ?([KMBGT])", re.IGNORECASE)
_POWER = {"K": "e3", "M": "e6", "B": "e9", "G": "e9", "T": "e12"}

# Property of a rule, what relates it to a good value, words for a bad one, its side of an interval.
_LIMITS = (
    ("minimum", operator.le, "below", "[{}"),
    ("p2fit:exclusiveMinimum", operator.lt, "not above", "({}"),
    ("maximum", operator.ge, "above", "{}]"),
    ("p2fit:exclusiveMaximum", operator.gt, "not below", "{})"),
)

_Rule = Mapping[str, Any]
_UNMAPPED: Mapping[str, str] = {}


@cache
def schema() -> dict[str, Any]:
    """The Table Schema of a file of loss curves, parsed. Shared: do not change it."""
    path = Path(__file__).parents[1] / "schemas" / "curves.schema.json"
    parsed: dict[str, Any] = json.loads(path.read_bytes())
    return parsed


def _rules() -> dict[str, _Rule]:
    """Column name -> its rule: the field of the schema, its constraints among its properties."""
    return {f["name"]: f | f.get("constraints", {}) for f in schema()["fields"]}


_NUMBER: _Rule = {"type": "number"}  # a column that only a formula knows
REQUIRED: tuple[str, ...] = tuple(n for n, rule in _rules().items() if rule.get("required"))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where: ``curves.csv:17: pruning_rate: 1.3 is not in [0, 1)``."""

    source: str
    line: int | None
    """Physical line, from 1 (the header), where the record starts; in a frame, the row from 1."""
    column: str | None
    """The column by its name in the file, or the name that was looked for."""
    message: str

    def __str__(self) -> str:
        place = self.source
        if self.line is not None:
            place += f": row {self.line}" if self.source == FRAME else f":{self.line}"
        return ": ".join(part for part in (place, self.column, self.message) if part is not None)


class CurvesError(ValueError):
    """Faults in a file of loss curves; its text is one line per fault, the first 20 and a count.

    ``faults`` are in the order of their lines: all of them, or the first 1000 of ``count``.
    """

    def __init__(self, faults: Sequence[Fault], count: int | None = None) -> None:
        super().__init__(faults, count)
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.count: int = len(faults) if count is None else count

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        if more := self.count - len(lines):
            lines.append(f"… and {more} more fault{'s' if more > 1 else ''}")
        return "\n".join(lines)


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
    """The mapping in use: column -> its name in the file."""


@dataclass
class _Table:
    """A table before its cells are checked, and the faults found so far."""

    source: str
    header: list[str] = field(default_factory=list)
    cells: pl.DataFrame = field(default_factory=pl.DataFrame)  # its columns by position: "0", "1"
    lines: Sequence[int] = ()  # row -> where it starts
    tidy: bool = False  # no cell can have spaces around it, and the empty ones are null
    where: dict[str, int] = field(default_factory=dict)  # column -> its position in cells
    faults: list[Fault] = field(default_factory=list)
    uncounted: int = 0  # faults beyond those kept

    def fault(self, line: int | None, column: str | None, message: str) -> None:
        self.faults.append(Fault(self.source, line, column, message))

    def fault_header(self, column: str | None, message: str) -> None:
        self.fault(None if self.source == FRAME else 1, column, message)

    def fault_rows(
        self, column: str, found: pl.DataFrame, message: Callable[[dict[str, Any]], str]
    ) -> None:
        """A fault per row of ``found``, whose column ``row`` is the position in ``cells``."""
        column = self.header[self.where[column]]
        kept = found.sort("row").head(KEPT)
        self.uncounted += found.height - kept.height
        for at in kept.iter_rows(named=True):
            self.fault(self.lines[at["row"]], column, message(at))

    def line(self, row: int) -> str:
        return f"{'row' if self.source == FRAME else 'line'} {self.lines[row]}"

    def stop_at_faults(self) -> None:
        if self.faults:
            # Two columns taken from the same one may find the same fault.
            ordered = sorted(dict.fromkeys(self.faults), key=lambda fault: fault.line or 0)
            raise CurvesError(ordered[:KEPT], len(ordered) + self.uncounted)


def read_curves(
    path: str | Path | BinaryIO,
    *,
    columns: Mapping[str, str] = _UNMAPPED,
    needs: Collection[str] = REQUIRED,
    numeric: Collection[str] = (),
) -> Curves:
    """Read and check a CSV file of loss curves.

    Other columns of the schema may be absent or have empty cells; what is filled obeys its rule.

    Where ``avg_params`` is needed and absent but ``active_params`` (the count at the moment of
    each row) is there, it is integrated: the mean active count over the tokens so far,
    (1/D)∫₀ᴰ N(t)dt (Jin et al. 2025), by the trapezoid rule over the rows of the run, N taken as
    constant from tokens = 0 to the first row. A row with tokens = 0 has its own ``active_params``.

    Args:
        path: a file, an open binary file, or ``"-"`` for standard input.
        columns: column -> the name it has in the file, ``{"loss": "loss_pile"}``. It replaces a
            column of that name; the source stays, under its own name, as a further column.
        needs: columns that must exist and be filled; those that the schema does not know are
            numbers.
        numeric: further such columns, all of them numbers.

    Raises:
        CurvesError: every fault of the file.
    """
    source, data = read_bytes(path)
    table = parse(source, data)
    frame = _check(table, columns, needs, numeric)
    return Curves(frame, source, hashlib.sha256(data).hexdigest(), dict(columns))


def from_frame(
    frame: pl.DataFrame | Mapping[str, Any],
    *,
    columns: Mapping[str, str] = _UNMAPPED,
    needs: Collection[str] = REQUIRED,
    numeric: Collection[str] = (),
) -> Curves:
    """Check loss curves that are in memory, as ``read_curves`` does a file; faults name rows.

    Args:
        frame: a table of numbers and strings, or column name -> values. NaN is an empty cell.
        columns, needs, numeric: as in ``read_curves``.

    Raises:
        CurvesError: every fault.
    """
    table = _Table(FRAME)
    try:
        cells = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise CurvesError([Fault(FRAME, None, None, f"not a table: {error}")]) from None
    table.header = cells.columns
    for name, dtype in cells.schema.items():
        if dtype.is_nested() or dtype in (pl.Object, pl.Binary, pl.Duration):
            table.fault_header(name, f"neither numbers nor strings but {dtype}")
    table.stop_at_faults()
    table.cells = cells.rename({name: str(i) for i, name in enumerate(cells.columns)})
    table.lines = range(1, cells.height + 1)
    checked = _check(table, columns, needs, numeric)
    digest = hashlib.sha256(checked.write_csv().encode()).hexdigest()
    return Curves(checked, FRAME, digest, dict(columns))


def read_bytes(path: str | Path | BinaryIO) -> tuple[str, bytes]:
    """Name and bytes of the source."""
    if path == "-":
        return "<stdin>", sys.stdin.buffer.read()
    if not isinstance(path, str | Path):
        name = getattr(path, "name", None)
        return name if isinstance(name, str) else "<stream>", path.read()
    try:
        return str(path), Path(path).read_bytes()
    except FileNotFoundError:
        why = "no such file"
    except IsADirectoryError:
        why = "a directory, not a file"
    except PermissionError:
        why = "no permission to read it"
    except OSError as error:
        why = error.strerror or str(error)
    raise CurvesError([Fault(str(path), None, None, why)])


def no_text(data: bytes) -> str | None:
    """Why a file has no text to read, if it has none."""
    kind = next((kind for magic, kind in _PACKED.items() if data.startswith(magic)), None)
    if kind or b"\0" in data:
        return f"not a text file: {kind or 'it has zero bytes'}"
    return None if data.removeprefix(codecs.BOM_UTF8).strip() else "the file is empty"


def parse(source: str, data: bytes) -> _Table:
    """Split a file into cells. Plain text goes through Polars; the rest, which Polars would mend
    or refuse without naming a line, through the csv module."""
    table = _Table(source)
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


def _parse_plain(table: _Table, data: bytes) -> bool:
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


def _parse_csv(table: _Table, data: bytes) -> None:
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
                table.fault(line, None, f"{cells}, header has {width}")
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


def _check(
    table: _Table, columns: Mapping[str, str], needs: Collection[str], numeric: Collection[str]
) -> pl.DataFrame:
    """The checked frame, sorted; raises CurvesError with every fault."""
    _find_columns(table, columns)
    where, primary = table.where, schema()["primaryKey"]
    needed = {*needs, *numeric}
    integrate = "avg_params" in needed and "avg_params" not in where and "active_params" in where
    if integrate:
        needed = needed - {"avg_params"} | {"active_params", *primary}
    for name in sorted(needed - where.keys() - columns.keys()):
        table.fault_header(name, f"no such column{suggest(name, where)}")
    if not table.cells.height and not table.faults:
        table.fault_header(None, "no rows: there is only a header")

    if not where:
        table.stop_at_faults()

    rules = {}
    for name in where:
        rule = _rules().get(name, {"type": "any"})
        asked = name in numeric or (name in needed and rule["type"] == "any")
        rules[name] = _NUMBER if asked and rule["type"] != "number" else rule
    frame = _convert(table, rules, needed)
    if primary[0] in where:
        key = [name for name in primary if name in where]
        order = frame.select(pl.arg_sort_by(key, nulls_last=True, maintain_order=True)).to_series()
        frame = frame[order]
        if key == primary:
            _check_unique(table, frame[key], order)
        for name, rule in rules.items():
            if (group := rule.get("p2fit:constantWithin")) in where:
                _check_constant(table, name, frame[group], frame[name], order)
    table.stop_at_faults()
    return frame.with_columns(avg_params=_average(*primary)) if integrate else frame


def _find_columns(table: _Table, columns: Mapping[str, str]) -> None:
    """Say where each column is, and what is wrong with the header."""
    table.header = [name.strip() for name in table.header]
    for i, name in enumerate(table.header):
        if not name:
            table.fault_header(None, f"column {i + 1} has no name: name it, or leave it out")
        elif (first := table.where.setdefault(name, i)) != i:
            table.fault_header(name, f"columns {first + 1} and {i + 1} have the same name")
    mapped = {}
    for target, name in columns.items():
        if name in table.where:
            mapped[target] = table.where[name]
        else:
            offer = suggest(name, table.where)
            table.fault_header(target, f"no column {name} to take it from{offer}")
    table.where |= mapped


def suggest(name: str, header: Collection[str]) -> str:
    """The end of a message about a column that is not there."""
    import difflib  # only faults need it

    close = difflib.get_close_matches(name, header)
    question = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"{question} the columns are {', '.join(header)}" if header else ""


def _convert(table: _Table, rules: Mapping[str, _Rule], needed: Collection[str]) -> pl.DataFrame:
    """Cells -> Float64 and String columns; what breaks a rule becomes a fault and a null."""
    cells = table.cells
    text = [
        _clean(cells.to_series(i), table.tidy).alias(f"text {n}") for n, i in table.where.items()
    ]
    value = [
        pl.col(f"text {n}")
        .cast(pl.String if rule["type"] == "string" else pl.Float64, strict=False)
        .alias(f"value {n}")
        for n, rule in rules.items()
    ]
    wrong = [_wrong(n, rule, n in needed).alias(f"wrong {n}") for n, rule in rules.items()]
    # One query: a dozen of them would cost more than reading a small file.
    done = cells.lazy().select(text).with_columns(value).with_columns(wrong).collect()
    columns: list[pl.Series] = []
    for n, rule in rules.items():
        column, fault = done[f"value {n}"], done[f"wrong {n}"].any()
        if fault and rule["type"] == "any":
            column = done[f"text {n}"].cast(pl.String)
        elif fault:
            at = done.select(text=f"text {n}", value=f"value {n}", wrong=f"wrong {n}")
            table.fault_rows(n, at.with_row_index("row").filter("wrong"), partial(_why, rule))
            column = column.set(done[f"wrong {n}"], None)
        columns.append(column.alias(n))
    return pl.DataFrame(columns)


def _clean(cells: pl.Series, tidy: bool) -> pl.Expr:
    """Text without the spaces around it, numbers as they are; empty cells and NaN are null."""
    cell = pl.col(cells.name)
    if cells.dtype.is_float():
        return cell.fill_nan(None)
    if cells.dtype == pl.Boolean:
        return cell.cast(pl.UInt8)
    if tidy or cells.dtype.is_numeric():
        return cell
    text = cell.cast(pl.String).str.strip_chars()
    return pl.when(text.str.len_bytes() > 0).then(text)


def _wrong(name: str, rule: _Rule, needed: bool) -> pl.Expr:
    """Whether a cell breaks its rule; of a column without a rule, whether it is not a number."""
    empty, value = pl.col(f"text {name}").is_null(), pl.col(f"value {name}")
    obeys = pl.lit(True)
    if rule["type"] != "string":
        number = value.is_finite() if schema()["p2fit:finite"] else value.is_not_null()
        obeys = reduce(operator.and_, (test(value) for test, _ in _tests(rule)), number)
    return empty | ~obeys.fill_null(False) if needed else ~empty & ~obeys.fill_null(False)


def _tests(rule: _Rule) -> Iterator[tuple[Callable[[Any], Any], str]]:
    """What a number must satisfy, a series of numbers too, and the words for one that does not."""
    if enum := rule.get("enum"):
        allowed = f"is not {' or '.join(map(_show, enum))}"
        yield lambda v: reduce(operator.or_, (v == each for each in enum)), allowed
    limits = [limit for limit in _LIMITS if limit[0] in rule]
    span = ", ".join(bracket.format(_show(rule[name])) for name, _, _, bracket in limits)
    for name, compare, word, _ in limits:
        words = f"is not in {span}" if len(limits) == 2 else f"is {word} {_show(rule[name])}"
        yield partial(compare, rule[name]), words
    if gap := rule.get("p2fit:gap"):
        low, high = gap
        yield lambda v: (v <= low) | (v >= high), f"is between {_show(low)} and {_show(high)}"


def _why(rule: _Rule, at: Mapping[str, Any]) -> str:
    """Why a cell, ``text`` read as ``value``, is at fault."""
    text, value = at["text"], at["value"]
    if text is None:
        return "empty cell"
    if value is None or not math.isfinite(value):
        words = "is not a number"
        if suffixed := _SUFFIX.fullmatch(str(text)):
            words += f": write {suffixed[1]}{_POWER[suffixed[2].upper()]}"
    else:
        words = next(words for test, words in _tests(rule) if not test(value))
        if value > 0 and "p2fit:hint" in rule:  # no change of unit makes up for a sign
            words += f": {rule['p2fit:hint']}"
    return f"{_show(text)} {words}"


def _show(cell: object) -> str:
    """A cell for a message: numbers at their shortest, text as it stands in the file."""
    if isinstance(cell, int | float):
        return str(Decimal(repr(cell)).normalize()).replace("E+", "e").replace("E", "e")
    text = str(cell)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _check_unique(table: _Table, keys: pl.DataFrame, order: pl.Series) -> None:
    """A fault for every row whose key (sorted; ``order`` is the row of each) was there before."""
    again = keys.select(pl.all_horizontal(pl.all() == pl.all().shift()).fill_null(False))
    if not again.to_series().any():
        return
    found = again.select(again=pl.first(), run=keys[:, 0], count=keys[:, 1], row=order)
    found = found.with_columns(first=pl.when(~pl.col("again")).then("row").forward_fill())
    run, count = keys.columns
    table.fault_rows(
        count,
        found.filter("again"),
        lambda at: (
            f'{run} "{_show(at["run"])}" has {_show(at["count"])} {count} '
            f"on {table.line(at['first'])} already"
        ),
    )


def _check_constant(
    table: _Table, name: str, group: pl.Series, value: pl.Series, order: pl.Series
) -> None:
    """A fault for every row whose value is not the first of its group in the file."""
    filled = pl.DataFrame({"group": group, "value": value, "row": order}).drop_nulls()
    other = (pl.col("group") == pl.col("group").shift()) & (
        pl.col("value") != pl.col("value").shift()
    )
    if not filled.select(other.any()).item():
        return
    first = pl.col("value", "row").first().over("group").name.prefix("first_")
    found = filled.sort("row").with_columns(first).filter(pl.col("value") != pl.col("first_value"))
    table.fault_rows(
        name,
        found,
        lambda at: (
            f"{_show(at['value'])} differs from {_show(at['first_value'])} on "
            f"{table.line(at['first_row'])}: it must be one number per {group.name}"
        ),
    )


def _average(run: str, tokens: str) -> pl.Expr:
    """Mean of ``active_params`` over the tokens so far, for rows sorted by run and tokens."""
    now, upto = pl.col("active_params"), pl.col(tokens)
    # Before the first row the count is that of the first row, from tokens = 0 on.
    before, since = now.shift().fill_null(now), upto.shift().fill_null(0.0)
    area = ((now + before) / 2 * (upto - since)).cum_sum()
    return pl.when(upto > 0).then(area / upto).otherwise(now).over(run)
