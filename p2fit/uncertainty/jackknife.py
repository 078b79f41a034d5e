"""Standard errors and intervals of the estimates.

The points of one curve share their error, so the unit of inference is the run (or another
cluster): a leave-one-cluster-out jackknife (CR3) by its one-step formula, with Student's t at
G - 1 degrees of freedom. Where every run has one row this is a jackknife over rows (HC3).

Where what the rows of a run share is in the model, its coordinates are independent as far as the
model is right. Then the bias of each cluster's part is taken out exactly (CR2), where the jackknife
takes out twice that, and each quantity has its own degrees of freedom.

Source: Bell & McCaffrey 2002 (CR2, CR3, degrees of freedom); MacKinnon, Nielsen & Webb 2023 for
the one-step form; Pustejovsky & Tipton 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from p2fit.arrays import Array, Index
from p2fit.solver.least_squares import chunks
from p2fit.solver.problem import Problem
from p2fit.solver.solving import Solved

#: A coefficient's interval is open at an end further from the estimate than this factor.
FAR = 1e6

_CHUNK = 1 << 16
_MANY = 100  # clusters from which on G - 1 degrees of freedom do for predictions


@dataclass(frozen=True)
class Covariance:
    """Covariance of the estimates, in the solver's variables (see ``Problem``)."""

    problem: Problem
    """The problem that was solved."""
    z: Array
    """The optimum, shape (p,)."""
    inner: Array
    """Covariance of z, shape (p, p); 0 along directions that the data do not determine."""
    clusters: int
    """Number G of independent units."""
    critical: float
    """Student's t quantile for 95 % at G - 1 degrees of freedom."""
    basis: Array | None = None
    """Where the rows of a run share something: the determined directions, (p, r), and"""
    information: Array | None = None
    """what each cluster tells of them, (G, r, r): each quantity has its own degrees of freedom."""

    def quantile(self, contrast: Array) -> float:
        """Student's t quantile for 95 % of a combination (p,) of the variables."""
        if self.basis is None or self.information is None:
            return self.critical
        freedom = degrees_of_freedom((contrast @ self.basis)[None], self.information)
        return float(t_quantiles(freedom)[0])

    def clusters_tell(self) -> dict[str, Any]:
        """The basis by the logs of the coefficients and the exponents, and the information, for
        plain JSON; empty where there is none, or too much."""
        if self.basis is None or self.information is None or self.clusters > _MANY:
            return {}
        return {
            "basis": (self.change @ self.basis).tolist(),
            "information": self.information.tolist(),
        }

    def natural(self) -> Array:
        """Covariance of the logs of the coefficients and of the exponents, shape (p, p).

        A coefficient that is 0 has no log: its row and column are those of the coefficient.
        """
        return self.change @ self.inner @ self.change.T

    @cached_property
    def change(self) -> Array:
        """Derivatives of the logs of the coefficients, or of one that is 0, and of the exponents,
        by z, shape (p, p)."""
        k = self.problem.coefficients
        change = self._change(self.z[:k])
        unit = np.concatenate([np.ones(k), self.z[k:]])
        values = self.problem.natural(unit)
        for i, name in enumerate(self.problem.law.coefficients):
            if self.z[i] == 0:
                change[i, i] = values[name]
        return change

    def interval(self, index: int) -> tuple[float, float | None, float | None]:
        """Standard error and the 95 % interval of one entry of z, in the formula's units.

        An exponent's is symmetric; a coefficient's is, on the log scale. An end is None (open)
        where the data do not bound it: at the end of the parameter's range; for a coefficient
        whose term could be 0 at the centre of the data, or that could be a million times larger;
        for an exponent whose terms, added up, could be 0 there.
        """
        problem, z, k = self.problem, self.z, self.problem.coefficients
        deviation = np.sqrt(np.maximum(np.diag(self.inner), 0.0))
        unit = np.eye(len(z))
        reaches = np.array([self.quantile(one) for one in unit]) * deviation
        vanishing = z[:k] <= reaches[:k]
        name = problem.names[index]
        if index >= k:
            error = float(deviation[index])
            low, high = z[index] - reaches[index], z[index] + reaches[index]
            shaped = problem.law.shaped(name)
            ones = np.array([c in shaped for c in problem.names], float)
            together = math.sqrt(max(float(ones @ self.inner @ ones), 0.0)) * self.quantile(ones)
            if None not in shaped and float(ones @ z) <= together:
                return error, None, None
            if problem.logged[index - k]:
                value, reach = float(np.exp(z[index])), float(reaches[index])
                if reach >= math.log(FAR):
                    return value * error, None, None
                return (
                    value * error,
                    math.exp(low) if low > problem.lower[index] else None,
                    math.exp(high) if high < problem.upper[index] else None,
                )
            return (
                error,
                float(low) if low > problem.lower[index] else None,
                float(high) if high < problem.upper[index] else None,
            )
        # The end of the term's own range at the centre, carried to the formula's units.
        size = z[:k].copy()
        if vanishing[index]:
            size[index] += reaches[index]
        with np.errstate(over="ignore"):
            value = float(problem.natural(np.concatenate([size, z[k:]]))[name])
            change = self._change(np.where(size > 0, size, 1.0))[index]
            if vanishing[index]:
                change[index] = 0.0
            error = float(np.sqrt(max(change @ self.inner @ change, 0.0)))
            reach = self.quantile(change) * error
            high = value * np.exp(reach) if reach < math.log(FAR) else None
            low = value * np.exp(-reach) if reach < math.log(FAR) else None
        at = float(problem.natural(z)[name])
        if vanishing[index]:
            own = self._change(np.where(z[:k] > 0, z[:k], np.inf))[index]
            error = float(np.sqrt(max(own @ self.inner @ own, 0.0)))
            return at * error, None, high
        return at * error, low, high

    def _change(self, size: Array) -> Array:
        """d(log coefficient in the paper's form, exponents) / dz, shape (p, p), at these sizes."""
        problem, z, k = self.problem, self.z, self.problem.coefficients
        change = np.eye(len(z))
        with np.errstate(divide="ignore", invalid="ignore"):
            change[:k, :k] = np.diag(1 / size)
            change[:k, k:] = -problem.centre[:, 1:]
            logs = np.log(size) - problem.centre[:, 0] - problem.centre[:, 1:] @ z[k:]
            scale, slopes = problem.scales(z), problem.scale_slopes
            moved = np.where(slopes == 0, 0.0, logs[:, None] * slopes)
            change[:k, k:] -= moved / scale[:, None]
            change[:k] /= scale[:, None]
        change[:k][~np.isfinite(change[:k]).all(axis=1)] = 0.0
        return change


