"""Pictures of a fit and its rows: curves, observed against predicted, residuals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.fit import Fit
from p2fit.pictures.style import (
    BEYOND,
    COLOURS,
    FAINT,
    INK,
    Steps,
    is_log,
    label,
    legend,
    note,
    panels,
    set_scale,
    shown,
    spread,
    styled,
    swatch,
)
from p2fit.plan.going_on import ahead

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 1500  # more are thinned out evenly
_MOST_PANELS = 12
_STEPS = 80  # of a curve
_MOST_AHEAD = 6  # runs of one colour in a panel whose rest is drawn


@styled()
def draw_curves(fit: Fit, frame: pl.DataFrame) -> Figure:
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
    figure, axes = panels(len(drawn), across=panels_abreast(len(drawn)), size=size)
    kinds: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for axis, part in zip(axes, drawn):
        words |= _curves(axis, fit, part, x, steps, kinds)
        if len(rest) > 1:
            axis.set_title(", ".join(f"{label(i)} {shown(i, part[i][0])}" for i in rest[:-1]))
        axis.set_xlabel("")
    share_scale(axes)
    figure.supxlabel(label(x), fontsize="medium")
    figure.supylabel(label(fit.target), fontsize="medium")
    if len(drawn) < len(parts):
        note(axes[0], f"{len(drawn)} of {len(parts)} panels shown", (0, 1.12))
    if steps is None:
        legend(figure, {**words, **kinds})
    else:
        each = [part[steps.name].to_numpy() for part in drawn]
        thinned = any(len(np.unique(v)) > len(np.unique(steps.of(v))) for v in each)
        middle = ", a curve for the middle of each group" if thinned else ""
        ordered = {word: words[word] for word in steps.words if word in words}
        legend(figure, kinds, ordered, label(steps.name) + middle)
    return figure


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
    axis: Axes, fit: Fit, x: Array, columns: Mapping[str, Any], colour: str
) -> dict[str, Any]:
    """The 95 % interval of the mean, and the range of equally good fits, along a curve."""
    kinds: dict[str, Any] = {}
    interval, reach = fit.interval(columns), fit.range(columns)
    if interval is not None:
        axis.fill_between(x, *interval, color=colour, alpha=0.18, lw=0)
        kinds["95 % interval"] = swatch(alpha=0.25)
    if reach is not None:
        style: Any = {"facecolor": "none", "alpha": 0.7, "hatch": "////", "lw": 0}
        axis.fill_between(x, *reach, edgecolor=colour, **style)
        kinds["range of equally good fits"] = swatch(color=None, edgecolor=FAINT, **style)
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
    for part in np.unique(group):
        own = frame.filter(pl.Series(group == part))
        tint = steps.colours[part] if steps else COLOURS[0]
        word, observed = steps.words[part] if steps else "rows", own[fit.target]
        words[word] = _scatter(axis, own[x], observed, tint)
        first, last = _ends(own, x)
        if fit.runs is not None and x == "tokens" and not moving:
            for tokens, line in _ahead(fit, own, end):
                [drawn] = axis.plot(tokens, line, color=tint, lw=1.1, ls=":", zorder=3)
                kinds.setdefault("rest of a run, from its own points", drawn)
        if steps is not None:
            away = (own[steps.name] - steps.middles[part]).abs()
            own = own.filter(away == away.min())
        for columns in _lines(own, inputs, x, grid, moving):
            values, line = columns[x], fit.predict(columns)
            here = (values >= first) & (values <= last)
            axis.plot(values, line, color=tint, lw=0.8, ls=(0, (4, 2)), zorder=2)
            axis.plot(values[here], line[here], color=tint, lw=1.5, zorder=2)
            heights.append(line[values <= high])
            kinds |= bands(axis, fit, values, columns, tint)
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


def _ahead(fit: Fit, frame: pl.DataFrame, end: float) -> Iterator[tuple[Array, Array]]:
    """Where each run goes on to, from its last row, as the law and its own rows say."""
    inputs = fit.law.inputs
    for run in spread(frame["run"].unique(maintain_order=True).to_list(), _MOST_AHEAD):
        rows = frame.filter(pl.col("run") == run).sort("tokens")
        last = rows.row(-1, named=True)
        tokens = np.geomspace(last["tokens"], end, _STEPS)[1:]
        points = {**{i: np.full(len(tokens), last[i]) for i in inputs}, "tokens": tokens}
        losses = fit.scale.back(ahead(fit, rows, points).place)
        yield np.append(last["tokens"], tokens), np.append(last[fit.target], losses)


def _ends(frame: pl.DataFrame, x: str) -> tuple[float, float]:
    values = frame[x].to_numpy()
    return float(values.min()), float(values.max())


@styled()
def draw_observed(fit: Fit, frame: pl.DataFrame) -> Figure:
    """Observed against predicted loss; of the loss above the base model's, where the law has it."""
    above = "base_loss" in fit.law.inputs and fit.target == "loss"
    base = frame["base_loss"].to_numpy() if above else np.zeros(frame.height)
    observed = frame[fit.target].to_numpy() - base
    predicted = fit.predict(_columns(fit, frame)) - base
    figure, (axis,) = panels(1, size=(4.6, 4.2))
    colour = _coloured(fit, frame)
    kinds: dict[str, Any] = {}
    words: dict[str, Any] = {}
    if colour is None:
        words["rows"] = _scatter(axis, predicted, observed, COLOURS[0])
    else:
        steps = Steps(colour, frame[colour].to_numpy())
        group = steps.of(frame[colour].to_numpy())
        for i, word in enumerate(steps.words):
            rows = group == i
            words[word] = _scatter(axis, predicted[rows], observed[rows], steps.colours[i])
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
    legend(figure, kinds, words, colour and label(colour))
    return figure


