"""How large the effects of runs are, and how their errors follow each other: from residuals.

By restricted maximum likelihood, which takes the law's own parameters into account, of residuals
linearised about the law; without what lies beyond Huber's threshold, so that no row and no run has
a say in it of more than that. The correlation falls along the logs of the tokens or from row to
row, whichever the residuals are more likely under; it, and a rate of each run, are in the model
where they raise twice the log likelihood by more than the number of what they add (Akaike 1974).

Source: Patterson & Thompson 1971 (REML); Huber 1981, proposal 2 (the threshold).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from p2fit.arrays import Array, median
from p2fit.solver.effects import Along, Effects

#: Huber's threshold in standard deviations: 95 % as efficient as squares where errors are normal.
THRESHOLD = 1.345

_CORRELATIONS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.995)  # of neighbours at a typical distance
_SPREADS = np.concatenate([[0.0], np.geomspace(0.05, 200, 13)])
_STEP = float(_SPREADS[2] / _SPREADS[1])
_ZOOMS = 3
_ROUNDS = 6  # of winsorising
_WORTH = 2.0  # twice the log likelihood that a parameter must gain
_BATCH = 1 << 21  # numbers at once


@dataclass(frozen=True)
class Candidate:
    """A kind of sharing: what runs differ in, and along what their errors are correlated."""

    excess: bool
    """Whether runs differ in proportion to the loss above base_loss."""
    along: Along
    """Along what errors are correlated."""
    effects: Effects
    """What it is of the rows; spread and length are what is found."""


@dataclass(frozen=True)
class Found:
    """The most likely variances."""

    candidate: Candidate
    """Of which kind; its effects have the spread and the length that were found."""
    sigma: float
    """Standard deviation of a row's error of weight 1, on the residuals' scale."""
    value: float
    """Minus twice the log of the restricted likelihood, and what its parameters cost."""

    @property
    def effects(self) -> Effects:
        """The covariance."""
        return self.candidate.effects


def variances(
    candidate: Candidate, residual: Array, jacobian: Array, *, robust: bool, near: bool
) -> Found:
    """The variances of a kind under which residuals are most likely.

    Args:
        candidate: the kind of sharing.
        residual: fitted minus observed, shape (n,).
        jacobian: of the residuals by the directions that are determined, shape (p, n).
        robust: without what lies beyond Huber's threshold.
        near: look only around the spread and the length of the candidate.
    """
    found = _most_likely(candidate, residual, jacobian, near)
    if not robust:
        return found
    share = _within(THRESHOLD)
    for _ in range(_ROUNDS):
        before = found
        coordinates = found.effects.whitened(residual)
        limit = THRESHOLD * found.sigma
        tame = found.effects.unwhitened(np.clip(coordinates, -limit, limit))
        found = _most_likely(found.candidate, tame / math.sqrt(share), jacobian, True)
        if abs(found.sigma / before.sigma - 1) < 1e-2 and np.allclose(
            found.effects.spread, before.effects.spread, rtol=5e-2
        ):
            break
    return found


def _within(k: float) -> float:
    """Mean of min(x², k²) of a standard normal x."""
    density = math.exp(-0.5 * k * k) / math.sqrt(2 * math.pi)
    inside = math.erf(k / math.sqrt(2))
    return inside - 2 * k * density + k * k * (1 - inside)


def _most_likely(candidate: Candidate, residual: Array, jacobian: Array, near: bool) -> Found:
    own = candidate.effects
    q = len(own.design)
    # Effects in units in which each moves a typical row by 1.
    unit = np.sqrt(np.mean(own.design**2, axis=1))
    unit[unit == 0] = 1.0
    rows = np.concatenate([own.design / unit[:, None], jacobian, residual[None]])
    if near:
        length = own.length
        top = _scores(own, length, rows, (own.spread * unit)[None])
    else:
        typical = _typical_gap(own)
        lengths = [0.0 if c == 0 else -typical / math.log(c) for c in _CORRELATIONS]
        grid = np.array(list(itertools.product(_SPREADS, repeat=q)), float)
        tried = [
            (_scores(own, length, rows, grid), length)
            for length in (lengths if typical > 0 else [0.0])
        ]
        top, length = min(tried, key=lambda t: t[0].value)
    for zoom in range(_ZOOMS):
        factor = _STEP ** (1 / 2**zoom)
        around = _around(top.spread, factor)
        step = 1.6 ** (1 / 2**zoom)
        some = [length] if length == 0 else [length / step, length, length * step]
        again = [(_scores(own, one, rows, around), one) for one in some]
        top, length = min([(top, length), *again], key=lambda t: t[0].value)
    shared = replace(own, spread=top.spread / unit, length=length)
    return Found(replace(candidate, effects=shared), top.sigma, top.value)


@dataclass(frozen=True)
class _Score:
    value: float  # minus twice the restricted log likelihood, and what its parameters cost
    spread: Array
    sigma: float


def _scores(effects: Effects, length: float, rows: Array, spreads: Array) -> _Score:
    """The best of several spreads (B, q) at one length."""
    own = replace(effects, length=length)
    q = spreads.shape[1]
    flat = own.decorrelated(rows)
    starts, size = own.starts, len(rows) - q
    everything = flat[q:] @ flat[q:].T
    n, p = flat.shape[1], size - 1
    groups = len(starts)
    shared = np.empty((groups, q, q + size))
    for i in range(q):
        shared[:, i] = np.add.reduceat(flat[i] * flat, starts, axis=1).T
    fixed = -2 * np.log(own.stretch).sum() - np.log(own.precision).sum()
    values, sigmas = np.empty(len(spreads)), np.empty(len(spreads))
    step = max(1, _BATCH // (groups * max(q, 1) * size))
    for at in range(0, len(spreads), step):
        s = spreads[at : at + step]
        inner = shared[None, :, :, :q] * s[:, None, :, None] * s[:, None, None, :] + np.eye(q)
        inverse, log_size = _inverse(inner)
        outer = shared[None, :, :, q:] * s[:, None, :, None]
        taken = np.matmul(
            outer.reshape(len(s), groups * q, size).transpose(0, 2, 1),
            np.matmul(inverse, outer).reshape(len(s), groups * q, size),
        )
        moments = everything - taken
        sign, bread = np.linalg.slogdet(moments[:, :p, :p])
        size_of = np.trace(moments[:, :p, :p], axis1=1, axis2=2)[:, None, None]
        kept = moments[:, :p, :p] + (1e-14 * size_of + 1e-300) * np.eye(p)
        solved = np.linalg.solve(kept, moments[:, :p, p:])
        rest = moments[:, p, p] - (moments[:, p, :p] * solved[:, :, 0]).sum(axis=1)
        variance = np.maximum(rest, 1e-300) / (n - p)
        value = (n - p) * np.log(variance) + fixed + log_size.sum(axis=1) + bread
        values[at : at + step] = np.where(sign > 0, value, np.inf)
        sigmas[at : at + step] = np.sqrt(variance)
    cost = _WORTH * ((spreads[:, 1:] > 0).sum(axis=1) + (length > 0))
    top = int(np.argmin(values + cost))
    return _Score(float((values + cost)[top]), spreads[top], float(sigmas[top]))


def _inverse(matrices: Array) -> tuple[Array, Array]:
    """Inverses and log determinants of (…, q, q), q at most 2."""
    q = matrices.shape[-1]
    if q == 0:
        return matrices, np.zeros(matrices.shape[:-2])
    if q == 1:
        return 1 / matrices, np.log(matrices[..., 0, 0])
    a, b, d = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 1]
    size = a * d - b * b
    turned = np.stack([np.stack([d, -b], -1), np.stack([-b, a], -1)], -2)
    return turned / size[..., None, None], np.log(size)


def _around(spread: Array, factor: float) -> Array:
    """Spreads about one, each by steps of a factor; 0 stays."""
    steps = factor ** np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    axes = [steps * s if s > 0 else np.zeros(1) for s in spread]
    return np.array(list(itertools.product(*axes)), float)


def _typical_gap(effects: Effects) -> float:
    gaps = np.diff(effects.place)[np.diff(effects.run) == 0]
    return median(gaps) if len(gaps) else 0.0
