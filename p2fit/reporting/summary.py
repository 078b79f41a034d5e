"""What a reader should know first, in sentences, and the words in them explained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from markupsafe import Markup

from p2fit.fit import Fit
from p2fit.glossary import WORDS, Word
from p2fit.pictures.style import count
from p2fit.reporting.words import (
    humane,
    law_name,
    number,
    percent,
    plural,
    unknown,
    upper,
    warned,
)
from p2fit.show.headline import headline, known, predicts_within
from p2fit.wording import join

if TYPE_CHECKING:
    from p2fit.reporting.section import Section

_SENTENCES = {
    "predicts": "It predicts {}.",
    "known": "Known: {}.",
    "roughly": "Roughly known: {}.",
    "not known": "Not known: {}.",
}


class Gloss:
    """Links the words of a page to what they mean, and remembers which there were."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._terms = {form: word for word in WORDS for form in (word.term, *word.also)}
        forms = sorted(self._terms, key=len, reverse=True)
        self._any = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, forms))})(?![\w-])")

    def __call__(self, text: str) -> Markup:
        """A text with the first of each word in it a link."""
        parts, end, here = [], 0, set[str]()
        for found in self._any.finditer(text):
            term = self._terms[found[0]].term
            if term not in here:
                here.add(term)
                parts.append(escape(text[end : found.start()]))
                parts.append(f'<a class="word" href="#{anchor(term)}">{escape(found[0])}</a>')
                end = found.end()
        self._used |= here
        return Markup("".join(parts) + escape(text[end:]))

    def words(self) -> list[Word]:
        """Those that were used, in the order of the glossary."""
        return [word for word in WORDS if word.term in self._used]


def anchor(term: str) -> str:
    """The id of a word on the page."""
    return "word-" + re.sub(r"\W", "-", term.lower())


def in_short(section: Section) -> Iterator[str]:
    """The few sentences to read first: what is known, then how it was found."""
    fit = section.fit
    m, data = fit.metrics, fit.data
    yield (
        f"{upper(law_name(fit))} was fitted to {plural(data['used'], 'row')} of "
        f"{plural(data['runs'], 'run')}. It misses the loss by {percent(_float(m['mape']))} on "
        f"average (RMSE {number(_float(m['rmse']))} nats per token)."
    )
    for doubt in fit.doubts:
        yield f"{upper(doubt)}."
    for kind, words in headline(fit):
        yield _SENTENCES[kind].format(words)
    yield from _tested(section)
    yield from _others(section)
    if section.going is not None:
        first = section.going.runs[0]
        low, high = first.interval or (None, None)
        sure = "" if low is None else f" ({number(low)} to {number(high)})"
        yield (
            f"If runs go on to {count(section.going.planned)} tokens, {first.run} ends lowest, at "
            f"{number(first.end)}{sure}."
        )
    found = fit.identification
    yield (
        f"Local rank {found['rank']} of {found['parameters']}: near the fit the parameters move "
        f"the predictions in so many ways."
    )
    below = len(list(unknown(fit))) + len(list(warned(fit)))
    if below:
        yield f"What these curves do not tell: {plural(below, 'point')}, below."


def _tested(section: Section) -> Iterator[str]:
    for v in section.validations:
        if v.score is None:
            continue
        skills = [s.skill for s in v.score.skills if s.skill is not None]
        against = ""
        if skills:
            worst = min(skills)
            against = ", no better than a simple guess"
            if worst > 0:
                against = f", {percent(worst, 2)} closer (RMSE) than the best simple guess"
        yield humane(
            f"Put to the test on {v.about}: off by {percent(v.score.mape)} on average{against}."
        )
    ranged = [v.about for v in section.validations if v.score is None]
    if ranged:
        yield f"Of {join(tuple(ranged))} the rest tells a range, and no single number."


def _others(section: Section) -> Iterator[str]:
    """Whether another law predicts better."""
    if section.comparison is None:
        return
    name = section.fit.law.name
    best = section.comparison.scores[0]
    own = next(s for s in section.comparison.scores if s.law.name == name)
    if best is own or own.loss is None:
        return
    d = own.difference
    if d is not None and d.stderr and d.value > 0:
        times = d.value / d.stderr
        yield (
            f"Of the laws compared, {best.label} predicts runs that were left out best; "
            f"{own.label} is worse by {times:.1f} standard errors."
        )


def groups(fits: Sequence[Fit]) -> Iterator[tuple[str, ...]]:
    """Each group: rows, runs, RMSE, how well it predicts, the parameters that are known."""
    for fit in fits:
        narrow = known(fit)[0]
        yield (
            str(fit.data["used"]),
            str(fit.data["runs"]),
            number(_float(fit.metrics["rmse"]), 3),
            predicts_within(fit),
            f"{len(narrow)} of {len(fit.law.free)}" + (f": {', '.join(narrow)}" if narrow else ""),
        )


def _float(value: float | str | None) -> float | None:
    return None if value is None or isinstance(value, str) or value != value else value
