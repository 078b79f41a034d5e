"""The rules of a table of loss curves: schemas/curves.schema.json, applied to every cell."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import polars as pl

from p2fit.curves.against import contradictions, doubts
from p2fit.curves.columns import average_params, read_expression
from p2fit.curves.proposing import bytes_note, doubtful_units, mended, propose, scale_of, unsure
from p2fit.curves.rows import NOTE, SETTINGS, row_names, rows_are_runs
from p2fit.errors import FRAME, CurvesError, Fault, FitError
from p2fit.numerals import read_count, read_share
from p2fit.wording import join, suggest

KEPT = 1000  # faults kept of a hopeless file; the rest is counted
READ = {"count": read_count, "share": read_share}  # how cells of a unit may be written

# Property of a rule, what relates it to a good value, words for a bad one, its side of an interval.
_LIMITS = (
    ("minimum", operator.le, "below", "[{}"),
    ("p2fit:exclusiveMinimum", operator.lt, "not above", "({}"),
    ("maximum", operator.ge, "above", "{}]"),
    ("p2fit:exclusiveMaximum", operator.gt, "not below", "{})"),
)

_Rule = Mapping[str, Any]


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


@dataclass
class Table:
    """A table before its cells are checked, and the faults found so far."""

    source: str
    header: list[str] = field(default_factory=list)
    cells: pl.DataFrame = field(default_factory=pl.DataFrame)  # its columns by position: "0", "1"
    lines: Sequence[int] = ()  # row -> where it starts
    tidy: bool = False  # no cell can have spaces around it, and the empty ones are null
    where: dict[str, int] = field(default_factory=dict)  # column -> its position in cells
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the reader should know
    uncounted: int = 0  # faults beyond those kept

    def fault(self, line: int | None, column: str | None, message: str, kind: str = "") -> None:
        self.faults.append(Fault(self.source, line, column, message, kind))

    def fresh(self) -> Table:
        """The same table before it was looked at."""
        return replace(self, header=list(self.header), where={}, faults=[], notes=[], uncounted=0)

    def fault_header(self, column: str | None, message: str) -> None:
        self.fault(None if self.source == FRAME else 1, column, message)

    def fault_rows(
        self, column: str, found: pl.DataFrame, message: Callable[[dict[str, Any]], tuple[str, str]]
    ) -> None:
        """A fault per row of ``found``, whose column ``row`` is the position in ``cells``; its
        ``message``, and what that shares with others."""
        column = self.header[self.where[column]]
        kept = found.sort("row").head(KEPT)
        self.uncounted += found.height - kept.height
        for at in kept.iter_rows(named=True):
            self.fault(self.lines[at["row"]], column, *message(at))

    def written(self, column: str, row: int) -> str:
        """A cell as it was written; a number in memory at its shortest."""
        cell = self.cells.to_series(self.where[column])[row]
        return _show(cell if isinstance(cell, str) else f"{cell:.15g}").strip()

    def line(self, row: int) -> str:
        return f"{'row' if self.source == FRAME else 'line'} {self.lines[row]}"

    def stop_at_faults(self) -> None:
        if self.faults:
            # Two columns taken from the same one may find the same fault.
            ordered = sorted(dict.fromkeys(self.faults), key=lambda fault: fault.line or 0)
            raise CurvesError(ordered[:KEPT], len(ordered) + self.uncounted)


def check_table(
    table: Table, columns: Mapping[str, str], needs: Collection[str], numeric: Collection[str]
) -> pl.DataFrame:
    """The checked frame, sorted; raises CurvesError with every fault."""
    _find_columns(table, columns)
    where, primary = table.where, schema()["primaryKey"]
    if "run" in needs and "run" not in {*where, *columns} and not table.faults:
        _name_rows(table, needs, columns)
    needed = {*needs, *numeric}
    integrate = "avg_params" in needed and "avg_params" not in where and "active_params" in where
    if integrate:
        needed = needed - {"avg_params"} | {"active_params", *primary}
    said = {fault.column for fault in table.faults}
    if missing := sorted(needed - where.keys() - columns.keys() - said):
        _fault_missing(table, missing, columns)
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
    names: dict[str, str] = {n: table.header[where[n]] for n in ("loss", "base_loss") if n in where}
    for column, why in doubtful_units(names, frame, set(REQUIRED) <= where.keys()):
        table.fault_header(column, why)
    if not table.faults:
        for row, column, message in contradictions(frame):
            table.fault(table.lines[row], column, message)
        table.notes += doubts(frame)
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
    return frame.with_columns(avg_params=average_params(*primary)) if integrate else frame


def as_far_as_read(table: Table, columns: Mapping[str, str]) -> pl.DataFrame | None:
    """The frame with null for each cell that breaks a rule; None where its header is at fault."""
    try:
        _find_columns(table, columns)
    except CurvesError:
        return None
    rules = {n: _rules().get(n, {"type": "any"}) for n in table.where}
    return None if table.faults else _convert(table, rules, ())


def _find_columns(table: Table, columns: Mapping[str, str]) -> None:
    """Say where each column is, and what is wrong with the header."""
    table.header = [name.strip() for name in table.header]
    for i, name in enumerate(table.header):
        if not name:
            table.fault_header(None, f"column {i + 1} has no name: name it, or leave it out")
        elif (first := table.where.setdefault(name, i)) != i:
            table.fault_header(name, f"columns {first + 1} and {i + 1} have the same name")
    mapped: dict[str, int] = {}
    # A run may be named by columns that are themselves taken from elsewhere.
    for target, name in sorted(columns.items(), key=lambda pair: pair[0] == "run"):
        known = {**mapped, **table.where} if target == "run" else table.where
        try:
            mapped[target] = known[name] if name in known else _work_out(table, target, name, known)
        except FitError as error:
            table.fault_header(target, str(error))
    table.where |= mapped


def _name_rows(table: Table, needs: Collection[str], columns: Mapping[str, str]) -> None:
    """Take each row for a run, where the table has none and its rows look like it."""
    where, cells = table.where, table.cells
    if not cells.height or any(n not in where for n in REQUIRED if n in needs and n != "run"):
        return
    own = {"loss", *(n for n in where if n.endswith("_stderr"))}
    texts = [
        n
        for n, i in where.items()
        if n not in own
        and cells[str(i)].cast(pl.Float64, strict=False).null_count() > cells[str(i)].null_count()
    ]
    names = list(dict.fromkeys(n for n in (*SETTINGS, *texts) if n in where and n != "tokens"))
    settings = cells.select(pl.col(str(where[n])).alias(n) for n in names)
    tokens = (
        cells[str(where["tokens"])].cast(pl.Float64, strict=False) if "tokens" in where else None
    )
    if rows_are_runs(settings, tokens):
        table.notes.append(NOTE)
        table.cells = cells.with_columns(row_names(cells.height).alias(str(cells.width)))
        table.header.append("run")
        where["run"] = cells.width
        return
    _, by = propose(*_plain(table, columns), columns)
    table.fault_header(
        "run",
        "no such column, and rows of one setting look like points of a curve: "
        f"{by or '--run-by COLUMNS'} names the runs, --run-by params,tokens takes each row for one",
    )


def _plain(
    table: Table, columns: Mapping[str, str]
) -> tuple[list[str], Callable[[str], pl.Series]]:
    """The names that the file has, and what gives the cells of one."""
    at = {name: i for i, name in reversed(list(enumerate(table.header)))}
    names = [n for n in table.header if n and f" = {columns.get(n.split(' = ')[0])}" not in n]
    return names, lambda name: table.cells.to_series(at[name])


def _fault_missing(table: Table, missing: Sequence[str], columns: Mapping[str, str]) -> None:
    """Say which columns are not there, and what to type where others look like them."""
    header, cells = _plain(table, columns)
    found, run_by = propose(header, cells, columns)
    options = " ".join(part for part in (run_by, *found.values()) if part)
    if options and all(n in found or (n == "run" and not table.faults) for n in missing):
        lacks = f"no column{'s' * (len(missing) > 1)} {join(tuple(missing))}"
        offered = f"if its columns are what they are called, add {options}{bytes_note(options)}"
        table.fault_header(None, f"{lacks}; {offered}")
        return
    for name in missing:
        table.fault_header(name, f"no such column{suggest(name, table.where)}")
    if options:
        table.fault_header(None, f"if its columns are what they are called, add {options}")


def _work_out(table: Table, target: str, text: str, known: Mapping[str, int]) -> int:
    """Add a column that an expression makes, and say where it is."""
    expression = read_expression(text, known)
    cells = table.cells
    values, refused = expression.values(lambda name: cells.to_series(known[name]), cells.height)
    for row, name, why in refused[:KEPT]:
        table.fault(table.lines[row], name, why, f"from {text}")
    table.uncounted += max(len(refused) - KEPT, 0)
    if refused:
        table.stop_at_faults()
    table.cells = cells.with_columns(values.alias(str(cells.width)))
    table.header.append(f"{target} = {text}")
    return cells.width


def _convert(table: Table, rules: Mapping[str, _Rule], needed: Collection[str]) -> pl.DataFrame:
    """Cells -> Float64 and String columns; what breaks a rule becomes a fault and a null."""
    cells = table.cells
    text = [
        _clean(cells.to_series(i), table.tidy).alias(f"text {n}") for n, i in table.where.items()
    ]
    value = {
        n: pl.col(f"text {n}").cast(
            pl.String if rule["type"] == "string" else pl.Float64, strict=False
        )
        for n, rule in rules.items()
    }
    wrong = [_wrong(n, rule, n in needed).alias(f"wrong {n}") for n, rule in rules.items()]

    def query(value: Mapping[str, pl.Expr]) -> pl.DataFrame:
        # One query: a dozen of them would cost more than reading a small file.
        values = [column.alias(f"value {n}") for n, column in value.items()]
        return cells.lazy().select(text).with_columns(values).with_columns(wrong).collect()

    done = query(value)
    if spelled := _spelled_out(done, rules):
        done = query(value | spelled)
    columns: list[pl.Series] = []
    for n, rule in rules.items():
        column, fault = done[f"value {n}"], done[f"wrong {n}"].any()
        if fault and rule["type"] == "any":
            column = done[f"text {n}"].cast(pl.String)
        elif fault:
            at = done.select(text=f"text {n}", value=f"value {n}", wrong=f"wrong {n}")
            found = at.with_row_index("row").filter("wrong")
            mend = _mend(table, n, rule, at)
            kept = found.head(1) if mend else found
            table.fault_rows(n, kept, partial(_why, rule, more=mend))
            column = column.set(done[f"wrong {n}"], None)
        columns.append(column.alias(n))
    return pl.DataFrame(columns)


def _mend(table: Table, column: str, rule: _Rule, at: pl.DataFrame) -> str:
    """The option that mends a column of which all is in another unit; empty where not all is."""
    name = table.header[table.where[column]]
    if "p2fit:unit" not in rule or " = " in name:
        return ""
    filled = at.filter(pl.col("value").is_not_null() & (pl.col("value") > 0))
    if filled.height < 2 or not filled["wrong"].all():
        return ""
    if at["wrong"].sum() > filled.height:  # something else is wrong as well
        return ""
    cells = filled["text"]
    if not scale_of(column, name, cells):
        return ""
    option = mended(column, name, cells) + unsure(column, name)
    return f"; so are all of {filled.height} rows: {option}"


def _spelled_out(done: pl.DataFrame, rules: Mapping[str, _Rule]) -> dict[str, pl.Expr]:
    """Columns of counts and shares with cells such as 8B and 30%, as numbers."""
    found = {}
    for n, rule in rules.items():
        read = READ.get(rule.get("p2fit:unit", ""))
        texts = done[f"text {n}"]
        if read is None or texts.dtype != pl.String or not done[f"wrong {n}"].any():
            continue
        odd = texts.filter(done[f"value {n}"].is_null()).unique().drop_nulls()
        numbers = {text: number for text in odd if (number := read(text)) is not None}
        if numbers:
            spelled = pl.col(f"text {n}").replace_strict(
                list(numbers), list(numbers.values()), default=None, return_dtype=pl.Float64
            )
            found[n] = pl.coalesce(spelled, pl.col(f"text {n}").cast(pl.Float64, strict=False))
    return found


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


def _why(rule: _Rule, at: Mapping[str, Any], more: str = "") -> tuple[str, str]:
    """Why a cell, ``text`` read as ``value``, is at fault; and without the cell."""
    text, value = at["text"], at["value"]
    if text is None:
        return "empty cell", ""
    if value is None or not math.isfinite(value):
        words = "is not a number"
    else:
        words = next(words for test, words in _tests(rule) if not test(value))
        if value > 0 and "p2fit:hint" in rule:  # no change of unit makes up for a sign
            words += f": {rule['p2fit:hint']}"
    return f"{_show(text if isinstance(text, str) else f'{text:.15g}')} {words}{more}", words


def _show(cell: object) -> str:
    """A cell for a message: numbers at their shortest, text as it stands in the file."""
    if isinstance(cell, int | float):
        return str(Decimal(repr(cell)).normalize()).replace("E+", "e").replace("E", "e")
    text = str(cell)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _check_unique(table: Table, keys: pl.DataFrame, order: pl.Series) -> None:
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
            f'{run} "{_show(at["run"])}" has {table.written(count, at["first"])} {count} '
            f"on {table.line(at['first'])} already",
            "again",
        ),
    )


def _check_constant(
    table: Table, name: str, group: pl.Series, value: pl.Series, order: pl.Series
) -> None:
    """A fault where rows have another value than the first of their group in the file."""
    filled = pl.DataFrame({"group": group, "value": value, "row": order}).drop_nulls()
    other = (pl.col("group") == pl.col("group").shift()) & (
        pl.col("value") != pl.col("value").shift()
    )
    if not filled.select(other.any()).item():
        return
    names = [table.header[table.where[n]] for n in (group.name, name)]
    makes = "--run-by makes runs of several columns"
    if not any(" = " in n for n in names):
        makes = f"--run-by {','.join(names)} makes runs of both"
    first = pl.col("value", "row").first().over("group").name.prefix("first_")
    found = filled.sort("row").with_columns(first).filter(pl.col("value") != pl.col("first_value"))
    more = f"; {found.height - 1} further rows alike" if found.height > 1 else ""
    table.fault_rows(
        name,
        found.head(1),
        lambda at: (
            f"{table.written(name, at['row'])} differs from "
            f"{table.written(name, at['first_row'])} on {table.line(at['first_row'])}: it must be "
            f"one per {group.name}; {makes}{more}",
            "",
        ),
    )
