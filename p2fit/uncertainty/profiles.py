"""Profile likelihood: one parameter held at a grid of values, all others refitted at each.

The rise of the objective along the way shows what a covariance hides: flat, open and crooked
directions. An interval is where the rise stays below a threshold.

The objective of correlated rows is no likelihood, so a χ² quantile would be the wrong threshold.
Near the optimum the rise is (θ - θ̂)²/2(H⁻¹)_jj with H the curvature, and the covariance over runs
says that the variance of θ̂ is V_jj; so the threshold is t² V_jj / 2(H⁻¹)_jj, and where the profile
is a parabola the interval is that of the fit (the vertical adjustment of Chandler & Bate 2007).
H is the expected curvature that the covariance itself uses. The profile's own curvature would not
do: within a small step it is noise where Huber's delta is tiny, and over a standard error a
crooked profile has left the parabola that it is to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import polars as pl

from p2fit.arguments import hold
from p2fit.arrays import Array, one_thread
from p2fit.curves.choosing import Dataset, Source, datasets
from p2fit.curves.options import OptionNames, Options, showing
from p2fit.errors import FitError
from p2fit.laws.law import Law
from p2fit.results import Result, Results
from p2fit.solver.build import build
from p2fit.solver.least_squares import minimise
from p2fit.solver.problem import Problem
from p2fit.solver.search import solve
from p2fit.solver.solving import Solved, solve_dataset
from p2fit.uncertainty.jackknife import FAR, Covariance, covariance, expected_curvature, t_quantile

_STEPS = 8  # to where a parabola would cross the threshold
_GROWTH = 0.25  # of a step, in terms of the distance from the optimum
_LONGEST = (1.0, 0.25)  # step of a log coefficient, of an exponent: a crooked path is followed
_TOLERANCE = 3e-4  # of a crossing, in terms of the half-width of a parabola
_SUDDEN = 0.25  # rise from one point to the next, in terms of the threshold
_NEARLY_0 = 1e-6  # an exponent; at 0 the a of (a/D)^b has no value
_LOWER = 1e-6  # relative: below the optimum by more than this is a better optimum
_SKEWED = 1.5  # one half of an interval is this much wider than the other


Interval = tuple[float | None, float | None]
Calibration = Literal["covariance", "mean", "rows"]


@dataclass(frozen=True)
class Profile(Result):
    """How the objective rises as one parameter moves away from its estimate."""

    parameter: str
    """Its name."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this group's values of them."""
    estimate: float | None
    """The value at the optimum; None where it overflows."""
    log: bool
    """Whether it is a coefficient: these are profiled, and best drawn, on a log scale."""
    values: tuple[float, ...]
    """Where it was held, ascending."""
    rises: tuple[float, ...]
    """Objective there, all other parameters refitted, above the objective at the optimum."""
    threshold: float
    """The rise at the ends of the 95 % interval."""
    calibration: Calibration
    """Where the threshold comes from: the variance of this parameter over runs (see
    :class:`p2fit.Fit`); its mean over
    the determined directions, for a parameter that is not determined; or, where there are too few
    runs for it, the scatter of the rows, taken as independent of each other."""
    interval: Interval
    """Where the rise stays below the threshold; None (open) where it does so to the end of the
    range, or a million times away from the estimate of a coefficient."""
    fitted: Interval | None
    """The interval from the covariance, as ``p2fit fit`` gives it; None where there is none."""
    warnings: tuple[str, ...] = ()
    """What the reader should know, one line each."""

    @property
    def asymmetry(self) -> float | None:
        """Width above the estimate over width below, in logs for a coefficient: 1 for a parabola;
        None where an end is open."""
        if None in (*self.interval, self.estimate):
            return None
        change = math.log if self.log else float
        low, middle, high = (change(v) for v in (self.interval[0], self.estimate, self.interval[1]))  # type: ignore[arg-type]
        return (high - middle) / (middle - low) if low < middle else None

    @property
    def note(self) -> str:
        """The shape in words; empty for one that is nearly a parabola."""
        low, high = self.interval
        if low is None and high is None:
            return "flat"
        if low is None or high is None:
            return "open below" if low is None else "open above"
        ratio = self.asymmetry or 1.0
        if 1 / _SKEWED <= ratio <= _SKEWED:
            return ""
        return f"{max(ratio, 1 / ratio):.2g} times wider {'above' if ratio > 1 else 'below'}"

    def to_polars(self) -> pl.DataFrame:
        """Where the parameter was held, and the rise of the objective there."""
        return pl.DataFrame({self.parameter: self.values, "rise": self.rises})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number, never NaN."""
        return {**asdict(self), "group": dict(self.group), "asymmetry": self.asymmetry}


@showing(Options)
@one_thread()
def profile(
    source: Source,
    law: str | Law | None = None,
    *,
    parameters: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[OptionNames],
) -> list[Profile]:
    """Profile the objective over each free parameter of each group of curves.

    Args:
        source, law: as in :func:`p2fit.fit_each`.
        parameters: names of those to profile; none: all that are free.
        progress: called with profiles done and in all.
        options: the fields of :class:`p2fit.Options`.

    Returns:
        One :class:`Profile` per group and parameter, in the order of the formula.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law.
    """
    hold("parameters", parameters, Sequence[str])
    found = datasets(source, law, **options)
    free = found[0].law.free
    for name in parameters:
        if name not in free:
            raise FitError(
                f"{name} is not a free parameter of {found[0].law.name}; these are "
                f"{', '.join(free)}"
            )
    names = [n for n in free if n in (parameters or free)]
    profiles = Results[Profile]()
    for dataset in found:
        for one in profile_dataset(dataset, names):
            profiles.append(one)
            if progress is not None:
                progress(len(profiles), len(found) * len(names))
    return profiles


def profile_dataset(dataset: Dataset, names: Sequence[str]) -> Iterator[Profile]:
    """Profile these parameters of a dataset, one after the other."""
    solved = solve_dataset(dataset)
    problem, found, spread = solved.problem, solved.identification, covariance(solved)
    if len(problem.y) <= found.rank:
        raise FitError(
            f"{dataset.label}: {len(problem.y)} rows for a local rank of {found.rank} leave "
            "no scatter to judge a rise of the objective by"
        )
    base = float(minimise(problem, solved.solution.z[None]).value[0])
    thresholds, half = _calibrate(solved, spread)
    for name in names:
        index = problem.names.index(name)
        warnings = [
            *dataset.warnings,
            *(str(u) for u in found.undetermined if name in u.parameters),
        ]
        fitted = None
        if spread is None:
            calibration: Calibration = "rows"
            warnings.append(
                "too few runs for their covariance, so rows are taken as independent of each "
                "other: intervals are too narrow where the rows of a run share their error"
            )
        elif name in found.names:
            calibration = "mean"
        else:
            calibration = "covariance"
            fitted = spread.interval(index)[1:]
        path = _Path(solved, name, base, max(float(thresholds[index]), problem.floor))
        points, interval = path.follow(half[index])
        if any(p.rise < -_LOWER * path.base - problem.floor for p in points):
            warnings.append(
                f"profiling {name} found an objective below that of the fit: the fit is not at "
                "its minimum"
            )
        estimate = float(problem.natural(solved.solution.z)[name])
        yield Profile(
            parameter=name,
            group=dict(dataset.group),
            estimate=estimate if math.isfinite(estimate) else None,
            log=path.log,
            values=tuple(path.value(p.at) for p in points),
            rises=tuple(p.rise for p in points),
            threshold=path.threshold,
            calibration=calibration,
            interval=interval,
            fitted=fitted,
            warnings=tuple(warnings),
        )


def _calibrate(solved: Solved, spread: Covariance | None) -> tuple[Array, Array]:
    """Threshold of each parameter, and how far off a parabola would cross it, each of shape (p,):
    in logs for a coefficient, in its own unit for one that is 0."""
    problem, z = solved.problem, solved.solution.z
    basis, rank = solved.identification.basis, solved.identification.rank
    bread = expected_curvature(problem, z)
    inner = basis @ np.linalg.pinv(basis.T @ bread @ basis) @ basis.T
    inverse = np.diag(Covariance(problem, z, inner, 0, 0.0).natural())
    if spread is None:
        # Twice the objective over n - p stands for the variance: it is that for squared loss, and
        # for Huber's never below E[psi²]/E[psi'] where residuals are densest at 0.
        degrees = len(problem.y) - rank
        variance = 2 * solved.solution.value / degrees
        thresholds = np.full(len(z), 0.5 * t_quantile(0.975, degrees) ** 2 * variance)
    else:
        mean = float(np.sum(bread * spread.inner)) / rank
        own = np.diag(spread.natural()) / np.where(inverse > 0, inverse, np.inf)
        known = [n not in solved.identification.names for n in problem.names]
        reach = np.array([spread.quantile(one) for one in spread.change])
        thresholds = 0.5 * reach**2 * np.where(known, own, mean)
    return thresholds, np.sqrt(2 * thresholds * inverse)


class _Point(NamedTuple):
    at: float  # where the parameter is held: the log of a coefficient, the value of an exponent
    rise: float
    others: Mapping[str, Any]  # every parameter, in the formula's units


@dataclass(frozen=True)
class _Path:
    """The profile of one parameter, as it is followed outwards from the optimum."""

    solved: Solved
    name: str
    base: float  # objective at the optimum
    threshold: float

    @cached_property
    def log(self) -> bool:
        law = self.solved.problem.law
        return self.name in law.coefficients or self.name in law.scales

    def value(self, at: float) -> float:
        return math.exp(at) if self.log else at

    def follow(self, half: float) -> tuple[list[_Point], Interval]:
        """The points, ascending, and the interval; ``half`` is where a parabola would end."""
        problem, z = self.solved.problem, self.solved.solution.z
        index = problem.names.index(self.name)
        natural = problem.natural(z)
        centre = float(natural[self.name])
        if not math.isfinite(centre):
            return [], (None, None)
        low, high = float(problem.lower[index]), float(problem.upper[index])
        start = _Point(centre, 0.0, natural)
        if self.log and centre == 0:
            # From where the term is a thousandth of what the data allow, as good as 0, up.
            middle, half = math.log(max(half, 1e-300)), math.log(1000)
            low, high = middle - half, middle + math.log(FAR)
            start = start._replace(at=low)
        elif self.log:
            start = start._replace(at=math.log(centre))
            low, high = start.at - math.log(FAR), start.at + math.log(FAR)
        else:
            low = min(low or _NEARLY_0, centre)
        step = max(half / _STEPS, 1e-6)
        below, left = self.side(start, low, step)
        above, right = self.side(start, high, step)
        points = [p for p in (*below, start, *above) if math.isfinite(p.rise)]
        ends = [None if end is None else self.value(end) for end in (left, right)]
        return sorted(points, key=lambda p: p.at), (ends[0], ends[1])

    def side(self, start: _Point, end: float, step: float) -> tuple[list[_Point], float | None]:
        """Points from the optimum to beyond the threshold, and where they cross it; None where
        the range ends first."""
        points = [start]
        while points[-1].rise <= self.threshold:
            inner = points[-1]
            if inner.at == end:
                return points[1:], None
            away = max(step, _GROWTH * abs(inner.at - start.at))
            at = inner.at + math.copysign(min(away, _LONGEST[not self.log]), end - start.at)
            points.append(self.refit(min(at, end) if end > start.at else max(at, end), inner))
        inner, outer = points[-2], points[-1]
        # The root of a parabola is a line: interpolation hits the crossing in a step or two.
        while True:
            a, b = (math.sqrt(max(p.rise, 0) / self.threshold) - 1 for p in (inner, outer))
            share = a / (a - b) if math.isfinite(b) else 0.5
            at = inner.at + share * (outer.at - inner.at)
            if abs(outer.at - inner.at) <= _TOLERANCE * abs(at - start.at):
                return points[1:], at
            share = min(max(share, 0.05), 0.95)  # a kink or a jump is bisected
            new = self.refit(inner.at + share * (outer.at - inner.at), inner)
            points.append(new)
            if abs(math.sqrt(max(new.rise, 0) / self.threshold) - 1) <= _TOLERANCE:
                return points[1:], new.at
            inner, outer = (new, outer) if new.rise <= self.threshold else (inner, new)

    def refit(self, at: float, near: _Point) -> _Point:
        """All others refitted, from a point nearby; and from everywhere before a sudden rise, or
        one above the threshold, is believed: the ends of the interval hang on these."""
        problem, law = self.solved.problem, self.solved.problem.law
        with np.errstate(all="ignore"):
            if len(law.free) == 1:
                z = problem.internal({self.name: self.value(at)})
                value = float(minimise(problem, z[None], iterations=0).value[0])
                return _Point(at, value - self.base, near.others)
            held = self.hold(self.value(at))
            found = minimise(held, held.internal(near.others)[None])
            z, value = found.z[0], float(found.value[0])
            expected = min(self.threshold, near.rise + _SUDDEN * self.threshold)
            if value - self.base > expected or not found.converged[0]:
                again = solve(held)
                if not value <= again.value:
                    z, value = again.z, again.value
            return _Point(at, value - self.base, held.natural(z))

    def hold(self, value: float) -> Problem:
        """The problem with the parameter, and those tied to it, held at a value."""
        problem, law = self.solved.problem, self.solved.problem.law
        same = [self.name, *(a for a, b in law.tied.items() if b == self.name)]
        fix = {**law.fixed, **dict.fromkeys(same, value)}
        held = build(
            law.restrict(fix, {a: b for a, b in law.tied.items() if a not in same}),
            self.solved.columns,
            problem.y,
            problem.weights,
            residual=problem.residual,
            delta=problem.delta,
        )
        return replace(held, effects=problem.effects)
