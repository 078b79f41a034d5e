"""What the points of a run share: a level and a rate of their run, and errors that follow each
other.

The residuals of a run are taken for Z u + e: the run's own level and rate u, normal over runs, and
errors e whose correlation falls with the distance along the run. In that model a residual vector
is whitened, and then an ordinary sum over independent coordinates is minimised: one for every row,
and one for every effect of every run, so that a row or a whole run may be an outlier of its own.

All of it is linear in the rows. The errors are a first-order process, whose whitening is a
difference of neighbours; a run's effects have rank two at most, and the rest is a projection.

Source: Lindstrom & Bates 1990, nonlinear mixed effects by linearisation about the law.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from p2fit.arrays import Array, Index

#: Correlated along the logs of the tokens, or from one row to the next.
Along = Literal["log tokens", "rows"]

_CLOSEST = 0.9999  # correlation of neighbours, at most


@dataclass(frozen=True, eq=False)
class Effects:
    """The covariance of residuals, in units of the variance of a row's error."""

    run: Index
    """Run of each row, ascending from 0 without gaps, shape (n,)."""
    place: Array
    """Where each row stands along its run, rising within it, shape (n,)."""
    design: Array
    """What one unit of each effect moves the residuals by, shape (q, n)."""
    precision: Array
    """Weight of each row's error, shape (n,)."""
    spread: Array
    """Standard deviation of each effect over the runs, of that of a row's error, shape (q,)."""
    length: float
    """Of the places over which the correlation falls to 1/e; 0: errors are independent."""

    @cached_property
    def starts(self) -> Index:
        """First row of each run, shape (G,)."""
        return np.concatenate([[0], np.flatnonzero(np.diff(self.run)) + 1])

    @cached_property
    def near(self) -> Array:
        """Correlation of each row's error with that of the row before, shape (n,)."""
        near = np.zeros(len(self.run))
        if self.length > 0 and len(near) > 1:
            near[1:] = np.exp(-np.diff(self.place) / self.length)
            near[self.starts] = 0.0
        return np.minimum(near, _CLOSEST)

    @cached_property
    def stretch(self) -> Array:
        """What makes the difference of neighbours as large as a first row's error, shape (n,)."""
        stretch: Array = 1.0 / np.sqrt(1.0 - self.near**2)
        return stretch

    def decorrelated(self, x: Array) -> Array:
        """Rows (…, n) with independent errors of one variance; the runs' effects are in them."""
        x = x * np.sqrt(self.precision)
        out = x.copy()
        out[..., 1:] -= self.near[1:] * x[..., :-1]
        out *= self.stretch
        return out

    @cached_property
    def _projection(self) -> tuple[Array, Array]:
        """Orthonormal effects of each run, (q, n), and what whitening leaves of them, (q, G)."""
        q, groups = len(self.design), len(self.starts)
        basis = self.decorrelated(self.design) * self.spread[:, None]
        gram = np.empty((groups, q, q))
        for i in range(q):
            for j in range(i + 1):
                gram[:, i, j] = gram[:, j, i] = np.add.reduceat(basis[i] * basis[j], self.starts)
        values, vectors = np.linalg.eigh(gram)
        values = np.maximum(values, 0.0)
        kept = values > 1e-12 * values.max(axis=1, keepdims=True, initial=1e-300)
        vectors = vectors * np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)[:, None]
        turned = np.einsum("gij,ig->jg", vectors[self.run], basis) if q else basis
        return turned, (1.0 / np.sqrt(1.0 + values)).T

    def whitened(self, x: Array) -> Array:
        """Rows (…, n) as independent coordinates of one variance, (…, n + q G): the rows without
        their run's effects, then the first effect of each run, and so on."""
        turned, left = self._projection
        out = self.decorrelated(x)
        shares = [np.add.reduceat(out * own, self.starts, axis=-1) for own in turned]
        for own, share in zip(turned, shares):
            out = out - own * share[..., self.run]
        return np.concatenate([out, *(s * one for s, one in zip(shares, left))], axis=-1)

    def pulled(self, x: Array) -> Array:
        """The transpose: from coordinates (…, n + q G) to rows (…, n)."""
        turned, left = self._projection
        n, groups = len(self.run), len(self.starts)
        out = x[..., :n]
        back = out
        for k, own in enumerate(turned):
            share = x[..., n + k * groups : n + (k + 1) * groups] * left[k]
            share = share - np.add.reduceat(out * own, self.starts, axis=-1)
            back = back + own * share[..., self.run]
        back = back * self.stretch
        rows: Array = back.copy()
        rows[..., :-1] -= (self.near * back)[..., 1:]
        rows *= np.sqrt(self.precision)
        return rows

    def unwhitened(self, x: Array) -> Array:
        """The rows (…, n) whose whitening these coordinates are."""
        turned, left = self._projection
        n, groups = len(self.run), len(self.starts)
        out = x[..., :n]
        for k, own in enumerate(turned):
            share = x[..., n + k * groups : n + (k + 1) * groups] / left[k]
            out = out + own * share[..., self.run]
        out = out / self.stretch
        rows: Array = np.empty_like(out)
        for i in range(out.shape[-1]):  # each row needs the one before
            rows[..., i] = out[..., i] + (self.near[i] * rows[..., i - 1] if self.near[i] else 0.0)
        return rows / np.sqrt(self.precision)

    def extended(self, values: Any) -> Any:
        """Values of rows (…, n), the same for all of a run, for all coordinates."""
        own = values[..., self.starts]
        return np.concatenate([values, *([own] * len(self.design))], axis=-1)

    def rows(self, index: Any) -> Effects:
        """The same on some of the rows, in their order."""
        run = self.run[index]
        return replace(
            self,
            run=np.concatenate([[0], np.cumsum(run[1:] != run[:-1])]).astype(int),
            place=self.place[index],
            design=self.design[:, index],
            precision=self.precision[index],
        )

    def joined(self, count: int) -> Effects:
        """With further rows that share nothing with any."""
        last = int(self.run[-1]) + 1
        return replace(
            self,
            run=np.concatenate([self.run, last + np.arange(count)]),
            place=np.concatenate([self.place, np.zeros(count)]),
            design=np.concatenate([self.design, np.zeros((len(self.design), count))], axis=1),
            precision=np.concatenate([self.precision, np.ones(count)]),
        )
