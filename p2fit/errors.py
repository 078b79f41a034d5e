"""What p2fit raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


class FitError(ValueError):
    """A fit that cannot be done; the message says what to change."""


SHOWN = 20  # faults in the text of an error
FRAME = "<frame>"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where: ``curves.csv:17: pruning_rate: 1.3 is not in [0, 1)``."""

    source: str
    line: int | None
    """Physical line, from 1 (the header), where the record starts; in a frame, the row from 1."""
    column: str | None
    """The column by its name in the file, or the name that was looked for."""
    message: str
    kind: str = field(default="", compare=False, repr=False)
    """What it shares with faults of the same kind: the message, if empty."""

    def __str__(self) -> str:
        place = self.source
        if self.line is not None:
            place += f": row {self.line}" if self.source == FRAME else f":{self.line}"
        return ": ".join(part for part in (place, self.column, self.message) if part is not None)


class CurvesError(ValueError):
    """Faults in a file of loss curves; its text is one line per kind of fault in a column, the
    first 20 and a count.

    ``faults`` are in the order of their lines: all of them, or the first 1000 of ``count``.
    """

    def __init__(self, faults: Sequence[Fault], count: int | None = None) -> None:
        super().__init__(faults, count)
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.count: int = len(faults) if count is None else count

    def __str__(self) -> str:
        kinds = list(self._kinds())
        unseen = self.count - len(self.faults)
        lines = []
        for alike in kinds[:SHOWN]:
            more = len(alike) - 1 + (unseen if len(kinds) == 1 else 0)
            lines.append(f"{alike[0]}{_alike(alike[1:], more)}")
        left = sum(map(len, kinds[SHOWN:])) + (unseen if len(kinds) > 1 else 0)
        if left:
            lines.append(f"… and {left} more fault{'s' if left > 1 else ''}")
        return "\n".join(lines)

    def _kinds(self) -> Iterator[list[Fault]]:
        found: dict[tuple[str, str, str], list[Fault]] = {}
        for fault in self.faults:
            # A log names the entry with the column.
            column = re.sub(r"\[\d+\]", "", fault.column or "")
            found.setdefault((fault.source, column, fault.kind or fault.message), []).append(fault)
        yield from found.values()


def _alike(rest: Sequence[Fault], more: int) -> str:
    """The end of a line about further faults of its kind."""
    if not more:
        return ""
    lines = [str(fault.line) for fault in rest[:5] if fault.line is not None]
    place = "row" if rest and rest[0].source == FRAME else "line"
    where = f", on {place}{'s' * (more > 1)} {', '.join(lines)}" if lines else ""
    return f"; and {more} more like it{where}{' …' if lines and more > len(lines) else ''}"


class LawError(ValueError):
    """A formula that cannot be read, or a request that does not fit the law."""


class NotMonomialError(LawError):
    """A formula that is valid but is not a sum of monomials: its terms cannot be asked for."""
