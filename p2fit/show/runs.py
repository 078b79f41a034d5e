"""Next runs as text."""

from __future__ import annotations

from typing import Any

from p2fit.plan.runs import NextRuns
from p2fit.show.parts import (
    facts,
    grid,
    number,
    with_notes,
)
from p2fit.wording import percent


def renderable(plan: NextRuns) -> Any:
    """What rich prints."""
    head = [("group", ", ".join(f"{k} = {v}" for k, v in plan.group.items()))]
    head = head if plan.group else []
    count = f"{plan.candidates} candidate run{'s' * (plan.candidates != 1)}"
    head.append(("to narrow", f"{plan.wanted}, by {count}"))
    precise = plan.wanted == "predictions"
    if precise:
        words = f"{number(plan.stderr, 3)} of the log of the wanted losses"
        head.append(("standard error", words))
    names = list(plan.runs[0].inputs) if plan.runs else []
    last = "standard error after" if precise else "standard errors after"
    made = grid(["run"], [*names, "rows", "FLOPs", "gain", last])
    for r in plan.runs:
        gain = percent(r.gain) if precise else f"{r.gain:.3g} nats"
        after = number(r.stderr, 3) if precise else f"× {r.stderr:.3g}"
        cells = [number(r.inputs[x]) for x in names]
        made.add_row(r.run, *cells, str(r.rows), number(r.flops, 3), gain, after)
    return with_notes(facts(head), made, notes=plan.notes)
