"""What can a design tell, before it is paid for? Its rank, its condition, the run to add.

A design is the inputs of loss curves without the losses: sizes, pruning rates, token counts. What
it can determine is read off the Jacobian of the law at a reference point, as
:mod:`p2fit.solver.identify` does for a fit. Where it falls short, candidate runs are added one at
a time: existing and new values of every input, crossed, each run with as many token counts as the
others have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import numpy as np
import polars as pl

from p2fit.arguments import hold
from p2fit.arrays import Array, finite, one_thread
from p2fit.curves.choosing import (
    Dataset,
    Source,
    Stdin,
    choose_law,
    datasets,
    read,
    required_columns,
)
from p2fit.curves.columns import with_run_by
from p2fit.curves.options import OptionNames, Options, showing
from p2fit.curves.reading import Curves
from p2fit.errors import FitError, LawError
from p2fit.judging.candidates import Mend, find_mends, residual_jacobian, scale_columns, to_triangle
from p2fit.laws.expression import evaluate
from p2fit.laws.law import Law
from p2fit.laws.table import get_law
from p2fit.results import Result, Results
from p2fit.solver.build import build
from p2fit.solver.identify import WARN, determined, identify
from p2fit.solver.problem import Problem
from p2fit.solver.solving import solve_dataset
from p2fit.wording import join

_ANY = (0.5, 1.0)  # value of a target that a design lacks, of the loss
_BASE_LOSS = 2.5  # nats per token, where a design does not say: only scales the residuals
_EXCESS = 0.2  # of that: what the fitted part of a law with a known offset amounts to


@dataclass(frozen=True)
class DesignReport(Result):
    """What a design can tell about the parameters of a law."""

    table = ("inputs", "input")

    law: Law
    """The law, with what is fixed and tied."""
    source: str
    """Where the design comes from."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this design's values of them."""
    rows: int
    """Rows of the design."""
    runs: int
    """Runs of the design."""
    inputs: Mapping[str, Mapping[str, float]]
    """``min``, ``max`` and number of ``distinct`` values of each input that parameters act on."""
    reference: str
    """Where the Jacobian is taken: ``the fit``, or ``typical values``."""
    at: Mapping[str, float]
    """The exponents there. Coefficients are those of the fit, or make all terms equally large at
    the centre of the design, unless given."""
    rank: int
    """In how many independent ways the parameters move the losses of the design."""
    parameters: int
    """Free parameters."""
    condition: float
    """Condition number of the column-scaled Jacobian; inf below full rank."""
    undetermined: tuple[Mapping[str, tuple[str, ...]], ...]
    """Groups of ``parameters`` that cannot be told apart, and the ``reasons``."""
    combinations: tuple[Mapping[str, float], ...]
    """What can change together, to first order, without moving any loss of the design: changes of
    exponents and, by ``log <name>``, of the logs of coefficients."""
    collinear: tuple[tuple[str, str], ...]
    """Pairs of inputs that move together."""
    warnings: tuple[str, ...]
    """The findings in words, one line each."""
    mends: tuple[Mend, ...]
    """Alternatives, the best first: a run to add, or several where no single one is enough."""

    @property
    def advice(self) -> list[str]:
        """``mends`` in words, one line each."""
        lines = []
        for mend in self.mends:
            result = determined(mend.rank, self.parameters, mend.condition)
            which = "; ".join(str(r) for r in mend.runs)
            many = len(mend.runs) > 1
            what = (
                f"no single run mends it; {len(mend.runs)} more:" if many else "one more run with"
            )
            lines.append(f"{what} {which}: local rank {result}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number."""
        found = asdict(self)
        found |= {"law": self.law.name, "formula": self.law.formula, "advice": self.advice}
        found["condition"] = finite(self.condition)
        for mend in found["mends"]:
            mend["condition"] = finite(mend["condition"])
        return found


@showing(Options)
@one_thread()
def identify_design(
    source: Source,
    law: str | Law | None = None,
    *,
    design: bool = False,
    at: Mapping[str, float] | None = None,
    **options: Unpack[OptionNames],
) -> list[DesignReport]:
    """Which parameters a design can tell apart, and which run to add.

    The reference point is the fit to the losses where that determines every parameter, else
    typical values: exponents of 0.30, 0.35, … for single terms; for a factor shared by several
    terms a power of 1.3 of a share and of -0.05 of a count; terms of equal size.

    Args:
        source: a CSV file (``-`` for standard input), a table, or :class:`Curves`.
        law: a name from :data:`LAWS`, a formula, or a :class:`Law`; None: by the columns.
        design: whether to read a design without losses; base_loss may be missing too.
        at: values of parameters at the reference point, in place of those.
        options: the fields of :class:`Options`.

    Returns:
        One report per group, in the order of the groups' values.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law.
    """
    hold("at", at, Mapping[str, float] | None)
    if design:
        target = options.get("target", "loss")
        columns = with_run_by(options.pop("columns", None), options.pop("run_by", None))
        source = _without_losses(source, law, columns, target)
    found = datasets(source, law, **options)
    return Results(_report(dataset, design, at or {}) for dataset in found)


def _without_losses(
    source: Source, law: str | Law | None, columns: Mapping[str, str] | None, target: str
) -> Curves:
    """A design as curves: every loss is 1 (another target 0.5), and read by nobody."""
    if isinstance(source, str) and source == "-":
        source = Stdin()
    curves = read(source, columns, needs=("run",))
    names = {*curves.frame.columns, target}
    chosen = choose_law(names)[0] if law is None else get_law(law, names)
    unsaid = {x for x in chosen.inputs if x not in chosen.varied} - names
    wanted = [c for c in required_columns(chosen, target) if c != target and c not in unsaid]
    numeric = [x for x in chosen.inputs if x not in unsaid]
    curves = read(source, columns, needs=wanted, numeric=numeric)
    filled = {**dict.fromkeys(sorted(unsaid), _BASE_LOSS), target: _ANY[target == "loss"]}
    return replace(
        curves, frame=curves.frame.with_columns(**{n: pl.lit(v) for n, v in filled.items()})
    )


def _report(dataset: Dataset, design: bool, at: Mapping[str, float]) -> DesignReport:
    frame, law = dataset.frame, dataset.law
    columns = {x: frame[x].to_numpy() for x in law.inputs}
    try:
        problem = build(
            law,
            columns,
            frame[dataset.options.target].to_numpy(),
            np.ones(frame.height),
            residual=dataset.options.residual or "log",
        )
        z, reference = _typical(problem, columns), "typical values"
        if not design:
            solved = solve_dataset(dataset)
            k = problem.coefficients
            whole = np.all(solved.solution.z[:k] > 1e-6 * problem.sizes[:k])
            if whole and not solved.identification.undetermined:
                z, reference = solved.solution.z, "the fit"
        z = _moved(problem, z, at)
    except LawError as error:
        raise FitError(f"{dataset.label}: {error}") from None
    positive = problem.residual != "log" or np.all(problem.loss(z[None]) > 0)
    if not positive:  # terms that are subtracted: logs make no sense
        problem = replace(problem, residual="linear")
    found = identify(problem, z, columns)
    triangle, open_directions = _open(problem, z, found.rank)
    natural = problem.natural(z)
    names = law.varied
    return DesignReport(
        law=law,
        source=dataset.curves.source,
        group=dict(dataset.group),
        rows=frame.height,
        runs=frame["run"].n_unique(),
        inputs={
            x: {
                "min": float(columns[x].min()),
                "max": float(columns[x].max()),
                "distinct": len(np.unique(columns[x])),
            }
            for x in names
        },
        reference=reference,
        at={e: float(natural[e]) for e in law.exponents} | {n: float(at[n]) for n in at},
        rank=found.rank,
        parameters=found.parameters,
        condition=found.condition,
        undetermined=tuple(
            {"parameters": u.parameters, "reasons": u.reasons} for u in found.undetermined
        ),
        combinations=_combinations(problem, z, open_directions),
        collinear=found.collinear,
        warnings=(*found.warnings, *dataset.warnings),
        mends=find_mends(dataset, problem, z, columns, triangle)
        if found.rank < found.parameters or found.condition > WARN
        else (),
    )


# ---------------------------------------------------------------- the reference point


def _typical(problem: Problem, columns: Mapping[str, Array]) -> Array:
    """z, shape (p,), as one may expect it before anything is measured."""
    law, k = problem.law, problem.coefficients
    size = float(np.abs(problem.offset).mean())
    z = np.full(len(problem.names), (_EXCESS * size if size else _BASE_LOSS) / max(k, 1))
    if not law.monomial:
        z[k:] = problem.generic()[k:]
        return z
    for i, name in enumerate(law.exponents):
        z[k + i] = 0.3 + 0.05 * i  # no two alike: terms of equal exponents merge
        if law.ranges[name][0] < 0:
            base, weight = next(
                (b, w) for t in law.terms for b, p in t.powers for n, w in p.weights if n == name
            )
            share = np.max(evaluate(base, columns)) <= 1
            z[k + i] = (1.3 if share else -0.05) / weight
    return z


def _moved(problem: Problem, z: Array, at: Mapping[str, float]) -> Array:
    """The reference point with values given by the user; terms keep their size at the centre."""
    law = problem.law
    for name, value in at.items():
        if name not in law.free:
            have = join(law.free)
            raise LawError(f"{name} is not a free parameter of {law.name}; these are: {have}")
        low, high = law.ranges[name]
        if not (math.isfinite(value) and low <= value <= high and (value or name in law.exponents)):
            span = f"from {low:g} to {high:g}" if name in law.exponents else "above 0"
            raise LawError(f"{name} = {value:g}: give a value {span}")
    theta = {n: v for n, v in at.items() if n in law.exponents}
    moved = np.array([theta.get(n, v) for n, v in zip(problem.names, z)], float)
    if len(theta) == len(at):
        return moved
    natural = {n: float(v) for n, v in problem.natural(moved).items()}
    return problem.internal({**natural, **at})


def _open(problem: Problem, z: Array, rank: int) -> tuple[Array, Array]:
    """The Jacobian as a triangle (p, p), and what it leaves open in z, (p, p - rank)."""
    p = len(z)
    triangle = to_triangle(np.concatenate([residual_jacobian(problem, z), np.zeros((p, p))]))
    scaled, norms = scale_columns(problem, triangle)
    directions = np.linalg.svd(scaled)[2][rank:].T
    return triangle, directions / np.where(np.isfinite(norms), norms, 1.0)[:, None]


def _combinations(problem: Problem, z: Array, directions: Array) -> tuple[dict[str, float], ...]:
    """The open directions in the formula's units, each with as few parameters as will do."""
    k, law, step = problem.coefficients, problem.law, 1e-5
    found = []
    for v in directions.T:
        h = step * v / np.abs(v / np.maximum(np.abs(z), 0.1)).max()
        up, down = problem.natural(z + h), problem.natural(z - h)
        change = [np.log(up[c] / down[c]) for c in law.coefficients]
        change += [up[e] - down[e] for e in law.exponents]
        found.append(np.array(change, float))
    if not found:
        return ()
    matrix, row = np.stack(found) / np.abs(found).max(axis=1, keepdims=True), 0
    # To reduced echelon form, exponents first: each row is led by one that the others lack.
    for column in (*range(k, len(z)), *range(k)):
        if row == len(matrix):
            break
        lead = row + int(np.abs(matrix[row:, column]).argmax())
        if abs(matrix[lead, column]) < 1e-6 * np.abs(matrix[lead]).max():
            continue
        matrix[[row, lead]] = matrix[[lead, row]]
        matrix[row] /= matrix[row, column]
        rest = np.arange(len(matrix)) != row
        matrix[rest] -= np.outer(matrix[rest, column], matrix[row])
        row += 1
    names = [*(f"log {c}" for c in law.coefficients), *law.exponents]
    return tuple(
        {n: float(v) for n, v in zip(names, r) if abs(v) > 1e-5 * np.abs(r).max()} for r in matrix
    )
