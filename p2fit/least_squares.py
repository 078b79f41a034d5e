"""The least-squares solver: variable projection for starts, a batched damped Newton to finish.

Minimises the sum over rows of w_i * h(r_i), where r is ``log(L_hat) - log(L)`` or
``L_hat - L`` and h is Huber's function (delta applies to r itself, before the weight) or r²/2.

For given exponents the coefficients are a small non-negative least-squares problem, so a whole
grid of exponents is profiled in closed form; its local and block-wise minima are the starts.
All of them are then improved at once on the true objective with analytic derivatives. Inputs are
centred in logs, so the units of the data never matter.

Method after Golub & Pereyra (variable projection, 1973) and Levenberg & Marquardt; the damping
matrix is that of iteratively re-weighted least squares, which bounds Huber's curvature from above.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from p2fit.laws import Array, Law, LawError, evaluate

Residual = Literal["log", "linear"]
Index = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: Starts whose objective is within this relative distance of the best agree with it.
AGREE = 1e-5
#: Root mean square residual below which a fit is called exact: rounding, not data.
EXACT = 1e-12
#: Relative strength of the ridge that picks one point where the data leave several.
RIDGE = 1e-8
#: The ridge pulls exponents searched from 0 up towards this value, others towards 0.
RIDGE_EXPONENT = 0.5

_STARTS = 12
_MOST = 10  # coefficients: their subsets are enumerated
_GRID_POINTS = 4096  # of exponents, in the profile
_GRID_ROWS = 512  # rows used to profile
_START_ROWS = 4096  # rows used to find starts; all are used to polish
_PROJECT_AFTER = 25  # iterations: most starts have converged, the rest creep along a valley
_BATCH_CELLS = 1 << 19  # problems x terms x rows evaluated at once: bounds the memory


@dataclass(frozen=True)
class Problem:
    """A law on given rows, ready to be solved. Made by :func:`build`.

    The internal variables z are the coefficients at the centre of the data, then the exponents:
    term_m = c_k * exp(P_m(theta) . logs), with logs centred and P affine in theta.
    """

    law: Law
    """The law, with fixed and tied parameters put in."""
    y: Array
    """Losses, shape (n,), nats per token."""
    weights: Array
    """Row weights, shape (n,)."""
    offset: Array
    """What the formula adds without any parameter, shape (n,)."""
    logs: Array
    """Centred logs of the bases and a last row of ones, shape (b, n)."""
    constant: Array
    """Powers at theta = 0, shape (terms, b)."""
    slope: Array
    """Change of the powers with each exponent, shape (terms, exponents, b)."""
    sign: Array
    """+1 or -1 for each term, shape (terms,)."""
    group: tuple[int, ...]
    """Index of each term's coefficient, -1 where its size is known."""
    centre: Array
    """log c_natural = log c_centred - centre[k] . (1, theta); (coefficients, 1 + exponents)."""
    lower: Array
    """Lower bounds of z."""
    upper: Array
    """Upper bounds of z."""
    residual: Residual
    """``log`` or ``linear``."""
    delta: float
    """Huber's threshold; inf for squared loss."""

    @cached_property
    def coefficients(self) -> int:
        """How many coefficients."""
        return len(self.law.coefficients)

    @cached_property
    def exponents(self) -> int:
        """How many exponents."""
        return len(self.law.exponents)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of z."""
        return (*self.law.coefficients, *self.law.exponents)

    @cached_property
    def sizes(self) -> Array:
        """What one unit of z amounts to: a typical loss for coefficients, 1 for exponents."""
        typical = float(self.y.mean())
        return np.concatenate([np.full(self.coefficients, typical), np.ones(self.exponents)])

    @cached_property
    def floor(self) -> float:
        """Objective of residuals that are mere rounding."""
        size = 1.0 if self.residual == "log" else float(self.y.mean())
        return float(self.weights.sum()) * (EXACT * size) ** 2

    @cached_property
    def uses(self) -> list[list[tuple[int, list[tuple[int, float]]]]]:
        """For each exponent, the bases whose power it changes, and in which terms how much."""
        bases = range(len(self.logs))
        found = []
        for e in range(self.exponents):
            members = [[(m, f) for m, f in enumerate(self.slope[:, e, b]) if f] for b in bases]
            found.append([(b, terms) for b, terms in enumerate(members) if terms])
        return found

    @cached_property
    def members(self) -> Array:
        """1 where a term (column) belongs to a coefficient (row), else 0."""
        belongs = np.arange(self.coefficients)[:, None] == np.array(self.group)
        return np.where(belongs, 1.0, 0.0)

    @cached_property
    def known(self) -> Array:
        """1 for a term whose size is known, else 0, shape (terms,)."""
        return np.where(np.array(self.group) < 0, 1.0, 0.0)

    @cached_property
    def slopes(self) -> Array:
        """The slopes, shape (exponents, terms * b)."""
        return self.slope.transpose(1, 0, 2).reshape(self.exponents, self.constant.size)

    @cached_property
    def squares(self) -> Array:
        """Products of slopes, (terms * b * b, exponents * exponents)."""
        both = self.slope[:, :, None, :, None] * self.slope[:, None, :, None, :]
        terms, q, _, b, _ = both.shape
        return both.transpose(0, 3, 4, 1, 2).reshape(terms * b * b, q * q)

    @cached_property
    def pairs(self) -> Array:
        """Products of logs, (n, b * b)."""
        both = self.logs[:, None, :] * self.logs[None, :, :]
        return both.reshape(-1, both.shape[-1]).T

    def rows(self, index: Index | slice) -> Problem:
        """The same problem (and the same centre) on some of the rows."""
        return replace(
            self,
            y=self.y[index],
            weights=self.weights[index],
            offset=self.offset[index],
            logs=self.logs[:, index],
        )

    def scales(self, z: Array) -> Array:
        """Powers of the coefficients as written: b_D for (a_D/D)^b_D; (…, coefficients)."""
        theta = dict(zip(self.law.exponents, np.moveaxis(z[..., self.coefficients :], -1, 0)))
        scales = {t.coefficient: t.scale for t in self.law.terms if t.coefficient}
        columns = [
            np.broadcast_to(scales[c].value(theta), z.shape[:-1]) for c in self.law.coefficients
        ]
        return np.stack(columns, -1) if columns else np.zeros((*z.shape[:-1], 0))

    def natural(self, z: Array) -> dict[str, Array]:
        """Every parameter, in the formula's own units, from z of shape (…, p)."""
        k = self.coefficients
        with np.errstate(all="ignore"):
            logs = np.log(z[..., :k]) - self.centre[:, 0] - z[..., k:] @ self.centre[:, 1:].T
            values = np.exp(logs / self.scales(z))
        found = dict(zip(self.law.coefficients, np.moveaxis(values, -1, 0)))
        found |= dict(zip(self.law.exponents, np.moveaxis(z[..., k:], -1, 0)))
        return self.law.full(found)

    def internal(self, parameters: Mapping[str, float]) -> Array:
        """z, shape (p,), from natural parameters."""
        theta = np.array([parameters[e] for e in self.law.exponents], float)
        z = np.concatenate([np.ones(self.coefficients), theta])
        with np.errstate(divide="ignore"):
            logs = np.log([float(parameters[c]) for c in self.law.coefficients])
        logs = logs * self.scales(z) + self.centre[:, 0] + self.centre[:, 1:] @ theta
        z[: self.coefficients] = np.exp(logs)
        return z


