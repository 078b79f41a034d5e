r"""Numbers as papers print them: an error has two digits, and its value ends where they end.

>>> plus_minus(2143.415, 633.36)
'2140 \\pm 630'
>>> between(1.8172, 1.77, None)
'1.817^{\\mathrm{open}}_{-0.047}'
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal

# Beyond these a power of ten is written.
_LEAST, _MOST = 1e-3, 1e6


def plus_minus(value: float, error: float) -> str:
    """A value and its standard error, for LaTeX's mathematics."""
    if not (error > 0 and math.isfinite(error)):
        return number(value)
    power = _power(value, error)
    place = _place(error, power)
    text = rf"{_to(value, power, place)} \pm {_to(error, power, place)}"
    return rf"({text}) \times 10^{{{power}}}" if power else text


def between(value: float, low: float | None, high: float | None) -> str:
    """A value and the ends of an interval around it, of which None is open; its ends alone where
    the value is not inside."""
    ends = [end for end in (low, high) if end is not None]
    above = None if high is None else high - value
    below = None if low is None else value - low
    errors = [e for e in (above, below) if e is not None and math.isfinite(e)]
    if len(errors) < len(ends) or any(e < 0 for e in errors):
        names = (r"\mathrm{open}" if end is None else number(end) for end in (low, high))
        return r"\ \mathrm{to}\ ".join(names)
    own = [e for e in errors if e > 0]
    power = _power(value, *own) if own else 0
    # Where the ends are far away the value keeps two digits of its own.
    place = min(_place(e, power) for e in (*own, *([abs(value)] if value else []))) if own else 0

    def side(sign: str, error: float | None) -> str:
        if error is None:
            return r"\mathrm{open}"
        return f"{sign}{_to(error, power, _place(error, power)) if error else 0}"

    shown = _to(value, power, place) if own else number(value)
    text = f"{shown}^{{{side('+', above)}}}_{{{side('-', below)}}}"
    return rf"{text} \times 10^{{{power}}}" if power else text


def number(value: float, digits: int = 4) -> str:
    """A number without an error, for LaTeX's mathematics."""
    text, _, power = f"{value:.{digits}g}".partition("e")
    return rf"{text} \times 10^{{{int(power)}}}" if power else text


def _power(*values: float) -> int:
    """The power of ten that is written of numbers that are shown together."""
    largest = max(map(abs, values))
    return 0 if _LEAST <= largest < _MOST else _exponent(abs(values[0]) or largest)


def _exponent(value: float) -> int:
    return int(f"{value:.1e}".partition("e")[2])


def _place(error: float, power: int) -> int:
    """The power of ten of an error's second digit, in units of the one that is written."""
    return _exponent(error) - 1 - power


def _to(value: float, power: int, place: int) -> str:
    """A number to a decimal place, in units of a power of ten."""
    scaled = Decimal(value).scaleb(-power)
    rounded = scaled.quantize(Decimal(1).scaleb(place), ROUND_HALF_EVEN)
    return f"{rounded + 0:f}"