def covariance(solved: Solved) -> Covariance | None:
    """The covariance at the optimum; None where clusters do not outnumber parameters, or
    where all residuals are so far beyond delta that the objective has no curvature.

    A coefficient that ended at 0 counts as free: what it could have been is part of the spread.
    """
    problem, z, clusters = solved.problem, solved.solution.z, solved.clusters
    count = int(clusters[-1]) + 1
    basis = solved.identification.basis
    rank = basis.shape[1]
    if count <= rank or rank == 0:
        return None

    scores, breads = told(problem, z, clusters, basis)
    critical = t_quantile(0.975, count - 1)
    if problem.effects is not None:
        if not breads.any():
            return None
        steps = unbiased(scores, breads)
        inner = basis @ (steps.T @ steps) @ basis.T
        return Covariance(problem, z, inner, count, critical, basis, breads)
    left = left_out(scores, breads)
    if left is None:
        return None
    spread = (count - 1) / count * (left.T @ left)
    return Covariance(problem, z, basis @ spread @ basis.T, count, critical)


def told(
    problem: Problem, z: Array, clusters: Index, basis: Array, beside: Array | None = None
) -> tuple[Array, Array]:
    """What each cluster says of directions: its slope (G, r) and expected curvature (G, r, r).

    Args:
        basis: directions in z, shape (p, r).
        beside: further directions, as what they add to the residual of each row, shape (k, n);
            they come after the others.
    """
    count, rank = int(clusters[-1]) + 1, basis.shape[1] + (0 if beside is None else len(beside))
    scores = np.zeros((count, rank))
    breads = np.zeros((count, rank, rank))
    pieces = chunks(problem, _CHUNK)
    r = np.concatenate([coordinates(problem.rows(chunk), z)[0] for chunk in pieces])
    width = _bandwidth(r)
    for chunk in pieces:
        part = problem.rows(chunk)
        residual, jac = coordinates(part, z)
        direction = basis.T @ jac
        if beside is not None:
            direction = np.concatenate([direction, part.whitened(beside[:, chunk])])
        weights, cluster = part.coordinates(part.weights), part.coordinates(clusters[chunk])
        order = np.argsort(cluster, kind="stable")
        residual, weights, cluster = residual[order], weights[order], cluster[order]
        direction = direction[:, order]
        psi = weights * np.clip(residual, -part.delta, part.delta)
        curve = weights * _curvature(residual, part.delta, width)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(cluster)) + 1])
        first = cluster[edges]
        scores[first] += np.add.reduceat(direction * psi, edges, axis=1).T
        for i in range(rank):
            products = np.add.reduceat(direction[: i + 1] * (direction[i] * curve), edges, axis=1)
            breads[first, i, : i + 1] += products.T
    breads += np.tril(breads, -1).transpose(0, 2, 1)
    return scores, breads


