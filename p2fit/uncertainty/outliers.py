"""Rows and runs that do not belong to the law that the others follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from p2fit.arrays import Index, median
from p2fit.solver.least_squares import residuals
from p2fit.solver.problem import EXACT
from p2fit.solver.solving import Solved

_FAR_ROW, _FAR_RUN = 12.0, 6.0  # standard deviations
_NORMAL = 1.4826  # standard deviation of a normal, by the median of its size
_SHOWN = 3


@dataclass(frozen=True)
class Outliers:
    """What lies far off."""

    rows: Index
    """Positions of the rows, the farthest first."""
    runs: tuple[str, ...]
    """Whole runs, where runs differ in the model."""
    far: float
    """Standard deviations that the farthest lies off."""


def outliers(solved: Solved) -> Outliers:
    """Rows more than 12 standard deviations off, and runs more than 6.

    The standard deviation is that of the others: by the median of the residuals where each row has
    an error of its own, else that of the model's own errors.
    """
    problem, z = solved.problem, solved.solution.z
    r, effects = residuals(problem, z), problem.effects
    if effects is None:
        spare = len(r) - solved.identification.rank
        scale = _NORMAL * median(np.abs(r)) * np.sqrt(len(r) / max(spare, 1))
        own = r
    else:
        scale = solved.sharing.sigma if solved.sharing else 0.0
        own, beside = np.split(problem.whitened(r), [len(r)])
    if scale <= 10 * EXACT * problem.scale.typical(problem.y):
        return Outliers(np.zeros(0, int), (), 0.0)
    off = np.abs(own) / scale
    rows = np.flatnonzero(off > _FAR_ROW)
    rows = rows[np.argsort(-off[rows], kind="stable")]
    runs: list[str] = []
    if effects is not None and len(effects.design):
        names = solved.frame["run"].to_numpy()[effects.starts]
        away = np.max(np.abs(beside.reshape(len(effects.design), -1)), axis=0) / scale
        runs = [str(n) for n in names[away > _FAR_RUN]]
        off = np.append(off, away[away > _FAR_RUN])
    return Outliers(rows, tuple(runs), float(off.max(initial=0.0)))


def scatter(solved: Solved, found: Outliers) -> float:
    """Standard deviation of the residuals, without rows that lie far off."""
    r = np.delete(residuals(solved.problem, solved.solution.z), found.rows)
    return float(np.sqrt(float(r @ r) / max(len(r) - len(solved.problem.names), 1)))


def words(solved: Solved, found: Outliers, target: str) -> list[str]:
    """What lies far off, and what to do: a line for runs and one for rows."""
    lines = []
    if found.runs:
        lines.append(
            f"far off what the law and the other runs say: {_listed(found.runs)}; "
            f"{_leave(found.runs[0])} leaves a run out"
        )
    if len(found.rows):
        fitted, names = (
            solved.problem.loss(solved.solution.z[None])[0],
            solved.frame["run"].cast(pl.String),
        )
        said = []
        for name in dict.fromkeys(names[int(i)] for i in found.rows):
            own = [int(i) for i in found.rows if names[int(i)] == name]
            said.append(
                name
                + (f" in {len(own)} rows" if len(own) > 1 else "")
                + f" ({target} {solved.problem.y[own[0]]:.4g}, the law says {fitted[own[0]]:.4g})"
            )
        lines.append(
            f"far off the law, up to {found.far:.2g} standard deviations of the others, and not "
            f"counted in the scatter of new runs: {_listed(said)}; "
            f"{_leave(names[int(found.rows[0])])} leaves a run out"
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _leave(run: str) -> str:
    return f"""--where "run != '{run}'\""""
