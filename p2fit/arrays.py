"""Arrays, as p2fit types them, and numbers as JSON has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Index = np.ndarray[Any, np.dtype[np.int64]]


def finite(value: Any) -> float | None:
    """The number, or None where it is none."""
    return float(value) if value is not None and math.isfinite(value) else None
