"""The same posterior as a PyMC model: to extend, or to draw from by other samplers."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from p2fit.bayes.functions import SHARED
from p2fit.bayes.posterior import Posterior
from p2fit.extras import arviz

if TYPE_CHECKING:
    import pymc


def pymc_model(posterior: Posterior) -> pymc.Model:
    """The posterior as a PyMC model of one variable ``x``, shape (d,); see ``Posterior.names``.

    Its log density is ``Posterior.log_density`` on PyTensor; ``Posterior.natural`` turns draws of x
    into the parameters of the formula.
    """
    arviz()
    import pymc as pm
    import pytensor.tensor

    pt: Any = pytensor.tensor

    def sums(x: Any, run: Any, starts: Any) -> Any:
        return pt.dot(x, np.equal.outer(run, np.arange(len(starts))).astype(float))

    def spread(x: Any, run: Any, starts: Any) -> Any:
        return x[..., run]

    others = {"divide": operator.truediv, "power": operator.pow}
    names = {n: others.get(n) or getattr(pt, n) for n in SHARED}
    functions = SimpleNamespace(gammaln=pt.gammaln, sums=sums, spread=spread, **names)
    with pm.Model(coords={"variable": posterior.names}) as model:
        x = pm.Flat("x", dims="variable")
        pm.Potential("log_density", posterior.log_density(x, functions))
    return model
