"""A figure that keeps the style of these pictures when its reader goes on with it."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from p2fit.pictures.settings import styled


class Picture(Figure):
    """A matplotlib figure, written and shown in the style that it was drawn in."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """As of any figure; in PDF with fonts of type 42, which all publishers take."""
        with styled():
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """For a notebook, whatever its backend."""
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()
