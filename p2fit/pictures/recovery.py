"""What training wins back of what pruning cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.pictures.colours import BEYOND, COLOURS, FAINT, INK
from p2fit.pictures.fits import nearest, ordered, panels_abreast, scatter, split_panels, titled
from p2fit.pictures.settings import styled
from p2fit.pictures.steps import Steps
from p2fit.pictures.style import ANYWHERE, Place, label, panels, set_scale, shown, swatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEYOND = 10.0  # times the most tokens, to which a curve is drawn


@styled()
def draw_recovery(
    fit: Fit, frame: pl.DataFrame, curves: pl.DataFrame, place: Place = ANYWHERE
) -> Figure:
    """The share of what pruning cost that is won back, along the tokens: (loss right after pruning
    - loss) / (loss right after pruning - base loss).

    Args:
        frame: the rows that the fit was made of.
        curves: all rows of the file; those of ``tokens`` = 0 are right after pruning.

    Raises:
        FitError: the law has no base loss or no tokens, or no run has such a row.
    """
    if not {"base_loss", "tokens"} <= set(fit.law.inputs):
        raise FitError(f"{fit.law.name} has no base_loss and tokens: nothing is won back")
    right_after = curves.filter(
        (pl.col("tokens") == 0) & pl.col("run").is_in(frame["run"].unique().implode())
    )
    lost = dict(zip(right_after["run"], right_after["loss"]))
    frame = frame.filter(pl.col("run").is_in(list(lost)))
    cost = pl.Series("", [lost[run] for run in frame["run"]], pl.Float64)
    frame = frame.with_columns(cost.alias("pruned loss")).filter(cost > frame["base_loss"])
    if not frame.height:
        raise FitError("no run has a row of tokens = 0, whose loss is that right after pruning")
    rest, _, drawn = split_panels(fit, frame, "tokens")
    steps = Steps(rest[-1], frame[rest[-1]].to_numpy()) if rest else None
    size = (6.0, 3.8) if len(drawn) == 1 else (3.2, 2.6)
    sheet = panels(len(drawn), across=panels_abreast(len(drawn)), size=size, place=place)
    kinds: dict[str, Any] = {}
    words: dict[str, Any] = {}
    low, most = float(frame["tokens"].min()), float(frame["tokens"].max())  # type: ignore[arg-type]
    for axis, part in zip(sheet.axes, drawn):
        words |= _shares(axis, fit, part, steps, np.geomspace(low, _BEYOND * most, 100))
        kinds["90 %"] = axis.axhline(90, color=FAINT, lw=0.8, ls=":", zorder=1)
        axis.axhline(100, color=INK, lw=0.8, zorder=1)
        axis.axvspan(most, _BEYOND * most, color=BEYOND, lw=0, zorder=0)
        set_scale(axis, "x", "tokens", low, _BEYOND * most)
        axis.set_xlim(low, _BEYOND * most)
        axis.set_ylim(max(axis.get_ylim()[0], -20), 108)
        if len(rest) > 1:
            axis.set_title(", ".join(f"{label(i)} {shown(i, part[i][0])}" for i in rest[:-1]))
    kinds["beyond the data"] = swatch(color=BEYOND)
    sheet.labels("tokens", "won back of what pruning cost, %")
    if steps is None:
        sheet.legend({**words, **kinds})
    else:
        sheet.legend(kinds, ordered(words, steps), titled(steps))
    return sheet.figure


def _shares(
    axis: Axes, fit: Fit, part: pl.DataFrame, steps: Steps | None, grid: Any
) -> dict[str, Any]:
    words: dict[str, Any] = {}
    group = steps.of(part[steps.name].to_numpy()) if steps else np.zeros(part.height, int)
    for g in np.unique(group):
        own = part.filter(pl.Series(group == g))
        tints = steps.tints(own[steps.name].to_numpy()) if steps else [COLOURS[0]] * own.height
        share = 100 * (own["pruned loss"] - own["loss"]) / (own["pruned loss"] - own["base_loss"])
        word = steps.words[g] if steps else "rows"
        words[word] = scatter(axis, own["tokens"], share, tints)
        own = nearest(own, steps.name, steps.middles[g]) if steps else own
        row = own.row(own.height // 2, named=True)
        cost = row["pruned loss"] - row["base_loss"]
        line = fit.predict({**{i: row[i] for i in fit.law.inputs}, "tokens": grid})
        tint = steps.tints(np.array([row[steps.name]]))[0] if steps else COLOURS[0]
        axis.plot(grid, 100 * (row["pruned loss"] - line) / cost, color=tint, lw=1.4, zorder=2)
    return words
