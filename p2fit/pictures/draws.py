"""How sure a fit is of its parameters: every pair of them, drawn as it is unsure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import COLOURS, INK
from p2fit.pictures.settings import styled
from p2fit.pictures.style import ANYWHERE, Place, panels, set_name, set_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 1500  # draws in a panel


@styled()
def draw_draws(fit: Fit, place: Place = ANYWHERE) -> Figure:
    """Every pair of free parameters over the fit's draws (posterior, bootstrap, or from the
    covariance), with histograms; what the data do not determine is left out.

    Raises:
        FitError: the fit has no draws, or none of its parameters is determined.
    """
    drawn = fit.draws(size=_MOST)
    if drawn is None:
        raise FitError("this fit has no draws to show: its data give no intervals")
    names = [n for n in fit.law.free if fit.parameters[n].identified]
    logs = {n for n in names if n in fit.law.coefficients and (drawn[n] > 0).mean() > 0.975}
    kept = {n: drawn[n][:: -(-len(drawn[n]) // _MOST)] for n in names}
    fine = np.all([np.isfinite(v) & ((v > 0) | (n not in logs)) for n, v in kept.items()], axis=0)
    names = [n for n in names if np.ptp(kept[n][fine]) > 0]
    if not names:
        raise FitError("no parameter is determined: there are no draws to show")
    number = len(names)
    ends = {n: _ends(kept[n][fine]) for n in names}
    # Histograms have the bins of their axis: even in its logs, or in the values.
    logs = {n for n in logs & set(names) if ends[n][1] > 5 * ends[n][0]}
    size = (1.5, 1.35) if number > 1 else (3.4, 2.6)
    sheet = panels(number * number, across=number, size=size, place=place, narrow=False)
    kinds: dict[str, Any] = {}
    for i, below in enumerate(names):
        for j, left in enumerate(names):
            axis = sheet.axes[i * number + j]
            if j > i:
                axis.remove()
                continue
            x, y = kept[left][fine], kept[below][fine]
            centre = fit.parameters[left].estimate
            if i == j:
                even = np.geomspace if left in logs else np.linspace
                edges = even(*ends[left], 31)
                axis.hist(x, list(edges), color=COLOURS[0], lw=0)
                axis.spines["left"].set_visible(False)
                axis.set_yticks([])
                set_name(axis.set_title, left)
                if centre is not None:
                    kinds["estimate"] = axis.axvline(centre, color=INK, lw=1)
            else:
                (dots,) = axis.plot(
                    x, y, "o", color=COLOURS[0], ms=1.6, mew=0, alpha=0.35, ls="none"
                )
                dots.set_rasterized(True)
                other = fit.parameters[below].estimate
                if centre is not None and other is not None:
                    axis.plot(centre, other, "+", color=INK, ms=7, mew=1.2, zorder=3)
                set_values(axis, "y", ends[below], below in logs)
            set_values(axis, "x", ends[left], left in logs)
            if i < number - 1:
                axis.tick_params(labelbottom=False)
            else:
                set_name(axis.set_xlabel, left)
            if j > 0 or i == 0:
                axis.tick_params(labelleft=False)
            else:
                set_name(axis.set_ylabel, below)
    dots = sheet.axes[0].plot([], [], "o", color=COLOURS[0], ms=3.5, mew=0, ls="none")[0]
    open_ = [n for n in fit.law.free if not fit.parameters[n].identified]
    title = f"not determined, and left out: {', '.join(open_)}" if open_ else None
    sheet.legend({f"draws ({_origin(fit)})": dots, **kinds}, title=title)
    return sheet.figure


def _origin(fit: Fit) -> str:
    if fit.backend != "least-squares":
        return "posterior"
    return "bootstrap" if fit.bootstrap is not None else "from the covariance over runs"


def _ends(values: Array) -> tuple[float, float]:
    """Nearly all of the draws: a few far out would squeeze the others."""
    low, high = np.quantile(values, [0.002, 0.998])
    return float(low), float(high)
