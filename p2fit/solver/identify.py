"""What can these data tell? The rank of the problem, and in words what is not determined.

Everything is read off the Jacobian of the fitted loss at the optimum, each column scaled to unit
length: its condition number, its null directions, and, by rebuilding it with more distinct values
of one input, what would be needed to determine the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from p2fit.arrays import Array
from p2fit.errors import LawError
from p2fit.solver.build import build
from p2fit.solver.problem import Problem
from p2fit.wording import join

#: Condition number above which the fit warns.
WARN = 1e4
#: Condition number above which a direction counts as not determined at all.
NULL = 1e10

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Undetermined:
    """Parameters that the data cannot tell apart."""

    parameters: tuple[str, ...]
    """Their names."""
    reasons: tuple[str, ...]
    """Why, e.g. ``2 distinct values of params, 3 needed``; may be empty."""

    def __str__(self) -> str:
        names = join(self.parameters)
        verb = "is not determined" if len(self.parameters) == 1 else "are not separately determined"
        return f"{names} {verb}" + (f": {'; '.join(self.reasons)}" if self.reasons else "")


@dataclass(frozen=True)
class Identification:
    """What the data can tell about the parameters of a law."""

    rank: int
    """Directions of the parameter space that the data determine."""
    parameters: int
    """Free parameters."""
    condition: float
    """Condition number of the column-scaled Jacobian; inf below full rank, where the smallest
    singular value is only rounding."""
    undetermined: tuple[Undetermined, ...]
    """Groups of parameters that are not separately determined."""
    weak: tuple[str, ...]
    """Parameters of the weakest direction where the condition number is above 1e4."""
    collinear: tuple[tuple[str, str], ...]
    """Pairs of inputs that move together: one is a power of the other in these rows."""
    basis: Array
    """Determined directions in the solver's variables, shape (p, rank), each as long as it takes
    to move the fitted losses by 1 (root of the weighted sum of squares)."""

    @property
    def names(self) -> frozenset[str]:
        """Every parameter that is not determined."""
        return frozenset(n for u in self.undetermined for n in u.parameters)

    @property
    def warnings(self) -> list[str]:
        """In words, one line each."""
        lines = [str(u) for u in self.undetermined]
        if self.weak and not self.undetermined:
            lines.append(
                f"{join(self.weak)} {'is' if len(self.weak) == 1 else 'are'} only weakly "
                f"determined (condition number {self.condition:.2g}, above {WARN:.0e})"
            )
        lines += [
            f"{b} moves with {a} in these data (log correlation above 0.9999): vary them separately"
            for a, b in self.collinear
        ]
        return lines


def identify(problem: Problem, z: Array, columns: Mapping[str, Array]) -> Identification:
    """Read off the Jacobian at z (p,) what the rows determine.

    Args:
        columns: the law's inputs on the rows, as given to ``build``.
    """
    norms, singular, directions = _decompose(problem, z)
    top = singular[0] if len(singular) else 0.0
    moving = norms > 0
    kept = singular > top / NULL
    rank = int(kept.sum())
    condition = float(top / singular[-1]) if 0 < rank == len(z) else float("inf")
    scale = np.where(moving, norms, 1.0)
    basis = np.zeros((len(z), rank))
    basis[moving] = directions[kept].T / singular[kept]
    basis /= scale[:, None]
    null = np.zeros((len(z), len(z) - rank))
    null[moving, : int((~kept).sum())] = directions[~kept].T
    for column, row in enumerate(np.flatnonzero(~moving)):
        null[row, int((~kept).sum()) + column] = 1.0
    null /= scale[:, None]
    groups = _groups(problem, z, null)
    reasons = _reasons(problem, z, columns) if groups else ()
    weak: tuple[str, ...] = ()
    if condition > WARN and not groups:
        # How much wider the errors are than if each parameter were alone.
        inflation = np.sqrt(((directions.T / singular) ** 2).sum(axis=1))
        names = [n for n, m in zip(problem.names, moving) if m]
        weak = tuple(n for n, v in zip(names, inflation) if v > 0.01 * inflation.max())
    return Identification(
        rank=rank,
        parameters=len(z),
        condition=condition,
        undetermined=tuple(
            Undetermined(_in_order(problem, g), _zero(problem, z, g) or reasons) for g in groups
        ),
        weak=_in_order(problem, weak),
        collinear=_collinear(problem, columns),
        basis=basis,
    )


def determined(rank: int, parameters: int, condition: float | None) -> str:
    """In words how much is: ``7 of 7, condition number 1.3e+02``."""
    words = f"{rank} of {parameters}"
    finite = condition is not None and condition < float("inf")
    return f"{words}, condition number {condition:.2g}" if finite else words


def _decompose(problem: Problem, z: Array) -> tuple[Array, Array, Array]:
    """Column norms (p,), and singular values and right vectors of the scaled moving columns."""
    triangles = []
    for i in range(0, len(problem.y), _CHUNK):
        part = problem.rows(slice(i, i + _CHUNK))
        fitted, jac = part.jacobian(z)
        jac = jac * problem.scale.slope(fitted)
        if not np.isfinite(jac).all():
            raise LawError("the law has no finite slope in some rows")
        triangles.append(np.linalg.qr((jac * np.sqrt(part.weights)).T, mode="r"))
    triangle = np.concatenate(triangles)
    norms = np.linalg.norm(triangle, axis=0)
    # An exponent's column of rounding errors is a column of zeros.
    k = problem.coefficients
    size = problem.sizes
    idle = norms * size <= 1e-11 * (norms * size).max()
    norms[k:][idle[k:]] = 0.0
    moving = norms > 0
    scaled = triangle[:, moving] / norms[moving]
    _, singular, directions = np.linalg.svd(scaled, full_matrices=True)
    singular = np.concatenate([singular, np.zeros(int(moving.sum()) - len(singular))])
    return norms, singular, directions


def _natural(problem: Problem, z: Array, vectors: Array) -> Array:
    """Directions of z as directions of (log coefficient, exponents) in the formula's units."""
    k = problem.coefficients
    found = vectors.copy()
    positive = z[:k] > 0
    inverse = 1 / np.where(positive, z[:k], 1.0)
    found[:k] = inverse[:, None] * vectors[:k]
    found[:k][positive] -= (problem.centre[:, 1:] @ vectors[k:])[positive]
    return found


