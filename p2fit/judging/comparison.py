"""Laws side by side on the same rows, by how they predict runs that were left out.

Each law is fitted without some runs and asked for their loss; every run counts the same in the
scores. Differences are taken run by run, so that what makes a run hard for every law cancels.

>>> import p2fit
>>> n = [1e8, 4e8, 1e9, 4e9] * 3
>>> d = [1e9] * 4 + [1e10] * 4 + [1e11] * 4
>>> curves = {"run": [f"r{i}" for i in range(12)], "params": n, "tokens": d,
...           "loss": [1.8 + 480 / a**0.35 + 2100 / b**0.37 for a, b in zip(n, d)]}
>>> [comparison] = compare(curves, ["kaplan-n", "chinchilla"])
>>> [score.label for score in comparison.scores]
['chinchilla', 'kaplan-n']
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Unpack

import numpy as np
import polars as pl

from p2fit import metrics
from p2fit.arrays import Array, Index, one_thread
from p2fit.curves.choosing import (
    Dataset,
    Source,
)
from p2fit.curves.options import OptionNames, Options, showing
from p2fit.errors import FitError, LawError
from p2fit.estimation import fit_dataset
from p2fit.fit import Fit
from p2fit.judging.conditions import _base_loss, check_conditions
from p2fit.judging.holdouts import parts_of
from p2fit.judging.same_rows import label, same_rows
from p2fit.laws.law import Law
from p2fit.results import Result, Results
from p2fit.solver.identify import identify
from p2fit.solver.least_squares import minimise
from p2fit.solver.search import GRID_ROWS, settle, solve, subsample
from p2fit.solver.solving import Solved, solve_dataset
from p2fit.solver.starts import starts
from p2fit.wording import join

#: Fewest independent runs for an AICc and a BIC, which hold for many.
LIKELIHOOD_RUNS = 40
_STARTS = 4  # of each part, beside the optimum on all rows


@dataclass(frozen=True)
class Difference:
    """How much worse a law predicts than the best one, over the same runs."""

    value: float
    """Mean over runs of the score minus the best law's."""
    stderr: float
    """Standard error of that mean. The fits share most of their runs: take it for a lower bound."""


@dataclass(frozen=True)
class Score:
    """How one law does."""

    law: Law
    """The law, with what was fixed and tied."""
    fit: Fit
    """Its fit to all the rows."""
    loss: float | None
    """Mean over left-out runs of the objective's own loss (Huber's, or half the square) of the
    residual; None where some run could not be predicted."""
    rmse_log: float | None
    """Root of the mean over left-out runs of the squared error of the log of the loss; of another
    target's residual, where that is not of its log."""
    mape: float | None
    """Mean over left-out runs of the error as a share of the loss (0.01 is 1 %); None where a row
    of another target is 0 or less."""
    difference: Difference | None
    """Of ``loss`` from the best law's; None for that law itself."""
    difference_squares: Difference | None
    """Of the square of ``rmse_log`` from that of the same best law."""
    r2: float | None
    """In-sample share of the variance explained: of the loss above base_loss, for every law, where
    the file has that column."""
    conditions: Mapping[str, bool | None]
    """Whether the fitted law, over the range of the data and a decade beyond,
    ``falls_with_tokens``, ``rises_with_pruning_rate`` and ``tends_to_base_loss`` as the rate
    tends to 0; None where it does not apply."""
    aicc: float | None
    """Akaike's criterion, corrected for few rows; None where it would mean nothing."""
    bic: float | None
    """The Bayesian information criterion; None likewise."""
    elpd: float | None = None
    """Of the Bayesian backend: log density that the posterior predicts for the log losses of runs
    left out, summed over runs; higher is better."""
    difference_elpd: Difference | None = None
    """Of ``elpd`` from the best law's (the sum over runs, at most 0, and its standard error)."""
    refitted: int | None = None
    """Runs left out in fact, where importance sampling did not do."""

    @property
    def label(self) -> str:
        """The law's name, or the formula of a user's own."""
        return label(self.law)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number."""
        own = {k: v for k, v in vars(self).items() if k not in ("law", "fit")}
        for name in ("difference", "difference_squares", "difference_elpd"):
            own[name] = asdict(own[name]) if own[name] else None
        return {
            "law": self.label,
            "formula": self.law.formula,
            **own,
            "free": len(self.law.free),
            "rank": self.fit.identification["rank"],
            "objective": self.fit.objective,
            "rmse": self.fit.metrics["rmse"],
            "parameters": {n: p.estimate for n, p in self.fit.parameters.items()},
        }


@dataclass(frozen=True)
class Comparison(Result):
    """Laws on the same rows, best first. Made by :func:`compare`."""

    table = ("laws", "")

    source: str
    """Where the rows come from."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this comparison's values of them."""
    scores: tuple[Score, ...]
    """One for each law; first the one that predicts left-out runs best."""
    rows: int
    """Rows that every law was fitted to."""
    runs: int
    """Independent runs (values of ``cluster``) among them."""
    folds: int
    """Fits per law in which each run is left out once; as many as runs: one at a time."""
    excluded: Mapping[str, int]
    """Rows left out for all laws because one of them cannot use them, by reason."""
    options: Mapping[str, Any]
    """Residual, loss, delta, weights and the rest of what was asked for."""
    notes: tuple[str, ...]
    """What the reader should know, one line each."""

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.scores)} laws: {self.scores[0].label:.120} is best>"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number, never NaN."""
        document = {k: v for k, v in vars(self).items() if k != "scores"}
        return {**document, "laws": [score.to_dict() for score in self.scores]}


