"""What the pictures share: a style, panels, axes with readable ticks, legends, files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.errors import FitError
from p2fit.files import replacing
from p2fit.laws.typesetting import symbol
from p2fit.pictures.colours import FAINT, is_log
from p2fit.pictures.settings import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

_LEAST, _LEAST_OF_ALL = 1.6, 0.6  # inches across a panel, where a width is asked for
_LOWEST = 1.35  # inches down a panel
_TALLEST = 8.5  # inches down a figure of that kind

#: Sizes in which papers print a picture, in inches: one column, or the whole page across.
WIDTHS = {"column": 3.3, "page": 6.9}

LABELS = {
    "params": "parameters",
    "avg_params": "average parameters",
    "active_params": "active parameters",
    "tokens": "tokens",
    "pruning_rate": "pruning rate",
    "base_loss": "loss of the base model, nats per token",
    "loss": "loss, nats per token",
}


def label(name: str) -> str:
    """A column in words."""
    return LABELS.get(name, name)


def count(value: float) -> str:
    """A count as people write it: 50M, 2B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}" if value < 1e15 else f"{value:.2g}"
    return f"{value:.3g}"


def shown(name: str, value: float) -> str:
    """The value of a column in words: a count, or a number."""
    if name in COUNTS:
        return count(value)
    return f"{value:.3g}" if abs(value) < 1000 else short(value)


COUNTS = ("params", "avg_params", "active_params", "tokens")


@dataclass(frozen=True)
class Place:
    """Where a picture is to go."""

    ax: Axes | None = None
    """Axes of the reader's, for a picture of one panel; None: a figure of its own."""
    width: float | None = None
    """Of that figure, in inches; None: as wide as its panels like to be."""


#: A figure of its own, as wide as it likes.
ANYWHERE = Place()


class Sheet:
    """The panels of a picture, and what belongs to all of them."""

    def __init__(self, figure: Figure, axes: list[Axes], *, own: bool, fixed: bool = False) -> None:
        self.figure, self.axes, self._own, self._fixed = figure, axes, own, fixed

    def labels(self, x: str | None = None, y: str | None = None) -> None:
        """Of all axes alike."""
        for axis in self.axes:
            axis.set(**{f"{which}label": "" for which, text in (("x", x), ("y", y)) if text})
        if x is not None:
            self._one("x", x)
        if y is not None:
            self._one("y", y)

    def _one(self, which: str, text: str) -> None:
        if self._own:
            getattr(self.figure, f"sup{which}label")(text, fontsize="medium")
        else:
            getattr(self.axes[0], f"set_{which}label")(text)

    def legend(
        self,
        kinds: Mapping[str, Any],
        steps: Mapping[str, Any] | None = None,
        title: str | None = None,
    ) -> None:
        """What the marks mean: above all panels, where it covers nothing, the steps of a colour in
        the first row and what else there is below; in axes of the reader's, where there is room."""
        from matplotlib.lines import Line2D

        style: Any = {"title": title, "title_fontsize": "small", "handletextpad": 0.4}
        rows = [list(row.items()) for row in (steps or {}, kinds) if row]
        if not self._own:
            found = {**(steps or {}), **kinds}
            self.axes[0].legend(found.values(), found, loc="best", **style)
            return
        blank = ("", Line2D([], [], ls="none"))
        for columns in range(max(len(row) for row in rows), 0, -1):
            lines = [row[i : i + columns] for row in rows for i in range(0, len(row), columns)]
            # Legends are filled by column.
            entries = [
                line[i] if i < len(line) else blank for i in range(columns) for line in lines
            ]
            made = self.figure.legend(
                [mark for _, mark in entries],
                [text for text, _ in entries],
                loc="outside upper center",
                ncols=columns,
                columnspacing=1.2,
                **style,
            )
            room = made.get_window_extent(self.figure.canvas.get_renderer())  # type: ignore[attr-defined]
            if columns == 1 or room.width <= self.figure.bbox.width:
                if self._fixed:  # in a small picture it would take the panels' room
                    wide, high = self.figure.get_size_inches()
                    self.figure.set_size_inches(wide, high + room.height / self.figure.dpi)
                return
            made.remove()


