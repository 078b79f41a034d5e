"""A choice of base models as text."""

from __future__ import annotations

from typing import Any

from p2fit.plan.choose import Choice
from p2fit.show.parts import (
    facts,
    grid,
    interval_text,
    number,
    with_notes,
)
from p2fit.wording import percent


def renderable(plan: Choice) -> Any:
    """What rich prints."""
    budget = "the same tokens for each" if plan.flops is None else f"{plan.flops:.4g} FLOPs"
    head = [("deploy", f"{number(plan.deploy_params)} parameters"), ("budget", budget)]
    groups = any(c.group for c in plan.candidates)
    heads = ["params", "rate", "tokens", "loss", "95 % interval"]
    open_ = any(c.loss.range for c in plan.candidates)
    heads += ["fits equally well"] if open_ else []
    made = grid(["base model", *(["group"] if groups else [])], [*heads, "best", "mean rank"])
    for c in plan.candidates:
        cells = [number(c.params), number(c.pruning_rate, 3), number(c.tokens)]
        cells += [number(c.loss.value), interval_text(c.loss.interval)]
        cells += [interval_text(c.loss.range)] if open_ else []
        cells.append("—" if c.best is None else percent(c.best))
        group = [", ".join(c.group.values())] if groups else []
        made.add_row(c.name, *group, *cells, number(c.rank, 3))
    return with_notes(facts(head), made, notes=plan.notes)