def build(
    law: Law,
    columns: Mapping[str, Array],
    y: Array,
    weights: Array,
    *,
    residual: Residual = "log",
    delta: float = 1e-3,
    known: bool = True,
) -> Problem:
    """Put a law on rows.

    Args:
        law: the law, restricted as wished.
        columns: every input of the law, each of shape (n,).
        y: losses, shape (n,), > 0.
        weights: row weights, shape (n,), >= 0.
        known: whether to add the terms without parameters.

    Raises:
        LawError: a base of a power is not positive on some row (the message names the row count).
        NotMonomialError: the formula is not a sum of monomials.
    """
    terms = [t for t in law.terms if not t.known]
    if len(law.coefficients) > _MOST:
        raise LawError(
            f"the law has {len(law.coefficients)} coefficients; at most {_MOST} are fitted"
        )
    offset = np.zeros(len(y))
    for t in (t for t in law.terms if t.known and known):
        part = np.full(len(y), t.number)
        for base, power in t.powers:
            part = part * np.broadcast_to(evaluate(base, columns), y.shape) ** power.constant
        offset = offset + part
    if not np.isfinite(offset).all():
        raise LawError("the part of the formula without parameters is not finite in some rows")
    bases = list(dict.fromkeys(b for t in terms for b, _ in t.powers))
    raw = np.empty((len(bases) + 1, len(y)))
    raw[-1] = 1.0
    for i, base in enumerate(bases):
        values = np.broadcast_to(evaluate(base, columns), y.shape)
        bad = int(np.sum(~((values > 0) & np.isfinite(values))))
        if bad:
            raise LawError(f"{base} must be above 0 in this law; in {bad} rows it is not")
        raw[i] = np.log(values)
    mean = raw.mean(axis=1)
    mean[-1] = 0.0

    m, q, b = len(terms), len(law.exponents), len(bases) + 1
    constant, slope = np.zeros((m, b)), np.zeros((m, q, b))
    for j, t in enumerate(terms):
        constant[j, -1] = np.log(abs(t.number))
        for base, power in t.powers:
            i = bases.index(base)
            constant[j, i] = power.constant
            for name, weight in power.weights:
                slope[j, law.exponents.index(name), i] = weight
    names = law.coefficients
    group = tuple(names.index(t.coefficient) if t.coefficient else -1 for t in terms)
    # Centring: the size of a coefficient's terms at the mean of the logs, averaged over its terms.
    size = np.concatenate([(constant @ mean + constant[:, -1])[:, None], slope @ mean], axis=1)
    centre = np.zeros((len(names), 1 + q))
    for k in range(len(names)):
        centre[k] = size[[g == k for g in group]].mean(axis=0)
    rest = size - np.stack([centre[g] if g >= 0 else np.zeros(1 + q) for g in group])
    constant[:, -1], slope[:, :, -1] = rest[:, 0], rest[:, 1:]
    bounds = np.array([law.ranges[n] for n in (*names, *law.exponents)])
    return Problem(
        law=law,
        y=y,
        weights=weights,
        offset=offset,
        logs=raw - mean[:, None],
        constant=constant,
        slope=slope,
        sign=np.array([np.sign(t.number) for t in terms]),
        group=group,
        centre=centre,
        lower=bounds[:, 0],
        upper=bounds[:, 1],
        residual=residual,
        delta=delta,
    )


