"""Values that callers give, held against the types that options say they have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from p2fit.errors import FitError

_PLAIN: Mapping[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool, np.bool_),
    int: (Integral,),
    float: (Real,),
    Path: (Path,),
}
_NAMES = {  # of one, and of several
    str: ("a text", "texts"),
    bool: ("True or False", "flags"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    Path: ("a path", "paths"),
}


def verify(options: Any) -> None:
    """Raise where a field of a dataclass of options has a value of another type than its own.

    Values of a ``Literal`` are not looked at: the class says what they may be.

    Raises:
        FitError: the first such field, its value, and what to use.
    """
    hints: dict[str, Any] = get_type_hints(type(options))
    for one in fields(options):
        hold(one.name, getattr(options, one.name), hints[one.name])


def hold(name: str, value: Any, hint: Any) -> None:
    """Raise where a value is not of a type.

    Raises:
        FitError: its name, the value, and what to use.
    """
    if not _is(value, hint):
        raise FitError(f"{name} is {value!r}: use {_words(hint)}")


def numbers(name: str, values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Values as an array of numbers.

    Raises:
        FitError: its name, the values, and what to use.
    """
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise FitError(f"{name} is {values!r}: use numbers, such as 8e9 or 0.3") from None


def _is(value: Any, hint: Any) -> bool:
    if hint in _PLAIN:
        number = hint in (int, float)
        return isinstance(value, _PLAIN[hint]) and not (number and isinstance(value, bool))
    inner = get_args(hint)
    match get_origin(hint):
        case kind if kind is Literal:
            return True
        case kind if kind is Mapping:
            return isinstance(value, Mapping) and all(
                _is(k, inner[0]) and _is(v, inner[1]) for k, v in value.items()
            )
        case kind if kind is Sequence or kind is tuple:
            size = len(inner) if kind is tuple else None
            return (
                isinstance(value, Collection)
                and not isinstance(value, str | bytes | Mapping)
                and size in (None, len(value))
                and all(_is(v, inner[0]) for v in value)
            )
    if hint in (None, NoneType):
        return value is None
    return any(_is(value, one) for one in inner)


def _words(hint: Any, several: bool = False) -> str:
    if hint in _PLAIN:
        return _NAMES[hint][several]
    inner = get_args(hint)
    match get_origin(hint):
        case kind if kind is Mapping:
            return f"a mapping of names to {_words(inner[1], True)}"
        case kind if kind is Sequence:
            return f"a list of {_words(inner[0], True)}"
        case kind if kind is tuple:
            return f"pairs of {_words(inner[0], True)}"
    return " or ".join(_words(one) for one in inner if one not in (None, NoneType))
