"""The functions that densities are written with, for NumPy and for JAX.

PyTensor's are in :mod:`p2fit.bayes.pymc`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from p2fit.arrays import Index

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

#: By their names in NumPy and in ``jax.numpy``.
SHARED = (
    *("arcsin", "arcsinh", "clip", "concatenate", "exp", "expm1", "log", "log1p", "maximum"),
    *("divide", "power", "sqrt", "stack", "tanh"),
)


def _gammaln(x: Any) -> Any:
    from scipy.special import gammaln

    return gammaln(x)


#: ``sums`` adds up the last axis over the rows of each run, ``spread`` gives each row its run's.
NUMPY = SimpleNamespace(
    gammaln=_gammaln,
    sums=lambda x, run, starts: np.add.reduceat(x, starts, axis=-1),
    spread=lambda x, run, starts: x[..., run],
    **{name: getattr(np, name) for name in SHARED},
)


def jax_functions() -> Any:
    """The same of ``jax.numpy``, without a scatter, of which XLA makes no part of a kernel: of sums
    and what spreads them each is the other's derivative."""
    import jax
    from jax import numpy as jnp

    def added(x: Any, counts: Index) -> Any:
        usual, longest = math.ceil(counts.mean()), int(counts.max())
        if longest > usual:  # cut, so that three times as many are gathered at most
            pieces = -(-counts // usual)
            last = np.cumsum(pieces) - 1
            cut = np.full(pieces.sum(), usual)
            cut[last] = counts - usual * (pieces - 1)
            return added(added(x, cut), pieces)
        index = (np.cumsum(counts) - counts)[:, None] + np.arange(longest)
        there = np.arange(longest) < counts[:, None]
        return jnp.where(there, x[..., np.where(there, index, 0)], 0.0).sum(-1)

    def linear(forward: Callable[[Any], Any], back: Callable[[Any], Any]) -> Callable[[Any], Any]:
        function = jax.custom_vjp(forward)
        function.defvjp(lambda x: (forward(x), None), lambda _, slope: (back(slope),))
        return function

    def both(run: Index, starts: Index) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        counts = np.diff(starts, append=len(run))
        return lambda x: added(x, counts), lambda x: x[..., run]

    return SimpleNamespace(
        gammaln=jax.scipy.special.gammaln,
        sums=lambda x, run, starts: linear(*both(run, starts))(x),
        spread=lambda x, run, starts: linear(*reversed(both(run, starts)))(x),
        **{name: getattr(jnp, name) for name in SHARED},
    )
