"""ArviZ, imported when it is needed."""

from __future__ import annotations

from typing import Any

from p2fit.extras import quietly


def arviz() -> Any:
    """ArviZ, without the announcement of its next version."""
    with quietly():
        import arviz as az
    return az
