"""A law in a posterior, at one point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from p2fit.arrays import Array


class NaturalParameter(NamedTuple):
    """The log of a parameter whose prior is for itself and not for its size, at one x."""

    log: float
    by: Array
    """Derivative by x, shape (p,)."""
    power: float
    """d x / d log."""
    power_by: Array
    """Derivative of ``power`` by x, shape (p,)."""


class Surface(NamedTuple):
    """A law at one x."""

    fitted: Array
    """Losses, shape (n,)."""
    back: Callable[[Array], Array]
    """From derivatives by the losses, (n,), to derivatives by x, (p,)."""
    own: Mapping[str, NaturalParameter]
    """Those of the ``sized`` whose prior the user gave."""
