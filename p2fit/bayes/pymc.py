"""The same posterior as a PyMC model: to extend, or to draw from by other samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    import pytensor.tensor as pt

    with pm.Model(coords={"variable": posterior.names}) as model:
        x = pm.Flat("x", dims="variable")
        pm.Potential("log_density", posterior.log_density(x, pt))
    return model
