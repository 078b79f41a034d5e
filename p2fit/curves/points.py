"""Points to predict at and to plan for: a law's inputs, by value or from a file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.curves.choosing import Source, read
from p2fit.errors import CurvesError, FitError
from p2fit.wording import join

_MOST = 1_000_000  # points made of values


def points_table(
    source: Source, inputs: Collection[str], columns: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Points as a checked table: inputs as numbers, other columns as they are.

    Args:
        source: a CSV file, a table, or values by name: scalars, or
            arrays of one shape.
        inputs: columns that must be there.
        columns: column -> its name there, or an expression.

    Raises:
        CurvesError: faults in a file or a table.
        FitError: a value by name is missing, out of its range, or of another shape.
    """
    if not isinstance(source, Mapping):
        return read(source, columns, needs=inputs, numeric=inputs).frame
    missing = tuple(x for x in inputs if x not in source)
    if missing:
        raise FitError(f"{join(missing)} {'is' if len(missing) == 1 else 'are'} not given")
    try:
        arrays = np.broadcast_arrays(*(np.asarray(v) for v in source.values()))
    except ValueError:
        raise FitError("inputs are scalars, or arrays of one shape") from None
    values = {x: v.ravel() for x, v in zip(source, arrays)}
    try:
        return read(values, None, needs=inputs, numeric=inputs).frame
    except CurvesError as error:
        faults = (f"{f.column}: {f.message}" for f in error.faults[:5])
        raise FitError("\n".join(dict.fromkeys(faults))) from None


def crossed_points(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Every combination of some values of each input, the last varying fastest.

    Raises:
        FitError: they are too many.
    """
    count = math.prod(map(len, values.values()))
    if count > _MOST:
        raise FitError(f"{count:,} combinations of inputs: at most {_MOST:,}")
    rows = itertools.product(*values.values())
    return {x: list(column) for x, column in zip(values, zip(*rows))}


def merge_close_levels(values: Array) -> list[Array]:
    """Distinct values, ascending, in parts: a part ends where the next value is more than a tenth
    larger. One pruning rate asked for, for one, comes out a little different for every size, as
    layers and heads are whole. Where all would be one part, each value is one."""
    parts = np.split(values, np.flatnonzero(values[1:] > 1.1 * values[:-1]) + 1)
    return parts if len(parts) > 1 else np.split(values, len(values))
