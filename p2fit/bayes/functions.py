"""The functions that densities are written with."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from p2fit.arrays import Array

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def gammaln(x: Any) -> Any:
    from scipy.special import gammaln

    return gammaln(x)


def digamma(x: float) -> float:
    from scipy.special import psi

    return float(psi(x))


SCALAR = SimpleNamespace(log=math.log, log1p=math.log1p, exp=math.exp)

#: The functions that a density needs, by the names that ``pytensor.tensor`` gives them.
NUMPY = SimpleNamespace(
    arcsinh=np.arcsinh,
    dot=np.dot,
    exp=np.exp,
    gammaln=gammaln,
    log=np.log,
    log1p=np.log1p,
    sqrt=np.sqrt,
    stack=np.stack,
)


#: Points of the sum over a run's offset, and their distance in units of the offset's posterior sd.
NODES = 19
STEP = 0.75


def nodes() -> Array:
    """Where offsets are looked at, in units of their spread around their centre."""
    nodes: Array = STEP * (np.arange(NODES, dtype=float) - NODES // 2)
    return nodes
