"""Pictures of a fit and its rows: curves, observed against predicted, residuals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.fit import Fit
from p2fit.pictures.colours import BEYOND, COLOURS, FAINT, INK, is_log, spread
from p2fit.pictures.settings import styled
from p2fit.pictures.steps import Steps
from p2fit.pictures.style import ANYWHERE, Place, label, note, panels, set_scale, shown, swatch
from p2fit.plan.going_on import ahead

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 1500  # more are thinned out evenly
_MOST_PANELS = 12
_STEPS = 80  # of a curve
_MOST_AHEAD = 6  # runs of one colour in a panel whose rest is drawn


@styled()
def draw_curves(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """Loss along the tokens (or the input that varies most), with the fitted curves, their 95 %
    intervals, and what lies beyond the data shaded; and where the runs go on to, where the fit
    knows what they differ in.

    Args:
        frame: the rows that the fit was made of.
    """
    x = main_input(fit, frame)
    rest, parts, drawn = split_panels(fit, frame, x)
    steps = Steps(rest[-1], frame[rest[-1]].to_numpy()) if rest else None
    size = (6.0, 3.8) if len(drawn) == 1 else (3.2, 2.6)
    sheet = panels(len(drawn), across=panels_abreast(len(drawn)), size=size, place=place)
    kinds: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for axis, part in zip(sheet.axes, drawn):
        words |= _curves(axis, fit, part, x, steps, kinds)
        if len(rest) > 1:
            axis.set_title(", ".join(f"{label(i)} {shown(i, part[i][0])}" for i in rest[:-1]))
    share_scale(sheet.axes)
    sheet.labels(label(x), label(fit.target))
    if len(drawn) < len(parts):
        note(sheet.axes[0], f"{len(drawn)} of {len(parts)} panels shown", (0, 1.12))
    if steps is None:
        sheet.legend({**words, **kinds})
    else:
        sheet.legend(kinds, ordered(words, steps), titled(steps))
    return sheet.figure


def titled(steps: Steps) -> str:
    """What colours stand for."""
    return label(steps.name) + (", and colours in between" if steps.steady else "")


def ordered(words: Mapping[str, Any], steps: Steps) -> dict[str, Any]:
    """Marks in the order of the steps."""
    return {word: words[word] for word in steps.words if word in words}


def split_panels(
    fit: Fit, frame: pl.DataFrame, x: str
) -> tuple[list[str], list[pl.DataFrame], list[pl.DataFrame]]:
    """The other inputs that vary (the last one is for colours), the rows of each panel by the
    rest, and the panels to draw."""
    rest = [i for i in fit.law.inputs if i not in (x, "base_loss") and frame[i].n_unique() > 1]
    rest.sort(key=lambda i: (i == "pruning_rate", frame[i].n_unique()))
    by = rest[:-1]
    parts = frame.partition_by(by, maintain_order=True) if by else [frame]
    parts.sort(key=lambda part: [part[i][0] for i in by])
    return rest, parts, spread(parts, _MOST_PANELS)


def panels_abreast(number: int) -> int:
    """Panels side by side."""
    return 2 if number == 4 else 3 if number <= 9 else 4


def share_scale(axes: Sequence[Axes]) -> None:
    """One scale for all panels, unless that would flatten them."""
    ends = np.array([axis.get_ylim() for axis in axes])
    whole = (ends[:, 0].min(), ends[:, 1].max())
    if whole[1] - whole[0] < 2 * np.median(np.ptp(ends, axis=1)):
        for axis in axes:
            axis.set_ylim(whole)


def main_input(fit: Fit, frame: pl.DataFrame) -> str:
    """The input that curves are drawn along: the tokens, or the one that varies most."""
    inputs = [i for i in fit.law.inputs if i != "base_loss"] or list(fit.law.inputs)
    if "tokens" in inputs and frame["tokens"].n_unique() > 1:
        return "tokens"
    return max(inputs, key=lambda i: frame[i].n_unique())


def drawn_until(low: float, high: float, name: str) -> float:
    """How far past the data a curve is drawn."""
    if is_log(low, high) and name != "pruning_rate":
        return high * float(np.clip(np.sqrt(high / low), 2, 10))
    room = 0.25 * (high - low) or 0.1 * abs(high) or 1.0
    return min(high + room, 0.99 if name == "pruning_rate" else np.inf)


def bands(
    axis: Axes, fit: Fit, x: Array, columns: Mapping[str, Any], colour: str, of: int = 1
) -> dict[str, Any]:
    """The 95 % interval of the mean, and the range of equally good fits, along a curve.

    Args:
        of: curves in the panel: bands of many are faint, so that they bury none.
    """
    kinds: dict[str, Any] = {}
    interval, reach = fit.interval(columns), fit.range(columns)
    few = of <= 3
    if interval is not None:
        axis.fill_between(x, *interval, color=colour, alpha=0.18 if few else 0.1, lw=0, zorder=1)
        kinds["95 % interval"] = swatch(alpha=0.25)
    if reach is not None:
        edge: Any = {"color": colour, "lw": 0.6, "ls": (0, (1, 1.5)), "zorder": 1}
        for end in reach:
            axis.plot(x, end, **edge)
        axis.fill_between(x, *reach, color=colour, alpha=0.1 if few else 0.04, lw=0, zorder=1)
        kinds["equally good fits"] = swatch(
            color=None, facecolor=BEYOND, edgecolor=FAINT, lw=0.6, ls=":"
        )
    return kinds


def _curves(
    axis: Axes, fit: Fit, frame: pl.DataFrame, x: str, steps: Steps | None, kinds: dict[str, Any]
) -> dict[str, Any]:
    """One panel: the points of all rows, and a curve per colour; solid where it has rows."""
    inputs = fit.law.inputs
    low, high = _ends(frame, x)
    group = steps.of(frame[steps.name].to_numpy()) if steps else np.zeros(frame.height, int)
    end = drawn_until(low, high, x)
    log = is_log(low, end) and x != "pruning_rate"
    grid = np.geomspace(low, end, _STEPS) if log else np.linspace(low, end, _STEPS)
    runs = frame.group_by("run").agg(pl.col([i for i in inputs if i != x]).n_unique())
    moving = any(runs[i].max() > 1 for i in runs.columns[1:])  # type: ignore[operator]
    heights, words = [frame[fit.target].to_numpy()], {}
    groups = np.unique(group)
    for part in groups:
        own = frame.filter(pl.Series(group == part))
        word, observed = steps.words[part] if steps else "rows", own[fit.target]
        tints = steps.tints(own[steps.name].to_numpy()) if steps else [COLOURS[0]] * own.height
        words[word] = scatter(axis, own[x], observed, tints)
        first, last = _ends(own, x)
        if fit.runs is not None and x == "tokens" and not moving:
            for tokens, line, tint in _ahead(fit, own, end, tints):
                [drawn] = axis.plot(tokens, line, color=tint, lw=1.1, ls=":", zorder=3)
                kinds.setdefault("rest of a run", drawn)
        tint = COLOURS[0]
        if steps is not None:
            own = nearest(own, steps.name, steps.middles[part])
            tint = steps.tints(own[steps.name].to_numpy())[0]
        for columns in _lines(own, inputs, x, grid, moving):
            values, line = columns[x], fit.predict(columns)
            here = (values >= first) & (values <= last)
            axis.plot(values, line, color=tint, lw=0.8, ls=(0, (4, 2)), zorder=2)
            [curve] = axis.plot(values[here], line[here], color=tint, lw=1.5, zorder=2)
            if steps is not None and steps.steady:
                words[word] = curve
            heights.append(line[values <= high])
            kinds |= bands(axis, fit, values, columns, tint, len(groups))
    set_scale(axis, "x", x, low, end)
    if not moving:
        axis.axvspan(high, end, color=BEYOND, lw=0, zorder=0)
        kinds["beyond the data"] = swatch(color=BEYOND)
        margin = (end / low) ** 0.02 if log else 0.02 * (end - low)
        axis.set_xlim(low / margin if log else low - margin, end)
    values = np.concatenate(heights)
    values = values[np.isfinite(values)]
    if fit.target == "loss" and "base_loss" in inputs and frame["base_loss"].n_unique() == 1:
        base = float(frame["base_loss"][0])
        kinds["base model"] = axis.axhline(base, color=INK, lw=0.8, ls=":", zorder=1)
        values = np.append(values, base)
    # Bands may be far wider than the data: the data set the window.
    room = max(np.ptp(values), 1e-3 * abs(values[0]))
    axis.set_ylim(values.min() - 0.12 * room, values.max() + 0.12 * room)
    return words


def nearest(frame: pl.DataFrame, name: str, value: float) -> pl.DataFrame:
    """The rows whose value of a column is nearest to one."""
    away = (frame[name] - value).abs()
    return frame.filter(away == away.min())


def _lines(
    frame: pl.DataFrame, inputs: Sequence[str], x: str, grid: Array, moving: bool
) -> list[dict[str, Any]]:
    """The inputs along each curve: of a typical row along the grid; where other inputs change
    along a run, of two runs at their own rows."""
    if not moving:
        row = frame.row(frame.height // 2, named=True)
        return [{**{i: row[i] for i in inputs}, x: grid}]
    runs = spread(frame["run"].unique(maintain_order=True).to_list(), 2)
    parts = [frame.filter(pl.col("run") == run).sort(x) for run in runs]
    return [{i: part[i].to_numpy() for i in inputs} for part in parts]


def _ahead(
    fit: Fit, frame: pl.DataFrame, end: float, tints: Sequence[str]
) -> Iterator[tuple[Array, Array, str]]:
    """Where each run goes on to, from its last row, as the law and its own rows say."""
    inputs = fit.law.inputs
    colour = dict(zip(frame["run"], tints))
    for run in spread(frame["run"].unique(maintain_order=True).to_list(), _MOST_AHEAD):
        rows = frame.filter(pl.col("run") == run).sort("tokens")
        last = rows.row(-1, named=True)
        tokens = np.geomspace(last["tokens"], end, _STEPS)[1:]
        points = {**{i: np.full(len(tokens), last[i]) for i in inputs}, "tokens": tokens}
        losses = fit.scale.back(ahead(fit, rows, points).place)
        yield (
            np.append(last["tokens"], tokens),
            np.append(last[fit.target], losses),
            colour[run],
        )


def _ends(frame: pl.DataFrame, x: str) -> tuple[float, float]:
    values = frame[x].to_numpy()
    return float(values.min()), float(values.max())


@styled()
def draw_observed(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """Observed against predicted loss; of the loss above the base model's, where the law has it."""
    above = "base_loss" in fit.law.inputs and fit.target == "loss"
    base = frame["base_loss"].to_numpy() if above else np.zeros(frame.height)
    observed = frame[fit.target].to_numpy() - base
    predicted = fit.predict(_columns(fit, frame)) - base
    sheet = panels(1, size=(4.6, 4.2), place=place)
    [axis] = sheet.axes
    colour = _coloured(fit, frame)
    kinds: dict[str, Any] = {}
    words: dict[str, Any] = {}
    steps = None if colour is None else Steps(colour, frame[colour].to_numpy())
    if steps is None:
        words["rows"] = scatter(axis, predicted, observed, [COLOURS[0]] * frame.height)
    else:
        values = frame[steps.name].to_numpy()
        scatter(axis, predicted, observed, steps.tints(values))
        for i in np.unique(steps.of(values)):
            style: Any = {"color": steps.colours[i], "ms": 3, "mew": 0, "ls": "none"}
            words[steps.words[i]] = axis.plot([], [], "o", **style)[0]
    ends = np.concatenate([observed, predicted])
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    pad = 0.04 * max(high - low, 1e-3 * abs(high))
    kinds["as observed"] = axis.plot(
        [low - pad, high + pad], [low - pad, high + pad], color=INK, lw=0.9, zorder=1
    )[0]
    axis.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    what = "loss − base loss, nats per token" if above else label(fit.target)
    axis.set_xlabel(f"predicted {what}")
    axis.set_ylabel(f"observed {what}")
    _name_worst(axis, frame["run"].to_list(), predicted, observed, high)
    sheet.legend(kinds, words, None if steps is None else titled(steps))
    return sheet.figure


