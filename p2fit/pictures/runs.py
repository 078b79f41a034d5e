"""What runs are by themselves: how they differ from the law, and where they are going."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.arrays import Array, Index
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import BAND, COLOURS, FAINT, INK, spread
from p2fit.pictures.settings import styled
from p2fit.pictures.style import ANYWHERE, Place, label, panels, set_scale, swatch
from p2fit.plan.continuing import in_progress, predict_frame
from p2fit.plan.going_on import Own, needs_runs, own_effects

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 60  # runs whose level has a bar
_GROUPS = 12  # of distances, at most
_PANELS = 6


@styled()
def draw_runs(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """How runs differ from the law in level and in rate, and how alike the errors of neighbouring
    points are.

    Raises:
        FitError: the fit knows nothing of its runs.
    """
    needs_runs(fit)
    runs = dict(fit.runs or {})
    names = frame["run"].unique(maintain_order=True).to_list()
    found = [own_effects(fit, frame.filter(pl.col("run") == name).sort("tokens")) for name in names]
    share = 100.0 if runs["excess"] or fit.options["residual"] == "log" else 1.0
    of = "the excess" if runs["excess"] else f"the {fit.target}"
    unit = f"% of {of}" if share > 1 else fit.target
    sheet = panels(3, size=(3.2, 2.7), place=place)
    kinds: dict[str, Any] = {}
    first, second, third = sheet.axes
    level, rate = share * np.array([own.effects for own in found]).T
    sure = share * np.array([own.stderr for own in found])
    order = spread(np.argsort(level).tolist(), _MOST)
    kinds["a run, with its 95 % interval"] = _bars(
        first, np.arange(len(order)), level[order], sure[order, 0]
    )
    kinds["95 % of all runs"] = _spread(first, share * runs["level"])
    first.set_xlabel(f"runs, by level ({len(order)} of {len(found)})")
    first.set_xticks([])
    first.set_ylabel(f"level, {unit}")
    _bars(second, level, rate, sure[:, 1])
    _spread(second, share * runs["rate"])
    second.set_xlabel(f"level, {unit}")
    second.set_ylabel("rate, per e-fold of tokens")
    kinds |= _correlation(third, runs["along"], found)
    sheet.legend(kinds)
    return sheet.figure


def _bars(axis: Axes, x: Any, y: Array, sd: Array) -> Any:
    axis.vlines(x, y - 1.96 * sd, y + 1.96 * sd, color=COLOURS[0], lw=1, alpha=0.6)
    return axis.plot(x, y, "o", color=COLOURS[0], ms=3.5, mew=0, ls="none")[0]


def _spread(axis: Axes, sd: float) -> Any:
    axis.axhline(0, color=INK, lw=0.8, zorder=1)
    axis.axhspan(-1.96 * sd, 1.96 * sd, color=BAND, lw=0, zorder=0)
    return swatch(color=BAND)


def _alike(distance: Array) -> list[Index]:
    """Pairs by distance, shape (pairs,), in groups of neighbours, ascending: each of at least so
    many and so wide, as checkpoints at like steps have the same distances but for rounding."""
    order = np.argsort(distance, kind="stable")
    ascending = distance[order]
    width, count = ascending[-1] / (2 * _GROUPS), -(-len(order) // _GROUPS)
    cuts = [0]
    while cuts[-1] < len(order):
        beyond = int(np.searchsorted(ascending, ascending[cuts[-1]] + width, side="right"))
        cuts.append(max(cuts[-1] + count, beyond))
    return np.split(order, cuts[1:-1])


def _correlation(axis: Axes, along: str, found: list[Own]) -> dict[str, Any]:
    """Correlation of what two points of a run miss besides its level and rate, over the distance
    between them, beside what the fit has there. Taking level and rate off makes both fall below 0.
    """
    far, products, expected = [], [], []
    measured, model, rows = 0.0, 0.0, 0
    for own in found:
        i, j = np.triu_indices(len(own.rest), 1)
        far.append(np.abs(own.place[i] - own.place[j]))
        products.append(own.rest[i] * own.rest[j])
        expected.append(own.expected[i, j])
        measured += float(np.sum(own.rest**2))
        model += float(np.trace(own.expected))
        rows += len(own.rest)
    distance = np.concatenate(far)
    kinds: dict[str, Any] = {}
    axis.axhline(0, color=INK, lw=0.8, zorder=1)
    if len(distance) and measured > 0 and model > 0:
        groups = _alike(distance)
        middles = [float(distance[g].mean()) for g in groups]
        for word, values, size, style in (
            ("pairs of points of a run", products, measured, {"marker": "s", "ls": "none"}),
            ("as the fit has it", expected, model, {"lw": 1.5}),
        ):
            each = np.concatenate(values)
            heights = [float(each[g].mean()) * rows / size for g in groups]
            colour = COLOURS[1] if "ls" in style else COLOURS[0]
            drawn: Any = {"color": colour, "ms": 4, "mew": 0, **style}
            [kinds[word]] = axis.plot(middles, heights, **drawn)
    axis.set_ylim(-1.05, 1.05)
    axis.set_xlabel(f"distance along a run, {along}")
    axis.set_ylabel("correlation of errors")
    return kinds


@styled()
def draw_ahead(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """Runs in progress: their points, where each goes on to with its 95 % interval, and what the
    law alone says.

    Raises:
        FitError: the fit knows nothing of its runs, or none is in progress.
    """
    needs_runs(fit)
    planned, names = in_progress(frame)
    chosen = spread(names, _PANELS)
    sheet = panels(len(chosen), size=(3.2, 2.4), place=place)
    kinds: dict[str, Any] = {}
    for axis, name in zip(sheet.axes, chosen):
        rows = frame.filter(pl.col("run") == name).sort("tokens")
        last = float(rows["tokens"][-1])
        tokens = np.geomspace(last, planned, 40)
        ahead = predict_frame(fit, rows, tokens)
        if ahead["low"].null_count() == 0:
            axis.fill_between(tokens, ahead["low"], ahead["high"], color=BAND, lw=0)
            kinds["95 % interval of a measurement"] = swatch(color=BAND)
        every = np.geomspace(float(rows["tokens"].min()), planned, 80)  # type: ignore[arg-type]
        at = {x: np.full(80, float(rows[x][-1])) for x in fit.law.inputs} | {"tokens": every}
        [kinds["the law alone"]] = axis.plot(
            every, fit.predict(at), color=FAINT, lw=0.9, ls=(0, (4, 2))
        )
        [kinds["the run goes on"]] = axis.plot(tokens, ahead["predicted"], color=COLOURS[0], lw=1.6)
        [kinds["measured"]] = axis.plot(
            rows["tokens"], rows[fit.target], "o", color=INK, ms=3, mew=0, ls="none"
        )
        set_scale(axis, "x", "tokens", float(every[0]), planned)
        axis.set_xlim(float(every[0]) / 1.05, planned * 1.02)
        name = str(name)
        axis.set_title(name if len(name) <= 30 else f"{name[:14]}…{name[-15:]}")
        seen = np.concatenate([rows[fit.target].to_numpy(), ahead["predicted"].to_numpy()])
        room = 0.15 * max(float(np.ptp(seen)), 1e-3 * abs(float(seen[0])))
        axis.set_ylim(float(seen.min()) - room, float(seen.max()) + room)
    if not math.isfinite(planned) or not chosen:
        raise FitError("no run is in progress")
    sheet.labels("tokens", label(fit.target))
    sheet.legend(kinds)
    return sheet.figure
