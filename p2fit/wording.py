"""Words that many messages share, and text that can be shown and kept."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

#: What a terminal obeys in place of showing it, what turns text around, and halves of characters.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: What is wrong with such JSON.
HALVED = "half of a surrogate pair stands alone"


def printable(text: str) -> str:
    r"""Text in which what cannot be shown is an escape, as JSON has it.

    >>> printable("a\x1b[31mred")
    'a\\u001b[31mred'
    """
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def halved(text: str, found: Any) -> bool:
    """Whether what was read from JSON has half of a surrogate pair, which no text file can hold."""
    if "\\ud" not in text.lower():
        return False
    import json

    try:
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def suggest(name: str, header: Collection[str]) -> str:
    """The end of a message about a column that is not there."""
    import difflib  # only faults need it

    close = difflib.get_close_matches(name, header)
    question = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"{question} the columns are {', '.join(header)}" if header else ""


def closest(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """The one of some names that is most like another, whatever its capitals; empty if none is."""
    import difflib  # only faults need it

    plain = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), plain, n=1, cutoff=cutoff)
    return plain[close[0]] if close else ""


def join(names: tuple[str, ...]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def percent(share: float, digits: int = 3) -> str:
    """A share to some digits: ``100 %`` where two digits of it would be ``1e+02``.

    >>> percent(0.999, 2), percent(0.0496), percent(12.34, 2)
    ('100 %', '4.96 %', '1200 %')
    """
    return f"{float(f'{100 * share:.{digits}g}'):.10g} %"
