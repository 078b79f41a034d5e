"""How far a new run lies from the law: the variances of runs and rows, and how well they are known.

Source: the expected information of restricted maximum likelihood (Patterson & Thompson 1971), and
the degrees of freedom that follow from it (Satterthwaite 1946).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.scales import SCALES, Linear
from p2fit.solver.effects import Effects
from p2fit.solver.solving import Solved
from p2fit.uncertainty.jackknife import coordinates, t_quantiles

_MANY = 2000  # runs from which on degrees of freedom do not matter


def new_run(solved: Solved) -> dict[str, Any] | None:
    """What a saved fit says of its runs; None where each row has an error of its own."""
    sharing, effects = solved.sharing, solved.problem.effects
    if sharing is None or effects is None:
        return None
    logs = np.zeros(len(effects.run))
    if len(effects.design) > 1:
        level = effects.design[0]
        logs = effects.design[1] / np.where(level == 0, 1.0, level)
    return {
        "excess": sharing.excess,
        "level": sharing.level,
        "rate": sharing.rate,
        "sigma": sharing.sigma,
        "along": sharing.along,
        "length": sharing.length,
        "neighbours": sharing.neighbours,
        "width": float(np.sqrt(np.mean(logs**2))),
        "delta": solved.problem.delta if np.isfinite(solved.problem.delta) else None,
        "unit": _unit(solved),
        "freedom": float(_freedom(solved, effects, sharing.sigma)),
    }


def effect(
    runs: Mapping[str, Any], scale: Linear, columns: Mapping[str, Any], centre: Array
) -> Array:
    """What one unit of a run's level moves the residuals by, where a saved fit predicts
    ``centre``."""
    if not runs["excess"]:
        return np.ones_like(centre)
    found: Array = (centre - np.broadcast_to(columns["base_loss"], centre.shape)) * scale.slope(
        centre
    )
    return found


def scatter(
    runs: Mapping[str, Any], scale: Linear, columns: Mapping[str, Any], centre: Array
) -> Array:
    """Half the width of the 95 % interval of one point of a new run about the value ``centre``
    of the law of a saved fit, on the residuals' scale."""
    spread = runs["level"] ** 2 + (runs["rate"] * runs["width"]) ** 2
    variance = runs["sigma"] ** 2 + spread * effect(runs, scale, columns, centre) ** 2
    found: Array = t_quantiles(np.array([runs["freedom"]]))[0] * np.sqrt(variance)
    return found


def measured(
    posterior: Mapping[str, Any],
    scale: Linear,
    columns: Mapping[str, Any],
    losses: Array,
    rng: np.random.Generator,
) -> Array:
    """One point of a new run for each of a saved posterior's losses, shape (draws, …)."""
    runs = posterior["runs"]
    noise = {
        n: np.array(v, float).reshape(-1, *[1] * (losses.ndim - 1))
        for n, v in posterior["noise"].items()
    }
    error = noise["sigma"] * rng.standard_normal(losses.shape)
    if runs is not None:
        spread = np.hypot(noise["tau"], noise.get("rate", 0.0) * runs["width"])
        spread = spread * effect(runs, scale, columns, losses)
        error += spread * rng.standard_normal(losses.shape)
    if "nu" in noise:
        error /= np.sqrt(rng.chisquare(noise["nu"], losses.shape) / noise["nu"])
    found: Array = scale.back(scale.to(losses) + error)
    if scale is SCALES["arcsine"]:
        found = np.clip(found, np.minimum(losses, 0), np.maximum(losses, 1))
    return found


def _unit(solved: Solved) -> float:
    """What 1/(s² + τ²) is of a row of weight 1, where rows are weighted by standard errors."""
    if solved.weighting["weights"] != "stderr":
        return 1.0
    y = solved.problem.y
    target = next(c for c in solved.frame.columns if c.endswith("_stderr"))
    s = solved.frame[target].to_numpy() * solved.problem.scale.slope(y)
    return float(np.mean(1 / (s**2 + solved.weighting["tau"] ** 2)))


def _freedom(solved: Solved, effects: Effects, sigma: float) -> float:
    """Degrees of freedom of the variance of one row of a new run."""
    _, jac = coordinates(solved.problem, solved.solution.z)
    direction = solved.identification.basis.T @ jac
    n, p = len(effects.run), len(direction)
    groups = len(effects.starts)
    used = [k for k, s in enumerate(effects.spread) if s > 0]
    if not used or groups > _MANY:
        return float(max((groups if used else n) - p, 1))
    bread = np.linalg.pinv(direction @ direction.T)
    run = effects.extended(effects.run)
    order = np.argsort(run, kind="stable")
    edges = np.concatenate([[0], np.flatnonzero(np.diff(run[order])) + 1])

    def by_run(x: Array) -> Array:
        return np.add.reduceat(x[..., order], edges, axis=-1)

    whole = effects.whitened(effects.design[used])
    crossed = [by_run(direction * w) for w in whole]
    k = len(used)
    information = np.empty((k + 1, k + 1))
    information[0, 0] = (n - p) / sigma**4
    for i in range(k):
        for j in range(k):
            both = -crossed[i].T @ bread @ crossed[j]
            both[np.diag_indices(groups)] += by_run(whole[i] * whole[j])
            information[i + 1, j + 1] = np.sum(both**2)
            if i == j:
                shared = np.trace(both) / sigma**2
                information[0, i + 1] = information[i + 1, 0] = shared
    size = np.mean(effects.design[used] ** 2, axis=1)
    spread = effects.spread[used] ** 2
    variance = sigma**2 * (1 + spread @ size)
    slope = np.concatenate([[1 + spread @ size], sigma**2 * size])
    uncertain = float(slope @ np.linalg.pinv(0.5 * information) @ slope)
    return max(2 * variance**2 / uncertain, 1.0) if uncertain > 0 else 1.0
