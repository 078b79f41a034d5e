"""Validate a law: fit one part of the curves, predict the part held out, and score that.

A score says little alone: along a curve the last value already is a good guess. So every score
comes with the skill over simple baselines, and where the fitted part does not determine what is
asked of it, there is a range and no score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from p2fit import metrics
from p2fit.arrays import Array, Index, one_thread
from p2fit.curves.choosing import Dataset, Source, datasets
from p2fit.errors import FitError
from p2fit.estimation import fit_dataset
from p2fit.fit import Fit
from p2fit.judging.baselines import neighbour_baselines, run_baselines
from p2fit.judging.holdouts import PAPER, PLAIN, Split, has_tokens, parse_holdout, split
from p2fit.judging.scores import Points, Score, Skill, Validation
from p2fit.laws.law import Law
from p2fit.plan.going_on import ahead, interval
from p2fit.plan.prediction import leaning
from p2fit.results import Results
from p2fit.solver.solving import Solved, solve_dataset


@one_thread()
def validate(
    source: Source,
    law: str | Law | None = None,
    *,
    holdout: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Validation]:
    """Fit one part of each group of curves, and predict the part held out.

    Args:
        source, law: as in :func:`p2fit.fit_each`.
        holdout: what to hold out. ``checkpoints:0.2``: the last 20 % of each run's checkpoints,
            by count; ``tokens:0.2``: the last 20 % of its range of tokens; ``params:largest``:
            the largest value of an input of the law (pruning rates within a tenth of the next
            count as one); ``run``: each run in turn, of more than 60 a twentieth of them;
            ``k-fold:5``: each of 5 random parts of the runs in turn. Empty: ``checkpoints:0.2``,
            ``params:largest`` and ``pruning_rate:largest`` for laws with a pruning rate, else
            ``run`` in place of the last; what the curves do not allow is skipped.
        progress: called with fits done and in all.
        options: the fields of :class:`Options`.

    Returns:
        One :class:`Validation` per group and hold-out.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law; a
            hold-out that no group allows.
    """
    if isinstance(holdout, str):
        raise FitError(f"holdout is {holdout!r}: give a list")
    for asked in holdout:
        parse_holdout(asked)
    found = datasets(source, law, **options)
    wanted = tuple(dict.fromkeys(holdout))
    if not wanted:
        wanted = PAPER if "pruning_rate" in found[0].law.inputs else PLAIN
    plans = [(dataset, asked, split(dataset, asked)) for dataset in found for asked in wanted]
    hopeless = [
        asked
        for asked in wanted
        if all(isinstance(p, str) for _, other, p in plans if other == asked)
    ]
    # What was asked for by name must be possible; of the defaults, something must.
    if hopeless and (holdout or len(hopeless) == len(wanted)):
        raise FitError("\n".join(f"{t.label}: {a}: {p}" for t, a, p in plans if a in hopeless))
    total = sum(len(p.folds) for _, _, p in plans if not isinstance(p, str))
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return Results(
        _skipped(dataset, asked, plan)
        if isinstance(plan, str)
        else _held(dataset, asked, plan, tick)
        for dataset, asked, plan in plans
    )


# ---------------------------------------------------------------- fit and predict


def _skipped(dataset: Dataset, holdout: str, why: str) -> Validation:
    return Validation(
        holdout=holdout,
        about="",
        law=dataset.law,
        source=dataset.curves.source,
        group=dict(dataset.group),
        fitted=0,
        held_out=0,
        score=None,
        runs={},
        points=None,
        fits=(),
        skipped=why,
    )


def _held(dataset: Dataset, holdout: str, plan: Split, tick: Callable[[], None]) -> Validation:
    frame, law = dataset.frame, dataset.law
    n = frame.height
    names = [*law.inputs, *(["tokens"] if has_tokens(frame) else [])]
    points = Points(
        run=frame["run"].to_list(),
        held_out=np.zeros(n, bool),
        columns={x: frame[x].to_numpy() for x in dict.fromkeys(names)},
        target=dataset.options.target,
        loss=frame[dataset.options.target].to_numpy(),
        predicted=np.full(n, np.nan),
        interval=(np.full(n, np.nan), np.full(n, np.nan)),
        range=(np.full(n, np.nan), np.full(n, np.nan)),
        baselines={},
    )
    along = holdout.partition(":")[0] in ("checkpoints", "tokens")
    fits, notes = [], []
    baselines: dict[str, Array] = {}
    for held in plan.folds:
        kept = np.delete(np.arange(n), held)
        left_out = {**dataset.excluded, f"held out ({holdout})": len(held)}
        part = replace(dataset, frame=frame[kept], excluded=left_out)
        fit = fit_dataset(part)
        fits.append(fit)
        notes += [w for w in fit.warnings if w.startswith("no intervals")]
        points.held_out[held] = True
        # With one fold the fitted rows have their prediction too, for the picture.
        _predict(fit, points, held if len(plan.folds) > 1 else np.arange(n))
        if along and fit.runs is not None:
            _go_on(fit, points, part.frame, held)
        if fit.identification["undetermined"]:
            notes += _open(part, fit, points, held)
        found = (
            run_baselines(part, points, held)
            if along
            else neighbour_baselines(law, points, kept, held)
        )
        for name, values in found.items():
            baselines.setdefault(name, np.full(n, np.nan))[held] = values
        tick()
    points = replace(points, baselines=baselines)
    everything = np.flatnonzero(points.held_out)
    score = _score(law, points, everything)
    held_runs = np.asarray(points.run)[everything]
    return Validation(
        holdout=holdout,
        about=plan.about,
        law=law,
        source=dataset.curves.source,
        group=dict(dataset.group),
        fitted=n - max(map(len, plan.folds)),
        held_out=len(everything),
        score=score,
        runs={
            name: _score(law, points, everything[held_runs == name])
            for name in dict.fromkeys(held_runs.tolist())
        },
        points=points,
        fits=tuple(fits),
        warnings=(*_warnings(points), *dict.fromkeys(notes), *dataset.warnings),
    )


def _predict(fit: Fit, points: Points, rows: Index) -> None:
    at = {x: points.columns[x][rows] for x in fit.law.inputs}
    points.predicted[rows] = fit.predict(at)
    band = fit.interval(at, new_run=True)
    if band is not None:
        points.interval[0][rows], points.interval[1][rows] = band


def _go_on(fit: Fit, points: Points, frame: pl.DataFrame, held: Index) -> None:
    """The rest of each run from the law and the run's own fitted rows."""
    runs = np.asarray(points.run)[held]
    own = frame.partition_by("run", as_dict=True, maintain_order=True)
    for name in dict.fromkeys(runs.tolist()):
        rows = held[runs == name]
        if (name,) not in own:
            continue
        found = ahead(fit, own[name,], {x: v[rows] for x, v in points.columns.items()})
        points.predicted[rows] = fit.scale.back(found.place)
        band = interval(fit, found)
        if band is not None:
            points.interval[0][rows], points.interval[1][rows] = band


