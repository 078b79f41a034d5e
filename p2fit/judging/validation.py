"""Validate a law: fit one part of the curves, predict the part held out, and score that.

A score says little alone: along a curve the last value already is a good guess. So every score
comes with the skill over simple baselines, and where the fitted part does not determine what is
asked of it, there is a range and no score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from p2fit import metrics
from p2fit.curves.choosing import FitError, Source, Task, tasks
from p2fit.curves.points import alike
from p2fit.fit import Fit, fit_task
from p2fit.laws.law import Array, Law
from p2fit.solver.problem import Index
from p2fit.solver.solving import Solved, solve_task

#: Hold-outs, as they are written.
KNOWN = (
    "checkpoints:0.2",
    "tokens:0.2",
    "params:largest (or another input of the law)",
    "run",
    "k-fold:5",
)

_PAPER = ("checkpoints:0.2", "params:largest", "pruning_rate:largest")
_PLAIN = ("checkpoints:0.2", "params:largest", "run")

#: A power law per run has three parameters; from this many checkpoints it is more than a line
#: through its points.
_POWER_ROWS = 4


@dataclass(frozen=True)
class Skill:
    """A simple baseline on the held-out points, and how much better the law does."""

    baseline: str
    """``last value`` (of the run's fitted part) and ``power law`` (a + b/tokens^c, fitted to the
    run's fitted part) along a run; ``nearest curve`` (in the logs of the inputs, at the same
    tokens) and ``two nearest`` (curves that differ in one input, on a line in its log) across
    runs. Across runs, it is the loss above base_loss that is carried over, where the law has it."""
    rows: int
    """Held-out points that the baseline has a value for."""
    rmse: float
    """The baseline's root mean square error on them, nats per token."""
    skill: float | None
    """1 - RMSE of the law / RMSE of the baseline, on these points; None where that is 0."""


@dataclass(frozen=True)
class Score:
    """How well held-out points were predicted."""

    rows: int
    """Points scored."""
    rmse: float
    """Root mean square error, nats per token (or in the unit of another target)."""
    mape: float | None
    """Mean absolute error as a share of the loss; None where another target is 0 or less."""
    asd: float | None
    """Average slope difference, nats per billion tokens; None without two points of one run, and
    for another target than the loss."""
    r2: float | None
    """R² of the loss; None where the law has base_loss (and where nothing varies)."""
    r2_excess: float | None
    """R² of the loss above base_loss; None where the law has none (and where nothing varies)."""
    coverage: float | None
    """Share of the points inside their 95 % interval; None where no point has one."""
    skills: tuple[Skill, ...]
    """Against each baseline that exists."""


