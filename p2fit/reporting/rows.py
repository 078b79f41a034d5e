"""Rows of the page's tables whose cells are more than text, and its contents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from p2fit.fit import Fit
from p2fit.reporting import planning, words
from p2fit.reporting.mathml import symbol

if TYPE_CHECKING:
    from p2fit.plan.compute import ComputePlan
    from p2fit.reporting.section import Section


def contents(section: Section) -> Iterator[tuple[str, str]]:
    """Headings of a section: the end of their id, and their text."""
    yield "law", "The law"
    yield "parameters", "Parameters"
    yield "unknown", "What these curves do not tell"
    yield "quality", "How well it fits"
    if section.full:
        yield "tests", "Does it hold where it was not fitted?"
        yield "others", "Other laws on the same rows"
    if "contours" in section.pictures:
        yield "landscape", "The law as a landscape"
    if section.going is not None:
        yield "going", "Runs in progress"
    if section.full or section.asked:
        yield "plan", "What it says for planning"
    yield "data", "What went in"


def named(fit: Fit, name: str) -> Markup:
    """A parameter as it stands in the formula."""
    shown = symbol(fit.law, name)
    return Markup(shown.replace("<math ", f'<math aria-label="{escape(name)}" ', 1))


def parameters(fit: Fit) -> list[Sequence[str]]:
    return [(named(fit, name), *cells) for name, cells in words.parameters(fit)]


def sensitivity_heads(fit: Fit) -> list[tuple[str, str]]:
    return [("Left out", ""), *((name, "number") for name in fit.law.exponents)]


def sensitivity(fit: Fit) -> list[Sequence[str]]:
    own = [words.number(fit.parameters[n].estimate, 3) for n in fit.law.exponents]
    rows: list[Sequence[str]] = [("nothing", *own)]
    for share, found in fit.sensitivity.items():
        cells = (words.number(found[n], 3) for n in fit.law.exponents)
        rows.append((f"the first {share} of the tokens", *cells))
    return rows


def budgets(plan: ComputePlan) -> list[Sequence[str]]:
    made = Markup('<span>{}<br><span class="soft">{}</span></span>')
    return [
        (first[0], *(made.format(value, span) for value, span in rest))
        for first, *rest in planning.budgets(plan)
    ]