def _open(part: Dataset, fit: Fit, points: Points, held: Index) -> list[str]:
    """Put a range in place of a number where the fit does not determine it; and say why."""
    from p2fit.uncertainty.equally_good import prediction_range

    solved = solve_dataset(part)
    at = {x: points.columns[x][held] for x in fit.law.inputs}
    outside = _outside(solved, fit, at)
    if not outside.any():
        return []
    span = prediction_range(solved, {x: v[outside] for x, v in at.items()})
    # Bounds may hold what the rows leave open: then the ends meet, and the numbers stand.
    if span is None or not leaning(points.predicted[held[outside]], span).any():
        return []
    rows = held[outside]
    for values in (points.predicted, *points.interval):
        values[rows] = np.nan
    points.range[0][rows], points.range[1][rows] = span
    return [str(u) for u in solved.identification.undetermined]


def _outside(solved: Solved, fit: Fit, at: Mapping[str, Array]) -> Any:
    """Whether the prediction changes along a direction in which no fitted row changes."""
    values = {n: float(p.estimate or 0.0) for n, p in fit.parameters.items()}
    there = _gradient(fit.law, values, at)
    here = _gradient(fit.law, values, solved.columns)
    size = np.hypot(np.linalg.norm(here, axis=0), np.linalg.norm(there, axis=0))
    size[size == 0] = 1.0
    there = there / size
    triangle = np.linalg.qr(here / size).R  # spans the same rows, and is small
    known = np.linalg.svd(triangle)[2][: solved.identification.rank]
    outside = there - there @ known.T @ known
    return np.linalg.norm(outside, axis=1) > 1e-6 * np.linalg.norm(there, axis=1)


def _gradient(law: Law, values: Mapping[str, float], at: Mapping[str, Array]) -> Array:
    found = law.gradient(values, at)
    return np.stack([found[n] for n in law.free], axis=1)


# ---------------------------------------------------------------- scores


def _score(law: Law, points: Points, rows: Index) -> Score | None:
    rows = rows[np.isfinite(points.predicted[rows])]
    if not len(rows):
        return None
    loss, predicted = points.loss[rows], points.predicted[rows]
    known = "base_loss" in law.inputs and points.target == "loss"
    base = points.columns["base_loss"][rows] if known else np.zeros(len(rows))
    r2 = metrics.r_squared(loss - base, predicted - base)
    asd = None
    if "tokens" in points.columns and points.target == "loss":
        runs = np.asarray(points.run)[rows]
        asd = metrics.asd(runs, points.columns["tokens"][rows], loss, predicted)
    low, high = (end[rows] for end in points.interval)
    banded = np.isfinite(low) & np.isfinite(high)
    inside = (low <= loss) & (loss <= high)
    return Score(
        rows=len(rows),
        rmse=metrics.rmse(loss, predicted),
        mape=metrics.mape(loss, predicted) if loss.min() > 0 else None,
        asd=asd,
        r2=None if known else r2,
        r2_excess=r2 if known else None,
        coverage=float(inside[banded].mean()) if banded.any() else None,
        skills=tuple(
            _skill(name, loss, predicted, values[rows])
            for name, values in points.baselines.items()
            if np.isfinite(values[rows]).any()
        ),
    )


def _skill(name: str, loss: Array, predicted: Array, baseline: Array) -> Skill:
    there = np.isfinite(baseline)
    rmse = metrics.rmse(loss[there], baseline[there])
    own = metrics.rmse(loss[there], predicted[there])
    return Skill(name, int(there.sum()), rmse, 1 - own / rmse if rmse > 0 else None)


def _warnings(points: Points) -> list[str]:
    rows = points.held_out
    lines = []
    ranged = int(np.sum(~np.isfinite(points.predicted[rows])))
    if ranged:
        lines.append(
            f"{ranged} of {int(rows.sum())} held-out points have a range and no score: the fitted "
            "part does not determine them"
        )
    missing = int(np.sum(~np.isfinite(points.interval[0][rows]))) - ranged
    if missing:
        lines.append(f"{missing} of {int(rows.sum())} held-out points have no 95 % interval")
    return lines
