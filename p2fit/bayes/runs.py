"""What the rows of a run share: a level and a rate of their run, and errors that follow each other.

The residuals of a run are Z u + e: its own level and rate u, normal over runs, and errors e whose
correlation falls with the distance along the run. This is the model that least squares has
(:mod:`p2fit.solver.effects`), with every variance a parameter. Whitening is a difference of
neighbours, and u has two entries at most, so all of it is linear in the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from p2fit.arrays import Array, Index, median
from p2fit.bayes.functions import NUMPY
from p2fit.solver.effects import Along

_CLOSEST = 1e-4  # distance of neighbours, in lengths, at least: they correlate by 0.9999 at most

#: Rows of a run, from which a rate and a correlation can be told.
CURVE = 4


class Whitened(NamedTuple):
    """Residuals as independent coordinates, in units of a row's error."""

    rows: Any
    """Without their run's effects, shape (…, n)."""
    effects: list[Any]
    """What the rows say of each effect, in units of its spread, each of shape (…, runs)."""
    log_size: Any
    """Log of the determinant of the covariance of each run, shape (…, runs)."""


@dataclass(frozen=True, eq=False)
class Runs:
    """How the rows of a posterior are correlated."""

    run: Index
    """Run of each row, ascending from 0 without gaps, shape (n,)."""
    place: Array
    """Where each row stands along its run, rising within it, shape (n,)."""
    logs: Array | None
    """Log of the tokens from the mean of the run, shape (n,); None: runs differ in level only."""
    excess: bool
    """Whether runs differ in proportion to the loss above base_loss."""
    along: Along | None
    """Along what errors are correlated; None: they are not."""
    gap: float
    """Typical distance of neighbours."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of what they add to the posterior's variables."""
        rate, length = self.logs is not None, self.along is not None
        return ("tau", *(["rate"] if rate else []), *(["length"] if length else []))

    @cached_property
    def starts(self) -> Index:
        """First row of each run, shape (runs,)."""
        return np.flatnonzero(np.diff(self.run, prepend=-1))

    @cached_property
    def counts(self) -> Array:
        """Rows of each run, shape (runs,)."""
        return np.bincount(self.run).astype(float)

    @cached_property
    def width(self) -> float:
        """Of a run in log tokens, root mean square."""
        return 0.0 if self.logs is None else float(np.sqrt(np.mean(self.logs**2)))

    @cached_property
    def _inner(self) -> Array:
        """1 where a row has one before it in its run, else 0."""
        inner = np.ones(len(self.run))
        inner[self.starts] = 0.0
        return inner

    def _near(self, noise: Mapping[str, Any], xp: Any) -> tuple[Any, Any]:
        """Correlation of each row's error with that before, and what is left of its variance."""
        if self.along is None:
            return 0.0 * self._inner, 0.0 * self._inner + 1.0
        gaps = np.diff(self.place, prepend=self.place[0]) * self._inner
        distance = xp.maximum(gaps / noise["length"], _CLOSEST)
        left = 1.0 - self._inner - self._inner * xp.expm1(-2 * distance)
        return self._inner * xp.exp(-distance), left

    def whitened(
        self, r: Any, level: Any, sigma: Any, noise: Mapping[str, Any], xp: Any = NUMPY
    ) -> Whitened:
        """Residuals (…, n) in independent coordinates.

        Args:
            level: what one unit of a run's level moves the residuals by, shape (…, n).
            sigma: of each row's error, shape (…, n) or (…, 1).
            noise: ``tau`` and the rest of ``names``, each of shape (…, 1).
        """
        near, left = self._near(noise, xp)

        def flat(x: Any) -> Any:
            x = x / sigma
            return (x - near * xp.concatenate([x[..., :1], x[..., :-1]], axis=-1)) / xp.sqrt(left)

        def sums(x: Any) -> Any:
            return xp.sums(x, self.run, self.starts)

        def spread(x: Any) -> Any:
            return xp.spread(x, self.run, self.starts)

        rows, each = flat(r), 2 * xp.log(sigma) + xp.log(left)
        one = flat(level * noise["tau"])
        a, p = 1 + sums(one * one), sums(one * rows)
        if self.logs is None:
            u = p / a
            return Whitened(rows - one * spread(u), [u], sums(each) + xp.log(a))
        two = flat(level * self.logs * noise["rate"])
        b, d, q = sums(one * two), 1 + sums(two * two), sums(two * rows)
        rest = d - b * b / a
        v = (q - b * p / a) / rest
        u = (p - b * v) / a
        rows = rows - one * spread(u) - two * spread(v)
        return Whitened(rows, [u, v], sums(each) + xp.log(a) + xp.log(rest))

    def draw(
        self, level: Array, sigma: Any, noise: Mapping[str, Any], rng: np.random.Generator
    ) -> Array:
        """Normal residuals of the model, shape (…, n), for arguments as those of ``whitened``."""
        near, left = self._near(noise, NUMPY)
        found: Array = rng.standard_normal(level.shape) * np.sqrt(left)
        for i in range(1, found.shape[-1]):  # each row needs the one before
            found[..., i] += near[..., i] * found[..., i - 1]
        found = found * sigma
        runs = (*level.shape[:-1], len(self.starts))
        found += level * noise["tau"] * rng.standard_normal(runs)[..., self.run]
        if self.logs is not None:
            rates = noise["rate"] * rng.standard_normal(runs)[..., self.run]
            found += level * self.logs * rates
        return found

    def rows(self, index: Index) -> Runs:
        """The same on some of the rows."""
        return replace(
            self,
            run=np.unique(self.run[index], return_inverse=True)[1],
            place=self.place[index],
            logs=None if self.logs is None else self.logs[index],
        )


def runs_of(
    frame: pl.DataFrame, unit: str, *, excess: bool, along: Along | None = None
) -> Runs | None:
    """What rows may share; None where each is a unit of its own.

    Args:
        unit: column of what is independent of each other: the rows of one value in one block.
        excess: whether runs differ in proportion to the loss above base_loss.
        along: along what errors are correlated, where that is known; None: the logs of the tokens
            where there are any.
    """
    names = frame[unit].cast(pl.String).to_numpy()
    run = np.concatenate([[0], np.cumsum(names[1:] != names[:-1])]).astype(int)
    if run[-1] + 1 == len(run):
        return None
    counts = np.bincount(run)
    tokens = None
    if "tokens" in frame.columns and not frame["tokens"].null_count():
        tokens = frame["tokens"].to_numpy().astype(float)
    curves = unit == "run" and median(counts.astype(float)) >= CURVE
    if not curves or tokens is None or tokens.min() <= 0:
        logs, along = None, "rows" if curves else None
    else:
        logs = np.log(tokens)
        along = along or "log tokens"
    place = np.arange(len(run)).astype(float)
    if logs is not None:
        place = logs if along == "log tokens" else place
        logs = logs - (np.bincount(run, logs) / counts)[run]
    gaps = np.diff(place)[np.diff(run) == 0]
    return Runs(run, place, logs, excess, along, max(median(gaps), math.ulp(1.0)))
