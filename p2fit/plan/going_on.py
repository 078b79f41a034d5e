"""Where a measured run is going: the law and the run's own points, by partial pooling.

The law says where a run of its kind goes, its own points how this one differs. In the model of
``Fit.runs`` the two have one best answer (best linear unbiased prediction, Robinson 1991): what
the run's own residuals say of its level, of its rate and of its next errors, as far as runs differ
in these. No run is fitted alone, and none is forced onto the law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.errors import FitError
from p2fit.fit import Fit
from p2fit.uncertainty.jackknife import quantiles, t_quantiles
from p2fit.uncertainty.new_runs import effect

_MOST = 400  # rows of a run that are used, its last among them


@dataclass(frozen=True)
class Ahead:
    """Points ahead of one run, on the scale of the residuals."""

    place: Array
    """What the law and the run's own points say, shape (m,)."""
    slopes: Array
    """Derivatives by the parameters of the fit's covariance, shape (p, m)."""
    covariance: Array
    """Of measured values about that, the parameters known, shape (m, m)."""


def ahead(fit: Fit, rows: pl.DataFrame, points: Mapping[str, Array]) -> Ahead:
    """Predict points of one run from its rows.

    Args:
        fit: one with ``runs``.
        rows: the run's rows, by tokens: the law's inputs, the target, perhaps its standard error.
        points: the law's inputs there, and ``tokens``, each of shape (m,).
    """
    runs, scale, run = dict(fit.runs or {}), fit.scale, _measured(fit, rows)
    there = np.broadcast_to(fit.predict(points), points["tokens"].shape)
    later = np.log(points["tokens"])
    beyond = effect(runs, scale, points, there)
    ahead_of = np.stack([beyond, beyond * (later - run.middle)])
    own_place, place = _places(runs, run.logs, later)
    toward, between = (
        _correlation(runs, a[:, None] - b) for a, b in ((own_place, place), (place, place))
    )
    crossed = toward * run.error[:, None] * runs["sigma"] + (run.design.T * run.spread) @ ahead_of
    weights = np.linalg.solve(run.covariance, crossed)  # (n, m)
    whole = between * runs["sigma"] ** 2 + (ahead_of.T * run.spread) @ ahead_of
    slopes = _slopes(fit, points, there) - _slopes(fit, run.inputs, run.fitted) @ weights
    return Ahead(scale.to(there) - run.residual @ weights, slopes, whole - crossed.T @ weights)


@dataclass(frozen=True)
class Own:
    """What is one run's own, by its rows, on the scale of the residuals."""

    effects: Array
    """Its level and its rate (change of the level per e-fold of tokens), (2,)."""
    stderr: Array
    """Standard deviations that they are known with, (2,)."""
    place: Array
    """Where its rows stand, along what errors are correlated, (n,)."""
    rest: Array
    """What its rows miss besides, observed minus predicted, (n,)."""
    expected: Array
    """The covariance of that in the fit's model, (n, n)."""


def own_effects(fit: Fit, rows: pl.DataFrame) -> Own:
    """A run's level and rate by best linear unbiased prediction, the law taken for known.

    Args:
        fit: one with ``runs``.
        rows: the run's rows, by tokens.
    """
    run = _measured(fit, rows)
    toward = run.design * run.spread[:, None]  # (2, n)
    weights = np.linalg.solve(run.covariance, toward.T)  # (n, 2)
    left = np.diag(run.spread) - toward @ weights
    # A residual is fitted minus observed: a run above the law has those below 0.
    taken = np.eye(len(run.logs)) - run.design.T @ weights.T
    return Own(
        effects=-run.residual @ weights,
        stderr=np.sqrt(np.maximum(np.diag(left), 0.0)),
        place=_places(dict(fit.runs or {}), run.logs, run.logs)[0],
        rest=-taken @ run.residual,
        expected=taken @ run.covariance @ taken.T,
    )


@dataclass(frozen=True)
class _Run:
    """The rows of one run, n of them, in the model of ``Fit.runs``."""

    inputs: Mapping[str, Array]
    fitted: Array
    residual: Array
    logs: Array
    middle: float
    design: Array
    spread: Array
    error: Array
    covariance: Array


