"""Words that many messages share."""

from __future__ import annotations

from collections.abc import Collection


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
