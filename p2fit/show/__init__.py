"""Results as text for the terminal and as HTML for notebooks; results themselves hold numbers.

A kind of result has a module here, whose ``renderable`` lays it out for rich. The plain text and
the HTML are made of that layout, for all kinds alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib import import_module
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p2fit.results import Result
from p2fit.show.parts import text

__all__ = ["html", "renderable", "text"]

# A printed fit should not import what shows a comparison: modules by the names of what they show.
_MODULES = {
    "Choice": "choose",
    "Comparison": "comparison",
    "ComputePlan": "compute",
    "Continuation": "continuing",
    "DesignReport": "design",
    "Fit": "fit",
    "NextRuns": "runs",
    "Prediction": "prediction",
    "Profile": "profiles",
    "RunsAhead": "continuing",
    "TokensPlan": "tokens",
    "Validation": "validation",
}

_REMARKS = {"warning": "Warnings", "note": "Notes", "mend": "What would mend it"}


def renderable(result: Result) -> Any:
    """What rich prints of a result."""
    name = next(c.__name__ for c in type(result).__mro__ if c.__name__ in _MODULES)
    return import_module(f"p2fit.show.{_MODULES[name]}").renderable(result)


def html(result: Result) -> str:
    """A result as a fragment of HTML: what its layout says, as tables, lists and paragraphs."""
    layout: Group = renderable(result)
    parts = [part for part in layout.renderables if isinstance(part, Table) or str(part)]
    found = []
    for kind, some in groupby(parts, _kind):
        if kind:
            items = "".join(f"<li>{escape(str(part).partition(': ')[2])}</li>" for part in some)
            found.append(f"<p>{kind}</p><ul>{items}</ul>")
        else:
            found += [
                _table(part) if isinstance(part, Table) else f"<p>{escape(str(part))}</p>"
                for part in some
            ]
    return "".join(found)


def _kind(part: Any) -> str:
    """The heading of the remarks that a line is one of; empty for what is no remark."""
    first, colon, _ = str(part).partition(": ") if isinstance(part, Text) else ("", "", "")
    return _REMARKS.get(first, "") if colon else ""


def _table(table: Table) -> str:
    rows = list(zip(*(column.cells for column in table.columns)))
    if not table.show_header:
        return f"<table>{''.join(map(_fact, rows))}</table>"
    heads = "".join(f"<th>{escape(_words(column.header))}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _fact(row: tuple[Any, ...]) -> str:
    name, words = map(escape, map(_words, row))
    left = "style='text-align:left'"
    return f"<tr><th {left}>{name}</th><td {left}>{words}</td></tr>"


def _cells(row: tuple[Any, ...]) -> Iterator[str]:
    return (f"<td>{escape(_words(cell))}</td>" for cell in row)


def _words(cell: Any) -> str:
    return " ".join(str(cell).split("\n"))
