"""Files are written whole or not at all, and never over what is being read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from p2fit.errors import FitError

_outputs: ContextVar[list[str]] = ContextVar("outputs")


@contextmanager
def guarding() -> Iterator[None]:
    """Within it, what :func:`claim` names as an output is not opened as an input."""
    token = _outputs.set([])
    try:
        yield
    finally:
        _outputs.reset(token)


def claim(path: str) -> None:
    """Say, before anything is read, that a file will be written.

    Raises:
        FitError: another output goes to the same file.
    """
    outputs = _outputs.get([])
    if any(_same(path, other) for other in outputs):
        raise FitError(f"{path}: two outputs go to this file: give each its own")
    outputs.append(path)


def opening(source: str | Path | int) -> None:
    """To be called before a file (by its path, or its descriptor) is read.

    Raises:
        FitError: it is an output too, under whatever name.
    """
    for path in _outputs.get([]):
        if _same(source, path):
            raise FitError(f"{path}: this file is read, and would be replaced: write to another")


def _same(a: str | Path | int, b: str) -> bool:
    try:
        found, other = os.stat(a), os.stat(b)
    except (OSError, ValueError):  # one is not there yet
        return not isinstance(a, int) and os.path.realpath(a) == os.path.realpath(b)
    # A pipe or a device may be both: there is nothing on it to lose.
    return os.path.isfile(b) and os.path.samestat(found, other)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path``, of the same ending, renamed to it when all went well.

    What is not a regular file (a pipe, a device) is written to as it is.

    Raises:
        FitError: it cannot be written; the message names it.
    """
    try:
        target = Path(os.path.realpath(path))  # the file that a link names, not the link
        if target.exists() and not target.is_file():  # a pipe or a device cannot be replaced
            yield target
            return
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix
        )
        os.close(handle)
        try:
            yield Path(name)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, target.stat().st_mode if target.exists() else 0o666 & ~mask)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FitError(f"{path}: {error.strerror or error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all.

    Raises:
        FitError: it cannot be written; the message names it.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
