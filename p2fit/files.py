"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2fit.errors import FitError


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