@styled()
def draw_residuals(fit: Fit, frame: pl.DataFrame) -> Figure:
    """What the law misses against each input that varies: a trend is a fault of the law."""
    columns = _columns(fit, frame)
    predicted, observed = fit.predict(columns), frame[fit.target].to_numpy()
    log = fit.options["residual"] == "log"
    miss = 100 * (observed / predicted - 1) if log else observed - predicted
    inputs = [i for i in fit.law.inputs if i != "base_loss" and frame[i].n_unique() > 1]
    if "tokens" in frame.columns and "tokens" not in inputs and not frame["tokens"].null_count():
        inputs += ["tokens"] if frame["tokens"].n_unique() > 1 else []
    figure, axes = panels(len(inputs) + 1, across=2 if len(inputs) in (1, 3) else 3)
    kinds: dict[str, Any] = {}
    size = float(np.quantile(np.abs(miss), 0.98)) * 1.25 or 1.0
    inside = np.clip(miss, -size, size)
    out = np.abs(miss) > size
    last = f"predicted {fit.target}"
    for axis, name in zip(axes, [*inputs, last]):
        x = predicted if name == last else frame[name].to_numpy()
        set_scale(axis, "x", name, float(x.min()), float(x.max()))
        axis.axhline(0, color=INK, lw=0.8, zorder=1)
        kinds["rows"] = _scatter(axis, x, inside, COLOURS[0])
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
    figure.supylabel(f"observed − predicted, {unit}", fontsize="medium")
    legend(figure, kinds)
    return figure


def _medians(x: Array, y: Array) -> tuple[Array, Array] | None:
    """Medians of y over up to eight groups of neighbouring x; None where rows are few."""
    values = np.unique(x)
    if len(x) < 16 or len(values) < 3:
        return None
    parts = np.array_split(values, min(8, len(values), len(x) // 5))
    rows = [np.isin(x, part) for part in parts]
    return np.array([np.median(x[r]) for r in rows]), np.array([np.median(y[r]) for r in rows])


def _scatter(axis: Axes, x: Any, y: Any, colour: str) -> Any:
    thin = _thin(len(x))
    x, y = np.asarray(x)[thin], np.asarray(y)[thin]
    return axis.plot(x, y, "o", color=colour, ms=3, mew=0, alpha=0.75, ls="none", zorder=2)[0]


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
