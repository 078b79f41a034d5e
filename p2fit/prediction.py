"""Predictions of a fit, with all that is unsure about them.

>>> import p2fit
>>> n, d = [1e8, 4e8, 1e9, 4e9] * 4, [1e9] * 4 + [4e9] * 4 + [2e10] * 4 + [1e11] * 4
>>> curves = {"run": [f"r{i}" for i in range(16)], "params": n, "tokens": d,
...           "loss": [1.8 + 480 / a**0.35 + 2100 / b**0.37 for a, b in zip(n, d)]}
>>> found = predict(p2fit.fit(curves), {"params": 8e9, "tokens": [1e10, 1e12]})
>>> [round(float(loss), 4) for loss in found.loss], found.outside["tokens"].tolist()
([2.3831, 2.0404], [0.0, 1.0])
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from p2fit.fit import Fit
from p2fit.laws import Array, Law
from p2fit.points import outside, table
from p2fit.quantities import finite, open_parameters
from p2fit.rows import FitError, Source

#: A prediction leans on what the data leave open where parameters that fit equally well differ
#: in it by more than this share.
LEANS = 1e-3

_MANY = 0.3  # decades outside the data worth a word: a factor of 2
_SHOWN = 0.05  # and worth a cell


@dataclass(frozen=True)
class Prediction:
    """Predicted losses, in nats per token; every array has one entry per point."""

    law: Law
    """The law, with what was fixed and tied."""
    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    points: pl.DataFrame
    """The law's inputs, and what else was given with them."""
    loss: Array
    """At the estimates."""
    interval: tuple[Array, Array] | None
    """95 % interval of the mean; None where the fit has none."""
    new_run: tuple[Array, Array] | None
    """95 % interval of one measured point of a new run."""
    range: tuple[Array, Array] | None
    """Least and most over parameters that fit equally well; None where all are determined."""
    outside: Mapping[str, Array]
    """How far each input is outside its fitted range, in decades: negative below it, 0 within."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    @property
    def leans(self) -> Any:
        """Whether each prediction leans on what the data leave open, shape (points,)."""
        return leaning(self.loss, self.range)

    @property
    def frame(self) -> pl.DataFrame:
        """The points with the predictions beside them, one row per point."""
        columns: dict[str, Any] = {"predicted": self.loss}
        for name, ends in (
            ("mean", self.interval),
            ("new_run", self.new_run),
            ("equally_good", self.range),
        ):
            if ends is not None:
                columns |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
        columns |= {f"{x}_decades_outside": v for x, v in self.outside.items()}
        columns["leans"] = self.leans
        return self.points.with_columns(**{n: pl.Series(n, v) for n, v in columns.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number."""

        def ends(pair: tuple[Array, Array] | None, i: int) -> list[float | None] | None:
            return None if pair is None else [finite(end[i]) for end in pair]

        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "group": dict(self.group),
            "points": [
                {
                    "inputs": dict(row),
                    "loss": finite(self.loss[i]),
                    "interval": ends(self.interval, i),
                    "new_run": ends(self.new_run, i),
                    "range": ends(self.range, i),
                    "decades_outside": {x: finite(v[i]) for x, v in self.outside.items()},
                    "leans": bool(self.leans[i]),
                }
                for i, row in enumerate(self.points.iter_rows(named=True))
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from p2fit.show import text

        return text(self)

    def __rich__(self) -> Any:
        from p2fit.show import about, facts, grid, number, span, with_notes

        def ends(pair: tuple[Array, Array] | None, i: int) -> str:
            return span(None if pair is None else [float(end[i]) for end in pair])

        shown = [c for c in self.points.columns if self.points[c].n_unique() > 1]
        shown = shown or list(self.law.inputs)
        same = [x for x in self.law.inputs if x not in shown]
        at = ", ".join(f"{x} {number(self.points[x][0])}" for x in same)
        head = [*about(self.law, self.group), *([("at", at)] if at else [])]
        heads = ["loss", "95 % interval", "of a new run"]
        heads += ["fits equally well"] if self.range is not None else []
        made = grid(shown, [*heads, "decades outside"])
        for i, row in enumerate(self.points.iter_rows(named=True)):
            cells = [number(v) if isinstance(v := row[c], float) else str(v) for c in shown]
            cells += [number(float(self.loss[i])), ends(self.interval, i), ends(self.new_run, i)]
            cells += [ends(self.range, i)] if self.range is not None else []
            far = {x: float(v[i]) for x, v in self.outside.items() if abs(v[i]) >= _SHOWN}
            made.add_row(*cells, ", ".join(f"{x} {v:+.1f}" for x, v in far.items()))
        return with_notes(facts(head), made, notes=self.notes)


def predict(fit: Fit, points: Source) -> Prediction:
    """Predict the loss at points, with intervals of the mean and of a new run.

    Args:
        fit: a fit; ``p2fit.load`` reads a saved one.
        points: the law's inputs: a CSV file, a table, or values by name (scalars, or arrays of
            one shape).

    Raises:
        CurvesError, FitError: what is wrong with the points.
        LawError: a parameter has no finite value.
    """
    frame = table(points, fit.law.inputs)
    columns = {x: frame[x].to_numpy() for x in fit.law.inputs}
    if not columns:  # a law of one constant
        columns = {"": np.zeros(frame.height)}
    loss = np.broadcast_to(fit.predict(columns), (frame.height,))
    if not np.all(np.isfinite(loss)):
        row = frame.row(int(np.flatnonzero(~np.isfinite(loss))[0]), named=True)
        at = ", ".join(f"{x} = {row[x]:g}" for x in fit.law.inputs)
        raise FitError(f"the law has no finite loss at {at}")
    interval, extremes, far = fit.interval(columns), fit.range(columns), outside(fit, columns)
    return Prediction(
        law=fit.law,
        group=fit.group,
        points=frame,
        loss=loss,
        interval=interval,
        new_run=fit.interval(columns, new_run=True),
        range=extremes,
        outside=far,
        notes=tuple(_notes(fit, loss, interval, extremes, far)),
    )


def leaning(loss: Array, extremes: tuple[Array, Array] | None) -> Any:
    """Whether each prediction leans on what the data leave open."""
    if extremes is None:
        return np.zeros(len(loss), bool)
    return extremes[1] - extremes[0] > LEANS * np.abs(loss)


def _notes(
    fit: Fit,
    loss: Array,
    interval: tuple[Array, Array] | None,
    extremes: tuple[Array, Array] | None,
    far: Mapping[str, Array],
) -> Iterator[str]:
    if interval is None:
        yield "the fit has no intervals: too few independent runs"
    yield from beyond(far)
    leans = leaning(loss, extremes)
    if leans.any():
        count = f"{leans.sum()} of {len(loss)} predictions lean"
        count = "this prediction leans" if len(loss) == 1 else count
        names = open_parameters(fit)
        yield (
            f"{count} on what the data leave open ({names}): read the range of what fits equally "
            "well, not the number"
        )


def beyond(far: Mapping[str, Array]) -> Iterator[str]:
    """A word on the inputs that are more than a factor of 2 outside the data."""
    most = {x: float(v[np.abs(v).argmax()]) for x, v in far.items()}
    yield from (f"{x} is 0 where the data are above it" for x, v in most.items() if math.isinf(v))
    most = {x: v for x, v in most.items() if abs(v) > _MANY and math.isfinite(v)}
    if most:
        each = (
            f"{x} {abs(v):.2g} decades {'above' if v > 0 else 'below'}" for x, v in most.items()
        )
        yield (
            f"outside the data ({', '.join(each)}) an interval stands for the parameters, not for "
            "the law"
        )
