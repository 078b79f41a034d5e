"""The functions that densities are written with, for NumPy and for JAX.

PyTensor's are in :mod:`p2fit.bayes.pymc`.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

#: By their names in NumPy and in ``jax.numpy``.
SHARED = (
    *("arcsin", "arcsinh", "clip", "concatenate", "exp", "expm1", "log", "log1p", "maximum"),
    *("divide", "power", "sqrt", "stack", "tanh"),
)


def _gammaln(x: Any) -> Any:
    from scipy.special import gammaln

    return gammaln(x)


#: ``sums`` adds up the last axis over the rows of each run.
NUMPY = SimpleNamespace(
    gammaln=_gammaln,
    sums=lambda x, run, starts: np.add.reduceat(x, starts, axis=-1),
    **{name: getattr(np, name) for name in SHARED},
)


def jax_functions() -> Any:
    """The same of ``jax.numpy``."""
    import jax
    from jax import numpy as jnp

    def sums(x: Any, run: Any, starts: Any) -> Any:
        found = jax.ops.segment_sum(
            jnp.moveaxis(x, -1, 0), run, len(starts), indices_are_sorted=True
        )
        return jnp.moveaxis(found, 0, -1)

    return SimpleNamespace(
        gammaln=jax.scipy.special.gammaln,
        sums=sums,
        **{name: getattr(jnp, name) for name in SHARED},
    )
