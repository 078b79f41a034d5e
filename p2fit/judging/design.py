"""What can a design tell, before it is paid for? Its rank, its condition, the run to add.

A design is the inputs of loss curves without the losses: sizes, pruning rates, token counts. What
it can determine is read off the Jacobian of the law at a reference point, as
:mod:`p2fit.solver.identify` does for a fit. Where it falls short, candidate runs are added one at
a time: existing and new values of every input, crossed, each run with as many token counts as the
others have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from p2fit.curves.choosing import FitError, Source, Stdin, Task, choose_law, needs, read, tasks
from p2fit.curves.reading import Curves
from p2fit.laws.law import LAWS, Array, Law, LawError, evaluate, get_law
from p2fit.solver.identify import NULL, WARN, determined, identify, join
from p2fit.solver.problem import Problem, build
from p2fit.solver.solving import solve_task

_ALTERNATIVES = 3  # runs that would do, shown
_MOST_ADDED = 6  # runs added together where one is not enough
_CANDIDATES = 3000
_CHECKPOINTS = 20  # rows by which a candidate run is judged
_ANY = (0.5, 1.0)  # value of a target that a design lacks, of the loss
_BASE_LOSS = 2.5  # nats per token, where a design does not say: only scales the residuals
_EXCESS = 0.2  # of that: what the fitted part of a law with a known offset amounts to


@dataclass(frozen=True)
class Run:
    """A run that could be added to a design."""

    inputs: Mapping[str, float]
    """What the law reads, at the end of the run."""
    checkpoints: int
    """Rows along the run, spread as in the others; 1: only its end."""

    def __str__(self) -> str:
        parts = [f"{x} {v:.4g}" for x, v in self.inputs.items()]
        text = join(tuple(parts))
        return text if self.checkpoints == 1 else f"{text}, in {self.checkpoints} checkpoints"


@dataclass(frozen=True)
class Mend:
    """Runs that would determine more, and how much."""

    runs: tuple[Run, ...]
    """The runs to add: all of them."""
    rank: int
    """Directions that the design then determines."""
    condition: float
    """Condition number that it then has; inf below full rank."""


@dataclass(frozen=True)
class DesignReport:
    """What a design can tell about the parameters of a law."""

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
    """Directions of the parameter space that the design determines."""
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
            lines.append(f"{what} {which}: {result}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number."""
        found = asdict(self)
        found |= {"law": self.law.name, "formula": self.law.formula, "advice": self.advice}
        found["condition"] = _finite(self.condition)
        for mend in found["mends"]:
            mend["condition"] = _finite(mend["condition"])
        return found

    def __str__(self) -> str:
        from p2fit.show.fit import text

        return text(self)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 2))
        head.add_column(style="dim", no_wrap=True)
        head.add_column(overflow="fold")
        for name, words in self._facts():
            head.add_row(name, Text(words))
        lines: list[Any] = [head]
        notes = [("warning: ", "yellow", w) for w in self.warnings]
        notes += [("mend: ", "green", w) for w in self.advice]
        if notes:
            lines.append(Text())
        lines += [Text.assemble((kind, style), words) for kind, style, words in notes]
        return Group(*lines)

    def _facts(self) -> list[tuple[str, str]]:
        facts = []
        if self.group:
            facts.append(("group", ", ".join(f"{k} = {v}" for k, v in self.group.items())))
        facts.append(("law", f"{self.law.name}: {self.law.formula}"))
        runs = f"{self.runs} run{'s' * (self.runs != 1)}"
        facts.append(("design", f"{self.source}: {self.rows} rows, {runs}"))
        for x, v in self.inputs.items():
            if v["distinct"] == 1:
                facts.append(("", f"{x}: {v['min']:.4g}"))
            else:
                span = f"{v['min']:.4g} to {v['max']:.4g}"
                facts.append(("", f"{x}: {v['distinct']:g} values, {span}"))
        at = ", ".join(f"{n} {v:.3g}" for n, v in self.at.items())
        facts.append(("judged at", f"{self.reference}: {at}" if at else self.reference))
        facts.append(("determined", determined(self.rank, self.parameters, self.condition)))
        for i, one in enumerate(self.combinations):
            changes = ", ".join(f"{n} {v:+.3g}" for n, v in one.items())
            facts.append(("" if i else "open", f"no loss changes along {changes}"))
        return facts


