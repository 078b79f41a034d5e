"""A plan of tokens as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from p2fit.plan.tokens import TokensPlan, input_order
from p2fit.show.parts import about, facts, grid, interval_text, labels, number, or_never, with_notes
from p2fit.wording import percent


def renderable(plan: TokensPlan) -> Any:
    """What rich prints."""
    head = about(plan.law, plan.group)
    head.append(("at", ", ".join(f"{x} {number(v)}" for x, v in plan.at.items())))
    if plan.pruned_loss is not None:
        head.append(("", f"loss right after pruning {number(plan.pruned_loss)}"))
    if plan.kept is not None:
        head.append(("compute", f"6 FLOPs per token and parameter kept, {number(plan.kept)}"))
    open_ = any(goal.tokens.range for goal in plan.goals)
    heads = ["tokens", "95 % interval", *(["fits equally well"] if open_ else [])]
    made = grid(["goal"], [*heads, "FLOPs", "loss", "can be reached"])
    for goal in plan.goals:
        cells = [or_never(goal.tokens.value), interval_text(goal.tokens.interval, 3)]
        cells += [interval_text(goal.tokens.range, 3)] if open_ else []
        cells += [or_never(goal.flops.value, 3) if goal.flops else "—", number(goal.loss)]
        share = goal.tokens.reached
        made.add_row(goal.label, *cells, "—" if share is None else percent(share))
    return with_notes(facts(head), made, notes=plan.notes)


def overview(plans: Sequence[TokensPlan]) -> Any:
    """Several plans side by side: the tokens of each goal."""
    names = labels([plan.group for plan in plans])
    grouped = any(names)
    differ = [x for x in plans[0].at if any(plan.at[x] != plans[0].at[x] for plan in plans)]
    inputs = sorted(differ, key=input_order)
    left = [*(["group"] if grouped else []), *inputs]
    table = grid(left, [goal.label for goal in plans[0].goals])
    for plan, label in zip(plans, names):
        at = [number(plan.at[x]) for x in inputs]
        cells = [or_never(goal.tokens.value, 3) for goal in plan.goals]
        table.add_row(*([label] if grouped else []), *at, *cells)
    return Group(Text("tokens, all of them", style="bold"), Text(), table)
