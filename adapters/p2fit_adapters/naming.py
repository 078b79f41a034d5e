"""Names of runs, which are names of folders too: what is given becomes one that stays inside."""

from __future__ import annotations

import re
from pathlib import Path

from p2fit_adapters.errors import RunError

_OTHER = re.compile(r"[^\w.+-]+")


def slug(name: str) -> str:
    """A name as part of a file name: what is no letter, digit or one of ``_ . + -`` is a dash.

    >>> slug("org/small"), slug("../../evil"), slug("Qwen2.5-0.5B")
    ('org-small', 'evil', 'Qwen2.5-0.5B')

    Raises:
        RunError: nothing is left of it.
    """
    found = _OTHER.sub("-", name).strip(".-")[:100]
    if not found:
        raise RunError(f"{name!r} has no letter or digit to name a run by")
    return found


def model_name(model: str) -> str:
    """What a model is called in names: the last part of its folder or hub id, or the run's name
    where a run saved it.

    Raises:
        RunError: nothing is left of it.
    """
    path = Path(model)
    return slug(path.parent.name if path.name == "model" else path.name)
