"""What a validation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from p2fit import metrics
from p2fit.arrays import Array, finite
from p2fit.fit import Fit
from p2fit.laws.law import Law
from p2fit.results import Result


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
                **{x: finite(v[i]) for x, v in self.columns.items()},
                self.target: float(self.loss[i]),
                "predicted": finite(self.predicted[i]),
                "interval": _pair(self.interval, i),
                "range": _pair(self.range, i),
                "baselines": {name: finite(v[i]) for name, v in self.baselines.items()},
            }
            for i in np.flatnonzero(self.held_out).tolist()
        ]


@dataclass(frozen=True)
class Validation(Result):
    """One law, one group of curves and one hold-out: what was predicted, and how well."""

    table = ("points", "")
    told = ("holdout", "group")

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


def _plain(score: Score | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {**asdict(score), "skills": [asdict(s) for s in score.skills]}


def _pair(ends: tuple[Array, Array], i: int) -> list[float | None] | None:
    low, high = finite(ends[0][i]), finite(ends[1][i])
    return None if low is None and high is None else [low, high]
