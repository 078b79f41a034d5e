"""Numbers as people write them: ``8B`` for a count, ``30%`` for a share."""

from __future__ import annotations

import re

_SUFFIX = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_COUNT = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([KMBGT]?)", re.IGNORECASE)


def read_count(text: str) -> float | None:
    """``8B``, ``350M``, ``20e9``, or any other number; None where it is none."""
    text = text.strip()
    if found := _COUNT.fullmatch(text):
        return float(found[1]) * _SUFFIX[found[2].upper()]
    return _plain(text)


def read_share(text: str) -> float | None:
    """``30%``, ``0.3``; None where it is no number."""
    text = text.strip()
    # One division: 30% is the same number as 0.3.
    value = _plain(text.removesuffix("%").rstrip())
    return value / 100 if value is not None and text.endswith("%") else value


def _plain(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