def _measured(fit: Fit, rows: pl.DataFrame) -> _Run:
    runs = dict(fit.runs or {})
    if rows.height > _MOST:
        rows = rows[np.unique(np.linspace(0, rows.height - 1, _MOST).astype(int))]
    own = {x: rows[x].to_numpy() for x in fit.law.inputs}
    fitted = np.broadcast_to(fit.predict(own), (rows.height,))
    logs = _logs(rows)
    middle = float(logs.mean())
    level = effect(runs, fit.scale, own, fitted)
    design = np.stack([level, level * (logs - middle)])
    spread = np.array([runs["level"], runs["rate"]]) ** 2
    error = runs["sigma"] / np.sqrt(_precision(fit, rows))
    place, _ = _places(runs, logs, logs)
    near = _correlation(runs, place[:, None] - place)
    covariance = near * np.outer(error, error) + (design.T * spread) @ design
    covariance[np.diag_indices(len(logs))] *= 1 + 1e-12
    residual = fit.scale.miss(fitted, rows[fit.target].to_numpy())
    return _Run(own, fitted, residual, logs, middle, design, spread, error, covariance)


def interval(fit: Fit, found: Ahead) -> tuple[Array, Array] | None:
    """95 % interval of a measured value; None where the fit has no covariance."""
    if fit.covariance is None:
        return None
    reach = reaches(fit, found.slopes, np.diag(found.covariance))
    return fit.scale.back(found.place - reach), fit.scale.back(found.place + reach)


def reaches(fit: Fit, slopes: Array, variance: Array) -> Array:
    """Half the width of 95 % intervals on the residuals' scale, shape (m,).

    Args:
        slopes: derivatives by the parameters of the fit's covariance, shape (p, m).
        variance: besides, the parameters known, shape (m,).
    """
    matrix = np.array((fit.covariance or {})["matrix"])
    spread = np.einsum("im,ij,jm->m", slopes, matrix, slopes)
    own = t_quantiles(np.array([dict(fit.runs or {})["freedom"]]))[0]
    found: Array = np.hypot(
        quantiles(fit.covariance or {}, slopes) * np.sqrt(np.maximum(spread, 0.0)),
        own * np.sqrt(np.maximum(variance, 0.0)),
    )
    return found


def needs_runs(fit: Fit) -> None:
    """Refuse a fit that knows nothing of its runs.

    Raises:
        FitError: it has each row's error independent, or is a posterior.
    """
    if fit.runs is None:
        raise FitError(
            "the fit knows nothing of its runs: to use a run's own points it needs curves of "
            "several rows a run, more runs than parameters that they tell, and no --errors rows"
        )


def _logs(rows: pl.DataFrame) -> Array:
    if "tokens" not in rows.columns or rows["tokens"].null_count() or not rows["tokens"].min():
        raise FitError(f"run {rows['run'][0]}: its rows need tokens above 0 to be gone on from")
    found: Array = np.log(rows["tokens"].to_numpy().astype(float))
    return found


def _precision(fit: Fit, rows: pl.DataFrame) -> Array:
    """Weights of the rows' errors."""
    if fit.options["weights"] != "stderr":
        return np.ones(rows.height)
    errors = f"{fit.target}_stderr"
    s = rows[errors].to_numpy() * fit.scale.slope(rows[fit.target].to_numpy())
    found: Array = 1 / (s**2 + fit.options["tau"] ** 2) / dict(fit.runs or {})["unit"]
    return found


def _places(runs: Mapping[str, Any], logs: Array, later: Array) -> tuple[Array, Array]:
    """Where rows and points ahead stand, along what errors are correlated."""
    if runs["along"] == "log tokens":
        return logs, later
    own = np.arange(len(logs)).astype(float)
    last = logs[-1] - logs[-2] if len(logs) > 1 else math.inf
    place: Array = np.interp(later, logs, own) + np.maximum(later - logs[-1], 0.0) / last
    return own, place


def _correlation(runs: Mapping[str, Any], distance: Array) -> Array:
    if runs["length"] == 0:
        return np.where(distance == 0, 1.0, 0.0)
    found: Array = np.exp(-np.abs(distance) / runs["length"])
    return found


def _slopes(fit: Fit, columns: Mapping[str, Any], losses: Array) -> Array:
    """Derivatives of the places of losses by the parameters of the covariance, (p, m)."""
    slopes = fit.law.gradient(
        {n: float(p.estimate or 0.0) for n, p in fit.parameters.items()}, columns
    )
    names: Sequence[str] = fit.covariance["names"] if fit.covariance else ()
    rows = [np.broadcast_to(slopes[n], losses.shape) for n in names]
    found: Array = np.stack(rows) if rows else np.zeros((0, len(losses)))
    return found * fit.scale.slope(losses)
