"""Many refits of one problem from one point, each on losses or weights of its own.

By the batched kernel of :mod:`p2fit.solver.least_squares`; where that would take long and JAX is
installed, by the same compiled, on all cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any, Literal

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.solver.least_squares import Minimum, minimise
from p2fit.solver.problem import Problem

#: Evaluations of the objective x rows x variables from which on JAX saves more than it takes to
#: import and to compile; benchmarks/README.md has the measurements.
PAYS = 2e8

_CELLS = 1 << 13  # refits x rows at once: what fits into the cache is fastest
_COMPILED = 1 << 11  # of a compiled batch, which takes as many steps as its slowest refit
_MEMORY = 1 << 22  # rows in all threads: of each, JAX holds some 40 numbers


class Refits:
    """Refits of a problem from a point. Each depends on its own data alone, but for rounding."""

    def __init__(self, problem: Problem, start: Array) -> None:
        """
        Args:
            start: where each begins, shape (p,).
        """
        self.problem, self.start = problem, start
        self._compiled: Callable[[Array, Array, Array, float], Minimum] | None = None

    @property
    def engine(self) -> Literal["numpy", "jax"]:
        """What does them, but for the first ones."""
        return "numpy" if self._compiled is None else "jax"

    def __call__(
        self,
        count: int,
        data: Callable[[Index], dict[str, Any]],
        *,
        damping: float = 0.1,
        progress: Callable[[int, int], None] | None = None,
    ) -> Minimum:
        """Where they end.

        Args:
            data: ``y`` or ``weights``, (b, n), of refits by their numbers, (b,); threads may call
                it, and more than once for a number.
            damping: of the first step; less is faster where the start is near the minima.
            progress: called with the number of refits done and in all.
        """
        problem, n = self.problem, len(self.problem.y)
        size, batch = (max(1, cells // n) for cells in (_CELLS, _COMPILED))

        def by_numpy(numbers: Index) -> Minimum:
            start = np.repeat(self.start[None], len(numbers), axis=0)
            return minimise(problem, start, **data(numbers), damping=damping)

        def by_jax(numbers: Index) -> Minimum:
            assert self._compiled is not None
            # The last one again and again, to fill the batch.
            full = np.minimum(np.arange(batch), len(numbers) - 1)
            with np.errstate(all="ignore"):  # is a thread's own
                own = {"y": problem.y, "weights": problem.weights, **data(numbers)}
            y, weights = (np.broadcast_to(v, (len(numbers), n))[full] for v in own.values())
            found = self._compiled(self.start, y, weights, damping)
            return Minimum(*(v[: len(numbers)] for v in vars(found).values()))

        head = np.arange(min(count, size))
        first = by_numpy(head)
        work = float(first.tried.mean()) * (count - len(head)) * n * len(self.start)
        if self._compiled is None and problem.effects is None and work >= PAYS:
            from p2fit.solver.compiled import refitting

            with suppress(ImportError, RuntimeError):  # JAX is not there, or not whole
                self._compiled = refitting(problem, batch)
        refit, each = (by_numpy, size) if self._compiled is None else (by_jax, batch)
        rest = [np.arange(i, min(i + each, count)) for i in range(len(head), count, each)]
        pool = ThreadPoolExecutor(min(_processors(), max(1, _MEMORY // n)))
        ends = []
        try:
            mapped = (map if self._compiled is None else pool.map)(refit, rest)
            for part, end in zip([head, *rest], chain([first], mapped)):
                ends.append(end)
                if progress is not None:
                    progress(int(part[-1]) + 1, count)
        finally:
            pool.shutdown(cancel_futures=True)
        found = Minimum.joined(*ends)
        if self._compiled is not None:  # NumPy begins anew with what did not converge
            left = np.flatnonzero(found.converged == 0)
            for numbers in (left[i : i + size] for i in range(0, len(left), size)):
                for own, v in zip(vars(found).values(), vars(by_numpy(numbers)).values()):
                    own[numbers] = v
        return found


def _processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
