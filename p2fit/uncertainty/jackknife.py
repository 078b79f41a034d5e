"""Standard errors and intervals of the estimates.

The points of one curve share their error, so the unit of inference is the run (or another
cluster): a leave-one-cluster-out jackknife (CR3) by its one-step formula, with Student's t at
G - 1 degrees of freedom. Where every run has one row this is a jackknife over rows (HC3).

Source: Bell & McCaffrey 2002 (CR3); MacKinnon, Nielsen & Webb 2023 for its one-step form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from p2fit.arrays import Array
from p2fit.solver.problem import Problem
from p2fit.solver.solving import Solved

#: A coefficient's interval is open at an end further from the estimate than this factor.
FAR = 1e6

_CHUNK = 1 << 16


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

    def natural(self) -> Array:
        """Covariance of the logs of the coefficients and of the exponents, shape (p, p).

        A coefficient that is 0 has no log: its row and column are those of the coefficient.
        """
        k = self.problem.coefficients
        change = self._change(self.z[:k])
        unit = np.concatenate([np.ones(k), self.z[k:]])
        values = self.problem.natural(unit)
        for i, name in enumerate(self.problem.law.coefficients):
            if self.z[i] == 0:
                change[i, i] = values[name]
        return change @ self.inner @ change.T

    def interval(self, index: int) -> tuple[float, float | None, float | None]:
        """Standard error and the 95 % interval of one entry of z, in the formula's units.

        An exponent's is symmetric; a coefficient's is, on the log scale. An end is None (open)
        where the data do not bound it: at the end of the parameter's range; for a coefficient
        whose term could be 0 at the centre of the data, or that could be a million times larger;
        for an exponent whose terms, added up, could be 0 there.
        """
        problem, z, k = self.problem, self.z, self.problem.coefficients
        deviation = np.sqrt(np.maximum(np.diag(self.inner), 0.0))
        vanishing = z[:k] <= self.critical * deviation[:k]
        name = problem.names[index]
        if index >= k:
            error = float(deviation[index])
            low, high = z[index] - self.critical * error, z[index] + self.critical * error
            shaped = problem.law.shaped(name)
            ones = np.array([c in shaped for c in problem.names], float)
            together = self.critical * math.sqrt(max(float(ones @ self.inner @ ones), 0.0))
            if None not in shaped and float(ones @ z) <= together:
                return error, None, None
            if problem.logged[index - k]:
                value, reach = float(np.exp(z[index])), self.critical * error
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
            size[index] += self.critical * deviation[index]
        with np.errstate(over="ignore"):
            value = float(problem.natural(np.concatenate([size, z[k:]]))[name])
            change = self._change(np.where(size > 0, size, 1.0))[index]
            if vanishing[index]:
                change[index] = 0.0
            error = float(np.sqrt(max(change @ self.inner @ change, 0.0)))
            reach = self.critical * error
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
    """The CR3 covariance at the optimum; None where clusters do not outnumber parameters, or
    where all residuals are so far beyond delta that the objective has no curvature.

    A coefficient that ended at 0 counts as free: what it could have been is part of the spread.
    """
    problem, z, clusters = solved.problem, solved.solution.z, solved.clusters
    count = int(clusters[-1]) + 1
    basis = solved.identification.basis
    rank = basis.shape[1]
    if count <= rank or rank == 0:
        return None

    scores = np.zeros((count, rank))
    breads = np.zeros((count, rank, rank))
    r = np.empty(len(problem.y))
    for chunk in _blocks(len(r)):
        r[chunk] = _residual(problem.rows(chunk), z)[0]
    width = _bandwidth(r)
    for chunk in _blocks(len(r)):
        part = problem.rows(chunk)
        residual, jac = _residual(part, z)
        direction = basis.T @ jac
        psi = part.weights * np.clip(residual, -part.delta, part.delta)
        curve = part.weights * _curvature(residual, part.delta, width)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(clusters[chunk])) + 1])
        first = clusters[chunk][edges]
        scores[first] += np.add.reduceat(direction * psi, edges, axis=1).T
        for i in range(rank):
            products = np.add.reduceat(direction[: i + 1] * (direction[i] * curve), edges, axis=1)
            breads[first, i, : i + 1] += products.T
    breads += np.tril(breads, -1).transpose(0, 2, 1)
    total = breads.sum(axis=0)
    # One step from the optimum to the optimum without cluster g. The directions are scaled, so
    # the ridge only matters where a cluster holds all that is known of one.
    without = total - breads + 1e-10 * np.trace(total) / rank * np.eye(rank)
    try:
        steps = np.linalg.solve(without, scores[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:  # every residual is far beyond delta: there is no curvature
        return None
    spread = (count - 1) / count * (steps.T @ steps)
    inner = basis @ spread @ basis.T

    return Covariance(problem, z, inner, count, t_quantile(0.975, count - 1))


def expected_curvature(problem: Problem, z: Array) -> Array:
    """Curvature of the objective at z that :func:`covariance` goes by, shape (p, p)."""
    r = np.concatenate([_residual(problem.rows(c), z)[0] for c in _blocks(len(problem.y))])
    width, total = _bandwidth(r), np.zeros((len(z), len(z)))
    for chunk in _blocks(len(r)):
        part = problem.rows(chunk)
        residual, jac = _residual(part, z)
        total += (jac * (part.weights * _curvature(residual, part.delta, width))) @ jac.T
    return total


def _blocks(n: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]


def _residual(problem: Problem, z: Array) -> tuple[Array, Array]:
    fitted, jac = problem.jacobian(z)
    return problem.scale.miss(fitted, problem.y), jac * problem.scale.slope(fitted)


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
