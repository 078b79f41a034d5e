"""Valleys of equal compute, as papers of scaling laws show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import COLOURS, FAINT, STEPS, spread
from p2fit.pictures.plans import compute_path
from p2fit.pictures.settings import styled
from p2fit.pictures.style import ANYWHERE, Place, label, panels, set_flops, set_scale, swatch
from p2fit.plan.compute import plan_compute

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BUDGETS = 7  # at most
_SAME, _NEAR = 0.02, 0.15  # decades between runs of one budget; from one that is picked
_SIZES = 3  # that make a valley


@styled()
def draw_isoflops(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """Loss over size for several budgets of compute, with the law's curves and their minima, and
    the best size over the budget.

    Rows that are near a budget and not at it are moved there as the law says.

    Raises:
        FitError: the law has no optimum, or no budget has runs of three sizes.
    """
    plan, spent = compute_path(fit, frame, decades=1)
    size = plan.size
    budgets = isoflops(frame[size].to_numpy(), spent)
    if not budgets:
        raise FitError(f"no compute here has runs of {_SIZES} sizes: there is no valley to draw")
    best = plan_compute(fit, [c for c, _ in budgets]).budgets
    sheet = panels(2, size=(3.6, 3.0), place=place)
    left, right = sheet.axes
    kinds: dict[str, Any] = {}
    steps: dict[str, Any] = {}
    flops = np.array([b.flops for b in plan.budgets])
    path = np.array([b.size.value for b in plan.budgets])
    if plan.budgets[0].size.interval is not None:
        ends = np.array([b.size.interval for b in plan.budgets]).T
        right.fill_between(flops, *ends, color=COLOURS[0], alpha=0.2, lw=0)
        kinds["95 % interval"] = swatch(color=COLOURS[0], alpha=0.2)
    [kinds["best size, by the law"]] = right.plot(flops, path, color=COLOURS[0], lw=1.4, zorder=2)
    for (c, rows), optimum, tint in zip(budgets, best, spread(STEPS, len(budgets))):
        n, loss = _moved(fit, frame[rows], size, c)
        grid = np.geomspace(n.min() / 1.5, n.max() * 1.5, 80)
        left.plot(grid, _along(fit, size, grid, c), color=tint, lw=1.2, zorder=2)
        steps[f"{c:.0e}".replace("e+", "e")] = left.plot(
            n, loss, "o", color=tint, ms=3.5, mew=0, alpha=0.8, ls="none", zorder=3
        )[0]
        for axis, x, y in (
            (left, optimum.size.value, optimum.loss.value),
            (right, c, optimum.size.value),
        ):
            axis.plot(x, y, "D", color=tint, ms=5.5, mew=0, zorder=4)
        lowest = _parabola(n, loss)
        if lowest is not None:
            right.plot(c, lowest, "o", color=tint, ms=6, mfc="none", mew=1.2, zorder=5)
    mark: Any = {"color": FAINT, "ls": "none"}
    kinds["minimum of the law"] = left.plot([], [], "D", ms=5.5, mew=0, **mark)[0]
    kinds["of a parabola through the runs"] = left.plot([], [], "o", mfc="none", ms=6, **mark)[0]
    _frames(left, right, size, frame[size].to_numpy(), budgets, flops, path)
    sheet.legend(kinds, steps, "compute, FLOPs")
    return sheet.figure


def isoflops(size: Array, spent: Array) -> list[tuple[float, Array]]:
    """Budgets of compute with runs of three sizes or more, and the rows of each: those of the
    design where it has some; else a few between the least compute and the most."""
    logs = np.log10(spent)
    order = np.argsort(logs, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(logs[order]) > _SAME) + 1)
    own = [(10 ** float(np.median(logs[p])), p) for p in parts if np.ptp(logs[p]) < 5 * _SAME]
    own = [(c, p) for c, p in own if len(np.unique(size[p])) >= _SIZES]
    if len(own) < 2:
        low, high = np.quantile(logs, [0.1, 0.9]).tolist()
        even = np.linspace(low, high, _BUDGETS - 2)
        own = [(10 ** float(at), np.flatnonzero(np.abs(logs - at) <= _NEAR)) for at in even]
        own = [(c, p) for c, p in own if len(np.unique(size[p])) >= _SIZES]
    return spread(own, _BUDGETS) if own else []


def _along(fit: Fit, size: str, n: Array, c: float) -> Array:
    return fit.predict({size: n, "tokens": c / 6 / n})


def _moved(fit: Fit, rows: pl.DataFrame, size: str, c: float) -> tuple[Array, Array]:
    """Sizes and losses of rows, as if they had spent just that compute; of a run's rows the
    nearest."""
    away = (rows[size] * rows["tokens"] * (6 / c)).log().abs()
    rows = (
        rows.with_columns(away.alias("")).sort("").unique("run", keep="first", maintain_order=True)
    )
    n, d = rows[size].to_numpy(), rows["tokens"].to_numpy()
    moved = rows["loss"].to_numpy() + _along(fit, size, n, c) - fit.predict({size: n, "tokens": d})
    return n, moved


def _parabola(n: Array, loss: Array) -> float | None:
    """Size at the minimum of a parabola in its log (Hoffmann et al. 2022, approach 2); None
    where there is none between the runs."""
    if len(np.unique(n)) < _SIZES + 1:
        return None
    logs = np.log(n)
    bend, slope, _ = np.polyfit(logs - logs.mean(), loss, 2)
    if bend <= 0:
        return None
    lowest = logs.mean() - slope / (2 * bend)
    return float(np.exp(lowest)) if logs.min() < lowest < logs.max() else None


def _frames(
    left: Axes, right: Axes, size: str, n: Array, budgets: Any, flops: Array, path: Array
) -> None:
    set_scale(left, "x", size, float(n.min()), float(n.max()))
    left.set_ylabel(label("loss"))
    first, last = budgets[0][0] / 3, budgets[-1][0] * 10
    inside = path[(flops >= first) & (flops <= last)]
    low, high = float(inside.min()) / 2, float(inside.max()) * 2
    set_scale(right, "y", size, low, high)
    right.set_ylim(low, high)
    set_flops(right, first, last)
    right.set_xlim(first, last)
    right.set_xlabel("compute, FLOPs")
    right.set_ylabel(f"best {label(size)}")
