"""Bayesian fits: the posterior of a law, by NUTS or by a Laplace approximation.

One log density is written for NumPy, JAX and PyTensor (:mod:`p2fit.bayes.posterior`); priors are
in :mod:`p2fit.bayes.priors`. Needs the extra ``bayes``.
"""
