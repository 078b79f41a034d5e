"""Checkpoints that are whole or not there, the newest and the one before it."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

KEPT = 2
_MANIFEST = "files.json"
_CHUNK = 1 << 20


def save(folder: Path, step: int, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder, and give it its name when everything is in it."""
    partial, whole = folder / ".partial", folder / f"step-{step:010}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        sums = {str(p.relative_to(partial)): _checksum(p) for p in _files(partial)}
        (partial / _MANIFEST).write_text(json.dumps(sums))
        shutil.rmtree(whole, ignore_errors=True)  # one that could not be read
        os.rename(partial, whole)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    found = _found(folder)
    unreadable = found[: found.index(whole)]  # later ones, that the run was not taken up from
    for other in [*unreadable, *found[len(unreadable) + KEPT :]]:
        shutil.rmtree(other)


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; those that are not are named to ``say``."""
    for checkpoint in _found(folder):
        try:
            sums = json.loads((checkpoint / _MANIFEST).read_text())
            bad = [name for name, sum_ in sums.items() if _checksum(checkpoint / name) != sum_]
        except (OSError, ValueError) as error:
            say(f"{checkpoint}: cannot be read ({error}): using the one before it")
            continue
        if not bad:
            return checkpoint
        say(f"{checkpoint}: {', '.join(bad)} damaged: using the one before it")
    return None


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def remove(folder: Path) -> None:
    """Delete all checkpoints, when the run is done."""
    shutil.rmtree(folder, ignore_errors=True)
