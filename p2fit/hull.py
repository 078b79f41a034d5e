"""Which combinations of inputs the data are around: the convex hull of a design.

A grid with a missing corner has no data there, though each input by itself is within its range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from p2fit.arrays import Array

_DIRECTIONS = 256  # in which the outermost points are kept, beside the axes
_BLOCK = 1 << 16  # rows at once
_STEPS = 100
_NEAR = 0.01  # decades that are not outside


def corners(columns: Mapping[str, Array]) -> list[dict[str, float]] | None:
    """The outermost of a design's points, each as its inputs that vary; None below two of these."""
    varied = {x: v for x, v in columns.items() if v.min() < v.max()}
    if len(varied) < 2:
        return None
    ranges = {x: {"min": float(v.min()), "max": float(v.max())} for x, v in varied.items()}
    places = np.stack([_place(v, ranges[x]) for x, v in varied.items()], axis=1)
    # Evenly over a cube by multiples of irrational numbers (Weyl 1916).
    steps = np.sqrt(1 + np.arange(1, len(varied) + 1) / (len(varied) + np.pi))
    even = np.arange(1, _DIRECTIONS + 1)[:, None] * steps % 1 - 0.5
    axes = np.eye(len(varied))
    directions = np.concatenate([axes, -axes, even])
    kept = np.zeros(0, int)
    for start in range(0, len(places), _BLOCK):
        own = np.append(kept, np.arange(start, min(start + _BLOCK, len(places))))
        kept = np.array(sorted(set(own[np.argmax(directions @ places[own].T, axis=1)].tolist())))
    distinct = {tuple(places[i].tolist()): int(i) for i in reversed(kept)}
    return [{x: float(v[i]) for x, v in varied.items()} for i in sorted(distinct.values())]


def beyond(
    outermost: Sequence[Mapping[str, float]],
    ranges: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, Array],
) -> Array:
    """How far points (m,) are from the nearest combination of inputs that the data are around.

    In decades: lengths are of the logs of the inputs, or, where these reach 0, in units of the
    largest.

    Args:
        outermost: as :func:`corners` gives them.
        ranges: ``min`` and ``max`` of each input in the data.
        columns: the inputs at the points.
    """
    names = [x for x in outermost[0] if x in columns]
    known = np.stack(
        [_place(np.array([p[x] for p in outermost]), ranges[x]) for x in names], axis=1
    )
    asked = np.stack([_place(columns[x], ranges[x]) for x in names], axis=1)
    found = np.array([_distance(known - point) for point in asked])
    return np.where(found < _NEAR, 0.0, found)


def _place(values: Array, span: Mapping[str, Any]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        placed: Array = np.log10(values) if span["min"] > 0 else values / span["max"]
    return placed


def _distance(points: Array) -> float:
    """Distance of the origin from the convex hull of points (k, d).

    Source: Wolfe 1976, finding the nearest point in a polytope.
    """
    if not np.isfinite(points).all():
        return float("inf")
    active = [int(np.argmin((points**2).sum(axis=1)))]
    share = np.ones(1)
    nearest = points[active[0]]
    for _ in range(_STEPS):
        reach = points @ nearest
        best = int(np.argmin(reach))
        if nearest @ nearest - reach[best] <= 1e-12 or best in active:
            break
        active.append(best)
        share = np.append(share, 0.0)
        while True:
            own = points[active]
            system = np.ones((len(active) + 1, len(active) + 1))
            system[0, 0], system[1:, 1:] = 0.0, own @ own.T
            aim = np.linalg.lstsq(system, np.eye(len(system))[0], rcond=None)[0][1:]
            if (aim > 1e-12).all():
                share, nearest = aim, aim @ own
                break
            leaving = aim <= 1e-12
            step = float(np.min(share[leaving] / np.maximum(share - aim, 1e-300)[leaving]))
            share = share + min(step, 1.0) * (aim - share)
            kept = share > 1e-12
            kept &= ~(leaving & (share <= share[leaving].min()))
            active = [i for i, k in zip(active, kept) if k]
            share = share[kept] / share[kept].sum()
            nearest = share @ points[active]
    return float(np.sqrt(nearest @ nearest))