def identify_design(
    source: Source,
    law: str | Law | None = None,
    *,
    design: bool = False,
    at: Mapping[str, float] | None = None,
    **options: Any,
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
    if design:
        target = options.get("target", "loss")
        source = _without_losses(source, law, options.pop("columns", None), target)
    return [_report(task, design, at or {}) for task in tasks(source, law, **options)]


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
    wanted = [c for c in needs(chosen, target) if c != target and c not in unsaid]
    numeric = [x for x in chosen.inputs if x not in unsaid]
    curves = read(source, columns, needs=wanted, numeric=numeric)
    filled = {**dict.fromkeys(sorted(unsaid), _BASE_LOSS), target: _ANY[target == "loss"]}
    return replace(
        curves, frame=curves.frame.with_columns(**{n: pl.lit(v) for n, v in filled.items()})
    )


def _report(task: Task, design: bool, at: Mapping[str, float]) -> DesignReport:
    frame, law = task.frame, task.law
    columns = {x: frame[x].to_numpy() for x in law.inputs}
    try:
        problem = build(
            law,
            columns,
            frame[task.options.target].to_numpy(),
            np.ones(frame.height),
            residual=task.options.residual or "log",
        )
        z, reference = _typical(problem, columns), "typical values"
        if not design:
            solved = solve_task(task)
            k = problem.coefficients
            whole = np.all(solved.solution.z[:k] > 1e-6 * problem.sizes[:k])
            if whole and not solved.identification.undetermined:
                z, reference = solved.solution.z, "the fit"
        z = _moved(problem, z, at)
    except LawError as error:
        raise FitError(f"{task.label}: {error}") from None
    positive = problem.residual != "log" or np.all(problem.loss(z[None]) > 0)
    if not positive:  # terms that are subtracted: logs make no sense
        problem = replace(problem, residual="linear")
    found = identify(problem, z, columns)
    triangle, open_directions = _open(problem, z, found.rank)
    natural = problem.natural(z)
    names = law.varied
    return DesignReport(
        law=law,
        source=task.curves.source,
        group=dict(task.group),
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
        warnings=(*found.warnings, *task.warnings),
        mends=_mends(task, problem, z, columns, triangle)
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


# ---------------------------------------------------------------- what is open


def _rows(problem: Problem, z: Array) -> Array:
    """The Jacobian of the fitted residuals, shape (n, p)."""
    fitted, jac = problem.jacobian(z)
    return (jac * problem.scale.slope(fitted)).T


def _scaled(problem: Problem, rows: Array) -> tuple[Array, Array]:
    """Columns of (…, n, p) scaled to length 1, or 0 where a parameter moves nothing; lengths."""
    norms = np.linalg.norm(rows, axis=-2)
    effect = norms * problem.sizes
    norms = np.where(effect > 1e-11 * effect.max(axis=-1, keepdims=True), norms, np.inf)
    return rows / norms[..., None, :], norms


def _triangle(rows: Array) -> Array:
    """The triangle (p, p) with the same lengths and products as rows (n >= p, p)."""
    found: Array = np.linalg.qr(rows).R
    return found


def _open(problem: Problem, z: Array, rank: int) -> tuple[Array, Array]:
    """The Jacobian as a triangle (p, p), and what it leaves open in z, (p, p - rank)."""
    p = len(z)
    triangle = _triangle(np.concatenate([_rows(problem, z), np.zeros((p, p))]))
    scaled, norms = _scaled(problem, triangle)
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


# ---------------------------------------------------------------- the run to add


@dataclass(frozen=True)
class _Candidates:
    runs: list[Run]
    rows: list[Array]  # of the Jacobian, (m, p) for each run
    new: list[tuple[tuple[str, float], ...]]  # values of each run that the design lacks


def _mends(
    task: Task, problem: Problem, z: Array, columns: Mapping[str, Array], triangle: Array
) -> tuple[Mend, ...]:
    """Runs that determine more: up to three alternatives, or several runs together."""
    candidates = _candidates(task, problem, z, columns)
    p = len(z)
    chosen: list[Run] = []
    rank, condition = (v[0] for v in _judge(problem, triangle, [np.zeros((1, p))]))
    while candidates.runs and len(chosen) < _MOST_ADDED:
        ranks, conditions = _judge(problem, triangle, candidates.rows)
        order = sorted(
            range(len(ranks)),
            key=lambda i: (-ranks[i], conditions[i] > WARN, len(candidates.new[i]), conditions[i]),
        )
        best = order[0]
        if ranks[best] == rank and not (rank == p and conditions[best] < condition / 3):
            break
        if not chosen and ranks[best] == p:
            seen: set[tuple[tuple[str, float], ...]] = set()
            found: list[Mend] = []
            for i in order:
                helps = ranks[i] == p and (rank < p or conditions[i] < condition / 3)
                if helps and candidates.new[i] not in seen and len(found) < _ALTERNATIVES:
                    seen.add(candidates.new[i])
                    found.append(Mend((candidates.runs[i],), p, float(conditions[i])))
            return tuple(found)
        chosen.append(candidates.runs[best])
        triangle = _triangle(np.concatenate([triangle, candidates.rows[best]]))
        rank, condition = ranks[best], conditions[best]
        if rank == p:
            break
    return (Mend(tuple(chosen), int(rank), float(condition)),) if chosen else ()


def _judge(
    problem: Problem, triangle: Array, rows: Sequence[Array]
) -> tuple[list[int], list[float]]:
    """Rank and condition number with each candidate's rows added."""
    ranks, conditions = [], []
    for _, same in itertools.groupby(rows, key=len):
        added = np.stack(list(same))
        base = np.broadcast_to(triangle, (len(added), *triangle.shape))
        scaled, _ = _scaled(problem, np.concatenate([base, added], axis=1))
        singular = np.linalg.svd(scaled, compute_uv=False)
        found = (singular > singular[:, :1] / NULL).sum(axis=1)
        ranks += found.tolist()
        with np.errstate(divide="ignore"):
            condition = singular[:, 0] / singular[:, -1]
        conditions += np.where(found == singular.shape[1], condition, np.inf).tolist()
    return ranks, conditions


def _candidates(
    task: Task, problem: Problem, z: Array, columns: Mapping[str, Array]
) -> _Candidates:
    law, names = problem.law, problem.law.varied
    found = _Candidates([], [], [])
    if not names:
        return found
    run = task.frame["run"].to_numpy()
    last = np.append(run[1:] != run[:-1], True)
    ends = {x: np.unique(columns[x][last]) for x in names}
    most = max(3, int(_CANDIDATES ** (1 / len(names))))
    levels = [_levels(ends[x])[:most] for x in names]
    grid = np.array(list(itertools.product(*levels)))
    for shape in _shapes(task, columns, list(names)):
        m = len(next(iter(shape.values())))
        points = {x: (grid[:, [i]] * shape[x]).ravel() for i, x in enumerate(names)}
        rest = (x for x in law.inputs if x not in names)
        points |= {x: np.full(grid.shape[0] * m, columns[x].mean()) for x in rest}
        bases = {b for t in law.terms for b, _ in t.powers} if law.monomial else set()
        with np.errstate(all="ignore"):
            inside = [np.broadcast_to(evaluate(b, points) > 0, grid.shape[0] * m) for b in bases]
        kept = np.all([np.ones(grid.shape[0] * m, bool), *inside], axis=0)
        kept = kept.reshape(-1, m).all(axis=1)
        if not kept.any():
            continue
        points = {x: v[np.repeat(kept, m)] for x, v in points.items()}
        rows = _rows(problem.at(points), z).reshape(-1, m, len(z))
        picked = np.unique(np.linspace(0, m - 1, min(m, _CHECKPOINTS)).astype(int))
        found.rows.extend(rows[:, picked] * math.sqrt(m / len(picked)))
        for values in grid[kept].tolist():
            inputs = dict(zip(names, values))
            found.runs.append(Run(inputs, m))
            found.new.append(tuple((x, v) for x, v in inputs.items() if v not in ends[x]))
    return found


def _levels(known: Array) -> list[float]:
    """Values that a further run may take, those most apt first: known ones, below, between, above.

    Args:
        known: distinct values, ascending.
    """
    low, high = float(known[0]), float(known[-1])
    some = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), 8)).astype(int))].tolist()
    if high == 0:
        return [0.0, 0.25, 0.5]
    new = [2 * high, low / 2]
    if len(known) > 1:
        i = int(np.diff(np.log(np.maximum(known, 1e-300))).argmax())
        new.append(math.sqrt(known[i] * known[i + 1]) if known[i] > 0 else known[i + 1] / 2)
    new = [float(f"{v:.2g}") for v in (*new, 4 * high)]
    new = [v for v in new if v > 0 and np.abs(known / v - 1).min() > 0.05 and (v < 1 or high >= 1)]
    return list(dict.fromkeys([some[-1], *new[:2], some[0], *new[2:], *some]))


def _shapes(task: Task, columns: Mapping[str, Array], names: list[str]) -> list[dict[str, Array]]:
    """How inputs go along a run, relative to its end: as in the longest, or in three checkpoints.

    The built-in laws of pre-training hold at the end of a run, where its learning rate has decayed:
    there checkpoints on the way tell nothing.
    """
    run = task.frame["run"].to_numpy()
    starts = np.flatnonzero(np.append(True, run[1:] != run[:-1]))
    stops = np.append(starts[1:], len(run))
    i = int((stops - starts).argmax())
    own = {x: columns[x][starts[i] : stops[i]] for x in names}
    shapes = [{x: v / v[-1] if v[-1] else np.ones(len(v)) for x, v in own.items()}]
    decayed = task.law.name in LAWS and "base_loss" not in task.law.inputs
    if stops[i] - starts[i] < 3 and "tokens" in names and not decayed:
        shapes.append({x: np.ones(3) for x in names} | {"tokens": np.array([0.25, 0.5, 1.0])})
    return shapes


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
