"""Tables in memory, of whatever library, as frames of Polars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl


def is_table(source: object) -> bool:
    """Whether it is a table in memory: a frame of Polars or pandas, anything with the Arrow
    PyCapsule interface, columns by name, or a list of records."""
    if isinstance(source, list | tuple):
        return len(source) > 0 and all(isinstance(record, Mapping) for record in source)
    known = isinstance(source, pl.DataFrame | pl.LazyFrame | Mapping)
    return known or _is_pandas(source) or hasattr(source, "__arrow_c_stream__")


def frame_of(source: Any) -> pl.DataFrame:
    """Such a table as a frame. A named index of pandas is a column; None, NaN and NA are null.

    Raises:
        pl.exceptions.PolarsError, TypeError, ValueError: it cannot be one.
    """
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, list | tuple):
        records = [{name: _filled(value) for name, value in one.items()} for one in source]
        return pl.DataFrame(records, strict=False, infer_schema_length=None)
    if isinstance(source, Mapping):
        return pl.DataFrame({n: _column(v) for n, v in source.items()}, strict=False)
    if not _is_pandas(source):
        return pl.DataFrame(source)
    if any(name is not None for name in source.index.names):
        source = source.reset_index()
    names = [str(name) for name in source.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is the name of {names.count(twice[0])} columns")
    return pl.DataFrame(
        {name: _column(source.iloc[:, i]) for i, name in enumerate(names)}, strict=False
    )


def _is_pandas(source: object) -> bool:
    return type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "iloc")


def _column(values: Any) -> Any:
    """A column as Polars takes it; pandas' own by its values, as it exports Arrow only where
    pyarrow is installed."""
    if _is_pandas(values):
        return values.astype(object).where(values.notna(), None).tolist()
    return [_filled(value) for value in values] if isinstance(values, list | tuple) else values


def _filled(value: Any) -> Any:
    """A value; NaN is none, also beside text, where it would be the word."""
    return None if isinstance(value, float) and math.isnan(value) else value