def left_out(scores: Array, breads: Array) -> Array | None:
    """One step from the optimum to that without each cluster, shape (G, r), of what :func:`told`
    found; None where every residual is so far beyond delta that there is no curvature."""
    total = breads.sum(axis=0)
    # The directions are scaled, so the ridge only matters where a cluster holds all that is known
    # of one.
    without = total - breads + 1e-10 * np.trace(total) / len(total) * np.eye(len(total))
    try:
        return np.linalg.solve(without, scores[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return None


def unbiased(scores: Array, breads: Array) -> Array:
    """What each cluster moves the optimum by, (G, r), larger by what it is moved itself: the sum of
    squares has the right mean where coordinates are independent (CR2)."""
    root, larger = _larger(breads)
    moved: Array = (root @ (larger @ (root @ scores[:, :, None])))[:, :, 0]
    return moved


def _larger(breads: Array) -> tuple[Array, Array]:
    """Root R of the inverse of the sum of breads, (r, r), and (1 - R bread R)^-1/2, (G, r, r)."""
    values, vectors = np.linalg.eigh(breads.sum(axis=0))
    root = vectors / np.sqrt(np.maximum(values, 1e-14 * values[-1])) @ vectors.T
    own, turned = np.linalg.eigh(root @ breads @ root)
    # As in the jackknife, the limit only matters where a cluster holds all that is known.
    scale = 1 / np.sqrt(np.maximum(1 - own, 1e-10))
    return root, (turned * scale[:, None, :]) @ turned.transpose(0, 2, 1)


def degrees_of_freedom(contrasts: Array, information: Array) -> Array:
    """Degrees of freedom of that sum of squares for combinations (k, r) of directions.

    Those of a χ² with the mean and variance that it has where coordinates are independent, as
    whitened ones are (Bell & McCaffrey 2002; Pustejovsky & Tipton 2018).

    Args:
        information: what each cluster tells of the directions, shape (G, r, r).
    """
    root, larger = _larger(information)
    moved = root @ (larger @ (root @ contrasts.T))  # (G, r, k)
    pulled = np.matmul(information, moved)
    own = np.einsum("grk,grk->kg", moved, pulled)
    pulled = pulled.transpose(2, 0, 1)  # (k, G, r)
    # Of the matrix with own on the diagonal, less S = pulled inverse pulled', (G, G); of that, what
    # stands beside the diagonal by sums before and after each cluster: one may hold nearly all.
    through = pulled @ (root @ root)
    left = own - np.einsum("kgr,kgr->kg", through, pulled)
    pairs = pulled[..., :, None] * pulled[..., None, :]
    others = np.zeros_like(pairs)
    others[:, 1:] += np.cumsum(pairs[:, :-1], axis=1)
    others[:, :-1] += np.cumsum(pairs[:, :0:-1], axis=1)[:, ::-1]
    trace = np.sum(left, axis=1)
    beside = np.einsum("kgr,kgrs,kgs->kg", through, others, through)
    squares = np.sum(left**2 + np.maximum(beside, 0.0), axis=1)
    found: Array = np.where(squares > 0, trace**2 / np.maximum(squares, 1e-300), 1.0)
    return np.clip(np.nan_to_num(found, nan=1.0), 1.0, max(len(information) - 1, 1))


def t_quantiles(freedom: Array) -> Array:
    """Quantiles of Student's t for 95 %, a tenth of a degree of freedom apart."""
    return np.array(
        [_quantile(math.floor(10 * f) / 10 if f < 30 else float(int(f))) for f in freedom]
    )


def quantiles(covariance: Mapping[str, Any], contrasts: Array) -> Array:
    """Student's t quantiles for 95 % of combinations (p, …) of the parameters of a saved fit."""
    if not covariance.get("information"):
        return np.broadcast_to(covariance["critical"], contrasts.shape[1:])
    flat = contrasts.reshape(len(contrasts), -1).T @ np.array(covariance["basis"])
    found = t_quantiles(degrees_of_freedom(flat, np.array(covariance["information"])))
    return found.reshape(contrasts.shape[1:])


@cache
def _quantile(freedom: float) -> float:
    return t_quantile(0.975, freedom)


def expected_curvature(problem: Problem, z: Array) -> Array:
    """Curvature of the objective at z that :func:`covariance` goes by, shape (p, p)."""
    pieces = chunks(problem, _CHUNK)
    r = np.concatenate([coordinates(problem.rows(c), z)[0] for c in pieces])
    width, total = _bandwidth(r), np.zeros((len(z), len(z)))
    for chunk in pieces:
        part = problem.rows(chunk)
        residual, jac = coordinates(part, z)
        weights = part.coordinates(part.weights)
        total += (jac * (weights * _curvature(residual, part.delta, width))) @ jac.T
    return total


def coordinates(problem: Problem, z: Array) -> tuple[Array, Array]:
    """Residuals and their derivatives by z, as independent coordinates: (m,) and (p, m)."""
    fitted, jac = problem.jacobian(z)
    residual = problem.scale.miss(fitted, problem.y)
    return problem.whitened(residual), problem.whitened(jac * problem.scale.slope(fitted))


def _bandwidth(r: Array) -> float:
    """Silverman's rule on a robust scale, as the scale of a logistic kernel."""
    ordered = np.sort(r)
    quartiles = ordered[(3 * len(r)) // 4] - ordered[len(r) // 4]
    spread = min(float(np.std(r)), float(quartiles) / 1.349) or float(np.std(r))
    return max(0.9 * spread * math.sqrt(3) / math.pi / math.pow(len(r), 0.2), 1e-300)


def _curvature(r: Array, delta: float, width: float) -> Array:
    """Expected second derivative of Huber's function: P(|r| < delta), smoothed.

    With delta far below the residuals only a few rows lie within it, and an indicator is a coin
    toss per row; a kernel uses its neighbours, as in the sandwich for a median (Powell 1991).
    """
    if delta == math.inf:
        return np.ones_like(r)
    with np.errstate(over="ignore"):  # far beyond the residuals is as good as without end
        upper = np.tanh((delta - r) / (2 * width))
        lower = np.tanh((-delta - r) / (2 * width))
    return 0.5 * (upper - lower)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution.

    With t = sqrt(v) tan(a) the density is proportional to cos(a)^(v-1), which Simpson's rule
    integrates to rounding; Newton's method, kept within a bracket, inverts it. Importing
    scipy.stats would cost more time than the whole fit takes.

    >>> round(t_quantile(0.975, 8), 6)
    2.306004

    Raises:
        ValueError: probability outside (0, 1) or degrees < 1.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError("a probability in (0, 1) and at least one degree of freedom are needed")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    nodes = np.linspace(0, 1, 1025)
    weights = np.where(np.arange(1025) % 2, 4.0, 2.0) / (3 * 1024)
    weights[[0, -1]] /= 2
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    constant /= math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    angle = math.atan(2.0 / math.sqrt(degrees))
    for _ in range(100):
        area = constant * angle * float(weights @ np.cos(angle * nodes) ** (degrees - 1))
        error = area - (probability - 0.5)
        low, high = (low, angle) if error > 0 else (angle, high)
        slope = constant * math.cos(angle) ** (degrees - 1)
        step = angle - error / slope if slope > 0 else math.inf
        new = step if low < step < high else 0.5 * (low + high)
        if abs(new - angle) <= 1e-15 * angle:
            break
        angle = new
    return math.sqrt(degrees) * math.tan(angle)