def panels(
    count: int,
    *,
    across: int = 3,
    size: tuple[float, float] = (3.2, 2.6),
    place: Place = ANYWHERE,
    narrow: bool = True,
) -> Sheet:
    """That many panels, at most ``across`` of them side by side; size in inches.

    Args:
        narrow: whether fewer may be side by side where the width asked for is small.

    Raises:
        FitError: there is more than one, and axes were given for it.
    """
    if place.ax is not None:
        if count > 1:
            raise FitError(f"this picture has {count} panels: axes hold one, so leave ax out")
        return Sheet(place.ax.figure, [place.ax], own=False)  # type: ignore[arg-type]
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from p2fit.pictures.figure import Picture

    columns = min(across, count)
    wide, high = size
    if place.width is not None:
        matplotlib.rcParams["font.size"] = 8 if narrow else 7
        columns = max(1, min(columns, int(place.width / _LEAST))) if narrow else columns
        rows = -(-count // columns)
        wide, ratio = place.width / columns, high / wide
        if wide < _LEAST_OF_ALL:
            raise FitError(
                f"{columns} panels side by side need {_LEAST_OF_ALL * columns:.2g} inches or more"
            )
        high = max(ratio * wide, _LOWEST) if narrow else ratio * wide
        high = min(high, _TALLEST / rows)
    rows = -(-count // columns)
    made = Picture(figsize=(wide * columns, high * rows), layout="constrained")
    FigureCanvasAgg(made)  # which can measure letters
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return Sheet(made, axes[:count], own=True, fixed=place.width is not None)


def check_format(path: str | Path) -> None:
    """Raises FitError where the name does not end in .png, .svg or .pdf."""
    if Path(path).suffix.lower() not in FORMATS:
        raise FitError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")


def save(figure: Figure, path: str | Path, dpi: float | None = None) -> None:
    """Write a figure whole or not at all, in the format that the name ends in.

    Args:
        dpi: dots per inch of a PNG, and of what is dots in the others; None: the figure's own.

    Raises:
        FitError: another ending, or the file cannot be written.
    """
    check_format(path)
    # The date is left out, so that the same picture gives the same bytes.
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with replacing(path) as temporary:
        metadata = undated.get(temporary.suffix.lower())
        figure.savefig(temporary, metadata=metadata, dpi=dpi or "figure")


def svg(figure: Figure) -> str:
    """A figure as SVG on a transparent ground, its letters text."""
    import matplotlib
    from matplotlib.figure import Figure

    out = io.StringIO()
    with styled():
        matplotlib.rcParams["svg.fonttype"] = "none"
        layout = figure.get_layout_engine()
        if layout is not None:  # savefig would draw all once more for it
            layout.execute(figure)
            figure.set_layout_engine("none")
        Figure.savefig(figure, out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


# ---------------------------------------------------------------- axes


def set_scale(axis: Axes, which: str, name: str, low: float, high: float) -> None:
    """A log axis for positive values over more than a factor of four, else a linear one; ticks
    as people write counts; the label in words."""
    from matplotlib.ticker import MaxNLocator

    getattr(axis, f"set_{which}label")(label(name))
    if is_log(low, high) and name != "pruning_rate":
        decades = np.log10(high / low)
        subs = (1, 2, 5) if decades < 1 else (1, 3) if decades < 2.6 else (1,)
        _set_log(axis, which, decades, subs)
    else:
        getattr(axis, f"{which}axis").set_major_locator(MaxNLocator(_ticks(axis, which, 5)))
    _set_words(axis, which, lambda value: shown(name, value))


def set_flops(axis: Axes, low: float, high: float) -> None:
    """A log axis of compute: 1e20, 1e22."""
    _set_log(axis, "x", np.log10(high / low), (1,), ticks=5)
    _set_words(axis, "x", lambda value: f"{value:.0e}".replace("+", ""))


def set_values(axis: Axes, which: str, ends: tuple[float, float], log: bool) -> None:
    """An axis of a parameter between two ends, with a few ticks, a log one if asked for."""
    from matplotlib.ticker import MaxNLocator

    low, high = ends
    if log:
        room = (high / low) ** 0.04
        low, high = low / room, high * room
        _set_log(axis, which, np.log10(high / low), (1, 3) if high < 60 * low else (1,), ticks=4)
    else:
        room = 0.04 * (high - low)
        low, high = low - room, high + room
        getattr(axis, f"{which}axis").set_major_locator(MaxNLocator(_ticks(axis, which, 3)))
    getattr(axis, f"set_{which}lim")(low, high)
    _set_words(axis, which, short)


def _set_log(axis: Axes, which: str, decades: float, subs: Sequence[float], ticks: int = 8) -> None:
    from matplotlib.ticker import LogLocator

    line, most = getattr(axis, f"{which}axis"), _ticks(axis, which, ticks)
    getattr(axis, f"set_{which}scale")("log")
    subs = subs if decades * len(subs) <= most else (1,)
    line.set_major_locator(LogLocator(subs=subs, numticks=most))
    # Two to nine between powers of ten; where these have no room, the powers themselves.
    minor = range(2, 10) if decades <= 2 * most else (1,)
    line.set_minor_locator(LogLocator(subs=minor, numticks=999))


def _ticks(axis: Axes, which: str, most: int) -> int:
    """Ticks that have room along an axis."""
    room = axis.get_window_extent()
    inches = (room.width if which == "x" else 1.4 * room.height) / axis.figure.dpi
    return max(2, min(most, round(1.8 * inches)))


def _set_words(axis: Axes, which: str, say: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    line = getattr(axis, f"{which}axis")
    line.set_major_formatter(FuncFormatter(lambda value, _: say(value)))
    line.set_minor_formatter(NullFormatter())


def set_name(place: Callable[..., Any], name: str) -> None:
    """The name of a parameter in a text of matplotlib, with Greek letters and subscripts.

    Args:
        place: what sets the text, as ``axis.set_title``.
    """
    plain = name.isascii()
    place(f"${symbol(name, {})}$" if plain else name, parse_math=plain)


def short(value: float) -> str:
    """A number in few letters: 0.35, 1200, 1e-4, 2.2e8."""
    text = f"{value:.1e}" if 0 < abs(value) < 1e-2 or abs(value) >= 1e5 else f"{value:.4g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace(".0e", "e")


def swatch(**style: Any) -> Any:
    """A patch for the legend of what each curve has in its own colour."""
    from matplotlib.patches import Patch

    return Patch(**{"color": FAINT, "lw": 0, **style})


def note(axis: Axes, text: str, place: tuple[float, float] = (1, 1)) -> None:
    """A few words in a corner of a panel, outside of it."""
    axis.annotate(
        text,
        place,
        xycoords="axes fraction",
        ha="right" if place[0] else "left",
        va="bottom",
        fontsize="small",
        color=FAINT,
    )
