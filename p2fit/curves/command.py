"""The command that would fit a file, from what its header may mean."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import polars as pl

from p2fit.curves.columns import with_run_by
from p2fit.curves.proposing import mended, offer
from p2fit.curves.reading import parse, read_bytes


def fit_command(
    path: str,
    law: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    run_by: Sequence[str] | None = None,
) -> tuple[str, bool]:
    """The command that would fit a file, with the options that its header calls for; and whether
    there are any besides those given.

    Raises:
        CurvesError, FitError: the file has no header to read.
    """
    table = parse(*read_bytes(path))
    table.stop_at_faults()
    taken = with_run_by(columns, run_by)
    header = {name.strip(): i for i, name in enumerate(table.header) if name.strip()}
    given = ["--law", law] if law else []
    given += ["--run-by", ",".join(run_by)] if run_by else []

    def cells(name: str) -> pl.Series:
        return table.cells.to_series(header[name])

    # A column that is taken as it is may be in another unit.
    own = {
        column: mended(column, text, cells(text))
        if text in header
        else f"--column {shlex.quote(f'{column}={text}')}"
        for column, text in (columns or {}).items()
    }
    options = offer(list(header), cells, taken)
    other = any(f"--column {shlex.quote(f'{c}={(columns or {})[c]}')}" != o for c, o in own.items())
    parts = [shlex.join(["p2fit", "fit", path, *given]), *own.values(), options]
    return " ".join(parts).rstrip(), bool(options) or other
