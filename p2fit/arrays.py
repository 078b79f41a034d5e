"""Arrays, as p2fit types them, and numbers as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Index = np.ndarray[Any, np.dtype[np.int64]]


def median(values: Array) -> float:
    """The median; np.median would import numpy.ma, and fitting is to start like a small tool."""
    n = len(values)
    middle = np.partition(values, [(n - 1) // 2, n // 2])
    return float(middle[(n - 1) // 2] + middle[n // 2]) / 2


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread. p2fit's matrices are long and narrow: more threads save no
    time, and where other work has the cores each waits for the last."""
    with _pools().limit(limits=1):
        yield


@cache
def _pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def finite(value: Any) -> float | None:
    """The number, or None where it is none."""
    return float(value) if value is not None and math.isfinite(value) else None
