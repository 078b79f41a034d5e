"""A plan of compute as text."""

from __future__ import annotations

from typing import Any

from p2fit.plan.compute import ComputePlan
from p2fit.show.parts import (
    about,
    facts,
    grid,
    interval_text,
    number,
    with_notes,
)


def renderable(plan: ComputePlan) -> Any:
    """What rich prints."""
    head = about(plan.law, plan.group)
    if plan.at:
        head.append(("at", ", ".join(f"{x} {number(v)}" for x, v in plan.at.items())))
    for name, what, q in (
        ("optimum", f"{plan.size} ∝ C^a, a", plan.a),
        ("", "tokens ∝ C^b, b", plan.b),
    ):
        if q is not None:
            ends = f" ({interval_text(q.interval)})" if q.interval else ""
            head.append((name, f"{what} = {number(q.value)}{ends}"))
    own = ["a"] if plan.a is None else []
    if own:
        head.append(("optimum", f"{plan.size} ∝ C^a, tokens ∝ C^(1 - a), a of each budget"))
    made = grid(["FLOPs"], [plan.size, "tokens", "tokens per parameter", "loss", *own])
    for one in plan.budgets:
        each = (one.size, one.tokens, one.ratio, one.loss, one.a)[: 4 + len(own)]
        made.add_row(number(one.flops), *(number(q.value) for q in each))
        if one.size.interval:
            digits = (3, 3, 3, 4)
            made.add_row("", *(interval_text(q.interval, n) for q, n in zip(each, digits)))
    parts: list[Any] = [facts(head), made]
    if plan.sparsity is not None:
        words = f"pruned to {100 * plan.sparsity:g} % from 25 % to 75 % of the compute"
        below = grid(["FLOPs"], ["dense start", "final size", "prune from", "to tokens"])
        for one in plan.budgets:
            if one.sparse:
                each = (one.sparse.dense, one.sparse.final, one.sparse.start, one.sparse.end)
                below.add_row(number(one.flops), *(number(q.value) for q in each))
        parts += [facts([("schedule", words)]), below]
    return with_notes(*parts, notes=plan.notes)
