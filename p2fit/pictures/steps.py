"""Colours for the values of a column that has an order."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.curves.points import merge_close_levels
from p2fit.pictures.colours import STEPS, is_log, spread
from p2fit.pictures.style import shown

_MOST = 8  # values with a colour each
_DRAWN = 6  # curves, where there are more values


class Steps:
    """Colours for the values of a column that has an order, and their words for a legend.

    Up to eight values have a colour each; of more, those that are nearly alike share one. Where
    that leaves too many, colours change steadily from the least value to the most, and some of the
    values are picked to have a curve.
    """

    def __init__(self, name: str, values: Array) -> None:
        self.name, distinct = name, np.unique(values)
        parts = np.split(distinct, len(distinct))
        if len(parts) > _MOST:
            parts = merge_close_levels(distinct)
        self.steady = len(parts) > _MOST
        self._log = self.steady and is_log(float(distinct[0]), float(distinct[-1]))
        self._ends = self._place(distinct[[0, -1]])
        if self.steady:
            low, high = self._ends.tolist()
            even = np.linspace(low, high, _DRAWN)
            near = np.abs(self._place(distinct) - even[:, None]).argmin(axis=1)
            parts = [distinct[[i]] for i in dict.fromkeys(near.tolist())]
        #: A value of the column for each of them.
        self.middles = [float(part[(len(part) - 1) // 2]) for part in parts]
        self._edges = np.array([part[0] for part in parts])
        each = spread(STEPS, len(parts))
        self.colours = self.tints(np.array(self.middles)) if self.steady else each
        self.words = [
            "–".join(dict.fromkeys(shown(name, float(end)) for end in (part[0], part[-1])))
            for part in parts
        ]

    def _place(self, values: Array) -> Array:
        found: Array = np.log(values) if self._log else np.asarray(values, float)
        return found

    def of(self, values: Array) -> Any:
        """The group of each value; with steady colours, the nearest of those picked."""
        if self.steady:
            away = np.abs(self._place(values)[:, None] - self._place(np.array(self.middles)))
            return away.argmin(axis=1)
        return np.searchsorted(self._edges, values, side="right") - 1

    def tints(self, values: Array) -> list[str]:
        """The colour of each value."""
        if not self.steady:
            return [self.colours[i] for i in self.of(values)]
        low, high = self._ends
        share = (self._place(values) - low) / (high - low)
        return [STEPS[i] for i in (share * (len(STEPS) - 1)).round().astype(int)]
