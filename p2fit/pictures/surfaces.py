"""Pictures of the law as a landscape: lines of equal loss over two inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import BEYOND, COLOURS, FAINT, INK, spread
from p2fit.pictures.settings import styled
from p2fit.pictures.style import ANYWHERE, Place, label, panels, set_scale, shown, swatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 4
_CELLS = 90  # along each side


@styled()
def draw_contours(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """Lines of equal predicted loss: size over tokens, or rate over tokens, a panel per size; of
    the loss above the base model's, where the law has it.

    Raises:
        FitError: fewer than two inputs of the law vary in the rows.
    """
    inputs = [i for i in fit.law.inputs if i != "base_loss" and frame[i].n_unique() > 1]
    if len(inputs) < 2:
        raise FitError("lines of equal loss need two inputs that vary, and this fit has fewer")
    x = "tokens" if "tokens" in inputs else inputs[0]
    known = ("pruning_rate", "avg_params", "params")
    y = next(i for i in (*known, *inputs) if i in inputs and i != x)
    by = [i for i in inputs if i not in (x, y)]
    parts = frame.partition_by(by, maintain_order=True) if by else [frame]
    parts.sort(key=lambda part: [part[i][0] for i in by])
    drawn = spread(parts, _MOST_PANELS)
    size = (5.4, 4.2) if len(drawn) == 1 else (3.5, 2.9)
    sheet = panels(len(drawn), across=2 if len(drawn) in (2, 4) else 3, size=size, place=place)
    axes = sheet.axes
    above = "base_loss" in fit.law.inputs
    for axis, part in zip(axes, drawn):
        _contours(axis, fit, frame, part, x, y, above)
        if by:
            axis.set_title(", ".join(f"{label(i)} {shown(i, part[i][0])}" for i in by))
    marks = axes[0].plot([], [], "o", color=INK, ms=2.5, mew=0, ls="none")[0]
    what = ("loss − base loss" if above else "loss") + ", nats per token"
    kinds: dict[str, Any] = {
        what: axes[0].plot([], [], color=COLOURS[0], lw=1.1)[0],
        "rows": marks,
        "beyond the data": swatch(color=BEYOND),
    }
    if not by and not above:
        kinds |= _path(axes[0], fit, frame, x, y)
    sheet.legend(kinds)
    return sheet.figure


def _path(axis: Axes, fit: Fit, frame: pl.DataFrame, x: str, y: str) -> dict[str, Any]:
    """Lines of equal compute and the best split along them, for laws that have one."""
    from p2fit.pictures.plans import compute_path

    try:
        plan, spent = compute_path(fit, frame, decades=3)
    except FitError:
        return {}
    across, up = axis.get_xlim(), axis.get_ylim()
    tokens = np.geomspace(*across, 9)
    style: Any = {"color": FAINT, "lw": 0.7, "ls": ":", "zorder": 1}
    for power in range(int(np.log10(spent.min())) - 1, int(np.log10(spent.max())) + 3):
        axis.plot(tokens, 10.0**power / (6 * tokens), **style)
        top = 10.0**power / (6 * up[1])
        if across[0] < top < across[1] / 2:
            axis.annotate(
                f"1e{power}",
                (top, up[1]),
                xytext=(2, 1),
                textcoords="offset points",
                fontsize="small",
                color=FAINT,
                va="bottom",
                ha="center",
            )
    best = {"tokens": [b.tokens.value for b in plan.budgets]}
    best[plan.size] = [b.size.value for b in plan.budgets]
    (line,) = axis.plot(best[x], best[y], color=COLOURS[1], lw=2, zorder=3)
    axis.set(xlim=across, ylim=up)
    return {"equal compute (FLOPs)": axis.plot([], [], **style)[0], "best split": line}


def _contours(
    axis: Axes, fit: Fit, frame: pl.DataFrame, part: pl.DataFrame, x: str, y: str, above: bool
) -> None:
    """One panel: the range of all rows, the law and the rows of this part."""
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    sides = {}
    for which, name in (("x", x), ("y", y)):
        values = frame[name].to_numpy()
        low, high = float(values.min()), float(values.max())
        set_scale(axis, which, name, low, high)
        log = getattr(axis, f"get_{which}scale")() == "log"
        room = np.sqrt(high / low) if log else 0.25 * (high - low)
        room = float(np.clip(room, 1.5, 3.2)) if log else room
        first, last = (low / room, high * room) if log else (low - room, high + room)
        if name == "pruning_rate":
            first, last = max(first, 0.0), min(last, high + (1 - high) / 3)
        sides[name] = np.geomspace(first, last, _CELLS) if log else np.linspace(first, last, _CELLS)
        getattr(axis, f"set_{which}lim")(first, last)
    row = part.row(part.height // 2, named=True)
    across, up = np.meshgrid(sides[x], sides[y])
    if y == "pruning_rate":
        up = np.maximum(up, 1e-9)
    surface = fit.predict({**{i: row[i] for i in fit.law.inputs}, x: across, y: up})
    surface -= row["base_loss"] if above else 0.0
    axis.axvspan(*axis.get_xlim(), color=BEYOND, lw=0, zorder=-1)
    ends = [(float(part[n].min()), float(part[n].max())) for n in (x, y)]  # type: ignore[arg-type]
    corner, width, height = (ends[0][0], ends[1][0]), np.ptp(ends[0]), np.ptp(ends[1])
    axis.add_patch(Rectangle(corner, width, height, color="white", lw=0, zorder=0))
    fine = np.isfinite(surface)
    if not fine.any():
        raise FitError("the fitted law has no finite value here")
    low, high = np.quantile(surface[fine], [0.0, 0.97])
    levels = MaxNLocator(11, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    lines = axis.contour(across, up, surface, levels, colors=COLOURS[0], linewidths=1.1, zorder=2)
    axis.clabel(lines, fmt="%.4g", fontsize="small", colors=INK)
    axis.plot(part[x], part[y], "o", color=INK, ms=2.5, mew=0, alpha=0.6, zorder=3)
