"""What p2fit raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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

    def __str__(self) -> str:
        place = self.source
        if self.line is not None:
            place += f": row {self.line}" if self.source == FRAME else f":{self.line}"
        return ": ".join(part for part in (place, self.column, self.message) if part is not None)


class CurvesError(ValueError):
    """Faults in a file of loss curves; its text is one line per fault, the first 20 and a count.

    ``faults`` are in the order of their lines: all of them, or the first 1000 of ``count``.
    """

    def __init__(self, faults: Sequence[Fault], count: int | None = None) -> None:
        super().__init__(faults, count)
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.count: int = len(faults) if count is None else count

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        if more := self.count - len(lines):
            lines.append(f"… and {more} more fault{'s' if more > 1 else ''}")
        return "\n".join(lines)


class LawError(ValueError):
    """A formula that cannot be read, or a request that does not fit the law."""


class NotMonomialError(LawError):
    """A formula that is valid but is not a sum of monomials: its terms cannot be asked for."""
