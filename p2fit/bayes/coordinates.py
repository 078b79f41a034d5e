"""Coordinates in which the posterior of a law is nearly normal.

What curves determine well is what the terms add up to on average and how steeply each falls; what
they often leave open is how a slope splits into a size and an exponent, and which term is the
constant. In the logs of sizes and exponents the ridge of equal fits is sharply curved. Here it is
nearly straight: the mean of the total over the rows, its shares by stick-breaking (the term that
the data know best first), and in place of an exponent how far its term falls over the rows, as if
they were half at either end: share * sinh(h * exponent), h being the spread of the logs. The
exponent of a factor that all terms share is moved by what single terms fall besides, so that it
stands for the slope of the total. Of all this only the sinh has a Jacobian other than 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.bayes.functions import NUMPY
from p2fit.bayes.posterior import Posterior


@dataclass(frozen=True)
class Coordinates:
    """A map between the posterior's x and w, both of shape (…, d)."""

    posterior: Posterior
    """Whose x."""
    order: tuple[int, ...]
    """The posterior's ``terms`` in the order in which their shares are broken off, the last two
    together; empty: w is x."""

    def x(self, w: Any, xp: Any = NUMPY) -> Any:
        """From w to x."""
        entries = [w[..., i] for i in range(len(self.posterior.names))]
        if not self.order:
            return w
        shares = self._shares([entries[i] for i in self.order], xp)
        for j, i, part in self.posterior.shared:
            entries[j] = entries[j] - part * xp.exp(w[..., i])
        for i, (g, h) in self.posterior.shaping.items():
            entries[i] = xp.log(xp.arcsinh(h * xp.exp(entries[i] - shares[g])) / h)
        for g, share in shares.items():
            entries[g] = share
        total = w[..., self.order[0]] - self.posterior.log_mean(xp.stack(entries, axis=-1), xp)
        for g in shares:
            entries[g] = entries[g] + total
        return xp.stack(entries, axis=-1)

    def w(self, x: Array) -> Array:
        """From x to w."""
        if not self.order:
            return x
        w = x.copy()
        whole = np.logaddexp.reduce(x[..., list(self.order)], axis=-1)
        for i, (g, h) in self.posterior.shaping.items():
            w[..., i] = np.log(np.sinh(h * np.exp(x[..., i])) / h) + x[..., g] - whole
        for j, i, part in self.posterior.shared:
            w[..., j] += part * np.exp(w[..., i])
        w[..., self.order[0]] = self.posterior.log_mean(x)
        for place, g in enumerate(self.order[:-1]):
            rest = np.logaddexp.reduce(x[..., list(self.order[place + 1 :])], axis=-1)
            w[..., self.order[place + 1]] = x[..., g] - rest
        return w

    def density(self, w: Any, xp: Any = NUMPY) -> Any:
        """Log density of w, shape (…, d), with the Jacobian."""
        x = self.x(w, xp)
        found = self.posterior.log_density(x, xp)
        for i, (_, h) in self.posterior.shaping.items() if self.order else ():
            a = h * xp.exp(x[..., i])
            found = found + xp.log(xp.tanh(a) / a)
        return found

    def log_density(self, w: Array) -> Array:
        """The same of many w, (m, d); -inf where it is not finite."""
        found = self.posterior.in_batches(self.density, w)
        usable: Array = np.where(np.isfinite(found), found, -np.inf)
        return usable

    def _shares(self, w: list[Any], xp: Any) -> dict[int, Any]:
        """Log shares by coefficient, from the total (left alone) and the logits of the sticks."""
        shares, left = {}, 0.0
        for g, logit in zip(self.order[:-1], w[1:]):
            shares[g] = left - _softplus(-logit, xp)
            left = left - _softplus(logit, xp)
        shares[self.order[-1]] = left + 0.0 * w[0]
        return shares


def _softplus(x: Any, xp: Any) -> Any:
    return xp.log1p(xp.exp(-abs(x))) + (x + abs(x)) / 2
