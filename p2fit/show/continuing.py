"""Runs in progress as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2fit.plan.continuing import Continuation, RunsAhead
from p2fit.show.parts import about, facts, grid, number, or_never, with_notes


def renderable(found: RunsAhead | Continuation) -> Any:
    """What rich prints."""
    return _ahead(found) if isinstance(found, RunsAhead) else _plan(found)


def _ahead(found: RunsAhead) -> Any:
    made = _table(["tokens", found.target, "from", "to", "the law\nalone"])
    for row in found.frame.iter_rows(named=True):
        cells = (row["tokens"], row["predicted"], row["low"], row["high"], row["law"])
        made.add_row(row["run"], *map(number, cells))
    head = [*about(found.law, found.group), ("interval", "95 %, of a measurement")]
    return with_notes(facts(head), made, notes=found.notes)


def _plan(found: Continuation) -> Any:
    head = about(found.law, found.group)
    head.append(("end", f"at {number(found.planned)} tokens, 95 % interval of a measurement"))
    heads = ["tokens", found.target, "end", "from", "to", "doubling\ngains"]
    heads += [f"tokens to\n{number(found.goal)}"] if found.goal is not None else []
    made = _table([*heads, "ends\nlowest"])
    for run in found.runs:
        low, high = run.interval or (None, None)
        cells = [number(run.tokens, 3), *map(number, (run.loss, run.end, low, high))]
        cells += [number(run.doubling, 2)]
        cells += [or_never(run.to_target, 3)] if run.to_target is not None else []
        made.add_row(run.run, *cells, "—" if run.lowest is None else f"{100 * run.lowest:.0f} %")
    return with_notes(facts(head), made, notes=found.notes)


def _table(heads: Sequence[str]) -> Any:
    """Numbers stay whole; names of runs may be long."""
    made = grid(["run"], heads)
    for column in made.columns[1:]:
        column.no_wrap = True
    return made
