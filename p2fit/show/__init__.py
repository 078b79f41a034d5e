"""Results as text, HTML, Markdown and LaTeX; results themselves hold numbers.

A kind of result has a module here, whose ``renderable`` lays it out for rich. Every form is made of
that layout, for all kinds alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib import import_module
from typing import Any

from p2fit.results import Result
from p2fit.show.parts import text
from p2fit.show.pieces import Facts, Grid, Piece, Remarks, pieces

__all__ = ["html", "renderable", "text", "to_latex", "to_markdown"]

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


def renderable(result: Result) -> Any:
    """What rich prints of a result."""
    return import_module(f"p2fit.show.{_MODULES[_name(result)]}").renderable(result)


def _name(result: Result) -> str:
    """The kind of a result, also of a class of the caller's own."""
    return next(c.__name__ for c in type(result).__mro__ if c.__name__ in _MODULES)


def html(layout: Any) -> str:
    """A layout as a fragment of HTML: tables, lists and paragraphs."""
    return "".join(map(_html, pieces(layout)))


def _html(piece: Piece) -> str:
    match piece:
        case Grid(heads, rows):
            top = "".join(f"<th>{escape(head)}</th>" for head in heads)
            body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in rows)
            return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        case Facts(pairs):
            return f"<table>{''.join(_fact(*map(escape, pair)) for pair in pairs)}</table>"
        case Remarks(heading, lines):
            items = "".join(f"<li>{escape(one)}</li>" for one in lines)
            return f"<p>{heading}</p><ul>{items}</ul>"
    return f"<p>{escape(piece)}</p>"


def _fact(name: str, words: str) -> str:
    left = "style='text-align:left'"
    return f"<tr><th {left}>{name}</th><td {left}>{words}</td></tr>"


def _cells(row: Sequence[str]) -> Iterator[str]:
    return (f"<td>{escape(cell)}</td>" for cell in row)


def to_markdown(layout: Any) -> str:
    """A layout in GitHub's Markdown."""
    from p2fit.show.as_markdown import markdown

    return markdown(layout)


def to_latex(what: Any) -> str:
    """A result, or a layout, in LaTeX: tables for ``booktabs``; of a fit also its formula."""
    from p2fit.show.as_latex import latex, of_result

    return of_result(what) if isinstance(what, Result) else latex(what)