# ---------------------------------------------------------------- the model and its derivatives


def _terms(problem: Problem, z: Array) -> tuple[Array, Array]:
    """phi (without coefficient) and term sizes, each (B, terms, n)."""
    k = problem.coefficients
    powers = problem.constant.ravel() + z[:, k:] @ problem.slopes
    phi = np.exp(powers.reshape(-1, len(problem.logs)) @ problem.logs)
    phi = phi.reshape(len(z), len(problem.group), -1) * problem.sign[:, None]
    return phi, phi * (z[:, :k] @ problem.members + problem.known)[:, :, None]


def loss(problem: Problem, z: Array) -> Array:
    """Fitted losses, (B, n), at z of shape (B, p)."""
    with np.errstate(all="ignore"):
        fitted: Array = problem.offset + _terms(problem, z)[1].sum(axis=1)
    return fitted


def jacobian(problem: Problem, z: Array) -> tuple[Array, Array]:
    """Fitted losses (n,) and their derivatives with respect to z, (p, n), at one z (p,)."""
    with np.errstate(all="ignore"):
        phi, sizes = _terms(problem, z[None])
        return problem.offset + sizes[0].sum(axis=0), _jacobian(problem, phi, sizes)[0]


def _jacobian(problem: Problem, phi: Array, sizes: Array) -> Array:
    k = problem.coefficients
    jac = np.empty((len(phi), k + problem.exponents, phi.shape[-1]))
    for i in range(k):
        members = [m for m, g in enumerate(problem.group) if g == i]
        jac[:, i] = phi[:, members[0]] if len(members) == 1 else phi[:, members].sum(axis=1)
    for e, bases in enumerate(problem.uses):
        jac[:, k + e] = 0.0
        for b, terms in bases:
            part = sum(sizes[:, m] if f == 1 else sizes[:, m] * f for m, f in terms)
            jac[:, k + e] += part * problem.logs[b]
    return jac


def _residuals(problem: Problem, fitted: Array, y: Array) -> tuple[Array, Array]:
    """Residuals and d(residual)/d(fitted)."""
    if problem.residual == "log":
        return np.log(fitted / y), 1.0 / fitted
    return fitted - y, np.ones_like(fitted)


def residuals(problem: Problem, z: Array) -> Array:
    """Residuals (n,) at one z (p,): fitted minus observed, of the log or of the loss."""
    with np.errstate(all="ignore"):
        return _residuals(problem, loss(problem, z[None])[0], problem.y)[0]


