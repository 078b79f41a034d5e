"""What a layout for rich is made of, for every other form: tables, facts, remarks, paragraphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from p2fit.wording import printable

_REMARKS = {"warning": "Warnings", "note": "Notes", "mend": "What would mend it"}


@dataclass(frozen=True)
class Grid:
    """A table: its heads, its rows, and which of its columns stand right."""

    heads: list[str]
    rows: list[list[str]]
    right: list[bool]


@dataclass(frozen=True)
class Facts:
    """Names and what there is to say; a name is empty where it goes on."""

    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Remarks:
    """Warnings or notes."""

    heading: str
    lines: list[str]


Piece = Grid | Facts | Remarks | str


def pieces(layout: Any) -> list[Piece]:
    """The parts of a layout, one below the other."""
    parts = getattr(layout, "renderables", [layout])
    shown = [part for part in parts if isinstance(part, Table) or str(part)]
    found: list[Piece] = []
    for heading, some in groupby(shown, _heading):
        if heading:
            found.append(Remarks(heading, [line(part).partition(": ")[2] for part in some]))
        else:
            found += [_table(part) if isinstance(part, Table) else line(part) for part in some]
    return found


def _heading(part: Any) -> str:
    """That of the remarks that a line is one of; empty for what is no remark."""
    first, colon, _ = str(part).partition(": ") if isinstance(part, Text) else ("", "", "")
    return _REMARKS.get(first, "") if colon else ""


def _table(table: Table) -> Grid | Facts:
    rows = [list(map(line, row)) for row in zip(*(column.cells for column in table.columns))]
    if not table.show_header:
        return Facts([(name, words) for name, words in rows])
    heads = [line(column.header) for column in table.columns]
    return Grid(heads, rows, [column.justify == "right" for column in table.columns])


def line(words: Any) -> str:
    """Words on one line, without what a terminal would obey."""
    return printable(" ".join(str(words).split()))


def without_empty(grid: Grid) -> Grid:
    """A table without the columns that have neither a head nor a word."""
    kept = [i for i, head in enumerate(grid.heads) if head or any(row[i] for row in grid.rows)]

    def of(cells: Sequence[Any]) -> list[Any]:
        return [cells[i] for i in kept]

    return Grid(of(grid.heads), list(map(of, grid.rows)), of(grid.right))
