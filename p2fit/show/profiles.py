"""Profiles as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p2fit.show.parts import number
from p2fit.uncertainty.profiles import Interval, Profile


def renderable(profile: Profile) -> Group:
    """What rich prints of one parameter."""
    return overview([profile])


def overview(profiles: Sequence[Profile]) -> Group:
    """Several parameters: a table for each group of curves."""

    def cell(interval: Interval | None) -> str:
        return " to ".join("open" if e is None else number(e) for e in interval or ()) or "—"

    parts: list[Any] = []
    for group, found in groupby(profiles, lambda p: p.group):
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
        for title in ("parameter", "estimate", "95 % by profile", "95 % of the fit", ""):
            table.add_column(title, justify="right" if title == "estimate" else "left")
        warnings: dict[str, None] = {}
        for p in found:
            cells = (number(p.estimate), cell(p.interval), cell(p.fitted), p.note)
            table.add_row(p.parameter, *cells)
            warnings |= dict.fromkeys(p.warnings)
        parts += [Text()] if parts else []
        parts += [Text(", ".join(f"{k} = {v}" for k, v in group.items()))] if group else []
        parts += [table, *([Text()] if warnings else [])]
        parts += [Text.assemble(("warning: ", "yellow"), w) for w in warnings]
    return Group(*parts)
