"""What the pictures share: colours, axes with readable ticks, and files written whole."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit import extras
from p2fit.arrays import Array
from p2fit.curves.points import merge_close_levels
from p2fit.errors import FitError
from p2fit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Every colour of a picture is one of these, so that a page can put others in their place.
INK = "#1b1c1e"
FAINT = "#6a6e73"
BAND = "#d5d8dc"
BEYOND = "#edeff1"
#: Okabe & Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: For what has an order: steps of viridis, without its palest end.
STEPS = (
    "#440154",
    "#482979",
    "#3e4c8a",
    "#306a8e",
    "#24868e",
    "#1fa187",
    "#3dbc74",
    "#7ad151",
)

FORMATS = (".png", ".svg", ".pdf")

_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": "medium",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.dpi": 150,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "savefig.bbox": "tight",
    "svg.hashsalt": "p2fit",  # the same picture gives the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a $
    "xtick.color": INK,
    "ytick.color": INK,
}

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
    return count(value) if name in COUNTS else f"{value:.3g}"


COUNTS = ("params", "avg_params", "active_params", "tokens")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of these pictures, whatever the reader's own settings are.

    Raises:
        FitError: matplotlib is not installed.
    """
    try:
        matplotlib = extras.matplotlib()
    except ImportError:
        raise FitError(f"pictures need matplotlib: {extras.command('plot')}") from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panels(
    count: int, *, across: int = 3, size: tuple[float, float] = (3.2, 2.6)
) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels, at most ``across`` of them side by side; size in inches."""
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def check_format(path: str | Path) -> None:
    """Raises FitError where the name does not end in .png, .svg or .pdf."""
    if Path(path).suffix.lower() not in FORMATS:
        raise FitError(f"{path}: a picture's name ends in {', '.join(FORMATS)}")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all, in the format that the name ends in.

    Raises:
        FitError: another ending, or the file cannot be written.
    """
    check_format(path)
    # The date is left out, so that the same picture gives the same bytes.
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with replacing(path) as temporary, styled():
        figure.savefig(temporary, metadata=undated.get(temporary.suffix.lower()))


def svg(figure: Figure) -> str:
    """A figure as SVG on a transparent ground."""
    out = io.StringIO()
    with styled():
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


# ---------------------------------------------------------------- axes


def set_scale(axis: Axes, which: str, name: str, low: float, high: float) -> None:
    """A log axis for positive values over more than a factor of four, else a linear one; ticks
    as people write counts; the label in words."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    line = getattr(axis, f"{which}axis")
    getattr(axis, f"set_{which}label")(label(name))
    if is_log(low, high) and name != "pruning_rate":
        getattr(axis, f"set_{which}scale")("log")
        decades = np.log10(high / low)
        subs = (1, 2, 5) if decades < 1 else (1, 3) if decades < 2.6 else (1,)
        line.set_major_locator(LogLocator(subs=subs, numticks=8))
        line.set_minor_locator(LogLocator(subs=range(1, 10), numticks=8))
        if decades > 6:
            line.set_minor_locator(NullLocator())
        line.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    else:
        line.set_major_locator(MaxNLocator(5))
    line.set_major_formatter(FuncFormatter(lambda value, _: shown(name, value)))


def set_flops(axis: Axes) -> None:
    """A log axis of compute: 1e20, 1e22."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(numticks=5))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("+", "")))


def set_values(axis: Axes, which: str, ends: tuple[float, float], log: bool) -> None:
    """An axis of a parameter between two ends, with a few ticks; a log one where asked
    for and worth it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    line, (low, high) = getattr(axis, f"{which}axis"), ends
    if log and high > 5 * low:
        getattr(axis, f"set_{which}scale")("log")
        room = (high / low) ** 0.04
        low, high = low / room, high * room
        line.set_major_locator(LogLocator(subs=(1, 3) if high < 60 * low else (1,), numticks=4))
        line.set_minor_locator(NullLocator())
    else:
        room = 0.04 * (high - low)
        low, high = low - room, high + room
        line.set_major_locator(MaxNLocator(3))
    getattr(axis, f"set_{which}lim")(low, high)
    line.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """A number in few letters: 0.35, 1200, 1e-4, 2.2e8."""
    text = f"{value:.1e}" if 0 < abs(value) < 1e-2 or abs(value) >= 1e5 else f"{value:.4g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace(".0e", "e")


def is_log(low: float, high: float) -> bool:
    """Whether values are better shown by their logs."""
    return 0 < 4 * low < high


def spread(names: Sequence[Any], number: int) -> list[Any]:
    """At most that many of them, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(names) - 1, min(number, len(names))).round().astype(int)
    return [names[i] for i in places]


class Steps:
    """Colours for the values of a column that has an order, and their words for a legend.

    Up to eight values have a colour each; of more, those that are nearly alike share one, and where
    that leaves too many they are put into six groups of equal number.
    """

    def __init__(self, name: str, values: Array) -> None:
        self.name, distinct = name, np.unique(values)
        parts = np.split(distinct, len(distinct))
        if len(parts) > len(STEPS):
            parts = merge_close_levels(distinct)
        if len(parts) > len(STEPS):
            parts = np.array_split(distinct, 6)
        self.edges = np.array([part[0] for part in parts])
        self.middles = [float(part[(len(part) - 1) // 2]) for part in parts]
        self.colours = spread(STEPS, len(parts))
        self.words = [
            "–".join(dict.fromkeys(shown(name, float(end)) for end in (part[0], part[-1])))
            for part in parts
        ]

    def of(self, values: Array) -> Any:
        """The group of each value."""
        return np.searchsorted(self.edges, values, side="right") - 1


def legend(
    figure: Figure,
    kinds: Mapping[str, Any],
    steps: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> None:
    """A legend above all panels, where it covers nothing: the steps of a colour in its first row,
    and what else there is in its second."""
    from matplotlib.lines import Line2D

    rows = [list(row.items()) for row in (steps or {}, kinds) if row]
    columns = max(len(row) for row in rows)
    blank = ("", Line2D([], [], ls="none"))
    # Legends are filled by column.
    entries = [row[i] if i < len(row) else blank for i in range(columns) for row in rows]
    figure.legend(
        [mark for _, mark in entries],
        [text for text, _ in entries],
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.2,
        handletextpad=0.4,
        title=title,
        title_fontsize="small",
    )


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
