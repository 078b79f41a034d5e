"""The curves that runs write: rows keyed by run and step, files that are whole at any moment.

Every run has a folder of its own with ``curves.csv`` and ``curves.meta.json``; the files of the
same names above it are all of them together, made anew after each row.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2fit.files import write_text
from p2fit_adapters.errors import RunError

CURVES, META = "curves.csv", "curves.meta.json"
COLUMNS = (
    "run",
    "family",
    "method",
    "criterion",
    "params",
    "pruning_rate",
    "base_loss",
    "tokens",
    "loss",
    "seed",
    "step",
    "params_after",
    "non_embedding",
    "non_embedding_after",
    "non_embedding_rate",
)

Rows = dict[int, dict[str, Any]]
"""Step → column → value."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the lock goes with the process, however it ends.

    Raises:
        RunError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{folder}: another process is at work on this run") from None
        yield


def read_rows(folder: Path) -> Rows:
    """The rows of a run so far; their values are text."""
    try:
        text = (folder / CURVES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {int(row["step"]): row for row in csv.DictReader(io.StringIO(text))}


def write_rows(folder: Path, rows: Rows) -> None:
    """Write a run's rows, then all runs' rows above it."""
    write_text(folder / CURVES, _csv(rows[step] for step in sorted(rows)))
    collect(folder.parent)


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
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


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write a run's sidecar, then that of all runs above it."""
    write_text(folder / META, _json(meta))
    collect(folder.parent)


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def collect(out: Path) -> None:
    """Put the files of all runs of a folder together, by name of the run."""
    folders = sorted(path.parent for path in out.glob(f"*/{META}"))
    write_text(out / CURVES, _csv(row for f in folders for row in read_rows(f).values()))
    write_text(out / META, _json({"runs": {f.name: read_meta(f) for f in folders}}))