@dataclass
class _Point:
    """Objective and its derivatives for a batch of z."""

    value: Array  # (B,)
    gradient: Array  # (B, p)
    hessian: Array  # (B, p, p), of the objective
    bound: Array  # (B, p, p), Gauss-Newton with IRLS weights: positive, above Huber's curvature

    def take(self, index: Index) -> _Point:
        return _Point(
            self.value[index], self.gradient[index], self.hessian[index], self.bound[index]
        )

    def put(self, index: Index, other: _Point) -> None:
        self.value[index] = other.value
        self.gradient[index] = other.gradient
        self.hessian[index] = other.hessian
        self.bound[index] = other.bound


@dataclass(frozen=True)
class _Ridge:
    strength: float
    towards: Array  # (p,)
    scale: Array  # (p,)


def _chunks(problem: Problem, batch: int) -> Iterator[slice]:
    step = max(256, _BATCH_CELLS // (batch * max(1, len(problem.group))))
    n = len(problem.y)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))


@dataclass(frozen=True)
class _Rows:
    """Losses and weights, one row for every problem of the batch or one for all of them."""

    y: Array  # (1 or B, n)
    weights: Array  # (1 or B, n)

    @staticmethod
    def of(problem: Problem, y: Array | None, weights: Array | None) -> _Rows:
        own = problem.y[None] if y is None else y
        return _Rows(own, problem.weights[None] if weights is None else weights)

    def take(self, index: Index) -> _Rows:
        return _Rows(
            self.y if len(self.y) == 1 else self.y[index],
            self.weights if len(self.weights) == 1 else self.weights[index],
        )


def _evaluate(problem: Problem, z: Array, ridge: _Ridge | None, rows: _Rows) -> _Point:
    batch, p = z.shape
    point = _Point(
        np.zeros(batch), np.zeros((batch, p)), np.zeros((batch, p, p)), np.zeros((batch, p, p))
    )
    k = problem.coefficients
    for chunk in _chunks(problem, batch):
        part = problem if len(problem.y) == chunk.stop - chunk.start else problem.rows(chunk)
        phi, sizes = _terms(part, z)
        fitted = part.offset + sizes.sum(axis=1)
        r, dr = _residuals(part, fitted, rows.y[:, chunk])
        w = rows.weights[:, chunk]
        size = np.abs(r)
        clipped = np.minimum(size, part.delta)
        psi = w * np.copysign(clipped, r)
        irls = w * (clipped / np.maximum(size, 1e-300))
        inside = w * (size <= part.delta)
        jac = _jacobian(part, phi, sizes)
        jac *= dr[:, None, :]
        point.value += (w * (clipped * (size - 0.5 * clipped))).sum(axis=1)
        point.gradient += np.matmul(jac, psi[:, :, None])[:, :, 0]
        transposed = jac.transpose(0, 2, 1)
        point.bound += np.matmul(jac * irls[:, None, :], transposed)
        curve = inside - psi if part.residual == "log" else inside
        point.hessian += np.matmul(jac * curve[:, None, :], transposed)
        # Second derivatives of the fitted loss, as moments of the logs.
        pull = (psi * dr)[:, None, :]
        second = np.matmul(pull * sizes, part.pairs).reshape(batch, -1) @ part.squares
        point.hessian[:, k:, k:] += second.reshape(batch, problem.exponents, problem.exponents)
        first = np.matmul(pull * phi, part.logs.T)[:, :, None, :]  # (B, terms, 1, b)
        cross = part.members @ np.matmul(first, part.slope.transpose(0, 2, 1))[:, :, 0]
        point.hessian[:, :k, k:] += cross
        point.hessian[:, k:, :k] += cross.transpose(0, 2, 1)
    if ridge is not None:
        away = (z - ridge.towards) / ridge.scale
        point.value += 0.5 * ridge.strength * (away**2).sum(axis=1)
        point.gradient += ridge.strength * away / ridge.scale
        _diagonal(point.hessian)[:] += ridge.strength / ridge.scale**2
        _diagonal(point.bound)[:] += ridge.strength / ridge.scale**2
    point.value[~np.isfinite(point.value)] = np.inf
    return point


def _diagonal(matrices: Array) -> Array:
    """The diagonals, (B, p), of contiguous (B, p, p), as a view."""
    p = matrices.shape[-1]
    return matrices.reshape(-1, p * p)[:, :: p + 1]


