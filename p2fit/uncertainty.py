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

from p2fit.identify import Identification
from p2fit.laws import Array
from p2fit.least_squares import Problem, jacobian

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Covariance:
    """Covariance of the estimates, in logs of the coefficients and in the exponents."""

    names: tuple[str, ...]
    """Free parameters: coefficients (their logs), then exponents."""
    matrix: Array
    """Shape (p, p); along directions that the data do not determine it is 0."""
    clusters: int
    """Number G of independent units."""
    critical: float
    """Student's t quantile for 95 % at G - 1 degrees of freedom."""
    log_size: Array
    """Standard error of the log of each coefficient's terms at the centre of the data."""


def covariance(
    problem: Problem, z: Array, clusters: Array, identification: Identification
) -> Covariance | None:
    """The CR3 covariance at the optimum; None where clusters do not outnumber parameters.

    Args:
        clusters: cluster index of each row, shape (n,), ascending from 0 without gaps.
    """
    count = int(clusters[-1]) + 1
    k = problem.coefficients
    atzero = np.zeros(len(z), bool)
    atzero[:k] = z[:k] == 0
    basis = identification.basis
    if atzero.any():  # a term at its bound does not move: work in what is left
        left, singular, _ = np.linalg.svd(np.where(atzero[:, None], 0.0, basis), full_matrices=False)
        basis = left[:, singular > 1e-10 * singular[0]] if len(singular) else left
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
    # One Newton step from the optimum to the optimum without cluster g.
    without = total - breads
    without += 1e-10 * np.trace(total) / rank * np.eye(rank)
    steps = np.linalg.solve(without, scores[:, :, None])[:, :, 0]
    spread = (count - 1) / count * (steps.T @ steps)
    inner = basis @ spread @ basis.T

    change = _to_natural(problem, z, atzero)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.sqrt(np.diag(inner)[:k]) / z[:k]
    return Covariance(
        names=problem.names,
        matrix=change @ inner @ change.T,
        clusters=count,
        critical=t_quantile(0.975, count - 1),
        log_size=size,
    )


def _blocks(n: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]


def _residual(problem: Problem, z: Array) -> tuple[Array, Array]:
    fitted, jac = jacobian(problem, z)
    if problem.residual == "log":
        return np.log(fitted / problem.y), jac / fitted
    return fitted - problem.y, jac


def _to_natural(problem: Problem, z: Array, atzero: Array) -> Array:
    """d(log coefficient in the paper's form, exponents) / dz, shape (p, p)."""
    k = problem.coefficients
    size = np.where(atzero[:k], 1.0, z[:k])
    scale = problem.log_scales(z)
    change = np.eye(len(z))
    change[:k, :k] = np.diag(1 / size)
    change[:k, k:] = -problem.centre[:, 1:]
    logs = np.log(size) - problem.centre[:, 0] - problem.centre[:, 1:] @ z[k:]
    scales = {t.coefficient: t.scale for t in problem.law.terms if t.coefficient}
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, name in enumerate(problem.law.coefficients):
            for exponent, weight in scales[name].weights:
                j = k + problem.law.exponents.index(exponent)
                change[i, j] -= logs[i] * weight / scale[i]
            change[i] /= scale[i]
    change[:k][atzero[:k]] = 0.0
    return np.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0)


def _bandwidth(r: Array) -> float:
    """Silverman's rule on a robust scale, as the scale of a logistic kernel."""
    ordered = np.sort(r)
    quartiles = ordered[(3 * len(r)) // 4] - ordered[len(r) // 4]
    spread = min(float(np.std(r)), float(quartiles) / 1.349) or float(np.std(r))
    return max(0.9 * spread * len(r) ** -0.2 * math.sqrt(3) / math.pi, 1e-300)


def _curvature(r: Array, delta: float, width: float) -> Array:
    """Expected second derivative of Huber's function: P(|r| < delta), smoothed.

    With delta far below the residuals only a few rows lie within it, and an indicator is a coin
    toss per row; a kernel uses its neighbours, as in the sandwich for a median (Powell 1991).
    """
    if delta == math.inf:
        return np.ones_like(r)
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
