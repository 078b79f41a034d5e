"""Words and what they mean, as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from p2fit.glossary import Word


def word_table(words: Sequence[Word]) -> Table:
    """A word and its meaning in each row."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", max_width=24, overflow="fold")
    made.add_column(overflow="fold")
    for word in words:
        made.add_row(word.term, Text(word.meaning))
    return made
