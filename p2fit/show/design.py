"""What a design can tell, as text."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from p2fit.judging.design import DesignReport
from p2fit.show.parts import facts
from p2fit.solver.identify import determined
from p2fit.wording import join


def renderable(design: DesignReport) -> Any:
    """What rich prints."""
    head = facts(_facts(design))
    lines: list[Any] = [head]
    notes = [("warning: ", "yellow", w) for w in design.warnings]
    notes += [("mend: ", "green", w) for w in design.advice]
    if notes:
        lines.append(Text())
    lines += [Text.assemble((kind, style), words) for kind, style, words in notes]
    return Group(*lines)


def _facts(design: DesignReport) -> list[tuple[str, str]]:
    """The lines above the findings."""
    facts = []
    if design.group:
        facts.append(("group", ", ".join(f"{k} = {v}" for k, v in design.group.items())))
    facts.append(("law", f"{design.law.name}: {design.law.formula}"))
    runs = f"{design.runs} run{'s' * (design.runs != 1)}"
    facts.append(("design", f"{design.source}: {design.rows} rows, {runs}"))
    for x, v in design.inputs.items():
        if v["distinct"] == 1:
            facts.append(("", f"{x}: {v['min']:.4g}"))
        else:
            span = f"{v['min']:.4g} to {v['max']:.4g}"
            facts.append(("", f"{x}: {v['distinct']:g} values, {span}"))
    at = ", ".join(f"{n} {v:.3g}" for n, v in design.at.items())
    facts.append(("judged at", f"{design.reference}: {at}" if at else design.reference))
    open_ = {n for one in design.undetermined for n in one["parameters"]}
    told = tuple(n for n in design.law.free if n not in open_)
    if told:
        facts.append(("determined", join(told) if open_ else "every parameter"))
    if open_:
        facts.append(("not determined", join(tuple(n for n in design.law.free if n in open_))))
    for i, one in enumerate(design.combinations):
        changes = ", ".join(f"{n} {v:+.3g}" for n, v in one.items())
        facts.append(("" if i else "open", f"no loss changes along {changes}"))
    facts.append(("local rank", determined(design.rank, design.parameters, design.condition)))
    return facts
