"""How sure a fit is: of its parameters, and of what it predicts, near and far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import COLOURS, FAINT, INK
from p2fit.pictures.settings import styled
from p2fit.pictures.style import ANYWHERE, Place, label, panels, set_name
from p2fit.show.headline import growing, off, outermost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIMES = np.geomspace(1, 100, 13)  # the most of the data, that predictions are looked at
_FACTOR = 30.0  # of an estimate, that is shown of a coefficient's interval


@styled()
def draw_certainty(fit: Fit, place: Place = ANYWHERE) -> Figure:
    """Intervals of exponents and of coefficients, an open end as an arrow, and how far predictions
    may be off from the data's edge to a hundred times the data.

    Raises:
        FitError: matplotlib is not installed, or the fit has no intervals.
    """
    exponents = [n for n in fit.law.free if n not in fit.law.coefficients]
    coefficients = [n for n in fit.law.free if n in fit.law.coefficients]
    more = growing(fit)
    near = off(fit, outermost(fit))
    if near is None:
        raise FitError("this fit has no intervals to show: its runs are too few")
    groups = [names for names in (exponents, coefficients) if names]
    count = len(groups) + bool(more)
    sheet = panels(count, size=(3.2, 2.4), place=place)
    axes = iter(sheet.axes)
    kinds: dict[str, Any] = {}
    for names in groups:
        kinds |= _parameters(next(axes), fit, names, relative=names is coefficients)
    if more:
        kinds |= _predictions(next(axes), fit, more)
    sheet.legend(kinds)
    return sheet.figure


def _parameters(axis: Axes, fit: Fit, names: Sequence[str], *, relative: bool) -> dict[str, Any]:
    """A bar for each; coefficients as multiples of their estimates."""
    from matplotlib.ticker import FixedLocator, NullLocator

    found = [fit.parameters[n] for n in names]
    by = [p.estimate or 1.0 if relative else 1.0 for p in found]
    ends = [p.interval or (None, None) for p in found]
    inside = [e / b for pair, b in zip(ends, by) for e in pair if e is not None]
    inside += [(p.estimate or 0.0) / b for p, b in zip(found, by) if p.identified]
    if relative:
        low, high = 1 / _FACTOR, _FACTOR
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator([0.1, 1, 10]))
        axis.xaxis.set_minor_locator(FixedLocator([0.2, 0.5, 2, 5]))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
        axis.set_xlabel("times its estimate")
    else:
        low, high = min([*inside, 0.0]), max([*inside, 0.1])
        room = 0.08 * (high - low)
        low, high = low - room, high + room
        axis.set_xlabel("exponent")
    kinds: dict[str, Any] = {}
    for y, (p, pair, b) in enumerate(zip(found, ends, by)):
        first, last = (
            edge if end is None else float(np.clip(end / b, low, high))
            for end, edge in zip(pair, (low, high))
        )
        known = p.identified and p.interval is not None
        colour = COLOURS[0] if known and None not in pair else COLOURS[1]
        [bar] = axis.plot([first, last], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        kinds["95 % interval" if colour == COLOURS[0] else "open"] = bar
        for end, edge, mark in zip(pair, (low, high), ("<", ">")):
            if end is None or not low <= end / b <= high:
                axis.plot(edge, y, mark, color=colour, ms=6, mew=0, clip_on=False)
        if p.identified and p.estimate is not None:
            [dot] = axis.plot(p.estimate / b, y, "o", color=INK, ms=4, mew=0, ls="none")
            kinds["estimate"] = dot
    axis.set_xlim(low, high)
    axis.set_ylim(len(names) - 0.5, -0.5)
    for y, name in enumerate(names):
        beside = axis.text(
            -0.03, y, "", transform=axis.get_yaxis_transform(), ha="right", va="center"
        )
        set_name(
            lambda text, parse_math, put=beside: put.set(text=text, parse_math=parse_math), name
        )
    axis.yaxis.set_major_locator(NullLocator())
    if not relative:
        axis.axvline(0, color=FAINT, lw=0.8, zorder=0)
    return kinds


def _predictions(axis: Axes, fit: Fit, more: str) -> dict[str, Any]:
    """How far predictions may be off, against how far they are from the data."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    percent = 100.0 if fit.target == "loss" else 1.0
    kinds: dict[str, Any] = {}
    style: Any
    for word, new_run, style in (
        ("the law", False, {"color": COLOURS[0], "ls": "-"}),
        ("a new run", True, {"color": COLOURS[2], "ls": "--"}),
    ):
        away = [off(fit, outermost(fit, float(t)), new_run=new_run) for t in _TIMES]
        values = [percent * a if a is not None and a < math.inf else math.nan for a in away]
        if np.isfinite(values).any():
            [kinds[f"off by, at most: {word}"]] = axis.plot(_TIMES, values, lw=1.6, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(f"times the data's {label(more)}")
    unit = "%" if fit.target == "loss" else fit.target
    axis.set_ylabel(f"off by (95 %), {unit}")
    for line in (axis.xaxis, axis.yaxis):
        line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        line.set_minor_formatter(NullFormatter())
    low, high = axis.get_ylim()
    axis.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    return kinds
