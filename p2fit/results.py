"""What all results share: they hold numbers, and :mod:`p2fit.show` says them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Result:
    """A result of p2fit, which can be printed and shown in a notebook."""

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The result as plain text, 100 columns wide."""
        text: str = _show().text(self)
        return text

    def __rich__(self) -> Any:
        return _show().renderable(self)

    def _repr_html_(self) -> str:
        html: str = _show().html(self)
        return html


def _show() -> Any:
    # By its name, and late: what is shown does not know how.
    return import_module("p2fit.show")
