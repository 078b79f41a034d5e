"""Pictures of what a fit was put to: hold-outs and profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.errors import FitError
from p2fit.pictures.colours import BAND, COLOURS, FAINT, INK, spread
from p2fit.pictures.settings import styled
from p2fit.pictures.style import (
    ANYWHERE,
    Place,
    label,
    note,
    panels,
    set_name,
    set_scale,
    set_values,
)
from p2fit.show.parts import labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from p2fit.judging.scores import Points, Validation
    from p2fit.uncertainty.profiles import Profile


@styled()
def draw_validation(validations: Sequence[Validation], place: Place = ANYWHERE) -> Figure:
    """Fitted points, held-out points, and the prediction with its 95 % interval (or its range).

    A panel per run, held-out runs first, at most 12 in all; where runs have one row each, or no
    tokens, one panel of predicted against observed loss per hold-out.

    Raises:
        FitError: matplotlib is not installed, or every hold-out was skipped.
    """
    found = [v for v in validations if v.points is not None][:12]
    if not found:
        raise FitError("no hold-out has anything to draw")
    each = 12 // len(found)
    drawn = [(v, v.points, _validated_runs(v.points, each)) for v in found if v.points is not None]
    count = sum(len(runs) or 1 for _, _, runs in drawn)
    across = 3 if count <= 9 and len(found) != 3 else 4
    sheet = panels(count, across=across, size=(2.9, 2.4), place=place)
    kinds: dict[str, Any] = {}
    rest = iter(sheet.axes)
    for (v, points, runs), group in zip(drawn, labels([v.group for v in found])):
        title = v.holdout + (f" ({group})" if group else "")
        for name in runs:
            axis, rows = next(rest), np.asarray(points.run) == name
            fitted = "" if points.held_out[rows].any() else ", fitted"
            axis.set_title(f"{_short(title)}\n{_short(name + fitted)}")
            kinds |= _validated_curve(axis, points, rows)
        if not runs:
            axis = next(rest)
            axis.set_title(_short(title))
            kinds |= _validated_points(axis, points)
        total = len(set(points.run))
        if 0 < len(runs) < total:
            axis.annotate(
                f"{len(runs)} of {total} runs shown",
                (1, 1),
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize="small",
                color=FAINT,
            )
    if all(runs for _, _, runs in drawn):
        sheet.labels("tokens", label(found[0].points.target))  # type: ignore[union-attr]
    sheet.legend(kinds)
    return sheet.figure


def _short(text: str) -> str:
    """What has room above a panel, without the middle of what is longer."""
    return text if len(text) <= 34 else f"{text[:16]}…{text[-17:]}"


def _validated_runs(points: Points, count: int) -> list[str]:
    """Runs to draw: spread over those with held-out points, then over the others; none where
    runs have one row each, or no tokens."""
    rows = Counter(points.run)
    if "tokens" not in points.columns or max(rows.values()) == 1:
        return []
    held = list(dict.fromkeys(np.asarray(points.run)[points.held_out].tolist()))
    others = [name for name in rows if name not in set(held)]
    return (spread(held, count) + spread(others, max(count - len(held), 0)))[:count]


def _validated_curve(axis: Axes, points: Points, rows: Any) -> dict[str, Any]:
    """One run: what was seen and predicted along its tokens."""
    tokens, loss, held = points.columns["tokens"][rows], points.loss[rows], points.held_out[rows]
    # The rest of a run is predicted from the law and its own points, which it goes on from.
    told = held if held.any() else np.ones(len(held), bool)
    kinds: dict[str, Any] = {}
    for word, ends, style in (
        ("95 % interval", points.interval, {"color": BAND}),
        ("equally good fits", points.range, {"color": COLOURS[3], "alpha": 0.5}),
    ):
        low, high = ends[0][rows][told], ends[1][rows][told]
        if np.isfinite(low).any():
            kinds[word] = axis.fill_between(tokens[told], low, high, linewidth=0, **style)
    predicted = points.predicted[rows][told]
    if np.isfinite(predicted).any():
        kinds["predicted"] = axis.plot(tokens[told], predicted, color=INK, lw=1)[0]
    for word, some, marker, colour in (
        ("fitted", ~held, "o", COLOURS[0]),
        ("held out", held, "^", COLOURS[1]),
    ):
        if some.any():
            kinds[word] = axis.plot(
                tokens[some], loss[some], marker, color=colour, ms=3.5, mew=0, ls="none"
            )[0]
    set_scale(axis, "x", "tokens", float(tokens.min()), float(tokens.max()))
    axis.set_xlabel("")
    return kinds


def _validated_points(axis: Axes, points: Points) -> dict[str, Any]:
    """Predicted against observed loss."""
    held = points.held_out
    kinds: dict[str, Any] = {}
    for word, ends, colour in (
        ("95 % interval", points.interval, BAND),
        ("equally good fits", points.range, COLOURS[3]),
    ):
        low, high = ends[0][held], ends[1][held]
        if np.isfinite(low).any():
            kinds[word] = axis.vlines(points.loss[held], low, high, lw=1, color=colour)
    for word, some, marker, colour in (
        ("fitted", ~held, "o", COLOURS[0]),
        ("held out", held, "^", COLOURS[1]),
    ):
        rows = some & np.isfinite(points.predicted)
        if rows.any():
            kinds[word] = axis.plot(
                points.loss[rows],
                points.predicted[rows],
                marker,
                color=colour,
                ms=3.5,
                mew=0,
                ls="none",
            )[0]
    first = (points.loss[0], points.loss[0])
    kinds["predicted = observed"] = axis.axline(first, slope=1, color=INK, lw=1, zorder=0)
    axis.set_xlabel(f"observed {points.target}")
    axis.set_ylabel(f"predicted {points.target}")
    return kinds


@styled()
def draw_profiles(profiles: Sequence[Profile], place: Place = ANYWHERE) -> Figure:
    """How the objective rises, a panel per parameter, with the parabola of the fit's covariance.

    The rise is in units of the threshold: the interval is where the curve lies below 1. A
    parameter whose estimate overflows has nothing to draw.

    Raises:
        FitError: matplotlib is not installed, or nothing is there to draw.
    """
    found = [p for p in profiles if p.values]
    if not found:
        raise FitError("no profile has anything to draw")
    across = min(4, -(-len(found) // 2))
    sheet = panels(len(found), across=across, size=(2.7, 2.2), place=place)
    kinds: dict[str, Any] = {}
    for axis, p in zip(sheet.axes, found):
        group = ", ".join(p.group.values())
        set_name(axis.set_title, p.parameter)
        if group:
            note(axis, group)
        x, rise = np.array(p.values), np.array(p.rises) / p.threshold
        ends = [x[i] if end is None else end for i, end in zip((0, -1), p.interval)]
        kinds["95 % by profile"] = axis.axvspan(*ends, color=BAND, lw=0)
        axis.axhline(1, color=FAINT, lw=0.8)
        kinds["profile"] = axis.plot(x, rise, "o-", color=COLOURS[0], ms=2.5, mew=0, lw=1.2)[0]
        low, high = p.fitted or (None, None)
        if low is not None and high is not None:
            distance = np.linspace(-1.3, 1.3, 99)
            left, right = np.log([low, high]) if p.log else (low, high)
            where = 0.5 * (left + right + distance * (right - left))
            kinds["parabola of the covariance"] = axis.plot(
                np.exp(where) if p.log else where, distance**2, "--", color=COLOURS[1], lw=1
            )[0]
        if p.estimate:
            kinds["estimate"] = axis.plot(
                [p.estimate], [0], "|", color=INK, ms=9, mew=1.5, ls="none"
            )[0]
        # An open side is shown a thousandfold away at most: more would squeeze the middle.
        middle = p.estimate or x[-1]
        low = max(x[0], middle / 1e3) if p.log and p.interval[0] is None else x[0]
        high = min(x[-1], middle * 1e3) if p.log and p.interval[1] is None else x[-1]
        for end, view, side in zip(p.interval, (low, high), ("left", "right")):
            if end is None:
                axis.annotate("open", (view, 1.03), ha=side, color=FAINT, fontsize="small")
        set_values(axis, "x", (low, high), p.log and high > 5 * low)
        axis.set_ylim(-0.08, 1.5)
    sheet.labels(y="rise of the objective / threshold")
    sheet.legend(kinds)
    return sheet.figure
