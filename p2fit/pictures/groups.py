"""Several fits side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import COLOURS, FAINT, INK
from p2fit.pictures.settings import styled
from p2fit.pictures.style import ANYWHERE, Place, panels, set_name
from p2fit.show.parts import labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 40  # groups whose names have room


@styled()
def draw_groups(fits: Sequence[Fit], place: Place = ANYWHERE) -> Figure:
    """The exponents of several fits with their 95 % intervals, a row for each fit.

    Raises:
        FitError: none of the fits has an interval.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    law = fits[0].law
    names = [n for n in law.free if n not in law.coefficients] or list(law.free)
    if all(fit.parameters[n].interval is None for fit in fits for n in names):
        raise FitError("no fit has intervals to show")
    high = min(0.9 + 0.19 * len(fits), 8.0)
    sheet = panels(len(names), size=(2.2, high), place=place)
    kinds: dict[str, Any] = {}
    for k, (axis, name) in enumerate(zip(sheet.axes, names)):
        found = [fit.parameters[name] for fit in fits]
        ends = [e for p in found for e in p.interval or () if e is not None]
        ends += [p.estimate for p in found if p.identified and p.estimate is not None]
        low, most = np.quantile(ends, [0.02, 0.98]) if ends else (0.0, 1.0)
        room = 0.1 * (most - low) or 0.1
        low, most = low - room, most + room
        for y, p in enumerate(found):
            first, last = p.interval or (None, None)
            closed = p.identified and first is not None and last is not None
            span = [low if first is None else first, most if last is None else last]
            colour = COLOURS[0] if closed else COLOURS[1]
            [bar] = axis.plot(span, [y, y], color=colour, lw=1.4, solid_capstyle="butt")
            kinds["95 % interval" if closed else "open"] = bar
            if p.identified and p.estimate is not None:
                [kinds["estimate"]] = axis.plot(
                    p.estimate, y, "o", color=INK, ms=2.5, mew=0, ls="none"
                )
        axis.set_xlim(low, most)
        axis.set_ylim(len(fits) - 0.5, -0.5)
        axis.grid(axis="x", color=FAINT, lw=0.3, alpha=0.5)
        set_name(axis.set_title, name)
        shown = len(fits) <= _NAMED and k % 3 == 0
        axis.yaxis.set_major_locator(FixedLocator(range(len(fits))) if shown else NullLocator())
        if shown:
            each = labels([fit.group for fit in fits])
            axis.set_yticklabels([n if len(n) <= 24 else n[:23] + "…" for n in each])
    sheet.legend(kinds)
    return sheet.figure
