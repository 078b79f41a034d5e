"""A validation as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p2fit import metrics
from p2fit.arrays import finite
from p2fit.judging.scores import Score, Validation
from p2fit.show.parts import facts, grid, labels, number
from p2fit.wording import percent

_MOST_RUNS = 20


def renderable(validation: Validation) -> Group:
    """What rich prints."""
    head = facts(_facts(validation))
    parts: list[Any] = [head]
    if validation.points is not None:
        parts += [Text(), _table(validation)]
        more = len(validation.runs) - _MOST_RUNS
        if more > 0:
            parts.append(Text(f"and {more} more runs, better predicted (--json has all)"))
    if validation.warnings:
        parts.append(Text())
        parts += [Text.assemble(("warning: ", "yellow"), w) for w in validation.warnings]
    return Group(*parts)


def overview(found: Sequence[Validation]) -> Any:
    """Several hold-outs and groups side by side: each with the best of its baselines."""
    names = labels([v.group for v in found])
    grouped = any(names)
    excess = any(v.score is not None and v.score.r2_excess is not None for v in found)
    heads = ["held out", "RMSE", "R² L−L₀" if excess else "R²", "in 95 %", "skill"]
    table = grid(["hold-out", *(["group"] if grouped else [])], [*heads, "over"])
    for v, label in zip(found, names):
        s = v.score
        best = min(s.skills, key=lambda k: k.rmse, default=None) if s else None
        cells = [
            str(v.held_out),
            number(None if s is None else s.rmse, 3),
            number(None if s is None else s.r2_excess if excess else s.r2, 3),
            "—" if s is None or s.coverage is None else f"{100 * s.coverage:.0f} %",
            "—" if best is None else _signed(best.skill),
            "—" if best is None else best.baseline,
        ]
        table.add_row(v.holdout, *([label] if grouped else []), *cells)
    note = Text("skill over the best of its baselines: 1 - RMSE / RMSE of the baseline", "dim")
    return Group(Text("all hold-outs", style="bold"), Text(), table, Text(), note)


def _facts(v: Validation) -> list[tuple[str, str]]:
    facts = [("hold-out", f"{v.holdout}: {v.about or f'skipped: {v.skipped}'}")]
    if v.group:
        facts.append(("group", ", ".join(f"{k} = {g}" for k, g in v.group.items())))
    if v.points is None:
        return facts
    facts.append(("law", f"{v.law.name}: {v.law.formula}"))
    if v.points.target != "loss":
        facts.append(("predicts", v.points.target))
    least = "at least " if len(v.fits) > 1 else ""
    runs = f"{len(v.runs)} run{'s' * (len(v.runs) != 1)}"
    rows = f"{least}{v.fitted} rows fitted, {v.held_out} held out, of {runs}"
    facts.append(("data", f"{v.source}: {rows}"))
    if v.score is None:
        return [*facts, ("predicted", "a range for each point, and no score")]
    s = v.score
    scores = [f"RMSE {number(s.rmse)}"]
    if s.mape is not None:
        scores.append(f"MAPE {percent(s.mape)}")
    if s.asd is not None:
        scores.append(f"ASD {number(s.asd)} {metrics.ASD_UNIT}")
    facts.append(("predicted", ", ".join(scores)))
    if s.r2_excess is not None:
        facts.append(("", f"R² {number(s.r2_excess)} of the loss above base_loss"))
    elif s.r2 is not None:
        facts.append(("", f"R² {number(s.r2)}"))
    if s.coverage is not None:
        facts.append(("", f"95 % intervals hold {percent(s.coverage)} of the points"))
    for i, k in enumerate(s.skills):
        rows = "" if k.rows == s.rows else f" on {k.rows} points"
        line = f"{_signed(k.skill)} against {_WORDS[k.baseline]} (RMSE {number(k.rmse)}{rows})"
        facts.append(("" if i else "skill", line))
    return facts


_WORDS = {
    "last value": "the last value of the run's fitted part",
    "power law": "a + b/tokens^c fitted to the run's fitted part",
    "nearest curve": "the nearest curve at the same tokens",
    "two nearest": "a line through the two nearest curves",
}


def _signed(value: float | None) -> str:
    return "—" if value is None else f"{value:+.2f}"


def _table(v: Validation) -> Any:

    known = any(s is not None and s.r2_excess is not None for s in v.runs.values())
    baselines = [] if v.score is None else [k.baseline for k in v.score.skills]
    # Worst first where not all are shown, else in the order of the curves.
    runs = list(v.runs.items())
    if len(runs) > _MOST_RUNS:
        runs.sort(key=lambda item: -(item[1].rmse if item[1] else math.inf))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    cells: dict[str, list[str]] = {"run": [name for name, _ in runs[:_MOST_RUNS]]}
    shown = [s for _, s in runs[:_MOST_RUNS]]

    def column(title: str, value: Callable[[Score], str]) -> None:
        found = ["—" if s is None else value(s) for s in shown]
        if any(f != "—" for f in found):
            cells[title] = found

    if v.score is None and v.points is not None:
        last = {name: i for i, name in enumerate(v.points.run) if v.points.held_out[i]}
        at = [last[name] for name in cells["run"]]
        for title, values in (
            ("last point", v.points.loss),
            ("lowest", v.points.range[0]),
            ("highest", v.points.range[1]),
        ):
            cells[title] = [number(finite(values[i])) for i in at]
    column("rows", lambda s: str(s.rows))
    column("RMSE", lambda s: number(s.rmse, 3))
    column("MAPE", lambda s: "—" if s.mape is None else f"{number(100 * s.mape, 3)} %")
    column("ASD", lambda s: number(s.asd, 3))
    column("R² L−L₀" if known else "R²", lambda s: number(s.r2_excess if known else s.r2, 3))
    column("in 95 %", lambda s: "—" if s.coverage is None else f"{100 * s.coverage:.0f} %")
    for name in baselines:
        column(f"skill: {name}", lambda s, name=name: _signed(_of(s, name)))  # type: ignore[misc]
    for title in cells:
        if title == "run":
            table.add_column(title, no_wrap=True, overflow="ellipsis")
        else:
            table.add_column(title, justify="right", overflow="fold")
    for row in zip(*cells.values()):
        table.add_row(*row)
    return table


def _of(score: Score, baseline: str) -> float | None:
    return next((k.skill for k in score.skills if k.baseline == baseline), None)