@dataclass(frozen=True)
class Points:
    """The points of a hold-out, each array of shape (n,), in order of run, then tokens."""

    run: Sequence[str]
    """Name of the run."""
    held_out: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether the point was held out, or fitted."""
    columns: Mapping[str, Array]
    """The law's inputs, and tokens."""
    target: str
    """What is predicted: ``loss``, in nats per token, or another column."""
    loss: Array
    """Observed values of it."""
    predicted: Array
    """By the fit that did not see the point; NaN where that fit does not determine it."""
    interval: tuple[Array, Array]
    """95 % interval for one point of a new run: lower, upper; NaN where there is none."""
    range: tuple[Array, Array]
    """Lowest and highest prediction of all equally good fits; NaN where one number will do."""
    baselines: Mapping[str, Array]
    """What each baseline predicts; NaN where it has no value."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """The held-out points as plain data, null in place of NaN."""
        return [
            {
                "run": self.run[i],
                **{x: _null(v[i]) for x, v in self.columns.items()},
                self.target: float(self.loss[i]),
                "predicted": _null(self.predicted[i]),
                "interval": _pair(self.interval, i),
                "range": _pair(self.range, i),
                "baselines": {name: _null(v[i]) for name, v in self.baselines.items()},
            }
            for i in np.flatnonzero(self.held_out).tolist()
        ]


@dataclass(frozen=True)
class Validation:
    """One law, one group of curves and one hold-out: what was predicted, and how well."""

    holdout: str
    """As it was asked for, e.g. ``checkpoints:0.2``."""
    about: str
    """What was held out, in words."""
    law: Law
    """The law, with what was fixed and tied."""
    source: str
    """Where the curves come from."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this group's values of them."""
    fitted: int
    """Rows fitted; the fewest of any fold."""
    held_out: int
    """Rows held out, over all folds."""
    score: Score | None
    """Over all held-out points that the fits determine; None where there is none."""
    runs: Mapping[str, Score | None]
    """The same for each run with held-out points."""
    points: Points | None
    """Every point, its prediction and its baselines; of several folds, each where it was held
    out. None where the hold-out was skipped."""
    fits: tuple[Fit, ...]
    """The fit of each fold."""
    skipped: str | None = None
    """Why this hold-out cannot be made of these curves."""
    warnings: tuple[str, ...] = ()
    """What the reader should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number, never NaN."""
        return {
            "holdout": self.holdout,
            "about": self.about,
            "law": self.law.name,
            "formula": self.law.formula,
            "source": self.source,
            "group": dict(self.group),
            "skipped": self.skipped,
            "fitted": self.fitted,
            "held_out": self.held_out,
            "asd_unit": metrics.ASD_UNIT,
            "score": _plain(self.score),
            "runs": {n: _plain(s) for n, s in self.runs.items()},
            "folds": [{n: p.estimate for n, p in f.parameters.items()} for f in self.fits],
            "points": [] if self.points is None else self.points.to_dicts(),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The validation as plain text, 100 columns wide."""
        from p2fit.show.fit import text

        return text(self)

    def __rich__(self) -> Any:
        return _renderable(self)


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
            count as one); ``run``: each run in turn; ``k-fold:5``: each of 5 random parts of the
            runs in turn. Empty: ``checkpoints:0.2``, ``params:largest`` and
            ``pruning_rate:largest`` for laws with a pruning rate, else ``run`` in place of the
            last; what the curves do not allow is skipped.
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
        _parse(asked)
    found = tasks(source, law, **options)
    wanted = tuple(dict.fromkeys(holdout))
    if not wanted:
        wanted = _PAPER if "pruning_rate" in found[0].law.inputs else _PLAIN
    plans = [(task, asked, _plan(task, asked)) for task in found for asked in wanted]
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

    return [
        _skipped(task, asked, plan) if isinstance(plan, str) else _held(task, asked, plan, tick)
        for task, asked, plan in plans
    ]


# ---------------------------------------------------------------- what is held out


@dataclass(frozen=True)
class _Plan:
    about: str
    folds: Sequence[Index]  # rows held out, ascending


def _parse(holdout: str) -> tuple[str, float]:
    """Kind of a hold-out, and its share or number of folds."""
    kind, _, value = holdout.partition(":")
    known = FitError(f"{holdout!r} is not a hold-out; there are {', '.join(KNOWN)}")
    if kind in ("checkpoints", "tokens") and value != "largest":
        try:
            share = float(value)
        except ValueError:
            raise known from None
        if not 0 < share < 1:
            raise FitError(f"{holdout}: a share lies between 0 and 1")
        return kind, share
    if kind == "k-fold":
        value = value or "5"
        if not value.isdecimal():
            raise known
        if int(value) < 2:
            raise FitError(f"{holdout}: at least 2 folds are needed")
        return kind, int(value)
    if holdout == "run" or (kind and value == "largest"):
        return holdout, 0
    raise known


def _plan(task: Task, holdout: str) -> _Plan | str:
    """The rows of each fold; or why there are none."""
    kind, value = _parse(holdout)
    frame, inputs = task.frame, task.law.inputs
    runs = frame["run"].to_numpy()
    names, run = np.unique(runs, return_inverse=True)
    rows = np.arange(frame.height)
    if kind in ("checkpoints", "tokens"):
        if not _timed(frame):
            return "the curves have no tokens, or not in every row"
        cut = (
            _last_checkpoints(run, value)
            if kind == "checkpoints"
            else _last_tokens(run, frame["tokens"].to_numpy(), value)
        )
        if not cut.any():
            most = int(np.bincount(run).max())
            return f"no run has enough checkpoints: {most} at most"
        what = "checkpoints" if kind == "checkpoints" else "range of tokens"
        return _Plan(f"the last {100 * value:g} % of each run's {what}", [rows[cut]])
    if kind.endswith(":largest"):
        x = kind.removesuffix(":largest")
        if x not in inputs:
            return f"{x} is not an input of {task.law.name} (which has {', '.join(inputs)})"
        column = frame[x].to_numpy()
        distinct = len(np.unique(column))
        if distinct < 2:
            return f"1 distinct value of {x}, 2 needed"
        values = np.unique(column)
        levels = alike(values) if x == "pruning_rate" else np.split(values, distinct)
        low, high = levels[-1][[0, -1]]
        span = f"{high:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return _Plan(f"{x} = {span}, the largest of {len(levels)} values", [rows[column >= low]])
    folds = int(value) if kind == "k-fold" else len(names)
    if len(names) < max(folds, 2):
        return f"{len(names)} run{'s' * (len(names) != 1)}, {max(folds, 2)} needed"
    if kind == "run":
        about = f"each of {len(names)} runs in turn"
        part = run
    else:
        about = f"each of {folds} random parts of the {len(names)} runs in turn"
        shuffled = np.random.default_rng(task.options.seed).permutation(len(names))
        part = (shuffled % folds)[run]
    order = np.argsort(part, kind="stable")
    return _Plan(about, np.split(order, np.cumsum(np.bincount(part))[:-1]))


def _timed(frame: pl.DataFrame) -> bool:
    """Whether every row has tokens; a user's own law may do without."""
    return "tokens" in frame.columns and not frame["tokens"].null_count()


def _last_checkpoints(run: Index, share: float) -> Any:
    """The last rows of each run, their number rounded; one stays at least."""
    count = np.bincount(run)
    held = np.minimum(np.floor(share * count + 0.5), count - 1)
    start = np.cumsum(count) - count
    return np.arange(len(run)) - start[run] >= (count - held)[run]


def _last_tokens(run: Index, tokens: Array, share: float) -> Any:
    start = np.flatnonzero(np.diff(run, prepend=-1))
    low, high = np.minimum.reduceat(tokens, start), np.maximum.reduceat(tokens, start)
    return tokens > (high - share * (high - low))[run]


# ---------------------------------------------------------------- fit and predict


def _skipped(task: Task, holdout: str, why: str) -> Validation:
    return Validation(
        holdout=holdout,
        about="",
        law=task.law,
        source=task.curves.source,
        group=dict(task.group),
        fitted=0,
        held_out=0,
        score=None,
        runs={},
        points=None,
        fits=(),
        skipped=why,
    )


def _held(task: Task, holdout: str, plan: _Plan, tick: Callable[[], None]) -> Validation:
    frame, law = task.frame, task.law
    n = frame.height
    names = [*law.inputs, *(["tokens"] if _timed(frame) else [])]
    points = Points(
        run=frame["run"].to_list(),
        held_out=np.zeros(n, bool),
        columns={x: frame[x].to_numpy() for x in dict.fromkeys(names)},
        target=task.options.target,
        loss=frame[task.options.target].to_numpy(),
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
        left_out = {**task.excluded, f"held out ({holdout})": len(held)}
        part = replace(task, frame=frame[kept], excluded=left_out)
        fit = fit_task(part)
        fits.append(fit)
        notes += [w for w in fit.warnings if w.startswith("no intervals")]
        points.held_out[held] = True
        # With one fold the fitted rows have their prediction too, for the picture.
        _predict(fit, points, held if len(plan.folds) > 1 else np.arange(n))
        if fit.identification["undetermined"]:
            notes += _open(part, fit, points, held)
        found = _along(part, points, held) if along else _across(law, points, kept, held)
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
        source=task.curves.source,
        group=dict(task.group),
        fitted=n - max(map(len, plan.folds)),
        held_out=len(everything),
        score=score,
        runs={
            name: _score(law, points, everything[held_runs == name])
            for name in dict.fromkeys(held_runs.tolist())
        },
        points=points,
        fits=tuple(fits),
        warnings=(*_warnings(points), *dict.fromkeys(notes), *task.warnings),
    )


def _predict(fit: Fit, points: Points, rows: Index) -> None:
    at = {x: points.columns[x][rows] for x in fit.law.inputs}
    points.predicted[rows] = fit.predict(at)
    band = fit.interval(at, new_run=True)
    if band is not None:
        points.interval[0][rows], points.interval[1][rows] = band


def _open(part: Task, fit: Fit, points: Points, held: Index) -> list[str]:
    """Put a range in place of a number where the fit does not determine it; and say why."""
    from p2fit.uncertainty.equally_good import prediction_range

    solved = solve_task(part)
    at = {x: points.columns[x][held] for x in fit.law.inputs}
    leaning = _leaning(solved, fit, at)
    if not leaning.any():
        return []
    rows = held[leaning]
    for values in (points.predicted, *points.interval):
        values[rows] = np.nan
    span = prediction_range(solved, {x: v[leaning] for x, v in at.items()})
    if span is not None:
        points.range[0][rows], points.range[1][rows] = span
    return [str(u) for u in solved.identification.undetermined]


def _leaning(solved: Solved, fit: Fit, at: Mapping[str, Array]) -> Any:
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


# ---------------------------------------------------------------- baselines


def _along(part: Task, points: Points, held: Index) -> dict[str, Array]:
    """What a run's own fitted part says about the rest of it."""
    last, power = np.full(len(held), np.nan), np.full(len(held), np.nan)
    law = Law.parse("a + b/tokens^c", columns=["tokens"], name="power law")
    options = replace(
        part.options, fix={}, tie={}, weights="rows", cluster="run", by=None, bootstrap=0
    )
    fitted = part.frame.partition_by("run", as_dict=True, maintain_order=True)
    runs = np.asarray(points.run)[held]
    for name in dict.fromkeys(runs.tolist()):
        mine = np.flatnonzero(runs == name)
        own = fitted.get((name,))
        if own is None:
            continue
        last[mine] = own[part.options.target][-1]
        if own.height >= _POWER_ROWS and part.options.target == "loss":
            solved = solve_task(replace(part, law=law, frame=own, options=options))
            values = solved.problem.natural(solved.solution.z)
            power[mine] = law.predict(values, {"tokens": points.columns["tokens"][held[mine]]})
    return {"last value": last, "power law": power}


def _across(law: Law, points: Points, kept: Index, held: Index) -> dict[str, Array]:
    """What the fitted curves nearest by say, at the same tokens.

    A curve is all fitted rows that agree in every input but tokens, so runs of one row each (a
    size trained for several token counts) form curves too. Where a curve does not reach the
    tokens in question its end counts, and is as much further away in log tokens.
    """
    above = "base_loss" in law.inputs and points.target == "loss"
    base = points.columns["base_loss"] if above else np.zeros(len(points.loss))
    value = points.loss - base
    # log1p, as a law without tokens may have a row at 0.
    tokens = points.columns.get("tokens")
    time = np.zeros(len(value)) if tokens is None else np.log1p(tokens)
    inputs = [x for x in law.inputs if x not in ("tokens", "base_loss")]
    logs = [np.log(v) if (v := points.columns[x]).min() > 0 else v for x in inputs]
    design = np.stack([*logs, np.zeros(len(value))], axis=1)  # a law may have no other input

    places, member = np.unique(design[kept], axis=0, return_inverse=True)
    curves = [_curve(time[rows], value[rows]) for rows in _groups(kept, member.ravel())]
    start = np.array([t[0] for t, _ in curves])
    end = np.array([t[-1] for t, _ in curves])
    nearest, two = np.full(len(held), np.nan), np.full(len(held), np.nan)
    asked, member = np.unique(design[held], axis=0, return_inverse=True)
    for place, mine in zip(asked, _groups(np.arange(len(held)), member.ravel())):
        t, own = time[held[mine]], base[held[mine]]
        beyond = np.maximum(np.maximum(start[:, None] - t, t - end[:, None]), 0.0)
        far = np.linalg.norm(places - place, axis=1)
        choice = np.hypot(far[:, None], beyond).argmin(axis=0)
        for c in np.unique(choice):
            rows = choice == c
            nearest[mine[rows]] = own[rows] + np.interp(t[rows], *curves[c])
        pair = _neighbours(places, place)
        if pair is not None:
            (i, j), share = pair
            first, second = np.interp(t, *curves[i]), np.interp(t, *curves[j])
            inside = np.maximum(beyond[i], beyond[j]) < 1e-9
            two[mine[inside]] = (own + first + share * (second - first))[inside]
    return {"nearest curve": nearest, "two nearest": two}


def _groups(rows: Index, member: Index) -> list[Index]:
    order = np.argsort(member, kind="stable")
    return np.split(rows[order], np.cumsum(np.bincount(member))[:-1])


def _curve(time: Array, value: Array) -> tuple[Array, Array]:
    """Values by ascending time, the mean where several share one."""
    distinct, member = np.unique(time, return_inverse=True)
    return distinct, np.bincount(member, value) / np.bincount(member)


def _neighbours(places: Array, place: Array) -> tuple[tuple[int, int], float] | None:
    """Two nearest curves that differ in one and the same input only, and how far along the line
    from the first to the second the place lies: one between them comes first, then one near."""
    best: tuple[bool, float, tuple[int, int], float] | None = None
    for x in range(places.shape[1]):
        gap = places[:, x] - place[x]
        others = np.delete(places == place, x, axis=1).all(axis=1)
        alike = np.flatnonzero(others & (gap != 0))
        if len(alike) < 2:
            continue
        i, j = alike[np.argsort(np.abs(gap[alike]), kind="stable")[:2]].tolist()
        found = bool(gap[i] * gap[j] > 0), float(abs(gap[i]) + abs(gap[j]))
        if best is None or found < best[:2]:
            best = (*found, (i, j), float(gap[i] / (gap[i] - gap[j])))
    return None if best is None else best[2:]


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


def _plain(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {**asdict(score), "skills": [asdict(s) for s in score.skills]}


def _null(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _pair(ends: tuple[Array, Array], i: int) -> list[float | None] | None:
    low, high = _null(ends[0][i]), _null(ends[1][i])
    return None if low is None and high is None else [low, high]


# ---------------------------------------------------------------- as text

_MOST_RUNS = 20


def _renderable(validation: Validation) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim", no_wrap=True)
    head.add_column(overflow="fold")
    for name, line in _facts(validation):
        head.add_row(name, Text(line))
    parts: list[Any] = [head]
    if validation.points is not None:
        parts += [Text(), _table(validation)]
        more = len(validation.runs) - _MOST_RUNS
        if more > 0:
            parts.append(Text(f"and {more} more runs, better predicted (--json has all)"))
    if validation.warnings:
        parts.append(Text())
        parts += [Text.assemble(("warning: ", "yellow"), w) for w in validation.warnings]
    return Group(*parts)


def overview(found: Sequence[Validation]) -> Any:
    """Several hold-outs and groups side by side: each with the best of its baselines."""
    from rich.console import Group
    from rich.text import Text

    from p2fit.show.fit import grid, labels, number

    names = labels([v.group for v in found])
    grouped = any(names)
    excess = any(v.score is not None and v.score.r2_excess is not None for v in found)
    heads = ["held out", "RMSE", "R² L−L₀" if excess else "R²", "in 95 %", "skill"]
    table = grid(["hold-out", *(["group"] if grouped else [])], [*heads, "over"])
    for v, label in zip(found, names):
        s = v.score
        best = min(s.skills, key=lambda k: k.rmse, default=None) if s else None
        cells = [
            str(v.held_out),
            number(None if s is None else s.rmse, 3),
            number(None if s is None else s.r2_excess if excess else s.r2, 3),
            "—" if s is None or s.coverage is None else f"{100 * s.coverage:.0f} %",
            "—" if best is None else _signed(best.skill),
            "—" if best is None else best.baseline,
        ]
        table.add_row(v.holdout, *([label] if grouped else []), *cells)
    note = Text("skill over the best of its baselines: 1 - RMSE / RMSE of the baseline", "dim")
    return Group(Text("all hold-outs", style="bold"), Text(), table, Text(), note)


def _facts(v: Validation) -> list[tuple[str, str]]:
    from p2fit.show.fit import number

    facts = [("hold-out", f"{v.holdout}: {v.about or f'skipped: {v.skipped}'}")]
    if v.group:
        facts.append(("group", ", ".join(f"{k} = {g}" for k, g in v.group.items())))
    if v.points is None:
        return facts
    facts.append(("law", f"{v.law.name}: {v.law.formula}"))
    if v.points.target != "loss":
        facts.append(("predicts", v.points.target))
    least = "at least " if len(v.fits) > 1 else ""
    runs = f"{len(v.runs)} run{'s' * (len(v.runs) != 1)}"
    rows = f"{least}{v.fitted} rows fitted, {v.held_out} held out, of {runs}"
    facts.append(("data", f"{v.source}: {rows}"))
    if v.score is None:
        return [*facts, ("predicted", "a range for each point, and no score")]
    s = v.score
    scores = [f"RMSE {number(s.rmse)}"]
    if s.mape is not None:
        scores.append(f"MAPE {100 * s.mape:.3g} %")
    if s.asd is not None:
        scores.append(f"ASD {number(s.asd)} {metrics.ASD_UNIT}")
    facts.append(("predicted", ", ".join(scores)))
    if s.r2_excess is not None:
        facts.append(("", f"R² {number(s.r2_excess)} of the loss above base_loss"))
    elif s.r2 is not None:
        facts.append(("", f"R² {number(s.r2)}"))
    if s.coverage is not None:
        facts.append(("", f"95 % intervals hold {100 * s.coverage:.3g} % of the points"))
    for i, k in enumerate(s.skills):
        rows = "" if k.rows == s.rows else f" on {k.rows} points"
        line = f"{_signed(k.skill)} against {_WORDS[k.baseline]} (RMSE {number(k.rmse)}{rows})"
        facts.append(("" if i else "skill", line))
    return facts


_WORDS = {
    "last value": "the last value of the run's fitted part",
    "power law": "a + b/tokens^c fitted to the run's fitted part",
    "nearest curve": "the nearest curve at the same tokens",
    "two nearest": "a line through the two nearest curves",
}


def _signed(value: float | None) -> str:
    return "—" if value is None else f"{value:+.2f}"


def _table(v: Validation) -> Any:
    from rich.table import Table

    from p2fit.show.fit import number

    known = any(s is not None and s.r2_excess is not None for s in v.runs.values())
    baselines = [] if v.score is None else [k.baseline for k in v.score.skills]
    # Worst first where not all are shown, else in the order of the curves.
    runs = list(v.runs.items())
    if len(runs) > _MOST_RUNS:
        runs.sort(key=lambda item: -(item[1].rmse if item[1] else math.inf))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    cells: dict[str, list[str]] = {"run": [name for name, _ in runs[:_MOST_RUNS]]}
    shown = [s for _, s in runs[:_MOST_RUNS]]

    def column(title: str, value: Callable[[Score], str]) -> None:
        found = ["—" if s is None else value(s) for s in shown]
        if any(f != "—" for f in found):
            cells[title] = found

    if v.score is None and v.points is not None:
        last = {name: i for i, name in enumerate(v.points.run) if v.points.held_out[i]}
        at = [last[name] for name in cells["run"]]
        for title, values in (
            ("last point", v.points.loss),
            ("lowest", v.points.range[0]),
            ("highest", v.points.range[1]),
        ):
            cells[title] = [number(_null(values[i])) for i in at]
    column("rows", lambda s: str(s.rows))
    column("RMSE", lambda s: number(s.rmse, 3))
    column("MAPE", lambda s: "—" if s.mape is None else f"{number(100 * s.mape, 3)} %")
    column("ASD", lambda s: number(s.asd, 3))
    column("R² L−L₀" if known else "R²", lambda s: number(s.r2_excess if known else s.r2, 3))
    column("in 95 %", lambda s: "—" if s.coverage is None else f"{100 * s.coverage:.0f} %")
    for name in baselines:
        column(f"skill: {name}", lambda s, name=name: _signed(_of(s, name)))  # type: ignore[misc]
    for title in cells:
        if title == "run":
            table.add_column(title, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(title, justify="right", overflow="fold")
    for row in zip(*cells.values()):
        table.add_row(*row)
    return table


def _of(score: Score, baseline: str) -> float | None:
    return next((k.skill for k in score.skills if k.baseline == baseline), None)
