"""Rows that a filter takes, where the others have faults that it is meant to leave behind."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

import polars as pl

from p2fit.curves.checking import Table, as_far_as_read, check_table
from p2fit.errors import CurvesError, FitError

#: What nests a filter: all but names, numbers, commas and the like.
_OPERATORS = re.compile(r"\b(?:and|or|not|is|in|between|i?like|case|when)\b|[^\w\s,()]", re.I)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d+\.\d*")
_MOST_OPERATORS = 200


def where_expression(text: str, frame: pl.DataFrame) -> pl.Expr:
    """A filter such as ``kept == 1`` or ``method = 'depth' and params > 1e9`` (SQL).

    Raises:
        FitError: it cannot be read, or does not fit the columns.
    """
    # Polars takes it apart by recursion, and where its stack ends so does the process.
    if len(_OPERATORS.findall(_QUOTED.sub("", text))) > _MOST_OPERATORS:
        raise FitError(
            f"--where has more than {_MOST_OPERATORS} operators: name many values with IN (…)"
        )
    try:
        expression = pl.sql_expr(text)
        frame.filter(expression)
    except pl.exceptions.PolarsError as error:
        detail = str(error).splitlines()[0]
        raise FitError(f"--where {text!r}: {detail}") from None
    return expression


def check_selected(
    table: Table,
    columns: Mapping[str, str],
    needs: Collection[str],
    numeric: Collection[str],
    where: str | None,
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """:func:`check_table`, of all rows, or where they have faults of those that a filter takes.

    A cell that the filter itself cannot read is no reason to leave its row out.

    Returns:
        The checked frame; and the rows that were left out for it, as far as they can be read.
    """
    whole, probe = table.fresh(), table.fresh()
    try:
        return check_table(table, columns, needs, numeric), None
    except CurvesError:
        if where is None or not table.cells.height:
            raise
        frame = as_far_as_read(probe, columns)
        if frame is None:
            raise
        kept = frame.select(where_expression(where, frame).alias("kept"))["kept"].fill_null(True)
        if kept.all() or not kept.any():
            raise
    lines = [line for line, take in zip(whole.lines, kept) if take]
    whole = replace(whole, cells=whole.cells.filter(kept), lines=lines)
    checked = check_table(whole, columns, needs, numeric)
    table.notes[:] = whole.notes
    return checked, frame.filter(~kept)
