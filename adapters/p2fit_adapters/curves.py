"""The curves that runs write: rows keyed by run and step, files that are whole at any moment.

Every run has a folder of its own with ``curves.csv`` and ``curves.meta.json``; the files of the
same names above it are all of them together, made anew after each row.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2fit.files import write_text
from p2fit_adapters.errors import RunError

CURVES, META = "curves.csv", "curves.meta.json"
Rows = dict[int, dict[str, Any]]
"""Step → column → value."""


PATIENCE = 15.0  # seconds: that of a killed sweep may take some to be gone, on Ray about 5


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the lock goes with the process, however it ends.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    with (folder / ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise RunError(f"{folder}: another process is at work on this run") from None
                time.sleep(0.1)
        yield


def read_rows(folder: Path) -> Rows:
    """The rows of a run so far; their values are text."""
    try:
        text = (folder / CURVES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {int(row["step"]): row for row in csv.DictReader(io.StringIO(text))}


def read_columns(out: Path) -> list[str]:
    """The columns of the curves of all runs together; none before there are any."""
    try:
        with (out / CURVES).open(encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except FileNotFoundError:
        return []


def write_rows(folder: Path, rows: Rows, columns: Sequence[str]) -> None:
    """Write a run's rows, then all runs' rows above it."""
    write_text(folder / CURVES, _csv((rows[step] for step in sorted(rows)), columns))
    collect(folder.parent, columns)


def _csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The sidecar of a run; None before it has one."""
    try:
        found: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def write_meta(folder: Path, meta: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Write a run's sidecar, then that of all runs above it."""
    write_text(folder / META, _json(meta))
    collect(folder.parent, columns)


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def collect(out: Path, columns: Sequence[str]) -> None:
    """Put the files of all runs of a folder together, by name of the run.

    Runs that go on side by side all do this, one after the other.
    """
    with (out / ".collect.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        folders = sorted(path.parent for path in out.glob(f"*/{META}"))
        rows = (row for f in folders for row in read_rows(f).values())
        write_text(out / CURVES, _csv(rows, columns))
        write_text(out / META, _json({"runs": {f.name: read_meta(f) for f in folders}}))