@dataclass(frozen=True)
class Minimum:
    """Where a batch of minimisations ended."""

    z: Array
    """Variables, shape (B, p)."""
    value: Array
    """Objective, shape (B,)."""
    converged: Array
    """Whether the last step promised less than 1e-7 of the objective, shape (B,)."""


def minimise(
    problem: Problem,
    z: Array,
    *,
    iterations: int = 200,
    ridge: _Ridge | None = None,
    y: Array | None = None,
    weights: Array | None = None,
    damping: float = 0.1,
) -> Minimum:
    """Minimise from every row of z (B, p) at once, within the bounds.

    Args:
        y: other losses for each of the B problems, (B, n).
        weights: other row weights for each of them, (B, n).
        damping: of the first step; less is faster where z is near a minimum.
    """
    with np.errstate(all="ignore"):
        start = np.clip(z, problem.lower, problem.upper)
        rows = _Rows.of(problem, y, weights)
        return _minimise(problem, start, iterations, ridge, rows, damping)


def _minimise(
    problem: Problem,
    z: Array,
    iterations: int,
    ridge: _Ridge | None,
    rows: _Rows,
    first: float,
) -> Minimum:
    batch, k = len(z), problem.coefficients
    # A step that promises less is the last one. A ridge is a small part of the objective.
    tolerance = 1e-10 if ridge is None else 1e-14
    z = z.copy()
    floor = problem.floor
    point = _evaluate(problem, z, ridge, rows)
    damping = np.full(batch, first)
    converged = np.zeros(batch, bool)
    active = np.flatnonzero(np.isfinite(point.value))
    for count in range(iterations):
        if not len(active):
            break
        now, x, lam = point.take(active), z[active], damping[active]
        low, high = x <= problem.lower, x >= problem.upper
        scale = _diagonal(now.bound)
        # A variable that moves nothing (its input is constant, its term is 0) stays put.
        effect = scale * problem.sizes**2
        free = effect > 1e-13 * effect.max(axis=1, keepdims=True)
        free &= ~((low & (now.gradient > 0)) | (high & (now.gradient < 0)))
        gradient, matrix = now.gradient, now.hessian + lam[:, None, None] * now.bound
        _diagonal(matrix)[:] += 0.1 * lam[:, None] * scale
        if not free.all():
            gradient, matrix, scale = _held(gradient, matrix, scale, free)
        step = _solve(matrix, -gradient, scale)
        if step is None:
            damping[active] *= 10
            continue
        decrease = -(gradient * step).sum(axis=1)
        done = (np.abs(decrease) <= tolerance * (now.value + floor)) & (lam <= 1e-2)
        done |= ~gradient.any(axis=1)
        trial = np.clip(x + step, problem.lower, problem.upper)
        new = _evaluate(problem, trial, ridge, rows.take(active))
        better = (decrease > 0) & (new.value <= now.value)
        if count >= _PROJECT_AFTER and k and not better.all():
            over = np.flatnonzero(~better)
            _project(problem, trial, new, over, ridge, rows.take(active[over]))
            better = (decrease > 0) & (new.value <= now.value)
        where = active[better]
        z[where] = trial[better]
        point.put(where, new.take(better))
        # Trust grows where the quadratic model was good, and shrinks where it was not.
        moved = step * np.matmul(now.bound, step[:, :, None])[:, :, 0]
        predicted = 0.5 * (decrease + lam * moved.sum(axis=1))
        gain = (now.value - new.value) / np.maximum(predicted, 1e-300)
        factor = np.where(gain > 0.75, 0.3, np.where(gain > 0.25, 0.5, 2.0))
        factor = np.where(better, factor, 10.0)
        damping[active] = np.clip(lam * factor, 1e-12, None)
        stuck = damping[active] > 1e10
        converged[active] = done | (np.abs(decrease) <= 1e-7 * (now.value + floor))
        active = active[~(done | stuck)]
    return Minimum(z, point.value, converged)