@showing(Options)
@one_thread()
def compare(
    source: Source,
    laws: Sequence[str | Law] = (),
    *,
    backend: Literal["least-squares", "bayes"] = "least-squares",
    noise: Literal["student-t", "normal"] | None = None,
    prior: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[OptionNames],
) -> list[Comparison]:
    """Compare laws on the same rows by leaving runs out and predicting them.

    Args:
        source: a CSV file (``-`` for standard input), a table, or :class:`Curves`.
        laws: names from :data:`LAWS`, formulas, or :class:`Law`; none: all laws of the table that
            are sums of monomials and whose columns are there and vary.
        backend: ``bayes`` also compares by the log predictive density of left-out runs
            (needs the extra ``bayes``).
        noise, prior: of the Bayesian model, as in :class:`p2fit.BayesOptions`; a prior goes to
            every law that has the parameter.
        progress: called with fits done and in all.
        options: the fields of :class:`Options`. What is fixed, tied, or given a range or a start
            is so in every law that has a parameter of that name.

    Returns:
        One :class:`Comparison` per group, in the order of the groups' values.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, a law.
    """
    if isinstance(laws, str | Law):
        raise FitError("give a list of laws: a comparison takes two")
    if options.get("bootstrap"):
        raise FitError("a comparison has no intervals to bootstrap: leave bootstrap out")
    if backend not in ("least-squares", "bayes"):
        raise FitError(f"backend is {backend!r}: use least-squares or bayes")
    if backend == "least-squares" and (noise or prior):
        raise FitError("noise and prior go with the backend bayes")
    bayes: dict[str, Any] | None = None
    if backend == "bayes":
        asked: dict[str, Any] = {
            k: options[k] for k in ("errors", "delta", "weights") if k in options
        }
        bayes = {**asked, "prior": prior, **({"noise": noise} if noise else {})}
    found, excluded = same_rows(source, laws, options)
    parts = [_folds(group[0]) for group in found]
    total = sum(
        len(group) * (int(fold.max()) + 1 + (int(run.max()) + 1 if bayes is not None else 0))
        for group, (run, fold) in zip(found, parts)
    )
    done = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done), total)

    return Results(_compare(g, *p, out, tick, bayes) for g, p, out in zip(found, parts, excluded))


def logged(options: Mapping[str, Any]) -> bool:
    """Whether errors are also taken of the log: of the loss always."""
    return bool(options["target"] == "loss" or options["residual"] == "log")


