"""Settings of matplotlib that all pictures are drawn and written with."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from p2fit import extras
from p2fit.errors import FitError
from p2fit.pictures.colours import INK

_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": "medium",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.dpi": 150,
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "pdf.fonttype": 42,  # publishers refuse type 3
    "svg.hashsalt": "p2fit",  # the same picture gives the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a $
    "xtick.color": INK,
    "ytick.color": INK,
}
#: DejaVu Sans comes with matplotlib: the same on every machine. The others are for letters that it
#: lacks, where there is one of them.
_FONTS = (
    "DejaVu Sans",
    *(f"Noto Sans CJK {country}" for country in ("SC", "JP", "KR", "TC")),
    *("Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Hiragino Sans", "Microsoft YaHei"),
    *("Yu Gothic", "Malgun Gothic", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    "Arial Unicode MS",
)


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
        matplotlib.rcParams["font.family"] = _fonts()
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@functools.cache
def _fonts() -> list[str]:
    """Those of the fonts that are there."""
    from matplotlib.font_manager import fontManager

    there = set(fontManager.get_font_names())
    return [name for name in _FONTS if name in there]
