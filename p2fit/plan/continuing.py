"""Runs in progress: where each is going, and which to stop.

>>> import p2fit
>>> sizes, steps = [1e8, 2e8, 4e8, 8e8, 1.6e9, 3e9, 6e9], [1e9, 2e9, 4e9, 8e9, 1.6e10]
>>> rows = [(n, d) for n in sizes for d in steps]
>>> own = {n: 1 + 0.004 * (-1) ** i for i, n in enumerate(sizes)}
>>> curves = {"run": [f"{n:g}" for n, _ in rows], "params": [n for n, _ in rows],
...           "tokens": [d for _, d in rows],
...           "loss": [own[n] * (1 + 1e-4 * (-1) ** (i // 2))
...                    * (1.8 + 480 / n**0.35 + 2100 / d**0.37) for i, (n, d) in enumerate(rows)]}
>>> fit = p2fit.fit(curves, "chinchilla")
>>> found = predict_runs(fit, tokens=[3.2e10], runs=["8e+08"], curves=curves)
>>> round(float(found.frame["predicted"][0]), 2)
2.43
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from p2fit.arrays import Array, finite, one_thread
from p2fit.curves.choosing import Source, datasets
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.laws.law import Law
from p2fit.plan.going_on import Ahead, ahead, interval, needs_runs, reaches
from p2fit.plan.prediction import extrapolation_notes
from p2fit.plan.quantities import decades_outside
from p2fit.results import Result

_DRAWS = 20_000  # of the ends of all runs, for which is lowest
_SAME = 0.95  # of the longest run's tokens, from which another is as long
_DECADES, _STEPS = 4.0, 24  # beyond the last point, in which a loss is looked for; per decade


@dataclass(frozen=True)
class RunsAhead(Result):
    """What measured runs go on to. Made by :func:`predict_runs`."""

    law: Law
    """The law, with what was fixed and tied."""
    target: str
    """What it predicts."""
    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    frame: pl.DataFrame
    """A row for each run and number of tokens, with ``run``, ``tokens``, ``predicted`` from the law
    and the run's own points, ``low`` and ``high`` of the 95 % interval of a measurement there (null
    where the fit has none), and ``law``: what the law alone says."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def to_polars(self) -> pl.DataFrame:
        """:attr:`frame`, after the columns of its group."""
        return self.frame.select(*(pl.lit(v).alias(k) for k, v in self.group.items()), pl.all())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "target": self.target,
            "group": dict(self.group),
            "points": self.frame.to_dicts(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Outlook:
    """One run in progress."""

    run: str
    """Its name."""
    tokens: float
    """Of its last row."""
    loss: float
    """Of its last row, in nats per token."""
    end: float
    """Where it is predicted to end."""
    interval: tuple[float, float] | None
    """95 % interval of a measurement there; None where the fit has none."""
    doubling: float
    """What the loss falls by when its tokens double from here."""
    doubling_interval: tuple[float, float] | None
    """95 % interval of that."""
    to_target: float | None
    """Tokens at which it reaches the target; inf: not within four decades; None: none was given."""
    to_target_interval: tuple[float, float] | None
    """Where the 95 % interval's ends reach it."""
    lowest: float | None
    """Probability that it ends lowest of all; None where the fit has no intervals."""
    below: Mapping[str, float]
    """Probability that it ends below each other run."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""

        def ends(pair: tuple[float, float] | None) -> list[float | None] | None:
            return pair and [finite(end) for end in pair]

        return {
            **vars(self),
            "interval": ends(self.interval),
            "doubling_interval": ends(self.doubling_interval),
            "to_target": None if self.to_target is None else finite(self.to_target),
            "to_target_interval": ends(self.to_target_interval),
            "below": dict(self.below),
        }


@dataclass(frozen=True)
class Continuation(Result):
    """Runs in progress, the lowest end first. Made by :func:`plan_continue`."""

    table = ("runs", "")

    law: Law
    """The law, with what was fixed and tied."""
    target: str
    """What it predicts."""
    group: Mapping[str, str]
    """The columns that the fitted curves were split by, and this fit's values of them."""
    planned: float
    """Tokens at which runs are to end."""
    goal: float | None
    """The loss to reach, nats per token; None where none was given."""
    runs: tuple[Outlook, ...]
    """Each run."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "target": self.target,
            "group": dict(self.group),
            "planned": self.planned,
            "goal": self.goal,
            "runs": [run.to_dict() for run in self.runs],
            "notes": list(self.notes),
        }


@one_thread()
def predict_runs(
    fit: Fit,
    *,
    tokens: Sequence[float],
    runs: Sequence[str] = (),
    curves: Source | None = None,
) -> RunsAhead:
    """Predict the rest of measured runs from the law and each run's own points.

    Args:
        fit: a fit with errors of runs; ``p2fit.load`` reads a saved one.
        tokens: where, above 0.
        runs: their names; none: every run.
        curves: where the runs are, as for the fit, which is not made again; None: the curves that
            the fit was made of.

    Raises:
        CurvesError, FitError: what is wrong with the curves, the fit, the request.
        LawError: a parameter has no finite value.
    """
    asked = _asked(tokens)
    found = []
    for _, rows in _runs(fit, runs, curves):
        found.append(predict_frame(fit, rows, asked))
    return RunsAhead(
        law=fit.law,
        target=fit.target,
        group=fit.group,
        frame=pl.concat(found),
        notes=tuple(_notes(fit, asked)),
    )


def predict_frame(fit: Fit, rows: pl.DataFrame, tokens: Array) -> pl.DataFrame:
    """What one run goes on to: the part of :attr:`RunsAhead.frame` that is its.

    Args:
        rows: the run's, by tokens.
    """
    points = _points(fit, rows, tokens)
    alone = np.broadcast_to(fit.predict(points), tokens.shape)
    own = ahead(fit, rows, points)
    ends = interval(fit, own)
    none = [None] * len(tokens)
    return pl.DataFrame(
        {
            "run": [rows["run"][0]] * len(tokens),
            "tokens": tokens,
            "predicted": fit.scale.back(own.place),
            "low": none if ends is None else ends[0],
            "high": none if ends is None else ends[1],
            "law": alone,
        },
        schema_overrides={"low": pl.Float64, "high": pl.Float64},
    )


def in_progress(frame: pl.DataFrame) -> tuple[float, list[str]]:
    """Tokens to which runs may be going, and the runs that are not there yet: as many as the
    longest has, or, where all have about as many, twice that. Runs whose learning rate has fully
    decayed (``final`` = 1 in their last row) have ended.
    """
    last = frame.sort("tokens").group_by("run", maintain_order=True).last()
    most = float(last["tokens"].max())  # type: ignore[arg-type]
    if "final" in last.columns:
        last = last.filter((pl.col("final") != 1) | pl.col("final").is_null())
    going = last.filter(pl.col("tokens") < _SAME * most)
    if not going.height:
        going, most = last, 2 * most
    return most, going["run"].to_list()


@one_thread()
def plan_continue(
    fit: Fit,
    *,
    tokens: float,
    loss: float | None = None,
    runs: Sequence[str] = (),
    curves: Source | None = None,
) -> Continuation:
    """Where runs in progress end, and which to stop.

    Args:
        fit: a fit with errors of runs; ``p2fit.load`` reads a saved one.
        tokens: at which they are to end; a run that is past it is left out, and a note says so.
        loss: to reach, nats per token.
        runs, curves: as for :func:`predict_runs`.

    Raises:
        CurvesError, FitError: what is wrong with the curves, the fit, the request.
        LawError: a parameter has no finite value.
    """
    planned = float(_asked([tokens])[0])
    return continuation(fit, list(_runs(fit, runs, curves)), planned, loss)


def continuation(
    fit: Fit, every: Sequence[tuple[str, pl.DataFrame]], planned: float, loss: float | None = None
) -> Continuation:
    """As :func:`plan_continue`, of runs by name with their rows by tokens.

    Raises:
        FitError: none of them is in progress.
    """
    going = [(name, rows) for name, rows in every if rows["tokens"][-1] < planned]
    if not going:
        raise FitError(f"no run is in progress: all have {planned:g} tokens or more")
    ends = [ahead(fit, rows, _points(fit, rows, np.array([planned]))) for _, rows in going]
    lowest, below = _lowest(fit, ends)
    found = []
    for i, (name, rows) in enumerate(going):
        last = float(rows["tokens"][-1])
        gain, spread = _doubling(fit, rows, last)
        reached = None if loss is None else _reached(fit, rows, loss)
        band = interval(fit, ends[i])
        found.append(
            Outlook(
                run=name,
                tokens=last,
                loss=float(rows[fit.target][-1]),
                end=float(fit.scale.back(ends[i].place)[0]),
                interval=band and (float(band[0][0]), float(band[1][0])),
                doubling=gain,
                doubling_interval=spread,
                to_target=None if reached is None else reached[0],
                to_target_interval=None if reached is None else reached[1],
                lowest=None if lowest is None else float(lowest[i]),
                below={}
                if below is None
                else {other: float(below[i, j]) for j, (other, _) in enumerate(going) if j != i},
            )
        )
    notes = list(_notes(fit, np.array([planned])))
    if len(going) < len(every):
        notes.append(f"{len(every) - len(going)} of {len(every)} runs have ended: left out")
    return Continuation(
        law=fit.law,
        target=fit.target,
        group=fit.group,
        planned=planned,
        goal=loss,
        runs=tuple(sorted(found, key=lambda run: run.end)),
        notes=tuple(notes),
    )


def _asked(tokens: Sequence[float]) -> Array:
    asked = np.array(tokens, float)
    if not len(asked) or not np.all((asked > 0) & np.isfinite(asked)):
        raise FitError("say at how many tokens, above 0")
    return asked


def _runs(
    fit: Fit, names: Sequence[str], curves: Source | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of each run asked for, by tokens."""
    needs_runs(fit)
    if "tokens" not in fit.law.inputs:
        raise FitError(f"{fit.law.name} has no tokens to go on along")
    frame = fit.dataset().frame if curves is None else _measured(fit, curves)
    there = frame["run"].unique(maintain_order=True).to_list()
    for name in names:
        if name not in there:
            shown = ", ".join(there[:8]) + (" …" if len(there) > 8 else "")
            raise FitError(f"no run is called {name}; there are {shown}")
    for name in names or there:
        yield name, frame.filter(pl.col("run") == name).sort("tokens")


def _measured(fit: Fit, curves: Source) -> pl.DataFrame:
    """Rows of other curves, chosen as those of the fit were; of its group, where they have one."""
    request = fit.request()
    found = datasets(curves, fit.law, **{**request, "by": None, "pool": True})[0]
    if set(fit.group) <= set(found.frame.columns):
        for column, value in fit.group.items():
            found_rows = found.frame.filter(pl.col(column).cast(pl.String) == value)
            if not found_rows.height:
                raise FitError(f"{found.label}: no row has {column} = {value}, as the fit")
            return found_rows
    return found.frame


def _points(fit: Fit, rows: pl.DataFrame, tokens: Array) -> dict[str, Array]:
    """The law's inputs along a run: those of its last row, at other tokens."""
    last = {x: float(rows[x][-1]) for x in fit.law.inputs}
    return {**{x: np.full(len(tokens), v) for x, v in last.items()}, "tokens": tokens}


def _lowest(fit: Fit, ends: Sequence[Ahead]) -> tuple[Array, Array] | tuple[None, None]:
    """Probability that each run ends lowest, and below each other; None without a covariance."""
    if fit.covariance is None:
        return None, None
    slopes = np.concatenate([e.slopes for e in ends], axis=1)
    spread = slopes.T @ np.array(fit.covariance["matrix"]) @ slopes
    spread[np.diag_indices(len(ends))] += [e.covariance[0, 0] for e in ends]
    values, vectors = np.linalg.eigh(spread)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = np.random.default_rng(0).standard_normal((_DRAWS, len(ends))) @ root.T
    drawn += [e.place[0] for e in ends]
    lowest = np.bincount(drawn.argmin(axis=1), minlength=len(ends)) / _DRAWS
    below = np.stack([(drawn[:, i, None] < drawn).mean(axis=0) for i in range(len(ends))])
    return lowest, below


def _doubling(
    fit: Fit, rows: pl.DataFrame, last: float
) -> tuple[float, tuple[float, float] | None]:
    """What a run's loss falls by from its last tokens to twice as many, with a 95 % interval."""
    both = ahead(fit, rows, _points(fit, rows, np.array([last, 2 * last])))
    losses = fit.scale.back(both.place)
    gain = float(losses[0] - losses[1])
    if fit.covariance is None:
        return gain, None
    turn = np.array([1.0, -1.0]) / fit.scale.slope(losses)
    variance = np.atleast_1d(turn @ both.covariance @ turn)
    reach = float(reaches(fit, (both.slopes @ turn)[:, None], variance)[0])
    return gain, (gain - reach, gain + reach)


def _reached(fit: Fit, rows: pl.DataFrame, loss: float) -> tuple[float, tuple[float, float] | None]:
    """Tokens at which a run reaches a loss, and where the ends of its interval do."""
    last = float(rows["tokens"][-1])
    tokens = last * 10 ** np.linspace(0, _DECADES, int(_DECADES * _STEPS) + 1)
    found = ahead(fit, rows, _points(fit, rows, tokens))
    ends = interval(fit, found)
    own = _crossing(tokens, fit.scale.back(found.place), loss)
    if ends is None:
        return own, None
    return own, (_crossing(tokens, ends[0], loss), _crossing(tokens, ends[1], loss))


def _crossing(tokens: Array, losses: Array, loss: float) -> float:
    """First tokens at which losses are down to one; inf where they never are."""
    under = np.flatnonzero(losses <= loss)
    if not len(under):
        return math.inf
    i = int(under[0])
    if i == 0:
        return float(tokens[0])
    share = (losses[i - 1] - loss) / (losses[i - 1] - losses[i])
    return float(tokens[i - 1] * (tokens[i] / tokens[i - 1]) ** share)


def _notes(fit: Fit, tokens: Array) -> Iterator[str]:
    yield from fit.doubts
    if fit.covariance is None:
        yield "the fit has no intervals: too few independent runs"
    yield from extrapolation_notes(decades_outside(fit, {"tokens": tokens}))