# ---------------------------------------------------------------- leaving runs out


def _folds(dataset: Dataset) -> tuple[Index, Index]:
    """The run of each row and the part with which it is left out, both from 0."""
    labels = dataset.frame[dataset.options.cluster].cast(pl.String).fill_null("").to_numpy()
    _, run = np.unique(labels, return_inverse=True)
    count = int(run.max()) + 1
    if count < 3:
        raise FitError(f"{dataset.label}: {count} runs are too few to leave one out; 3 are needed")
    return run, parts_of(count, dataset.options.seed)[run]


@np.errstate(all="ignore")  # what is not finite is dealt with as such
def _left_out(
    dataset: Dataset, solved: Solved, fold: Index, tick: Callable[[], None]
) -> tuple[Array, list[str]]:
    """The loss that a law predicts where it was not fitted; NaN, and a note, where it cannot.

    Each part is fitted from the optimum on all rows, which has seen what is held out, and from
    starts of its own; what the rows of a run share is for every part what all rows say.
    """
    fitted, faults = np.full(len(fold), math.nan), []
    parts = int(fold.max()) + 1
    problem, z = solved.problem, solved.solution.z
    for part in range(parts):
        out, kept = np.flatnonzero(fold == part), np.flatnonzero(fold != part)
        rest = {x: c[kept] for x, c in solved.columns.items()}
        try:
            rest_of = problem.rows(kept)
            if identify(rest_of, z, rest).undetermined:
                # The optimum on all rows would tell what the rest cannot: search afresh.
                best = settle(rest_of, solve(rest_of, seed=dataset.options.seed)).z
            else:
                some = subsample(rest_of, GRID_ROWS, dataset.options.seed)
                beside = starts(some, None, _STARTS, dataset.options.seed)
                again = minimise(rest_of, np.concatenate([z[None], beside]))
                best = again.z[np.argmin(again.value)]
            fitted[out] = problem.rows(out).loss(best[None])[0]
        except (FitError, LawError) as error:
            faults.append(f"without {dataset.frame['run'][int(out[0])]}: {error}")
        tick()
    if faults:
        faults = [f"{label(dataset.law)}: {len(faults)} of {parts} predictions fail, {faults[0]}"]
    return fitted, faults


def _compare(
    group: tuple[Dataset, ...],
    run: Index,
    fold: Index,
    excluded: Mapping[str, int],
    tick: Callable[[], None],
    bayes: Mapping[str, Any] | None,
) -> Comparison:
    optima = [solve_dataset(dataset) for dataset in group]
    fits = [fit_dataset(dataset, solved=solved) for dataset, solved in zip(group, optima)]
    runs = int(run.max()) + 1
    notes: list[str] = []
    errors: list[Array] = []
    for dataset, solved in zip(group, optima):
        fitted, failed = _left_out(dataset, solved, fold, tick)
        errors.append(_errors(dataset, fitted, run))
        notes += failed
    # A law that misses a prediction (NaN) comes last; of equals, the first named comes first.
    own = [each[0] for each in errors]
    order = sorted(range(len(group)), key=lambda i: (np.isnan(own[i]).any(), own[i].sum()))
    best = errors[order[0]]
    reason = _no_likelihood(fits[0], runs)
    notes += [f"no AICc or BIC: {reason}"] if reason else []
    for dataset, fit in zip(group, fits):
        known = fit.identification
        if known["rank"] < known["parameters"]:
            open_ = {n for one in known["undetermined"] for n in one["parameters"]}
            names = tuple(n for n in dataset.law.free if n in open_)
            notes.append(
                f"{label(dataset.law)}: {join(names)} {'is' if len(names) == 1 else 'are'} not "
                "determined: of the values that fit equally well some were picked to predict from"
            )
    scores = [_score(group[i], fits[i], errors[i], best, not reason) for i in order]
    if bayes is not None:
        scores = _by_density([group[i] for i in order], scores, bayes, tick)
    return Comparison(
        source=group[0].curves.source,
        group=group[0].group,
        scores=tuple(scores),
        rows=len(run),
        runs=runs,
        folds=int(fold.max()) + 1,
        excluded=excluded,
        options={**group[0].options.recorded(), "weights": fits[0].options["weights"]},
        notes=(*group[0].warnings, *notes),
    )