def _groups(problem: Problem, z: Array, null: Array) -> list[tuple[str, ...]]:
    """Parameters that the null directions mix: connected blocks of their projector."""
    if not null.shape[1]:
        return []
    natural, _ = np.linalg.qr(_natural(problem, z, null))
    projector = natural @ natural.T
    linked = np.abs(projector) > 1e-6
    groups, seen = [], set()
    for i in range(len(z)):
        if i in seen or not linked[i, i]:
            continue
        block, frontier = {i}, [i]
        while frontier:
            for j in np.flatnonzero(linked[frontier.pop()]):
                if int(j) not in block:
                    block.add(int(j))
                    frontier.append(int(j))
        seen |= block
        groups.append(tuple(problem.names[j] for j in sorted(block)))
    return groups


def _zero(problem: Problem, z: Array, names: tuple[str, ...]) -> tuple[str, ...]:
    """The reason where the parameters shape only terms whose coefficient is 0."""
    law = problem.law
    zeros = {c for c, v in zip(law.coefficients, z) if v == 0}
    uses = {n: law.shaped(n) for n in names if n in law.exponents}
    if len(uses) == len(names) and all(found <= zeros for found in uses.values()):
        gone = sorted({str(c) for n in names for c in uses[n]})
        return (f"{join(tuple(gone))} {'is' if len(gone) == 1 else 'are'} 0 here",)
    return ()


def _reasons(problem: Problem, z: Array, columns: Mapping[str, Array]) -> tuple[str, ...]:
    """What the design lacks: distinct values of an input, rows, or independent inputs."""
    law = problem.law
    inputs = law.varied
    if not inputs:
        return ()
    values = {x: np.unique(columns[x]) for x in inputs}
    design = np.unique(np.stack([columns[x] for x in inputs], axis=1), axis=0)
    found: list[str] = []
    here = dict(zip(inputs, design.T))
    rank = _structural_rank(problem, here)
    # Greedily: the input whose further values determine most, with as few as will do.
    for _ in inputs if rank else ():
        gains = {x: _structural_rank(problem, _crossed(here, x, 6)) for x in inputs}
        best = max(gains, key=lambda x: gains[x])
        have = len(values[best])
        if gains[best] <= rank or have >= 6:
            break
        tries = ((c, _crossed(here, best, c)) for c in range(have + 1, 7))
        need, here = next((c, d) for c, d in tries if _structural_rank(problem, d) == gains[best])
        rank = gains[best]
        found.append(f"{have} distinct value{'s' * (have != 1)} of {best}, {need} needed")
    if not found and len(design) < len(z):
        found.append(f"{len(design)} distinct points for {len(z)} parameters")
    return tuple(found)


def _collinear(problem: Problem, columns: Mapping[str, Array]) -> tuple[tuple[str, str], ...]:
    inputs = [x for x in problem.law.varied if np.min(columns[x]) > 0]
    logs = {x: np.log(columns[x]) for x in inputs}
    logs = {x: v - v.mean() for x, v in logs.items()}
    size = {x: float(np.linalg.norm(v)) for x, v in logs.items()}
    vary = [x for x in inputs if size[x] > 1e-9 * np.sqrt(len(problem.y))]
    return tuple(
        (a, b)
        for a, b in itertools.combinations(vary, 2)
        if abs(float(logs[a] @ logs[b])) > 0.9999 * size[a] * size[b] and len(problem.y) > 2
    )


def _structural_rank(problem: Problem, columns: Mapping[str, Array]) -> int:
    """Rank at a generic point: no term is 0, no two exponents are equal; 0 where it has none."""
    n = len(next(iter(columns.values())))
    rest = {x: np.ones(n) for x in problem.law.inputs if x not in columns}
    try:
        generic = build(
            problem.law, {**columns, **rest}, np.ones(n), np.ones(n), residual="linear", known=False
        )
    except LawError:  # such a point lies outside what the formula is for
        return 0
    _, singular, _ = _decompose(generic, generic.generic())
    return int(np.sum(singular > singular[0] / NULL)) if len(singular) else 0


def _crossed(design: Mapping[str, Array], name: str, count: int) -> dict[str, Array]:
    """Every point of the other inputs with ``count`` values of one input."""
    values = np.unique(design[name])
    low, high = float(values[0]), float(values[-1])
    # Among the values of the data, where the formula is known to work.
    levels = np.linspace(low if low < high else 0.6 * high, high, count)
    rest = [x for x in design if x != name]
    others = np.unique(np.stack([design[x] for x in rest] or [np.zeros(1)], axis=1), axis=0)
    others = others[:: max(1, len(others) // 64)]
    grid = {x: np.tile(others[:, j], count) for j, x in enumerate(rest)}
    return {**grid, name: np.repeat(levels, len(others))}


def _in_order(problem: Problem, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(p for p in problem.law.parameters if p in names)
