"""Pictures, drawn by matplotlib (the extra ``plot``)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2fit.rows import FitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe & Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FORMATS = (".png", ".svg", ".pdf")

_STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.dpi": 150,
    "font.size": 9,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "p2fit",  # the same picture gives the same bytes
}


def panels(
    count: int, *, across: int = 3, size: tuple[float, float] = (3.2, 2.6)
) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels, at most ``across`` of them side by side; size in inches.

    Raises:
        FitError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise FitError("pictures need matplotlib: pip install 'p2fit[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(across, count)
    rows = -(-count // columns)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(size[0] * columns, size[1] * rows),
            squeeze=False,
            layout="constrained",
        )
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.remove()
    return figure, flat[:count]


def check_format(path: str | Path) -> None:
    """Raises FitError where the name does not end in .png, .svg or .pdf."""
    if Path(path).suffix.lower() not in FORMATS:
        raise FitError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all, in the format that the name ends in, and close it.

    Raises:
        FitError: another ending, or the file cannot be written.
    """
    import matplotlib.pyplot as plt

    check_format(path)
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
        try:
            with plt.rc_context(_STYLE):
                figure.savefig(name, metadata={"Date": None} if path.suffix == ".svg" else None)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FitError(f"{path}: {error.strerror or error}") from None
    finally:
        plt.close(figure)
