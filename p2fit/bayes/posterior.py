"""The posterior of a law: one log density, written once for NumPy and for PyTensor.

The noise is Student's t (or normal) in the log of the loss; the points of a run share an offset,
normal over runs, which is integrated out by a sum over points around its mode. The posterior has a
handful of dimensions, whatever the number of runs: no funnel, and the likelihood of a run is at
hand for leaving it out. The law itself is in :mod:`p2fit.bayes.terms` where it is a sum of
monomials, in :mod:`p2fit.bayes.formulas` where it is any other formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.bayes.functions import HALF_LOG_2PI, NODES, NUMPY, SCALAR, STEP, digamma, gammaln, nodes
from p2fit.bayes.priors import Prior
from p2fit.bayes.surface import Surface
from p2fit.solver.problem import Problem

Noise = Literal["student-t", "normal"]

_CELLS = 1 << 20  # draws x rows x nodes evaluated at once


@dataclass(frozen=True)
class Posterior:
    """Prior times likelihood of one law on given rows. Made by :func:`posterior`.

    Its variables x, shape (…, d), are unbounded: the logs of the sizes of the law's parts at the
    centre of the data, all other parameters (their logs where they are positive), and the logs of
    the noise's parameters.
    """

    problem: Problem
    """The law on the rows."""
    noise: Noise
    """``student-t`` or ``normal``."""
    priors: Mapping[str, Prior]
    """Of every free parameter and of ``sigma``, ``nu`` and ``tau`` where they are there. A default
    for a parameter of ``sized`` is for the size of its part (``own`` names those that are not)."""
    own: frozenset[str]
    """Parameters whose prior the user gave, in the formula's units."""
    errors: Array | None
    """Standard errors of the log losses, shape (n,), where they are known."""
    clusters: Index | None
    """Run of each row, ascending from 0, shape (n,); None: no offsets."""
    log_loss: Array
    """Observed, shape (n,)."""
    trust: Array
    """How much each row says about its run's offset, in (0, 1], shape (n,)."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of x: coefficients, exponents, ``sigma``, ``nu``, ``tau``."""
        extra = ["sigma"]
        extra += ["nu"] if self.noise == "student-t" else []
        extra += ["tau"] if self.clusters is not None else []
        return (*self.problem.names, *extra)

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

    def unit(self, name: str, values: Mapping[str, Any], xp: Any) -> tuple[Any, Any]:
        """u and p such that x = u + p * log of a parameter of ``sized``.

        Args:
            values: of the parameters that it depends on, in the formula's units, shape (…).
        """
        raise NotImplementedError

    def fitted(self, x: Any, xp: Any = None) -> Any:
        """The law's loss, shape (…, n)."""
        raise NotImplementedError

    def surface(self, x: Array, v: Array, along: Array) -> Surface:
        """The law's loss at one x in NumPy, and the way back to the parameters.

        Args:
            v: the sizes as in x, all other parameters in the formula's units, shape (p,).
            along: derivative of v by x, shape (p,).
        """
        raise NotImplementedError

    def log_mean(self, x: Any, xp: Any = None) -> Any:
        """The log of what ``terms`` add up to, at the mean over the rows, shape (…)."""
        raise NotImplementedError

    def log_mean_slope(self, x: Array) -> Array:
        """Its derivative at one x, shape (d,)."""
        raise NotImplementedError

    @cached_property
    def _starts(self) -> Index:
        """The first row of each run."""
        assert self.clusters is not None
        return np.flatnonzero(np.diff(self.clusters, prepend=-1))

    @cached_property
    def _membership(self) -> Array:
        """1 where a row is of a run, shape (n, runs)."""
        assert self.clusters is not None
        return np.equal.outer(self.clusters, np.arange(self.clusters[-1] + 1)).astype(float)

    # ------------------------------------------------------------ the density

    def log_density(self, x: Any, xp: Any = None) -> Any:
        """Log density of the posterior but for a constant, shape (…), at x of shape (…, d).

        Args:
            xp: where to compute: :data:`NUMPY` (the default) or ``pytensor.tensor``.
        """
        xp = xp or NUMPY
        return self.log_prior(x, xp) + self.log_likelihood(x, xp).sum(-1)

    def gradient(self, x: Array) -> tuple[float, Array]:
        """The log density at one x, shape (d,), and its gradient, shape (d,), in NumPy.

        The gradient of a run's likelihood is the mean of the gradients at its offset's nodes, by
        what each node contributes, and what the nodes' own places add. That is 0 for the integral
        (Fisher's identity), but not where 19 nodes are too few for it, in runs that the law fits
        badly; there the sampler would take no step without it, as heights and slopes disagree.
        """
        p = len(self.problem.names)
        total, slope, v, along = self._prior_gradient(x)
        surface = self.surface(x, v, along)
        for name, at in surface.own.items():
            prior, value = self.priors[name], math.exp(at.log)
            total += prior.log_density(value, SCALAR) + at.log - math.log(at.power)
            slope[:p] += (prior.slope(value) * value + 1) * at.by
            slope[:p] -= at.power_by / at.power
        fitted = surface.fitted
        r = self.log_loss - np.log(fitted)
        noise = dict(zip(self.names[p:], x[p:]))
        pure = math.exp(noise["sigma"])
        sigma = pure if self.errors is None else np.sqrt(pure**2 + self.errors**2)
        nu = math.exp(noise["nu"]) if "nu" in noise else None
        weights: Any = 1.0
        if self.clusters is not None:
            tau = math.exp(noise["tau"])
            precision, node = self.trust / sigma**2, nodes()[:, None]
            variance = 1 / (np.add.reduceat(precision, self._starts) + 1 / tau**2)
            centre = variance * np.add.reduceat(precision * r, self._starts)
            spread, raw = np.sqrt(variance), r
            offset = centre + node * spread
            r = r - offset[:, self.clusters]
        e2 = (r / sigma) ** 2
        if nu is None:
            pull: Any = 1.0
            point = -0.5 * e2 - np.log(sigma) - HALF_LOG_2PI
        else:
            logs = np.log1p(e2 / nu)
            pull = (nu + 1) / (nu + e2)
            half = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * math.log(nu * math.pi)
            point = half - np.log(sigma) - (nu + 1) / 2 * logs
        if self.clusters is None:
            total += point.sum()
        else:
            squares = (offset / tau) ** 2
            joint = np.add.reduceat(point, self._starts, axis=1)
            joint -= 0.5 * squares + math.log(tau) + HALF_LOG_2PI
            top = joint.max(axis=0)
            shares = np.exp(joint - top)
            whole = shares.sum(axis=0)
            total += (top + np.log(whole * STEP * spread)).sum()
            shares /= whole
            slope[-1] += ((squares - 1) * shares).sum()
            weights = shares[:, self.clusters]
        towards, away = pull * r / sigma**2, pull * weights * e2
        inside = 1.0 if self.errors is None else (pure / sigma) ** 2
        slope[p] += ((away - weights) * inside).sum()
        if nu is not None:
            count = len(fitted)
            mean = digamma((nu + 1) / 2) - digamma(nu / 2) - 1 / nu
            slope[p + 1] += nu / 2 * (count * mean + (away / nu - weights * logs).sum())
        if self.clusters is not None:
            moved = shares * (np.add.reduceat(towards, self._starts, axis=1) - offset / tau**2)
            by_centre, by_spread = moved.sum(axis=0), (moved * node).sum(axis=0) + 1 / spread
            heavy = np.add.reduceat(precision * inside, self._starts)
            pulled = np.add.reduceat(precision * inside * raw, self._starts)
            by_variance = spread**3 * by_spread
            slope[p] += (by_variance * heavy).sum()
            slope[p] += (2 * variance * by_centre * (centre * heavy - pulled)).sum()
            slope[-1] += (by_variance + 2 * variance * by_centre * centre).sum() / tau**2
            towards = (towards * weights).sum(axis=0)
            towards -= (by_centre * variance)[self.clusters] * precision
        slope[:p] += surface.back(towards / fitted)
        return float(total), slope

    def _prior_gradient(self, x: Array) -> tuple[float, Array, Array, Array]:
        """Log prior, without that of ``own`` sizes, and its gradient; v and its derivative by x."""
        p, sized = len(self.problem.names), self._sized
        total, slope = 0.0, np.zeros(len(x))
        v, along = x[:p].copy(), np.ones(p)
        for i, name in enumerate(self.names):
            prior, at = self.priors[name], float(x[i])
            if name in sized:
                if name not in self.own:
                    mean, sd = prior.values
                    total += -0.5 * ((at - mean) / sd) ** 2 - math.log(sd) - HALF_LOG_2PI
                    slope[i] += (mean - at) / sd**2
                continue
            if prior.kind == "Uniform":
                low, high = prior.values
                share = 1 / (1 + math.exp(-at))
                value, step = low + (high - low) * share, (high - low) * share * (1 - share)
                log_slope, curve = math.log(step), 1 - 2 * share
            elif self.logged(name):
                value = step = math.exp(at)
                log_slope, curve = at, 1.0
            else:
                value, step, log_slope, curve = at, 1.0, 0.0, 0.0
            total += prior.log_density(value, SCALAR) + log_slope
            slope[i] += prior.slope(value) * step + curve
            if i < p:
                v[i], along[i] = value, step
        return total, slope, v, along

    @cached_property
    def _sized(self) -> frozenset[str]:
        return frozenset(self.sized)

    def log_prior(self, x: Any, xp: Any = None) -> Any:
        """Log density of the prior in x, shape (…)."""
        xp, total = xp or NUMPY, 0.0
        values = self.values(x, xp) if self.own & self._sized else {}
        for i, name in enumerate(self.names):
            prior = self.priors[name]
            if name not in self._sized:
                total = total + prior.log_density(self._value(name, x[..., i], xp), xp)
                total = total + self._log_slope(name, x[..., i], xp)
            elif name not in self.own:  # the size itself
                total = total + prior.log_density(xp.exp(x[..., i]), xp) + x[..., i]
            else:
                unit, power = self.unit(name, values, xp)
                log = (x[..., i] - unit) / power
                total = total + prior.log_density(xp.exp(log), xp) + log - xp.log(power)
        return total

    def log_likelihood(self, x: Any, xp: Any = None) -> Any:
        """Of each run, its offset integrated out, (…, runs); without offsets of each row."""
        xp = xp or NUMPY
        r = self.log_loss - xp.log(self.fitted(x, xp))
        noise = dict(zip(self.names, (x[..., i, None] for i in range(len(self.names)))))
        sigma, nu = xp.exp(noise["sigma"]), None
        if "nu" in noise:
            nu = xp.exp(noise["nu"])
        if self.errors is not None:
            sigma = xp.sqrt(sigma**2 + self.errors**2)
        if self.clusters is None:
            return self._point(r, sigma, nu, xp)
        tau = xp.exp(noise["tau"])
        # Where the offset's posterior lies, as if it were normal: only to place the nodes.
        precision = self.trust / sigma**2
        spread = 1 / (xp.dot(precision, self._membership) + 1 / tau**2)
        centre = spread * xp.dot(precision * r, self._membership)
        spread = xp.sqrt(spread)
        terms = []
        for node in nodes():
            offset = centre + node * spread
            point = self._point(r - offset[..., self.clusters], sigma, nu, xp)
            own = -0.5 * (offset / tau) ** 2 - xp.log(tau) - HALF_LOG_2PI
            terms.append(own + xp.dot(point, self._membership))
        stacked = xp.stack(terms, axis=0)
        top = stacked.max(axis=0)
        return top + xp.log(xp.exp(stacked - top).sum(axis=0)) + xp.log(STEP * spread)

    def _point(self, r: Any, sigma: Any, nu: Any, xp: Any) -> Any:
        """Log density of residuals (…, n)."""
        if nu is None:
            return -0.5 * (r / sigma) ** 2 - xp.log(sigma) - HALF_LOG_2PI
        constant = xp.gammaln((nu + 1) / 2) - xp.gammaln(nu / 2) - 0.5 * xp.log(nu * math.pi)
        return constant - xp.log(sigma) - (nu + 1) / 2 * xp.log1p((r / sigma) ** 2 / nu)

    # ------------------------------------------------------------ x and the parameters

    def values(self, x: Any, xp: Any = None) -> dict[str, Any]:
        """The free parameters in the formula's units, from x of shape (…, d)."""
        xp, p = xp or NUMPY, len(self.problem.names)
        entries = {n: x[..., i] for i, n in enumerate(self.names[:p])}
        found = {n: self._value(n, at, xp) for n, at in entries.items() if n not in self._sized}
        for name in self.sized:
            unit, power = self.unit(name, found, xp)
            found[name] = xp.exp((entries[name] - unit) / power)
        return found

    def _value(self, name: str, x: Any, xp: Any) -> Any:
        """A parameter that is not sized, from its entry of x."""
        prior = self.priors[name]
        if prior.kind == "Uniform":
            low, high = prior.values
            return low + (high - low) / (1 + xp.exp(-x))
        return xp.exp(x) if self.logged(name) else x

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

    def at(self, z: Array, sigma: float, nu: float = 4.0, tau: float = 0.01) -> Array:
        """x, shape (d,), at the solver's variables z, shape (p,), moved off the bounds."""
        typical = float(np.exp(self.log_loss.mean()))
        with np.errstate(all="ignore"):
            values = {n: np.asarray(v) for n, v in self.problem.natural(z).items()}
            own = {n: values[n] for n in self.problem.names if n not in self._sized}
            own |= {"sigma": np.asarray(sigma), "nu": np.asarray(nu), "tau": np.asarray(tau)}
        x = np.empty(len(self.names))
        for i, name in enumerate(self.names):
            prior = self.priors[name]
            if name in self._sized:
                continue
            value = float(own[name])
            if prior.kind == "Uniform":
                low, high = prior.values
                share = np.clip((value - low) / (high - low), 0.01, 0.99)
                x[i] = math.log(share / (1 - share))
            elif prior.kind == "LogNormal" and name in self._inner:
                x[i] = self._likely(prior, math.log(max(value, 1e-300)))
            elif self.logged(name):
                x[i] = math.log(max(value, 1e-6 if name == "sigma" else 0.02))
            else:
                x[i] = value
        inside = {n: self._value(n, x[i], NUMPY) for i, n in enumerate(self.names)}
        for name in self.sized:
            i = self.names.index(name)
            with np.errstate(all="ignore"):
                unit, power = self.unit(name, inside, NUMPY)
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
            i, prior = self.names.index(name), self.priors[name]
            if name in sized:
                unit, power = self.unit(name, natural, NUMPY)
                if name in self.own:
                    natural[name] = np.abs(values[name])
                    x[:, i] = np.log(natural[name]) * power + unit
                else:
                    x[:, i] = np.log(values[name])
                    with np.errstate(all="ignore"):
                        natural[name] = np.exp((x[:, i] - unit) / power)
            elif prior.kind == "Uniform":
                low, high = prior.values
                share = (values[name] - low) / (high - low)
                x[:, i] = np.log(share / (1 - share))
            else:
                x[:, i] = np.log(values[name]) if self.logged(name) else values[name]
        return x

    def simulate(self, x: Array, rng: np.random.Generator) -> Array:
        """Log losses drawn at x (d,), shape (n,)."""
        values = {n: float(np.exp(x[i])) for i, n in enumerate(self.names)}
        n = len(self.log_loss)
        sigma = np.full(n, values["sigma"])
        if self.errors is not None:
            sigma = np.hypot(sigma, self.errors)
        draw = rng.standard_normal(n) if self.noise == "normal" else rng.standard_t(values["nu"], n)
        found: Array = np.log(self.fitted(x)) + sigma * draw
        if self.clusters is not None:
            found = (
                found + values["tau"] * rng.standard_normal(self.clusters[-1] + 1)[self.clusters]
            )
        return found

    def rows(self, index: Index) -> Self:
        """The same posterior, with the same priors and centre, on some of the rows."""
        clusters = self.clusters
        if clusters is not None:
            _, clusters = np.unique(clusters[index], return_inverse=True)
        return replace(
            self,
            problem=self.problem.rows(index),
            errors=None if self.errors is None else self.errors[index],
            clusters=clusters,
            log_loss=self.log_loss[index],
            trust=self.trust[index],
        )

    def in_batches(self, function: Any, x: Array) -> Array:
        """A method of this posterior at many x (draws, d), a memory's worth at a time."""
        cells = len(self.log_loss) * (NODES if self.clusters is not None else 1)
        step = max(1, _CELLS // cells)
        with np.errstate(all="ignore"):
            found: Array = np.concatenate(
                [function(x[i : i + step]) for i in range(0, len(x), step)]
            )
        return found
