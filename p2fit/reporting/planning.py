"""What the page says of plans and of runs in progress, in words and in rows of tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from p2fit.pictures.plans import settled
from p2fit.pictures.style import count, label, shown
from p2fit.reporting.words import RAISED, humane, number, percent, upper

if TYPE_CHECKING:
    from p2fit.plan.compute import ComputePlan
    from p2fit.plan.continuing import Continuation
    from p2fit.plan.quantities import Quantity
    from p2fit.plan.tokens import TokensPlan
    from p2fit.reporting.section import Asked, Section


def saturation(plans: list[TokensPlan]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Each model and goal: tokens, 95 % interval, FLOPs, loss there."""
    for plan in plans:
        model = model_name({x: v for x, v in plan.at.items() if x != "base_loss"})
        for goal in plan.goals:
            words = _GOALS[goal.kind].format(goal.asked, 100 * goal.asked)
            if not settled(goal.tokens):
                found = ("not determined", _span(goal.tokens, count), "—", "—")
            else:
                flops = "—" if goal.flops is None else _reach(goal.flops.value, number)
                tokens = _reach(goal.tokens.value, count)
                found = (tokens, _span(goal.tokens, count), flops, number(goal.loss))
            yield model, words, *found


def chosen(asked: Sequence[Asked]) -> Iterator[tuple[str, str, str, str]]:
    """Models of the reader's choice: which, what is asked, the answer, its 95 % interval."""
    for one in asked:
        model = model_name(one.at)
        if one.prediction is not None:
            p = one.prediction
            yield model, "loss of the law", number(float(p.predicted[0])), _pair(p.interval)
            yield model, "loss of a new run", number(float(p.predicted[0])), _pair(p.new_run)
        for goal in one.tokens.goals if one.tokens is not None else ():
            known_ = settled(goal.tokens)
            tokens = _reach(goal.tokens.value, count) if known_ else "not determined"
            yield (
                model,
                f"tokens {_GOALS[goal.kind].format(goal.asked, 100 * goal.asked)}",
                tokens,
                _span(goal.tokens, count),
            )
            if known_ and goal.loss is not None:
                yield model, "loss there", number(goal.loss), "—"


def model_name(at: Mapping[str, float]) -> str:
    """A model by its inputs, as a sentence begins."""
    return upper(", ".join(f"{label(x)} {shown(x, v)}" for x, v in at.items())) or "Any"


def _pair(ends: tuple[Any, Any] | None) -> str:
    return "—" if ends is None else f"{number(float(ends[0][0]))} to {number(float(ends[1][0]))}"


def going(plan: Continuation) -> Iterator[tuple[str, str, str, str, str, str, str, str]]:
    """Each run in progress: tokens and loss now, its end and interval, what a doubling gains and
    that interval, the probability that it ends lowest."""
    for run in plan.runs:
        low, high = run.interval or (None, None)
        less, more = run.doubling_interval or (None, None)
        yield (
            run.run,
            count(run.tokens),
            number(run.loss),
            number(run.end),
            "—" if low is None else f"{number(low)} to {number(high)}",
            number(run.doubling, 3),
            "—" if less is None else f"{number(less, 3)} to {number(more, 3)}",
            percent(run.lowest, 2),
        )


def going_caption(plan: Continuation) -> str:
    return (
        f"Where runs end if they go on to {count(plan.planned)} tokens: from the law and each "
        "run's own points, with the 95 % interval of a measurement there."
    )


def going_notes(plan: Continuation) -> list[str]:
    return [humane(f"{upper(note)}.") for note in plan.notes]


def asked_notes(asked: Sequence[Asked]) -> list[str]:
    """What the reader of these should know, each once."""
    each = [
        plan.notes for one in asked for plan in (one.tokens, one.prediction) if plan is not None
    ]
    return [humane(f"{upper(n.removesuffix('.'))}.") for n in dict.fromkeys(sum(each, ()))]


_GOALS = {
    "gain": "until a doubling gains < {0:g} nats",
    "recover": "to win back {1:g} % of what pruning cost",
}


def budgets(plan: ComputePlan) -> Iterator[tuple[tuple[str, str], ...]]:
    """Each budget: FLOPs, size, tokens, tokens per parameter and loss, each with its interval."""
    for b in plan.budgets:
        yield (
            (f"10{str(round(math.log10(b.flops))).translate(RAISED)}", ""),
            (count(b.size.value), _span(b.size, count)),
            (count(b.tokens.value), _span(b.tokens, count)),
            (number(b.ratio.value, 3), _span(b.ratio, lambda v: number(v, 3))),
            (number(b.loss.value), _span(b.loss, number)),
        )


def exponents(plan: ComputePlan) -> str:
    """How size and tokens grow with compute."""
    what = "average size" if plan.size == "avg_params" else "size"
    if plan.a is None or plan.b is None:  # another power at every budget
        first, last = (number(plan.budgets[i].a.value, 3) for i in (0, -1))
        return (
            f"The best {what} grows as compute to the power {first} at the least of these budgets, "
            f"{last} at the most."
        )
    a, b = (
        f"{number(q.value, 3)}" + (f" ({_span(q, lambda v: number(v, 3))})" if q.interval else "")
        for q in (plan.a, plan.b)
    )
    return f"The best {what} grows as compute to the power {a}, the tokens as compute to {b}."


def plan_notes(section: Section) -> list[str]:
    """What the reader of a plan should know, each once."""
    if not section.tokens and section.compute is None:
        return [f"No plan: {section.no_plan}."]
    notes = dict.fromkeys(note for plan in section.tokens for note in plan.notes)
    if len(notes) > 3:  # much the same, for one model after the other
        notes = dict.fromkeys(["Some of these lie far beyond the data: see the shaded part."])
    if section.compute is not None:
        notes |= dict.fromkeys(section.compute.notes)
    elif "base_loss" not in section.fit.law.inputs:
        notes[section.no_plan] = None
    return [humane(f"{upper(note.removesuffix('.'))}.") for note in notes]


def _reach(value: float, words: Callable[[float], str]) -> str:
    return "never" if math.isinf(value) else words(value)


def _span(quantity: Quantity, words: Callable[[float], str]) -> str:
    if not settled(quantity) and quantity.range is not None:
        low, high = (_reach(end, words) for end in quantity.range)
        return f"{low} to {high} fit as well"
    if quantity.interval is None:
        return "—"
    low, high = (_reach(end, words) for end in quantity.interval)
    return low if low == high else f"{low} to {high}"
