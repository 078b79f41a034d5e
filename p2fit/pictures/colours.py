"""The colours of all pictures.

Every colour of a picture is in one of these tables, so that a page can put others in their place.
What is drawn in one, but for areas, stands out from white by 3:1 or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

INK = "#1b1c1e"
FAINT = "#6a6e73"
BAND = "#d5d8dc"
BEYOND = "#edeff1"
#: Okabe & Ito's colours, told apart by colour-blind readers too; without their two palest.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
#: For what has an order: plasma, even in its differences (CIE 1976), without its palest part.
STEPS = (
    *("#0d0887", "#260591", "#3a049a", "#4e02a2", "#6001a6", "#7100a8", "#8004a8", "#8b0aa5"),
    *("#9511a1", "#9d189d", "#a51f99", "#ac2694", "#b22b8f", "#b7318a", "#bd3786", "#c23c81"),
    *("#c7427c", "#cc4778", "#d04d73", "#d5546e", "#da5a6a", "#de6164", "#e26660", "#e66c5c"),
)


def is_log(low: float, high: float) -> bool:
    """Whether values are better shown by their logs."""
    return 0 < 4 * low < high


def spread(names: Sequence[Any], number: int) -> list[Any]:
    """At most that many of them, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(names) - 1, min(number, len(names))).round().astype(int)
    return [names[i] for i in places]
