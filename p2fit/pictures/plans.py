"""Pictures of what a fit is for: tokens to saturation, and compute-optimal sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import BEYOND, COLOURS, FAINT
from p2fit.pictures.fits import (
    bands,
    nearest,
    ordered,
    panels_abreast,
    share_scale,
    split_panels,
)
from p2fit.pictures.settings import styled
from p2fit.pictures.steps import Steps
from p2fit.pictures.style import ANYWHERE, Place, label, panels, set_flops, set_scale, shown, swatch
from p2fit.plan.compute import ComputePlan, plan_compute
from p2fit.plan.quantities import Quantity
from p2fit.plan.tokens import plan_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FURTHEST = 1e4  # times the most tokens of the data: the window ends there
_PER_DECADE = 6


@styled()
def draw_saturation(fit: Fit, frame: pl.DataFrame, gain: float, place: Place = ANYWHERE) -> Figure:
    """Loss along the tokens until more of them hardly help, and where it ends.

    Args:
        gain: nats per token; a curve is saturated where a doubling of the tokens gains less.

    Raises:
        FitError: the law does not read tokens, or the rows have one token count.
    """
    if "tokens" not in fit.law.inputs:
        raise FitError(f"{fit.law.name} does not read tokens: nothing saturates")
    if frame["tokens"].n_unique() == 1:
        raise FitError("the rows have one token count: they do not say how the loss falls")
    rest, _, drawn = split_panels(fit, frame, "tokens")
    steps = Steps(rest[-1], frame[rest[-1]].to_numpy()) if rest else None
    size = (6.0, 3.8) if len(drawn) == 1 else (3.2, 2.6)
    sheet = panels(len(drawn), across=panels_abreast(len(drawn)), size=size, place=place)
    axes = sheet.axes
    kinds: dict[str, Any] = {}
    words: dict[str, Any] = {}
    most = float(frame["tokens"].max())  # type: ignore[arg-type]
    typical = [typical_inputs(fit, part, steps) for part in drawn]
    reached = [
        [plan_tokens(fit, at, gain=[gain]).goals[0].tokens for _, at in each] for each in typical
    ]
    finite = [q.value for each in reached for q in each if math.isfinite(q.value)]
    end = min(max([2 * most, *(3 * v for v in finite)]), _FURTHEST * most)
    low = float(frame["tokens"].min())  # type: ignore[arg-type]
    grid = np.geomspace(low, end, 120)
    for axis, part, each, found in zip(axes, drawn, typical, reached):
        heights = [part["loss"].to_numpy()]
        for (group, at), tokens in zip(each, found):
            tint = steps.tints(np.array([at[steps.name]]))[0] if steps else COLOURS[0]
            columns = {**at, "tokens": grid}
            line = fit.predict(columns)
            curve = axis.plot(grid, line, color=tint, lw=1.4, zorder=2)[0]
            words[steps.words[group] if steps else "fit"] = curve
            kinds |= bands(axis, fit, grid, columns, tint, len(each))
            last = float(fit.predict({**at, "tokens": 1e300}))
            if math.isfinite(last):
                style: Any = {"lw": 0.9, "ls": (0, (1, 2))}
                axis.hlines(last, math.sqrt(most * end), end, color=tint, **style)
                kinds["limit of endless tokens"] = axis.plot([], [], color=FAINT, **style)[0]
            if low <= tokens.value <= end and settled(tokens):
                height = float(fit.predict({**at, "tokens": tokens.value}))
                if tokens.interval is not None:
                    ends = np.clip(tokens.interval, low, end)
                    axis.hlines(height, *ends, color=tint, lw=3.5, alpha=0.5, zorder=3)
                axis.plot(tokens.value, height, "D", color=tint, ms=5, mew=0, zorder=4)
                mark = axis.plot([], [], "D", color=FAINT, ms=5, ls="none")[0]
                kinds[f"from here a doubling gains < {gain:g} nats"] = mark
            heights += [line[:1], np.array([last]) if math.isfinite(last) else line[-1:]]
        set_scale(axis, "x", "tokens", low, end)
        axis.set_xlim(low, end)
        axis.axvspan(most, end, color=BEYOND, lw=0, zorder=0)
        values = np.concatenate(heights)
        room = max(np.ptp(values), 1e-3 * abs(values[0]))
        axis.set_ylim(values.min() - 0.1 * room, values.max() + 0.1 * room)
        if len(rest) > 1:
            axis.set_title(", ".join(f"{label(i)} {shown(i, part[i][0])}" for i in rest[:-1]))
    share_scale(axes)
    kinds["beyond the data"] = swatch(color=BEYOND)
    every = [q for each in reached for q in each]
    shown_ = sum(low <= q.value <= end and settled(q) for q in every)
    if shown_ < len(every):
        kinds[f"further out, never or open: {len(every) - shown_}"] = axes[0].plot(
            [], [], ls="none"
        )[0]
    sheet.labels(label("tokens"), label("loss"))
    if steps is None:
        sheet.legend({**words, **kinds})
    else:
        sheet.legend(kinds, ordered(words, steps), label(steps.name))
    return sheet.figure


def settled(quantity: Quantity) -> bool:
    """Whether all equally good fits say about the same."""
    return quantity.range is None or quantity.range[1] <= 1.5 * quantity.range[0]


def typical_inputs(
    fit: Fit, part: pl.DataFrame, steps: Steps | None
) -> list[tuple[int, dict[str, float]]]:
    """For each colour in a panel, the inputs but the tokens of a row in its middle."""
    others = [i for i in fit.law.inputs if i != "tokens"]
    if steps is None:
        return [(0, {i: float(part[i][part.height // 2]) for i in others})]
    group = steps.of(part[steps.name].to_numpy())
    found = []
    for g in np.unique(group).tolist():
        own = nearest(part.filter(pl.Series(group == g)), steps.name, steps.middles[g])
        found.append((g, {i: float(own[i][own.height // 2]) for i in others}))
    return found


def compute_path(fit: Fit, frame: pl.DataFrame, decades: float = 2.0) -> tuple[ComputePlan, Array]:
    """The compute-optimal path from the data's least compute to some decades beyond its most, and
    the compute of each row.

    Raises:
        FitError: the law has no optimum, or the data leave it open.
    """
    size = "params" if "params" in fit.law.inputs else "avg_params"
    if size not in fit.law.inputs or "tokens" not in fit.law.inputs:
        raise FitError(f"{fit.law.name} has no size and tokens to split compute between")
    spent = 6 * frame[size].to_numpy() * frame["tokens"].to_numpy()
    low, high = float(spent.min()), float(spent.max()) * 10**decades
    number = max(2, round(_PER_DECADE * math.log10(high / low)))
    plan = plan_compute(fit, np.geomspace(low, high, number).tolist())
    if not all(settled(budget.size) for budget in plan.budgets):
        raise FitError("these curves leave the best split of compute open")
    return plan, spent


@styled()
def draw_compute(fit: Fit, frame: pl.DataFrame, place: Place = ANYWHERE) -> Figure:
    """Compute-optimal size, tokens, tokens per parameter and loss over the budget.

    Raises:
        FitError: the law has no optimum.
    """
    plan, spent = compute_path(fit, frame)
    flops = np.array([b.flops for b in plan.budgets])
    sheet = panels(4, across=2, place=place)
    rows = {
        "size": frame[plan.size].to_numpy(),
        "tokens": frame["tokens"].to_numpy(),
        "ratio": (frame["tokens"] / frame[plan.size]).to_numpy(),
        "loss": frame["loss"].to_numpy(),
    }
    names = {
        "size": plan.size,
        "tokens": "tokens",
        "ratio": "tokens per parameter",
        "loss": "loss",
    }
    kinds: dict[str, Any] = {}
    for axis, (kind, name) in zip(sheet.axes, names.items()):
        found = [getattr(b, kind) for b in plan.budgets]
        values = np.array([q.value for q in found])
        _window(axis, kind, name, np.concatenate([values, rows[kind]]))
        kinds["rows"] = axis.plot(
            spent, rows[kind], "o", color=FAINT, ms=2.2, mew=0, alpha=0.6, ls="none"
        )[0]
        if found[0].interval is not None:
            ends = np.array([q.interval for q in found]).T
            axis.fill_between(flops, *ends, color=COLOURS[0], alpha=0.25, lw=0)
            kinds["95 % interval"] = swatch(color=COLOURS[0], alpha=0.25)
        kinds["best split"] = axis.plot(flops, values, color=COLOURS[0], lw=1.5)[0]
        set_flops(axis, flops[0], flops[-1])
        axis.set_xlim(flops[0], flops[-1])
        axis.axvspan(float(spent.max()), flops[-1], color=BEYOND, lw=0, zorder=0)
    kinds["beyond the data"] = swatch(color=BEYOND)
    sheet.labels(x="compute, FLOPs")
    sheet.legend(kinds)
    return sheet.figure


def _window(axis: Axes, kind: str, name: str, values: Array) -> None:
    low, high = float(values.min()), float(values.max())
    set_scale(axis, "y", name, low, high)
    if axis.get_yscale() == "log":
        axis.set_ylim(low / 1.3, high * 1.3)
    elif kind == "loss":
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