def _by_density(
    group: Sequence[Dataset],
    scores: Sequence[Score],
    bayes: Mapping[str, Any],
    tick: Callable[[], None],
) -> list[Score]:
    """The scores with their log predictive densities."""
    from p2fit.bayes.fitting import left_out

    found = [left_out(dataset, bayes, tick) for dataset in group]
    best = max((own.by_run for own in found), key=lambda by_run: float(by_run.sum()))
    added = []
    for score, own in zip(scores, found):
        gap = own.by_run - best
        error = float(gap.std(ddof=1) * math.sqrt(len(gap)))
        added.append(
            replace(
                score,
                elpd=float(own.by_run.sum()),
                difference_elpd=None if own.by_run is best else Difference(float(gap.sum()), error),
                refitted=own.refitted,
            )
        )
    return added


def _errors(dataset: Dataset, fitted: Array, run: Index) -> Array:
    """For each run the mean of: the objective's loss, the squared log error (of a target without
    a log the squared residual), the error as a share of it; (3, G)."""
    options = dataset.options
    y = dataset.frame[options.target].to_numpy()
    with np.errstate(all="ignore"):
        own = options.scale.miss(fitted, y)
        clipped = np.minimum(np.abs(own), options.threshold)
        each = (
            clipped * (np.abs(own) - 0.5 * clipped),
            (np.log(fitted / y) if logged(options.recorded()) else own) ** 2,
            np.where(y > 0, np.abs(fitted - y) / y, math.inf),
        )
    return np.stack([np.bincount(run, e) / np.bincount(run) for e in each])


def _score(dataset: Dataset, fit: Fit, errors: Array, best: Array, likelihood: bool) -> Score:
    differences: list[Difference | None] = [None, None]
    gap = errors[:2] - best[:2]
    if errors is not best and np.isfinite(gap).all():
        stderr = gap.std(axis=1, ddof=1) / math.sqrt(gap.shape[1])
        differences = [
            Difference(*pair) for pair in zip(gap.mean(axis=1).tolist(), stderr.tolist())
        ]
    loss, squares, share = (v if math.isfinite(v) else None for v in errors.mean(axis=1).tolist())
    above = dataset.frame[dataset.options.target].to_numpy()
    if dataset.options.target == "loss":
        above = above - _base_loss(dataset.frame)
    n, k = len(above), fit.identification["rank"] + 1  # the scatter is estimated too
    deviance = n * math.log(2 * fit.objective / n) if likelihood and fit.objective > 0 else None
    return Score(
        law=dataset.law,
        fit=fit,
        loss=loss,
        rmse_log=None if squares is None else math.sqrt(squares),
        mape=share,
        difference=differences[0],
        difference_squares=differences[1],
        # Off by the RMSE in every row leaves the same sum of squares as the fit does.
        r2=metrics.r_squared(above, above + float(fit.metrics["rmse"] or 0.0)),
        conditions=check_conditions(dataset, fit),
        aicc=None if deviance is None else deviance + 2 * k * n / (n - k - 1),
        bic=None if deviance is None else deviance + k * math.log(n),
    )


def _no_likelihood(fit: Fit, runs: int) -> str:
    """Why the objective gives no likelihood to compare by; empty where it does."""
    if fit.options["loss"] != "squared":
        return "Huber's loss is not a likelihood"
    if fit.options["weights"] == "stderr":
        return "each law has weights of its own"
    if fit.data["used"] > runs:
        return "the rows of a run are not independent"
    return f"{runs} runs, and {LIKELIHOOD_RUNS} are needed" if runs < LIKELIHOOD_RUNS else ""
