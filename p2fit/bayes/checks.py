"""Whether the rows of runs look as the posterior predicts: a check along the runs.

What the posterior makes independent is compared with the same of rows drawn from it, at the same
parameters (Gelman, Meng & Stern 1996). Two things are looked at: whether neighbours are still
correlated, and whether all runs go off the law together, at their start, at their end or in a bend.
A noise model that is wrong along the runs fails the first, a law that is wrong there the second.
"""

from __future__ import annotations

import numpy as np

from p2fit.arrays import Array, median
from p2fit.bayes.posterior import Posterior
from p2fit.bayes.runs import CURVE, Runs, Whitened

_DRAWS = 2000  # of the posterior
_STEP = 1e-4  # of a difference of x
_KNOWN = 1e-3  # of a shape's size that the law cannot take, at least


def along_runs(posterior: Posterior, x: Array, seed: int = 0) -> dict[str, float] | None:
    """How rarely rows drawn from the posterior are as odd as those observed: shares of draws for
    the ``correlation`` of neighbours (twice the rarer side) and for a common ``shape``; None where
    runs are no curves.

    Args:
        x: draws from the posterior, shape (draws, d).
    """
    runs = posterior.runs
    if runs is None or median(runs.counts) < CURVE:
        return None
    rng = np.random.default_rng(seed)
    x = x[np.linspace(0, len(x) - 1, min(_DRAWS, len(x))).round().astype(int)]
    shapes, inner = _directions(posterior, runs, np.median(x, axis=0)), np.diff(runs.run) == 0

    def statistics(one: Whitened) -> Array:
        rows = one.rows
        near = (rows[..., 1:] * rows[..., :-1])[..., inner].sum(axis=-1)
        sizes = (_joined(one) @ shapes.T) ** 2
        largest = sizes.max(axis=-1, initial=0.0)
        found: Array = np.stack([near, largest], axis=-1) / (rows**2).sum(axis=-1)[..., None]
        return found

    def both(part: Array) -> Array:
        drawn = posterior.simulate(part, rng)
        found = [posterior.whitened(rows, part) for rows in (posterior.observed, drawn)]
        return np.stack([statistics(one) for one in found], axis=1)

    observed, drawn = np.moveaxis(posterior.in_batches(both, x), 1, 0)
    above = (drawn >= observed).mean(axis=0)
    return {"correlation": float(2 * min(above[0], 1 - above[0])), "shape": float(above[1])}


def _joined(one: Whitened) -> Array:
    found: Array = np.concatenate([one.rows, *one.effects], axis=-1)
    return found


def _directions(posterior: Posterior, runs: Runs, x: Array) -> Array:
    """Unit vectors of shapes along the runs, without what the law's parameters can do, in the
    coordinates at x (d,); shape (at most 3, coordinates)."""
    p = len(posterior.problem.names)
    fitted, scale = posterior.fitted(x), posterior.problem.scale
    steps = x + _STEP * np.eye(len(x))[:p]
    places = np.concatenate([scale.to(posterior.fitted(steps)), scale.to(fitted)[None]])
    last = runs.starts + runs.counts.astype(int) - 1
    logs = np.log(1 + runs.place - runs.place[runs.starts][runs.run])
    if runs.logs is not None:
        logs = runs.logs
    share = np.exp(logs - logs[last][runs.run])
    middle = (np.bincount(runs.run, logs) / runs.counts)[runs.run]
    shapes = np.stack([np.exp(-10 * share), share**4, (logs - middle) ** 2])
    shapes = shapes * posterior.level(fitted)
    moved = np.concatenate([(places[:-1] - places[-1]) / _STEP, shapes])
    moved = _joined(
        posterior.whitened(places[-1] + moved, np.broadcast_to(x, (len(moved), len(x))))
    )
    u, size, _ = np.linalg.svd(moved[:p].T, full_matrices=False)
    law = u[:, size > 1e-9 * size.max(initial=1e-300)]
    free = moved[p:] - (moved[p:] @ law) @ law.T
    kept = (free**2).sum(axis=1) > _KNOWN * (moved[p:] ** 2).sum(axis=1)
    found: Array = free[kept] / np.sqrt((free[kept] ** 2).sum(axis=1, keepdims=True))
    return found
