"""Laws as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p2fit.curves.choosing import required_columns
from p2fit.laws.law import Law


def law_table(laws: Sequence[Law]) -> Table:
    """The laws side by side: name, formula, columns and parameters."""
    table = Table(box=None, padding=(0, 2, 1, 0), header_style="bold", show_edge=False)
    table.add_column("law", no_wrap=True)
    for title in ("formula", "columns", "parameters"):
        table.add_column(title, overflow="fold")
    for law in laws:
        columns = " ".join(law.inputs)
        table.add_row(law.name, Text(law.formula), columns, " ".join(law.parameters))
    return table


def law_page(law: Law) -> Group:
    """One law: what it says, its formula in plain text and LaTeX, what it needs."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    ranges = law.ranges
    for name, value in (
        ("law", law.name),
        ("formula", law.formula),
        ("LaTeX", law.latex()),
        ("columns", ", ".join(required_columns(law))),
        ("coefficients", f"{', '.join(law.coefficients)} (at least 0)"),
        (
            "exponents" if law.monomial else "others",
            ", ".join(f"{e} ({ranges[e][0]:g} to {ranges[e][1]:g})" for e in law.exponents),
        ),
    ):
        grid.add_row(name, Text(value))
    return Group(grid, Text(), Text(law.description)) if law.description else Group(grid)
