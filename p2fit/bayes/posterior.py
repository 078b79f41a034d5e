"""The posterior of a law: one log density, written once for NumPy, JAX and PyTensor.

The noise is Student's t (or normal) in the log of the loss. The rows of a run share what
:class:`p2fit.bayes.runs.Runs` says, and one scale: Student's t is a mixture of normals, and its
scale is that of a whole run, so that the run's effects are integrated out in closed form and the
residuals of a run have a multivariate t. Rows that are runs of their own have the plain one. The
posterior has a handful of dimensions, whatever the number of runs: no funnel, and the likelihood of
a run is at hand for leaving it out. The law itself is in :mod:`p2fit.bayes.terms` where it is a sum
of monomials, in :mod:`p2fit.bayes.formulas` where it is any other formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.bayes.functions import HALF_LOG_2PI, NUMPY
from p2fit.bayes.priors import Prior
from p2fit.bayes.runs import Runs, Whitened
from p2fit.solver.problem import Problem

Noise = Literal["student-t", "normal"]

#: What the noise's variables are called.
NOISE = ("sigma", "nu", "tau", "rate", "length")

_CELLS = 1 << 18  # draws x rows evaluated at once


@dataclass(frozen=True)
class Posterior:
    """Prior times likelihood of one law on given rows. Made by :func:`p2fit.bayes.build.posterior`.

    Its variables x, shape (…, d), are unbounded: the logs of the sizes of the law's parts at the
    centre of the data, all other parameters (their logs where they are positive), and the logs of
    the noise's parameters.
    """

    problem: Problem
    """The law on the rows."""
    noise: Noise
    """``student-t`` or ``normal``."""
    priors: Mapping[str, Prior]
    """Of every free parameter and of those of :data:`NOISE` that are there. A default for a
    parameter of ``sized`` is for the size of its part (``own`` names those that are not)."""
    own: frozenset[str]
    """Parameters whose prior the user gave, in the formula's units."""
    errors: Array | None
    """Standard errors on the scale of the residuals, shape (n,), where they are known."""
    runs: Runs | None
    """What the rows of a run share; None: nothing."""
    observed: Array
    """What is predicted, on the scale of the residuals, shape (n,)."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of x: coefficients, exponents, those of the noise."""
        nu = ["nu"] if self.noise == "student-t" else []
        return (*self.problem.names, "sigma", *nu, *(self.runs.names if self.runs else ()))

    @property
    def unit(self) -> Index:
        """The run of each row, or a number of its own, ascending from 0, shape (n,)."""
        return np.arange(len(self.observed)) if self.runs is None else self.runs.run

    @property
    def sized(self) -> tuple[str, ...]:
        """Parameters whose x is the log of the size of a part of the law at the centre of the
        data, each after those that its size depends on."""
        raise NotImplementedError

    @property
    def terms(self) -> tuple[int, ...]:
        """Entries of x of the sizes of which the loss is made up."""
        raise NotImplementedError

    @property
    def shaping(self) -> Mapping[int, tuple[int, float]]:
        """Entry of x of each exponent that shapes one of the ``terms`` -> the entry of that term,
        and the spread over the rows of the logs that the exponent multiplies."""
        raise NotImplementedError

    @property
    def shared(self) -> Sequence[tuple[int, int, float]]:
        """Entry of x of the exponent of a factor that all ``terms`` share, an entry of ``shaping``,
        and how much of what the logs of the latter do those of the former do."""
        raise NotImplementedError

    def size_of(self, name: str, values: Mapping[str, Any], xp: Any) -> tuple[Any, Any]:
        """u and p such that x = u + p * log of a parameter of ``sized``.

        Args:
            values: of the parameters that it depends on, in the formula's units, shape (…).
        """
        raise NotImplementedError

    def fitted(self, x: Any, xp: Any = NUMPY) -> Any:
        """The law's loss, shape (…, n)."""
        raise NotImplementedError

    def log_mean(self, x: Any, xp: Any = NUMPY) -> Any:
        """The log of what ``terms`` add up to, at the mean over the rows, shape (…)."""
        raise NotImplementedError

    # ------------------------------------------------------------ the density

    def log_density(self, x: Any, xp: Any = NUMPY) -> Any:
        """Log density of the posterior but for a constant, shape (…), at x of shape (…, d), by the
        functions ``xp``: :data:`p2fit.bayes.functions.NUMPY` or the like."""
        return self.log_prior(x, xp) + self.log_likelihood(x, xp).sum(-1)

    @cached_property
    def _sized(self) -> frozenset[str]:
        return frozenset(self.sized)

    def is_size(self, name: str) -> bool:
        """Whether the prior of a parameter is for the size of its part of the law."""
        return name in self._sized and name not in self.own

    def log_prior(self, x: Any, xp: Any = NUMPY) -> Any:
        """Log density of the prior in x, shape (…)."""
        total: Any = 0.0
        values = self.values(x, xp) if self.own & self._sized else {}
        for i, name in enumerate(self.names):
            prior = self.priors[name]
            if self.is_size(name):
                total = total + prior.log_density(xp.exp(x[..., i]), xp) + x[..., i]
            elif name not in self._sized:
                total = total + prior.log_density(self._value(name, x[..., i], xp), xp)
                total = total + self._log_slope(name, x[..., i], xp)
            else:
                unit, power = self.size_of(name, values, xp)
                log = (x[..., i] - unit) / power
                total = total + prior.log_density(xp.exp(log), xp) + log - xp.log(power)
        return total

    def log_likelihood(self, x: Any, xp: Any = NUMPY) -> Any:
        """Of each run, what its rows share integrated out, (…, runs); without runs of each row."""
        own = self.whitened(self.observed, x, xp)
        if self.runs is None:
            square, count = own.rows**2, np.ones(1)
        else:
            square = xp.sums(own.rows**2, self.runs.run, self.runs.starts)
            square = square + sum(effect**2 for effect in own.effects)
            count = self.runs.counts
        if self.noise == "normal":
            return -0.5 * (square + own.log_size) - count * HALF_LOG_2PI
        nu = self._noise(x, xp)["nu"]
        half = (nu + count) / 2
        constant = xp.gammaln(half) - xp.gammaln(nu / 2) - 0.5 * count * xp.log(nu * math.pi)
        return constant - 0.5 * own.log_size - half * xp.log1p(square / nu)

    def whitened(self, observed: Any, x: Any, xp: Any = NUMPY) -> Whitened:
        """Residuals of what was observed, (…, n), in independent coordinates."""
        fitted, noise = self.fitted(x, xp), self._noise(x, xp)
        r, sigma = observed - self.problem.scale.to(fitted, xp), self._sigma(noise, xp)
        if self.runs is None:
            return Whitened(r / sigma, [], 2 * xp.log(sigma))
        return self.runs.whitened(r, self.level(fitted), sigma, noise, xp)

    def _noise(self, x: Any, xp: Any) -> dict[str, Any]:
        """The noise's parameters, each of shape (…, 1)."""
        first = len(self.problem.names)
        return {n: xp.exp(x[..., first + i, None]) for i, n in enumerate(self.names[first:])}

    def _sigma(self, noise: Mapping[str, Any], xp: Any) -> Any:
        """Of each row's error."""
        if self.errors is None:
            return noise["sigma"]
        return xp.sqrt(noise["sigma"] ** 2 + self.errors**2)

    def level(self, fitted: Any) -> Any:
        """What one unit of a run's level moves the residuals by, shape (…, n)."""
        if self.runs is not None and self.runs.excess:
            return 1 - self.problem.offset / fitted
        return np.ones(len(self.observed))

    # ------------------------------------------------------------ x and the parameters

    def values(self, x: Any, xp: Any = NUMPY) -> dict[str, Any]:
        """The free parameters in the formula's units, from x of shape (…, d)."""
        p = len(self.problem.names)
        entries = {n: x[..., i] for i, n in enumerate(self.names[:p])}
        found = {n: self._value(n, at, xp) for n, at in entries.items() if n not in self._sized}
        for name in self.sized:
            unit, power = self.size_of(name, found, xp)
            found[name] = xp.exp((entries[name] - unit) / power)
        return found

    def _value(self, name: str, x: Any, xp: Any) -> Any:
        """A parameter that is not sized, from its entry of x."""
        prior = self.priors[name]
        if prior.kind == "Uniform":
            low, high = prior.values
            return low + (high - low) / (1 + xp.exp(-x))
        return xp.exp(x) if self.logged(name) else x

    def _entry(self, name: str, value: Any) -> Any:
        """The inverse of ``_value``."""
        prior = self.priors[name]
        if prior.kind == "Uniform":
            return np.log((value - prior.values[0]) / (prior.values[1] - value))
        return np.log(value) if self.logged(name) else value

    def _log_slope(self, name: str, x: Any, xp: Any) -> Any:
        """log |d value / d x|."""
        prior = self.priors[name]
        if prior.kind == "Uniform":
            low, high = prior.values
            return math.log(high - low) - x - 2 * xp.log1p(xp.exp(-x))
        return x if self.logged(name) else 0.0

    def logged(self, name: str) -> bool:
        """Whether x holds the log: of what has no sign to choose."""
        law = self.problem.law
        return name not in law.exponents or law.ranges[name][0] >= 0 or self.priors[name].positive

    def plain(self, name: str) -> bool:
        """Whether x holds an exponent itself."""
        return not self.logged(name) and self.priors[name].kind != "Uniform"

    def at(self, z: Array, noise: Mapping[str, float]) -> Array:
        """x, shape (d,), at the solver's variables z, shape (p,), moved off the bounds."""
        typical = float(np.abs(self.problem.y).mean())
        with np.errstate(all="ignore"):
            values = {n: np.asarray(v) for n, v in self.problem.natural(z).items()}
            own = {n: values[n] for n in self.problem.names if n not in self._sized} | dict(noise)
        x = np.empty(len(self.names))
        for i, name in enumerate(self.names):
            prior = self.priors[name]
            if name in self._sized:
                continue
            value = float(own[name])
            if prior.kind == "Uniform":
                low, high = prior.values
                margin = 0.01 * (high - low)
                x[i] = self._entry(name, np.clip(value, low + margin, high - margin))
            elif prior.kind == "LogNormal" and name in self._inner:
                x[i] = self._likely(prior, math.log(max(value, 1e-300)))
            else:
                least = 1e-6 if name in noise else 0.02
                x[i] = self._entry(name, max(value, least) if self.logged(name) else value)
        inside = {n: self._value(n, x[i], NUMPY) for i, n in enumerate(self.names)}
        for name in self.sized:
            i = self.names.index(name)
            with np.errstate(all="ignore"):
                unit, power = self.size_of(name, inside, NUMPY)
                log = float(unit + power * np.log(values[name]))
            if i in self.terms:
                x[i] = max(log if log < math.inf else -math.inf, math.log(0.01 * typical))
            else:
                x[i] = self._likely(self.priors[name], log)
            inside[name] = np.exp((x[i] - unit) / power)
        return x

    @property
    def _inner(self) -> frozenset[str]:
        """Parameters that are neither coefficients nor powers."""
        return frozenset(self.problem.law.exponents) - self.problem.law.powers

    @staticmethod
    def _likely(prior: Prior, log: float) -> float:
        """A log within two standard deviations of a lognormal prior: searches end at 0, or far off,
        where the data say nothing."""
        mean, sd = prior.values
        return float(np.clip(log, mean - 2 * sd, mean + 2 * sd))

    def natural(self, x: Array) -> dict[str, Array]:
        """All parameters of the law, and those of the noise, from x of shape (…, d)."""
        p = len(self.problem.names)
        noise = {n: self._value(n, x[..., p + i], NUMPY) for i, n in enumerate(self.names[p:])}
        with np.errstate(all="ignore"):
            return {**self.problem.law.full(self.values(x)), **noise}

    def prior_draws(self, size: int, seed: int = 0) -> Array:
        """x drawn from the prior, shape (size, d)."""
        rng, sized = np.random.default_rng(seed), self._sized
        values = {n: self.priors[n].draw(rng, size) for n in self.names}
        for name in self.problem.law.exponents:
            if name not in sized and self.logged(name):  # a prior cut off at 0
                while np.any(bad := values[name] <= 0):
                    values[name][bad] = self.priors[name].draw(rng, int(bad.sum()))
        x = np.empty((size, len(self.names)))
        natural = {n: v for n, v in values.items() if n not in sized}
        for name in (*natural, *self.sized):
            i = self.names.index(name)
            if name in sized:
                unit, power = self.size_of(name, natural, NUMPY)
                if name in self.own:
                    natural[name] = np.abs(values[name])
                    x[:, i] = np.log(natural[name]) * power + unit
                else:
                    x[:, i] = np.log(values[name])
                    with np.errstate(all="ignore"):
                        natural[name] = np.exp((x[:, i] - unit) / power)
            else:
                x[:, i] = self._entry(name, values[name])
        return x

    def simulate(self, x: Array, rng: np.random.Generator) -> Array:
        """What would be observed, drawn at x of shape (…, d), on the scale of the residuals,
        shape (…, n)."""
        fitted, noise = self.fitted(x), self._noise(x, NUMPY)
        sigma = self._sigma(noise, NUMPY)
        if self.runs is None:
            away = sigma * rng.standard_normal(fitted.shape)
        else:
            level = np.broadcast_to(self.level(fitted), fitted.shape)
            away = self.runs.draw(level, sigma, noise, rng)
        if "nu" in noise:
            shape = (*fitted.shape[:-1], self.unit[-1] + 1)
            away /= np.sqrt(rng.chisquare(noise["nu"], shape) / noise["nu"])[..., self.unit]
        found: Array = self.problem.scale.to(fitted) + away
        return found

    def rows(self, index: Index) -> Self:
        """The same posterior, with the same priors and centre, on some of the rows."""
        return replace(
            self,
            problem=self.problem.rows(index),
            errors=None if self.errors is None else self.errors[index],
            runs=None if self.runs is None else self.runs.rows(index),
            observed=self.observed[index],
        )

    def in_batches(self, function: Any, x: Array) -> Array:
        """A method of this posterior at many x (draws, d), a memory's worth at a time."""
        step = max(1, _CELLS // len(self.observed))
        with np.errstate(all="ignore"):
            found: Array = np.concatenate(
                [function(x[i : i + step]) for i in range(0, len(x), step)]
            )
        return found


def part_of(one: Array, other: Array) -> float:
    """How much of ``other`` ``one`` is, by least squares, but for a constant; both (n,)."""
    one, other = one - one.mean(), other - other.mean()
    square = float(other @ other)
    return float(one @ other) / square if square else 0.0
