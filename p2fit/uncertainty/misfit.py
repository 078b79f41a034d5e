"""Whether the law is wrong along runs, in one of the ways in which it often is.

A shape is added to the residuals of every run, with one size for all of them: a transient at the
start, a fall at the end, and a bend in the log of the tokens, all three planned before the data.
One of them is there where its size is sure by the errors that the fit has found, and does not hang
on a few of the runs. The limits were set by simulations of correct laws under noise of eight kinds
(benchmarks/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from p2fit.arrays import Array
from p2fit.solver.solving import Solved
from p2fit.uncertainty.jackknife import (
    coordinates,
    degrees_of_freedom,
    t_quantile,
    told,
    unbiased,
)

_ROWS = 5  # of a run, from which a shape can be seen
_SURE = 2.576  # standard errors: 1 % of a normal is farther off
_HANGING = 0.15  # chance of such a size if runs differed in it at random
_KNOWN = 1e-4  # of a shape's size that is not a change of the law's parameters


@dataclass(frozen=True)
class Misfit:
    """A shape that the residuals of runs have in common."""

    cause: Literal["transient", "decay"]
    """What it looks like: a start that is off the law, or a learning rate that falls."""
    t: float
    """Size of the clearest shape over its standard error."""


def misfit(solved: Solved) -> Misfit | None:
    """What is wrong along runs; None where nothing is sure, or rows have errors of their own."""
    problem, z, clusters = solved.problem, solved.solution.z, solved.clusters
    frame, basis = solved.frame, solved.identification.basis
    count, rank = int(clusters[-1]) + 1, basis.shape[1]
    if problem.effects is None or count <= rank:
        return None
    if "tokens" not in frame.columns or frame["tokens"].null_count() or frame["tokens"].min() == 0:
        return None
    if frame.height < _ROWS * frame["run"].n_unique():
        return None
    shapes = _shapes(solved)
    scores, breads = told(problem, z, clusters, basis, shapes)
    residual, jac = coordinates(problem, z)
    psi = np.clip(residual, -problem.delta, problem.delta)
    rows = np.concatenate([basis.T @ jac, problem.whitened(shapes)])
    sure = []
    for own in ([*range(rank), rank + i] for i in range(len(shapes))):
        inverse = np.linalg.pinv(rows[own] @ rows[own].T, hermitian=True)
        alone = float(rows[own[-1]] @ rows[own[-1]])
        if not inverse[-1, -1] or inverse[-1, -1] * alone > 1 / _KNOWN:  # the law takes this shape
            sure.append((0.0, False))
            continue
        error = np.sqrt(psi @ psi / (len(psi) - len(own)) * inverse[-1, -1])
        t = -float(inverse[-1] @ rows[own] @ psi) / float(error or np.inf)
        sure.append((t, _steady(scores[:, own], breads[np.ix_(range(count), own, own)])))
    clear = [t for t, steady in sure if steady and abs(t) > _SURE]
    if not clear:
        return None
    # A rate that falls lets the loss fall most at the end; the rest is about the start.
    decay = sure[1][0] < -1
    return Misfit("decay" if decay else "transient", max(clear, key=abs))


def _steady(scores: Array, breads: Array) -> bool:
    """Whether the last direction's size does not hang on few of the clusters."""
    moved = unbiased(scores, breads)[:, -1]
    total = breads.sum(axis=0)
    size = float(np.linalg.pinv(total, hermitian=True)[-1] @ scores.sum(axis=0))
    error = float(np.sqrt(moved @ moved))
    freedom = float(degrees_of_freedom(np.eye(len(total))[-1:], breads)[0])
    return abs(size) > t_quantile(1 - _HANGING / 2, freedom) * error > 0


def _shapes(solved: Solved) -> Array:
    """What each shape adds to the residuals of the rows, (3, n): start, end, bend."""
    problem, frame = solved.problem, solved.frame
    run = problem.effects.run if problem.effects else np.zeros(frame.height, int)
    tokens = frame["tokens"].to_numpy().astype(float)
    last = np.zeros(run.max() + 1)
    np.maximum.at(last, run, tokens)
    share, logs = tokens / last[run], np.log(tokens)
    centred = logs - (np.bincount(run, logs) / np.bincount(run))[run]
    fitted = problem.loss(solved.solution.z[None])[0]
    level = problem.scale.slope(fitted) * (fitted - problem.offset)
    shapes: Array = level * np.stack([np.exp(-10 * share), share**4, centred**2])
    return shapes


def words(found: Misfit, law: str) -> str:
    """One line for the reader: what it looks like, and what to do."""
    shifted = {"p2": "p2-shifted", "chinchilla": "shifted"}.get(law)
    ways = {
        "transient": "most like a start that is off the law: see how the exponents move with "
        "--burn-in 0.2" + (f", or fit {shifted}" if shifted else ""),
        "decay": "most like a learning rate that decays along each run, so that only its last rows "
        "are trained to the end: mark them in a column final, and the others are left out",
    }
    return (
        f"the law is wrong along the runs (t = {found.t:.1f}): their residuals share a shape, "
        f"{ways[found.cause]}"
    )
