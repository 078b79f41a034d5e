"""Numbers that follow from a fit, as sure as the fit is.

Whatever is worked out from the parameters, a token budget or an optimal size, is worked out for
the estimates, for every draw of ``Fit.draws`` and for every equally good set of parameters. Its
interval is then made of quantiles over the draws, its range of the extremes over the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.arrays import Array, finite
from p2fit.fit import Fit
from p2fit.hull import beyond

Parameters = Mapping[str, Array]


@dataclass(frozen=True)
class Quantity:
    """A number with its interval. What is out of reach is infinite."""

    value: float
    """At the estimates."""
    interval: tuple[float, float] | None = None
    """95 % interval, from quantiles over the draws; None where the fit has no draws."""
    range: tuple[float, float] | None = None
    """Least and most over parameters that fit equally well; None where all are determined."""
    reached: float | None = None
    """Share of the draws in which it is finite; None without draws."""

    def scaled(self, factor: float) -> Quantity:
        """The quantity times a number above 0."""

        def times(ends: tuple[float, float] | None) -> tuple[float, float] | None:
            return ends and (ends[0] * factor, ends[1] * factor)

        return Quantity(self.value * factor, times(self.interval), times(self.range), self.reached)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no finite number."""
        return {
            "value": finite(self.value),
            "interval": self.interval and [finite(end) for end in self.interval],
            "range": self.range and [finite(end) for end in self.range],
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Spread:
    """A function of the parameters, at the estimates and as far as these are unsure."""

    value: Array
    """At the estimates, any shape."""
    draws: Array | None
    """At each draw, shape (draws, ...); None where the fit has none."""
    members: Array | None
    """At each set of equally good parameters, shape (sets, ...); None where all is determined."""
    few: float
    """By how much percentiles are taken further from the estimate (see ``Fit.bootstrap``)."""

    def quantity(self, *index: int) -> Quantity:
        """One entry."""
        each: Any = (slice(None), *index)
        value = float(self.value[index])
        interval, reached, extremes = None, None, None
        if self.draws is not None:
            own = self.draws[each]
            own = np.sort(own[~np.isnan(own)])
            if len(own):
                # By position: between a number and infinity there is nothing to interpolate.
                low, high = (float(own[round(q * (len(own) - 1))]) for q in (0.025, 0.975))
                interval = self._further(value, low), self._further(value, high)
                reached = float(np.isfinite(own).mean())
        if self.members is not None:
            other = self.members[each]
            other = np.append(other[~np.isnan(other)], value)
            extremes = float(other.min()), float(other.max())
        return Quantity(value, interval, extremes, reached)

    def _further(self, value: float, end: float) -> float:
        if not (0 < value < math.inf and 0 < end < math.inf):
            return end
        return float(value * (end / value) ** self.few)


def spread(fit: Fit, function: Callable[[Parameters], Array]) -> Spread:
    """A function of the parameters, over all that the fit holds possible.

    Args:
        function: from all parameters by name, each of shape (S,), to an array of shape (S, ...).

    Raises:
        LawError: a parameter has no finite value.
    """
    estimates = fit.estimates()
    draws = fit.draws()
    members = [m for m in fit.equally_good if None not in m.values()]
    each = {
        n: np.concatenate(
            [[v], draws[n] if draws is not None else [], [float(m[n] or 0) for m in members]]
        )
        for n, v in estimates.items()
    }
    with np.errstate(all="ignore"):
        found = function(each)
    last = len(found) - len(members)
    return Spread(
        value=found[0],
        draws=found[1:last] if draws is not None else None,
        members=found[last:] if members else None,
        few=fit.bootstrap["few"] if fit.bootstrap is not None else 1.0,
    )


def open_parameters(fit: Fit) -> str:
    """The parameters that the data leave open, in groups that cannot be told apart."""
    return "; ".join(", ".join(u["parameters"]) for u in fit.identification["undetermined"])


def decades_outside(fit: Fit, columns: Mapping[str, Any]) -> dict[str, Array]:
    """How far outside the fitted range each input is, in decades: below it negative, within 0.

    ``together``, where all are within it: how far from the nearest combination of them that the
    data are around.
    """
    found: dict[str, Array] = {}
    for x, span in fit.data["range"].items():
        if x in columns:
            value = np.asarray(columns[x], float)
            with np.errstate(divide="ignore", invalid="ignore"):
                above = np.log10(value / span["max"])
                below = np.log10(value / span["min"])
            found[x] = np.where(
                value > span["max"], above, np.where(value < span["min"], below, 0.0)
            )
    outermost = fit.data["corners"]
    if outermost is not None and found and set(outermost[0]) <= set(found):
        ranges = fit.data["range"]
        values = np.broadcast_arrays(*(np.asarray(columns[x], float) for x in found))
        within = ~np.any([v != 0 for v in np.broadcast_arrays(*found.values())], axis=0)
        flat = {x: v[within] for x, v in zip(found, values)}
        together = np.zeros(within.shape)
        together[within] = beyond(outermost, ranges, flat)
        found["together"] = together
    return found
