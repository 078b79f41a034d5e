"""A log of a training run: columns as they were written; nothing is chosen here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import polars as pl

from p2fit.curves.checking import KEPT
from p2fit.curves.columns import Expression
from p2fit.errors import CurvesError, Fault

Column = Callable[[], pl.Series | list[Any]]


@dataclass
class Log:
    """What one file, or one run in it, holds."""

    source: str
    """The file, or the folder of event files."""
    format: str
    columns: dict[str, Column]
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
            self._made[name] = series(self.columns[name]())
        return self._made[name]

    def texts(self, name: str) -> pl.Series:
        """A column as it is written: whole numbers of any size, for one."""
        values = self.columns[name]()
        return values if isinstance(values, pl.Series) else strings(values)

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


class Records:
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

    def columns(self) -> dict[str, Column]:
        return {name: partial(self._dense, name) for name in self.found}

    def _dense(self, name: str) -> list[Any]:
        dense: list[Any] = [None] * self.height
        for row, value in zip(*self.found[name], strict=True):
            dense[row] = value
        return dense


def series(values: pl.Series | list[Any]) -> pl.Series:
    if isinstance(values, pl.Series):
        return values
    try:
        return pl.Series(values, dtype=pl.Float64)
    except (TypeError, OverflowError):
        return strings(values)


def strings(values: list[Any]) -> pl.Series:
    return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)


def broken(source: str, message: str, line: int | None = None) -> CurvesError:
    return CurvesError([Fault(source, line, None, message)])
