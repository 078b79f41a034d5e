"""Predictions as text."""

from __future__ import annotations

from typing import Any

from p2fit.arrays import Array
from p2fit.plan.prediction import Prediction
from p2fit.show.parts import about, facts, grid, interval_text, number, with_notes

_SHOWN = 0.05  # decades outside the data that are worth a cell


def renderable(found: Prediction) -> Any:
    """What rich prints."""

    def ends(pair: tuple[Array, Array] | None, i: int) -> str:
        return interval_text(None if pair is None else [float(end[i]) for end in pair])

    inputs = [*found.law.inputs, *(found.through.inputs if found.through else ())]
    inputs = [x for x in found.points.columns if x in inputs]
    shown = [c for c in found.points.columns if found.points[c].n_unique() > 1]
    shown = shown or inputs
    same = [x for x in inputs if x not in shown]
    at = ", ".join(f"{x} {number(found.points[x][0])}" for x in same)
    head = about(found.law, found.group)
    if found.through is not None:
        head.append(("through", f"{found.through.name}: {found.through.formula}"))
    head += [("at", at)] if at else []
    heads = [found.target, "95 % interval", "of a new run"]
    heads += ["fits equally well"] if found.range is not None else []
    made = grid(shown, [*heads, "decades outside"])
    for i, row in enumerate(found.points.iter_rows(named=True)):
        cells = [number(v) if isinstance(v := row[c], float) else str(v) for c in shown]
        cells += [number(float(found.predicted[i]))]
        cells += [ends(found.interval, i), ends(found.new_run, i)]
        cells += [ends(found.range, i)] if found.range is not None else []
        far = {x: float(v[i]) for x, v in found.outside.items() if abs(v[i]) >= _SHOWN}
        made.add_row(*cells, ", ".join(f"{x} {v:+.1f}" for x, v in far.items()))
    return with_notes(facts(head), made, notes=found.notes)