def _project(
    problem: Problem, z: Array, point: _Point, at: Index, ridge: _Ridge | None, rows: _Rows
) -> None:
    """Fit the coefficients to the exponents where a step overshot, in place.

    Valleys are curved where a small coefficient trades with its exponent; the loss is linear in
    the coefficients, so one step takes them back to the floor (variable projection).
    """
    k = problem.coefficients
    moved, gradient, matrix = z[at], point.gradient[at, :k], point.bound[at, :k, :k].copy()
    scale = _diagonal(matrix).copy()
    free = (scale > 0) & ((moved[:, :k] > 0) | (gradient < 0)) & np.isfinite(scale)
    _diagonal(matrix)[:] += 1e-12 * scale
    gradient, matrix, scale = _held(gradient, matrix, scale, free)
    step = _solve(matrix, -gradient, scale)
    if step is None:
        return
    moved[:, :k] = np.maximum(moved[:, :k] + step, 0.0)
    new = _evaluate(problem, moved, ridge, rows)
    lower = np.flatnonzero(new.value < point.value[at])
    z[at[lower]] = moved[lower]
    point.put(at[lower], new.take(lower))


def _held(gradient: Array, matrix: Array, scale: Array, free: Mask) -> tuple[Array, Array, Array]:
    """A system, and the scale of its variables, in which those that are not free stay put."""
    matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
    _diagonal(matrix)[:] += np.where(free, 0.0, 1.0)
    return np.where(free, gradient, 0.0), matrix, np.where(free, scale, 1.0)


def _solve(matrix: Array, right: Array, scale: Array) -> Array | None:
    """Solve (B, p, p) systems, scaled to a unit diagonal first; None where one is singular."""
    root = 1.0 / np.sqrt(scale)
    try:
        scaled = matrix * root[:, :, None] * root[:, None, :]
        return np.linalg.solve(scaled, (right * root)[:, :, None])[:, :, 0] * root
    except np.linalg.LinAlgError:
        return None


# ---------------------------------------------------------------- starts: the profile of a grid


def _grid(problem: Problem) -> list[Array]:
    q = problem.exponents
    count = max(3, min(48, round(_GRID_POINTS ** (1 / q)))) if q else 0
    if q == 2:
        count = 28
    axes = []
    for low in problem.lower[problem.coefficients :]:
        axes.append(np.geomspace(0.02, 2.5, count) if low >= 0 else np.linspace(-2, 2, count | 1))
    return axes


def _profile(problem: Problem, axes: list[Array], robust: Array | None) -> tuple[Array, Array]:
    """Squared objective and coefficients over the grid: shapes (grid…,) and (grid…, k).

    The features of a coefficient depend on a few exponents only, so features are computed on
    those axes and all their products come from one matrix product per combination of the rest.
    """
    k, q = problem.coefficients, problem.exponents
    weight = np.sqrt(problem.weights if robust is None else problem.weights * robust)
    if problem.residual == "log":
        weight = weight / problem.y
    groups = [[m for m, g in enumerate(problem.group) if g == i] for i in range(k)]
    known = [m for m, g in enumerate(problem.group) if g < 0]
    if known:
        groups.append(known)
    moved = [[np.flatnonzero(problem.slope[m].any(axis=1)) for m in g] for g in groups]
    uses = [sorted({int(e) for found in g for e in found}) for g in moved]
    shared = [e for e in range(q) if sum(e in u for u in uses) > 1]
    private = [[e for e in u if e not in shared] for u in uses]
    outer = _product([axes[e] for e in shared])
    blocks = []
    for members, own in zip(groups, private):
        inner = _product([axes[e] for e in own])
        theta = np.zeros((len(outer), len(inner), q))
        theta[:, :, shared] = outer[:, None, :]
        theta[:, :, own] = inner[None, :, :]
        feature = np.zeros((len(outer), len(inner), len(problem.y)))
        for m in members:
            powers = problem.constant[m] + theta @ problem.slope[m]
            feature += problem.sign[m] * np.exp(powers @ problem.logs)
        blocks.append(feature * weight)
    target = (problem.y - problem.offset) * weight
    sizes = [b.shape[1] for b in blocks]
    stacked = np.concatenate(
        [*blocks, np.broadcast_to(target, (len(outer), 1, len(target)))], axis=1
    )
    gram = stacked @ stacked.transpose(0, 2, 1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pick = _product([np.arange(s) for s in sizes])
    pick = np.concatenate([pick + starts[:-1], np.full((len(pick), 1), starts[-1])], axis=1)
    if known:  # a part whose size is known moves to the right-hand side
        gram = gram[:, pick[:, :, None], pick[:, None, :]].reshape(-1, k + 2, k + 2)
        right = gram[:, :k, -1] - gram[:, :k, k]
        total = gram[:, -1, -1] - 2 * gram[:, k, -1] + gram[:, k, k]
    else:
        gram = gram[:, pick[:, :, None], pick[:, None, :]].reshape(-1, k + 1, k + 1)
        right, total = gram[:, :k, -1], gram[:, -1, -1]
    coefficients, gain = _nnls(gram[:, :k, :k], right)
    # From (shared…, private of each group…) to the order of the exponents.
    order = [*shared, *(e for own in private for e in own)]
    shape = [len(axes[e]) for e in order]
    back = sorted(range(q), key=order.__getitem__)
    value = (0.5 * (total - gain)).reshape(shape).transpose(back)
    return value, coefficients.reshape(*shape, k).transpose(*back, q)


def _product(axes: list[Array]) -> Array:
    """All combinations, shape (product of lengths, number of axes)."""
    if not axes:
        return np.zeros((1, 0))
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)


