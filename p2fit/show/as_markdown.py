"""Results as Markdown, for notes, issues and chats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from p2fit.show.pieces import Facts, Grid, Piece, Remarks, pieces, without_empty

# An underscore inside a word is one.
_OBEYED = re.compile(r"([\\`*|<>\[\]~$&#]|(?<![^\W_])_|_(?![^\W_]))")


def markdown(layout: Any) -> str:
    """What a layout says, in GitHub's Markdown."""
    return "\n".join("".join(f"{line}\n" for line in _lines(part)) for part in pieces(layout))


def _lines(piece: Piece) -> Iterator[str]:
    match piece:
        case Grid():
            shown = without_empty(piece)
            yield _row(shown.heads)
            yield "|" + "|".join("---:" if right else "---" for right in shown.right) + "|"
            yield from map(_row, shown.rows)
        case Facts(pairs):
            for name, words in pairs:
                yield f"- **{plain(name)}** {plain(words)}" if name else f"  - {plain(words)}"
        case Remarks(heading, lines):
            yield f"**{plain(heading)}**"
            yield ""
            yield from (f"- {plain(line)}" for line in lines)
        case _:
            yield plain(piece)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _OBEYED.sub(r"\\\1", text)
