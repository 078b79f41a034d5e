"""Predictions of a fit, with all that is unsure about them.

>>> import p2fit
>>> n, d = [1e8, 4e8, 1e9, 4e9] * 4, [1e9] * 4 + [4e9] * 4 + [2e10] * 4 + [1e11] * 4
>>> curves = {"run": [f"r{i}" for i in range(16)], "params": n, "tokens": d,
...           "loss": [1.8 + 480 / a**0.35 + 2100 / b**0.37 for a, b in zip(n, d)]}
>>> found = predict(p2fit.fit(curves), {"params": 8e9, "tokens": [1e10, 1e12]})
>>> [round(float(loss), 4) for loss in found.predicted], found.outside["tokens"].tolist()
([2.3831, 2.0404], [0.0, 1.0])
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from p2fit.arrays import Array, Index, finite, one_thread
from p2fit.curves.choosing import Source
from p2fit.curves.points import points_table
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.laws.law import Law
from p2fit.plan.quantities import decades_outside, open_parameters
from p2fit.results import Result
from p2fit.uncertainty.new_runs import measured
from p2fit.wording import join

#: A prediction leans on what the data leave open where parameters that fit equally well differ
#: in it by more than this share.
LEANS = 1e-3

_MANY = 0.3  # decades outside the data worth a word: a factor of 2

_PAIRS = 4000  # draws of a chain: of the one fit and of the other
_ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Prediction(Result):
    """Predicted losses, in nats per token, or values of another column that a law predicts; every
    array has one entry per point."""

    law: Law
    """The law, with what was fixed and tied."""
    target: str
    """What it predicts: ``loss``, or the column that was asked for."""
    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    points: pl.DataFrame
    """The law's inputs, and what else was given with them; of a chain also what the first law
    predicts, which the second reads."""
    predicted: Array
    """At the estimates."""
    interval: tuple[Array, Array] | None
    """95 % interval of the mean; None where the fit (or one of a chain) has none."""
    new_run: tuple[Array, Array] | None
    """95 % interval of one measured point of a new run."""
    range: tuple[Array, Array] | None
    """Least and most over parameters that fit equally well; None where all are determined."""
    outside: Mapping[str, Array]
    """How far each input is outside its fitted range, in decades: negative below it, 0 within.
    Where both fits of a chain read an input, the farther of the two."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""
    through: Law | None = None
    """Of a chain, the law that predicts an input of the other."""

    @property
    def leans(self) -> Any:
        """Whether each prediction leans on what the data leave open, shape (points,)."""
        return leaning(self.predicted, self.range)

    @property
    def frame(self) -> pl.DataFrame:
        """The points with the predictions beside them, one row per point."""
        columns: dict[str, Any] = {"predicted": self.predicted}
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

    def to_polars(self) -> pl.DataFrame:
        """:attr:`frame`, after the columns of its group that the points have not."""
        own = {k: v for k, v in self.group.items() if k not in self.points.columns}
        return self.frame.select(*(pl.lit(v).alias(k) for k, v in own.items()), pl.all())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number."""

        def ends(pair: tuple[Array, Array] | None, i: int) -> list[float | None] | None:
            return None if pair is None else [finite(end[i]) for end in pair]

        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "target": self.target,
            "through": None if self.through is None else self.through.formula,
            "group": dict(self.group),
            "points": [
                {
                    "inputs": dict(row),
                    self.target: finite(self.predicted[i]),
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


@one_thread()
def predict(fit: Fit, points: Source, *, through: Fit | None = None) -> Prediction:
    """Predict the loss at points, with intervals of the mean and of a new run.

    Args:
        fit: a fit; ``p2fit.load`` reads a saved one.
        points: the law's inputs: a CSV file, a table, or values by name (scalars, or arrays of
            one shape).
        through: a fit that predicts one of these inputs, as the loss in a law of accuracy: points
            then have its inputs instead. The intervals stand for what is unsure in both fits: each
            of 4000 draws takes parameters of the one and of the other, and, for a new run, the
            scatter of both.

    Raises:
        CurvesError, FitError: what is wrong with the points, or the fits are no chain.
        LawError: a parameter has no finite value.
    """
    if through is not None:
        return _chained(fit, points, through)
    frame = points_table(points, fit.law.inputs)
    columns = _columns(frame, fit.law.inputs)
    value = _finite(fit, columns, frame)
    interval, extremes, far = (
        fit.interval(columns),
        fit.range(columns),
        decades_outside(fit, columns),
    )
    return Prediction(
        law=fit.law,
        target=fit.target,
        group=fit.group,
        points=frame,
        predicted=value,
        interval=interval,
        new_run=fit.interval(columns, new_run=True),
        range=extremes,
        outside=far,
        notes=tuple(_notes([fit], value, interval, extremes, far)),
    )


def _columns(frame: pl.DataFrame, inputs: Sequence[str]) -> dict[str, Array]:
    """The inputs as arrays; a law of one constant has one that it does not read."""
    return {x: frame[x].to_numpy() for x in inputs} or {"": np.zeros(frame.height)}


def _finite(fit: Fit, columns: Mapping[str, Array], frame: pl.DataFrame) -> Array:
    """What a fit predicts at every row.

    Raises:
        FitError: at one of them that is no number.
    """
    value = np.broadcast_to(fit.predict(columns), (frame.height,))
    wrong = np.flatnonzero(~np.isfinite(value))
    if len(wrong):
        at = ", ".join(f"{x} = {columns[x][wrong[0]]:g}" for x in fit.law.inputs)
        raise FitError(f"the law has no finite {fit.target} at {at}")
    return value


def _chained(fit: Fit, points: Source, first: Fit) -> Prediction:
    """Predict through the fit of an input."""
    link = first.target
    if link not in fit.law.inputs:
        raise FitError(
            f"no chain: {first.law.name} predicts {link}, which {fit.law.name} does not read (it "
            f"reads {join(fit.law.inputs)})"
        )
    for k in first.group.keys() & fit.group.keys():
        if first.group[k] != fit.group[k]:
            raise FitError(
                f"no chain: one fit is of {k} = {first.group[k]}, the other of {fit.group[k]}"
            )
    others = [x for x in fit.law.inputs if x != link]
    wanted = list(dict.fromkeys([*first.law.inputs, *others]))
    frame = points_table(points, wanted)
    before, own = _columns(frame, first.law.inputs), {x: frame[x].to_numpy() for x in others}
    middle = _finite(first, before, frame)
    columns = {**own, link: middle}
    value = _finite(fit, columns, frame)
    interval = new_run = None
    drawn = _draw(fit, first, before, own, middle)
    if drawn is not None:
        interval, new_run = (_between(fit, value, draws) for draws in drawn)
    far = dict(decades_outside(first, before))
    for x, v in decades_outside(fit, columns).items():
        far[x] = np.where(np.abs(v) > np.abs(far[x]), v, far[x]) if x in far else v
    extremes = _extremes(fit, first, before, own, value)
    return Prediction(
        law=fit.law,
        target=fit.target,
        group={**first.group, **fit.group},
        points=frame.with_columns(**{link: pl.Series(link, middle)}),
        predicted=value,
        interval=interval,
        new_run=new_run,
        range=extremes,
        outside=far,
        notes=tuple(_notes([first, fit], value, interval, extremes, far)),
        through=first.law,
    )


def _draw(
    fit: Fit, first: Fit, before: Mapping[str, Array], own: Mapping[str, Array], middle: Array
) -> tuple[Array, Array] | None:
    """What the second fit predicts at draws of both, (draws, points): of the mean and of a point
    of a new run; None where one of the fits has no draws.

    A new run's loss scatters about the first law, and its accuracy about the second law at the
    loss that it has: Student's t, as in the intervals of one fit; of a posterior its own noise.
    """
    each = [one.draws() for one in (first, fit)]
    if each[0] is None or each[1] is None:
        return None
    rng = np.random.default_rng(0)

    def some(draws: Mapping[str, Array]) -> Index:
        size = len(next(iter(draws.values())))
        found: Index = rng.permutation(np.resize(np.arange(size), _PAIRS))
        return found

    def noise(one: Fit) -> Array:
        freedom = max(int((one.covariance or {})["clusters"]) - 1, 1)
        normal = rng.standard_normal((_PAIRS, len(middle)))
        wide: Array = normal / np.sqrt(rng.chisquare(freedom, (_PAIRS, 1)) / freedom)
        return wide * float(one.metrics["scatter"] or 0.0)

    def moved(one: Fit, rows: Index, columns: Mapping[str, Array], values: Array) -> Array:
        if one.posterior is not None:
            own = {n: np.array(v)[rows] for n, v in one.posterior["noise"].items()}
            return measured({**one.posterior, "noise": own}, one.scale, columns, values, rng)
        found: Array = one.scale.back(one.scale.to(values) + noise(one))
        return found

    chosen = [some(each[0]), some(each[1])]
    parameters = [
        {n: v[rows, None] for n, v in draws.items()} for draws, rows in zip(each, chosen) if draws
    ]
    with np.errstate(all="ignore"):
        losses = first.law.predict(parameters[0], {x: v[None] for x, v in before.items()})
        losses = np.broadcast_to(_widened(first, losses, middle), (_PAIRS, len(middle)))
        rest = {x: v[None] for x, v in own.items()}
        found = []
        for through in (losses, moved(first, chosen[0], before, losses)):
            at: dict[str, Array] = {**rest, first.target: through}
            found.append(_widened(fit, fit.law.predict(parameters[1], at), fit.predict(at)))
        return found[0], moved(fit, chosen[1], at, found[1])


def _few(fit: Fit) -> float:
    return float(fit.bootstrap["few"]) if fit.bootstrap is not None else 1.0


def _widened(fit: Fit, drawn: Array, centre: Array) -> Array:
    """Draws taken further from the estimate, where they are of a bootstrap of few runs."""
    to = fit.scale.to
    found: Array = fit.scale.back(to(centre) + _few(fit) * (to(drawn) - to(centre)))
    return found


def _between(fit: Fit, value: Array, drawn: Array) -> tuple[Array, Array]:
    """95 % interval from draws, which holds the value and of a share lies in [0, 1]."""
    low, high = np.nanquantile(drawn, _ENDS, axis=0)
    if fit.options["residual"] == "arcsine":
        low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
    return np.minimum(low, value), np.maximum(high, value)


def _extremes(
    fit: Fit, first: Fit, before: Mapping[str, Array], own: Mapping[str, Array], value: Array
) -> tuple[Array, Array] | None:
    """Least and most over what fits equally well, in one fit or the other."""
    sets = [
        [{n: float(v) for n, v in one.items() if v is not None} for one in each.equally_good]
        for each in (first, fit)
    ]
    if not any(sets):
        return None
    found = [value]
    for a in [first.estimates(), *sets[0]]:
        for b in [fit.estimates(), *sets[1]]:
            through = first.law.predict(a, before)
            found.append(fit.law.predict(b, {**own, first.target: through}))
    every = np.stack([np.broadcast_to(one, value.shape) for one in found])
    return every.min(axis=0), every.max(axis=0)


def leaning(loss: Array, extremes: tuple[Array, Array] | None) -> Any:
    """Whether each prediction leans on what the data leave open."""
    if extremes is None:
        return np.zeros(len(loss), bool)
    return extremes[1] - extremes[0] > LEANS * np.abs(loss)


def _notes(
    fits: Sequence[Fit],
    loss: Array,
    interval: tuple[Array, Array] | None,
    extremes: tuple[Array, Array] | None,
    far: Mapping[str, Array],
) -> Iterator[str]:
    for fit in fits:
        yield from fit.doubts
    if interval is None:
        which = "the fit has" if len(fits) == 1 else "one of the fits has"
        yield f"{which} no intervals: too few independent runs"
    yield from extrapolation_notes(far)
    yield from _beyond_loss(fits, far)
    if fits[-1].options["residual"] == "arcsine" and (loss.min() < 0 or loss.max() > 1):
        yield f"the law leaves [0, 1], where {fits[-1].target} lies: one with limits would not"
    leans = leaning(loss, extremes)
    if leans.any():
        count = f"{leans.sum()} of {len(loss)} predictions lean"
        count = "this prediction leans" if len(loss) == 1 else count
        names = "; ".join(filter(None, map(open_parameters, fits)))
        yield (
            f"{count} on what the data leave open ({names}): read the range of what fits equally "
            "well, not the number"
        )


def _beyond_loss(fits: Sequence[Fit], far: Mapping[str, Array]) -> Iterator[str]:
    """A word on a loss outside the data: losses differ by little, so decades say little of them."""
    link = fits[0].target if len(fits) > 1 else "loss"
    out = int(np.count_nonzero(far[link])) if link in far else 0
    if out and not np.abs(far[link]).max() > _MANY:
        low, high = (fits[-1].data["range"][link][end] for end in ("min", "max"))
        yield (
            f"{link} is outside the {low:.4g} to {high:.4g} that {fits[-1].target} was fitted on, "
            f"in {out} of {len(far[link])} points: an interval stands for the parameters, not for "
            "the law"
        )


def extrapolation_notes(far: Mapping[str, Array]) -> Iterator[str]:
    """A word on the inputs that are more than a factor of 2 outside the data."""
    most = {x: float(v[np.abs(v).argmax()]) for x, v in far.items()}
    apart = most.pop("together", 0.0)
    if apart > _MANY:
        yield (
            f"up to {apart:.2g} decades from any combination of inputs that the data are around, "
            "though each is within its range: an interval stands for the parameters, not for the "
            "law"
        )
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