def _nnls(gram: Array, right: Array) -> tuple[Array, Array]:
    """Non-negative least squares, (N, k, k) and (N, k): coefficients, and what they explain.

    Exact: the optimum is the best feasible one among the subsets of columns.
    """
    n, k = right.shape
    root = np.sqrt(np.maximum(np.einsum("nkk->nk", gram), 1e-300))
    gram = gram / (root[:, :, None] * root[:, None, :])
    right = right / root
    best, gain = np.zeros((n, k)), np.zeros(n)
    for size in range(1, k + 1):
        for subset in itertools.combinations(range(k), size):
            x = _cholesky_solve(gram, right, subset)
            explained = sum(x[i] * right[:, s] for i, s in enumerate(subset))
            ok = (explained > gain) & np.all([v >= 0 for v in x], axis=0)
            if ok.any():
                gain = np.where(ok, explained, gain)
                fill = np.zeros((n, k))
                for i, s in enumerate(subset):
                    fill[:, s] = x[i]
                best = np.where(ok[:, None], fill, best)
    return best / root, gain


def _cholesky_solve(gram: Array, right: Array, subset: tuple[int, ...]) -> list[Array]:
    """Solve many small systems at once; a loop over k, vectorised over the systems."""
    k = len(subset)
    low: dict[tuple[int, int], Array] = {}
    x: list[Array] = []
    for i, a in enumerate(subset):
        for j, b in enumerate(subset[: i + 1]):
            value = gram[:, a, b] - sum(low[i, t] * low[j, t] for t in range(j))
            low[i, j] = np.sqrt(np.maximum(value, 1e-13)) if i == j else value / low[j, j]
        x.append((right[:, a] - sum(low[i, t] * x[t] for t in range(i))) / low[i, i])
    for i in reversed(range(k)):
        x[i] = (x[i] - sum(low[t, i] * x[t] for t in range(i + 1, k))) / low[i, i]
    return x


def _starts(problem: Problem, robust: Array | None, count: int) -> Array:
    """Distinct starts from the profile, (S, p): its local minima and its blocks' minima."""
    axes = _grid(problem)
    value, coefficients = _profile(problem, axes, robust)
    if not axes:
        return coefficients.reshape(1, -1)
    value = np.where(np.isfinite(value), value, np.inf)
    local = np.ones(value.shape, bool)
    for axis in range(value.ndim):
        ahead = np.moveaxis(value, axis, 0)
        flag = np.moveaxis(local, axis, 0)
        flag[1:] &= ahead[1:] <= ahead[:-1]
        flag[:-1] &= ahead[:-1] <= ahead[1:]
    flat = value.ravel()
    chosen = list(np.flatnonzero(local.ravel()))
    pieces = 3 if value.ndim <= 2 else 2
    numbers = np.arange(value.size).reshape(value.shape)
    for block in itertools.product(*(np.array_split(np.arange(s), pieces) for s in value.shape)):
        inside = numbers[np.ix_(*block)].ravel()
        chosen.append(inside[np.argmin(flat[inside])])
    chosen = list(dict.fromkeys(sorted(chosen, key=lambda i: flat[i])))
    picked = np.array(chosen[:count])
    where = np.unravel_index(picked, value.shape)
    theta = np.stack([axis[i] for axis, i in zip(axes, where)], axis=1)
    return np.concatenate([coefficients[where], theta], axis=1)


# ---------------------------------------------------------------- the whole solve


@dataclass(frozen=True)
class Solution:
    """The optimum of a problem."""

    z: Array
    """Internal variables, shape (p,)."""
    value: float
    """Objective: the sum over rows."""
    converged: bool
    """Whether the best start met the convergence test."""
    starts: int
    """Distinct starts tried."""
    agreed: int
    """Starts that ended at the best objective (relative 1e-5)."""
    ties: Array
    """The points where those starts ended, shape (agreed, p); one point if all is determined."""


