"""ArviZ, imported when it is needed."""

from __future__ import annotations

import warnings
from typing import Any


def arviz() -> Any:
    """ArviZ, without the announcement of its next version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az
    return az
