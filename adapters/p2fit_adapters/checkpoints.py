"""Checkpoints that are whole or not there, the newest and the one before it."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = 2
_MANIFEST = "files.json"
_CHUNK = 1 << 20


def save(folder: Path, step: int, write: Callable[[Path], None], accelerator: Any) -> None:
    """:func:`keep` the state, and drop what is older than the one before it."""
    keep(folder, step, write, accelerator)
    if accelerator.is_main_process:
        found = _found(folder)
        here = found.index(named(folder, step))
        # Later ones could not be read when the run was taken up.
        for other in [*found[:here], *found[here + KEPT :]]:
            shutil.rmtree(other)


def keep(folder: Path, step: int, write: Callable[[Path], None], accelerator: Any) -> None:
    """Let ``write`` of every process fill a folder; it gets its name when everything is in it."""
    partial, whole = folder / ".partial", named(folder, step)
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        write(partial)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            sums = {str(p.relative_to(partial)): _checksum(p) for p in _files(partial)}
            (partial / _MANIFEST).write_text(json.dumps(sums))
            shutil.rmtree(whole, ignore_errors=True)  # one that could not be read
            os.rename(partial, whole)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def named(folder: Path, step: int) -> Path:
    """Where the state after a step is."""
    return folder / f"step-{step:010}"


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; those that are not are named to ``say``."""
    for checkpoint in _found(folder):
        fault = damage(checkpoint)
        if fault is None:
            return checkpoint
        say(f"{checkpoint}: {fault}: using the one before it")
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        sums = json.loads((checkpoint / _MANIFEST).read_text())
        bad = [name for name, sum_ in sums.items() if _checksum(checkpoint / name) != sum_]
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return f"{', '.join(bad)} damaged" if bad else None


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
