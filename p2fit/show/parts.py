"""What all texts are made of: numbers, intervals, facts, tables."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from p2fit.wording import printable

if TYPE_CHECKING:
    from p2fit.laws.law import Law


def describe_control(control: Mapping[str, Any]) -> str:
    """What a summary says of the controls beside which a fit was made."""
    moved = f"{control['low']:+.2g} to {control['high']:+.2g} nats"
    if control["subtracted"]:
        return f"losses less the drift of the unpruned control, {moved}"
    return f"the unpruned control moves by {moved}"


WIDTH = 100


def number(value: float | None, digits: int = 4) -> str:
    """A number to four digits, in powers of ten where it is large or small."""
    return "—" if value is None else f"{value:.{digits}g}"


def text(what: Any) -> str:
    """Anything rich prints, as text without colour, ``WIDTH`` columns wide."""
    out = io.StringIO()
    console = Console(
        file=out, width=WIDTH, color_system=None, emoji=False, markup=False, highlight=False
    )
    console.print(Printable(what))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


class Printable:
    """What rich prints, without what names in it would have the terminal do."""

    def __init__(self, what: RenderableType) -> None:
        self.what = what

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.what, options):
            words = segment.text if segment.control else printable(segment.text)
            yield Segment(words, segment.style, segment.control)


def labels(groups: Sequence[Mapping[str, str]]) -> list[str]:
    """What tells groups apart: their values of the columns that are not the same for all; empty
    where they are one group."""
    differ = [c for c in groups[0] if len({group[c] for group in groups}) > 1]
    return [", ".join(group[c] for c in differ) for group in groups]


# ---------------------------------------------------------------- what predictions and plans share


def about(law: Law, group: Mapping[str, str]) -> list[tuple[str, str]]:
    """The first facts of a result: which group, which law."""
    own = [("group", ", ".join(f"{k} = {v}" for k, v in group.items()))] if group else []
    return [*own, ("law", f"{law.name}: {law.formula}")]


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and what there is to say, in two columns."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, words in pairs:
        made.add_row(name, Text(words))
    return made


def grid(left: Sequence[str], right: Sequence[str]) -> Table:
    """A table without lines; the first columns are aligned left."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for head in (*left, *right):
        made.add_column(head, justify="left" if head in left else "right", overflow="fold")
    return made


def interval_text(ends: Sequence[float | None] | None, digits: int = 4) -> str:
    """An interval; what is out of reach is called never."""
    if ends is None:
        return "—"
    low, high = ("never" if end == math.inf else number(end, digits) for end in ends)
    return f"{low} to {high}" if low != high else low


def with_notes(*parts: Any, notes: Sequence[str]) -> Group:
    """Parts one below the other with a line between, and notes at the end."""
    made = [p for part in parts for p in (part, Text())]
    made += [Text.assemble(("note: ", "yellow"), note) for note in notes]
    return Group(*(made if notes else made[:-1]))


def or_never(value: float, digits: int = 4) -> str:
    """A number, or never."""
    return "never" if value == math.inf else number(value, digits)