@styled()
def draw_residuals(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """What the law misses against each input that varies: a trend is a fault of the law."""
    columns = _columns(fit, frame)
    predicted, observed = fit.predict(columns), frame[fit.target].to_numpy()
    log = fit.options["residual"] == "log"
    miss = 100 * (observed / predicted - 1) if log else observed - predicted
    inputs = [i for i in fit.law.inputs if i != "base_loss" and frame[i].n_unique() > 1]
    if "tokens" in frame.columns and "tokens" not in inputs and not frame["tokens"].null_count():
        inputs += ["tokens"] if frame["tokens"].n_unique() > 1 else []
    sheet = panels(len(inputs) + 1, across=2 if len(inputs) in (1, 3) else 3, place=place)
    kinds: dict[str, Any] = {}
    size = float(np.quantile(np.abs(miss), 0.98)) * 1.25 or 1.0
    inside = np.clip(miss, -size, size)
    out = np.abs(miss) > size
    last = f"predicted {fit.target}"
    for axis, name in zip(sheet.axes, [*inputs, last]):
        x = predicted if name == last else frame[name].to_numpy()
        set_scale(axis, "x", name, float(x.min()), float(x.max()))
        axis.axhline(0, color=INK, lw=0.8, zorder=1)
        kinds["rows"] = scatter(axis, x, inside, [COLOURS[0]] * len(x))
        if out.any():
            kinds[f"further out ({int(out.sum())})"] = axis.plot(
                x[out], inside[out], "x", color=COLOURS[1], ms=4.5, ls="none", zorder=4
            )[0]
        middle = _medians(x, miss)
        if middle is not None:
            kinds["median of nearby rows"] = axis.plot(*middle, color=COLOURS[1], lw=1.6, zorder=4)[
                0
            ]
        axis.set_ylim(-1.08 * size, 1.08 * size)
    unit = "nats per token" if fit.target == "loss" else f"of {fit.target}"
    unit = f"% of the predicted {fit.target}" if log else unit
    sheet.labels(y=f"observed − predicted, {unit}")
    sheet.legend(kinds)
    return sheet.figure


def _medians(x: Array, y: Array) -> tuple[Array, Array] | None:
    """Medians of y over up to eight groups of neighbouring x; None where rows are few."""
    values = np.unique(x)
    if len(x) < 16 or len(values) < 3:
        return None
    parts = np.array_split(values, min(8, len(values), len(x) // 5))
    rows = [np.isin(x, part) for part in parts]
    return np.array([np.median(x[r]) for r in rows]), np.array([np.median(y[r]) for r in rows])


def scatter(axis: Axes, x: Any, y: Any, tints: Sequence[str]) -> Any:
    """Points, each in its colour; many are thinned out evenly."""
    thin = _thin(len(x))
    x, y, each = np.asarray(x)[thin], np.asarray(y)[thin], np.asarray(tints)[thin]
    for tint in dict.fromkeys(each.tolist()):
        own = each == tint
        style: Any = {"color": tint, "ms": 3, "mew": 0, "alpha": 0.75, "ls": "none", "zorder": 2}
        [drawn] = axis.plot(x[own], y[own], "o", **style)
    return drawn


def _thin(rows: int) -> Any:
    return np.arange(0, rows, -(-rows // _MOST_POINTS))


def _columns(fit: Fit, frame: pl.DataFrame) -> dict[str, Array]:
    return {i: frame[i].to_numpy() for i in fit.law.inputs}


def _coloured(fit: Fit, frame: pl.DataFrame) -> str | None:
    """The input to colour by: the pruning rate, else the size, else whatever varies."""
    inputs = [i for i in fit.law.inputs if frame[i].n_unique() > 1]
    known = ("pruning_rate", "params", "avg_params")
    return next((i for i in (*known, *inputs) if i in inputs), None)


def _name_worst(
    axis: Axes, runs: Sequence[str], predicted: Array, observed: Array, high: float
) -> None:
    """Names of up to three runs that are far off the line."""
    miss = observed - predicted
    far = np.abs(miss) > 5 * np.median(np.abs(miss)) + 0.02 * abs(high)
    named: dict[str, float] = {}
    tall = np.ptp(axis.get_ylim()) / 20
    for i in np.argsort(-np.abs(miss))[:20]:
        clear = all(abs(observed[i] - at) > tall for at in named.values())
        if far[i] and clear and runs[i] not in named and len(named) < 3:
            named[runs[i]] = observed[i]
            name = runs[i] if len(runs[i]) <= 28 else runs[i][:27] + "…"
            left = predicted[i] > np.mean(axis.get_xlim())
            axis.annotate(
                name,
                (predicted[i], observed[i]),
                xytext=(-5 if left else 5, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize="small",
                color=FAINT,
            )