def solve(problem: Problem, *, seed: int = 0) -> Solution:
    """Find the global minimum from many starts.

    With more than 4096 rows, starts are compared on a seeded subsample and the best distinct
    ones are polished on all rows.
    """
    small = _subsample(problem, _START_ROWS, seed)
    with np.errstate(all="ignore"):
        found = _multistart(small, seed)
    floor = small.floor
    best = found.value.min()
    agreed = int(np.sum(found.value <= best * (1 + AGREE) + floor))
    starts = len(found.value)
    if small is not problem:
        order = np.argsort(found.value)
        near = order[found.value[order] <= best * 1.001 + floor]
        found = minimise(problem, _distinct(problem, found.z[near], digits=3)[:3])
    top = int(np.argmin(found.value))
    # What rounding keeps off a bound is at it.
    near = 1e-10 * problem.sizes
    z = np.where(found.z[top] - problem.lower < near, problem.lower, found.z[top])
    z = np.where(problem.upper - z < near, problem.upper, z)
    ties = found.z[found.value <= found.value[top] * (1 + AGREE) + floor]
    return Solution(z, float(found.value[top]), bool(found.converged[top]), starts, agreed, ties)


def settle(problem: Problem, solution: Solution) -> Solution:
    """One point out of a set of equally good ones, the same from every start.

    A ridge of relative strength 1e-8 pulls exponents that are searched from 0 up towards 0.5,
    the others towards 0, and the terms towards equal size at the centre of the data. It is
    weakened step by step, so that it only moves the point where the data do not.
    """
    k = problem.coefficients
    size = np.average(problem.y - problem.offset, weights=problem.weights) / max(k, 1)
    towards = np.where(problem.lower >= 0, RIDGE_EXPONENT, 0.0)
    towards[:k] = max(size, 1e-3 * float(problem.y.mean()))
    scale = np.ones(len(towards))
    scale[:k] = 10 * towards[:k]  # exponents first: a term at 0 beats an exponent at 0
    rows = _Rows.of(problem, None, None)
    bound = _evaluate(problem, solution.z[None], None, rows).bound[0]
    unit = float(np.mean(np.diag(bound) * scale**2))
    z = np.concatenate([towards[None], _distinct(problem, solution.ties, digits=3)])
    for strength in (1.0, 1e-2, 1e-4, 1e-6, RIDGE, 1e-2 * RIDGE, 1e-4 * RIDGE):
        found = minimise(problem, z, ridge=_Ridge(strength * unit, towards, scale))
        z = found.z
        plain = minimise(problem, z, iterations=0).value
        good = plain <= solution.value * (1 + AGREE) + problem.floor
        if strength <= RIDGE and good.any():
            top = int(np.argmin(np.where(good, found.value, np.inf)))
            return replace(solution, z=z[top], value=float(plain[top]))
    # The ridge bends a direction that is weak but determined: move only what moves nothing.
    effect = np.diag(bound) * problem.sizes**2
    idle = effect <= 1e-13 * effect.max()
    return replace(solution, z=np.where(idle, towards, solution.z))


def _subsample(problem: Problem, count: int, seed: int) -> Problem:
    n = len(problem.y)
    if n <= count:
        return problem
    chosen = np.random.default_rng(seed).choice(n, count, replace=False)
    return problem.rows(np.sort(chosen))


def _multistart(problem: Problem, seed: int) -> Minimum:
    grid = _subsample(problem, _GRID_ROWS, seed)
    starts = _starts(grid, None, _STARTS)
    if np.isfinite(problem.delta):
        # The profile is of squares: profile again with the weights that Huber's loss would give.
        first = minimise(grid, starts[:4], iterations=3)
        r = np.abs(residuals(grid, first.z[np.argmin(first.value)]))
        robust = 1.0 / np.maximum(r / problem.delta, 1.0)
        starts = np.concatenate([starts, _starts(grid, robust, _STARTS)])
    return minimise(problem, _distinct(problem, starts))


def _distinct(problem: Problem, z: Array, digits: int = 9) -> Array:
    first: dict[bytes, int] = {}
    for i, exponents in enumerate(np.round(z[:, problem.coefficients :], digits) + 0.0):
        first.setdefault(exponents.tobytes(), i)
    return z[list(first.values())]
