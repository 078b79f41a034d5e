"""What a fit knows, in a few sentences: how well it predicts, which parameters are known.

The rank of a fit says what can be told apart near its optimum; an interval may be open all the
same. So what is known is read off the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.fit import Estimate, Fit
from p2fit.wording import join, percent

_CLOSE = 0.5  # an exponent's interval, as a share of it to either side, that makes it known
_FACTOR = 3.0  # between the ends of a coefficient's
_ROUGH = 1.0  # the same of one that is roughly known
_ROUGH_FACTOR = 30.0
_FINE = 0.05  # a share of the loss that predictions may be off by and still be of use
_FURTHER = 10.0  # times the data, at which a prediction is looked at


def headline(fit: Fit) -> list[tuple[str, str]]:
    """A word and what there is to say, for each of: what is predicted how well, which parameters
    are known, which are not; nothing of a fit whose numbers are not to be used."""
    if fit.doubts:
        return []
    said = [("predicts", _predicts(fit))]
    narrow, wide, none = known(fit)
    for word, names in (("known", narrow), ("roughly", wide)):
        if names:
            said.append((word, ", ".join(f"{n} {_ends(fit.parameters[n])}" for n in names)))
    if none:
        wide_open = [n for n in none if None not in (fit.parameters[n].interval or (None,))]
        each = [f"{n} ({_ends(fit.parameters[n])})" if n in wide_open else n for n in none]
        said.append(("not known", f"{join(tuple(each))}{_leaning(fit)}"))
    return said


def known(fit: Fit) -> tuple[list[str], list[str], list[str]]:
    """Free parameters whose interval is narrow, those whose is wide, and those whose is open or
    that have none."""
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in fit.law.free:
        found[_class(fit, name)].append(name)
    return found


def local_rank(found: Mapping[str, Any]) -> str:
    """In how many ways parameters move the predictions near the fit, in words.

    Args:
        found: ``rank`` of ``parameters``, and the ``condition`` number.
    """
    rank, of, condition = found["rank"], found["parameters"], found["condition"]
    finite = condition is not None and condition < math.inf
    how = f", condition number {condition:.2g}" if finite else ""
    return f"{rank} of {of}{how}"


def precision(fit: Fit) -> tuple[float | None, float | None, str]:
    """How far the predicted mean may be off by, with 95 % (or over all equally good fits), at the
    worst of the data's outermost points; there with an input ten times as large; which input.

    A share of the prediction, of another target than the loss the difference itself; None where
    there is no interval, inf where it is without end.
    """
    further = growing(fit)
    # What the data leave open has no end far from them.
    closed = bool(further) and not fit.identification["undetermined"]
    beyond = off(fit, outermost(fit, _FURTHER)) if closed else None
    return off(fit, outermost(fit)), beyond, further


def _predicts(fit: Fit) -> str:
    inside, beyond, further = precision(fit)
    if inside is None:
        return f"the {fit.target}, how well is not known: too few independent runs for intervals"
    far = ""
    if beyond is not None:
        ten = f"at {_FURTHER:g} times the {'tokens' if further == 'tokens' else 'size'}"
        far = f", {ten} {_within(fit, beyond)}"
    return f"the {fit.target} {_within(fit, inside)} anywhere in the data{far} (95 %)"


def _within(fit: Fit, away: float) -> str:
    share = fit.target == "loss"
    if not away < (1.0 if share else math.inf):
        return "not at all"
    return f"within {percent(away, 2)}" if share else f"within {away:.2g}"


def growing(fit: Fit) -> str:
    """The input that one buys more of: tokens, else a size; empty for other laws."""
    return next((x for x in ("tokens", "params", "avg_params") if x in fit.law.inputs), "")


def outermost(fit: Fit, times: float = 1.0) -> dict[str, Array]:
    """The data's outermost points, by input.

    Args:
        times: above 1, all of them at so many times the most of what one buys more of.
    """
    ranges, corners = fit.data["range"], fit.data["corners"]
    if corners is not None:
        varied = {x: np.array([point[x] for point in corners]) for x in corners[0]}
        size = len(corners)
    else:
        varied = {x: np.array([r["min"], r["max"]]) for x, r in ranges.items()}
        size = 2
    points = {x: varied.get(x, np.full(size, float(ranges[x]["min"]))) for x in fit.law.inputs}
    if times > 1:
        more = growing(fit)
        points[more] = np.full(size, times * float(ranges[more]["max"]))
    return points


def off(fit: Fit, points: Mapping[str, Array], *, new_run: bool = False) -> float | None:
    """How far predictions may be off by, with 95 % or over equally good fits, at the worst point:
    a share of the loss, of another target the difference; None where the fit has no interval."""
    if any(p.estimate is None for p in fit.parameters.values()):
        return None
    columns = points or {"": np.zeros(1)}
    with np.errstate(all="ignore"):
        middle = fit.predict(columns)
        interval = fit.interval(columns, new_run=new_run)
        if interval is None:
            return None
        ends = [*interval, *(fit.range(columns) or ())]
        worst = np.max([np.abs(end - middle) for end in ends], axis=0)
        worst = worst / (np.abs(middle) if fit.target == "loss" else 1.0)
    return float(np.max(np.where(np.isfinite(worst), worst, math.inf)))


def _class(fit: Fit, name: str) -> int:
    p = fit.parameters[name]
    if not p.identified or p.at_bound or p.interval is None or p.estimate is None:
        return 2
    low, high = p.interval
    if low is None or high is None:
        return 2
    if name in fit.law.coefficients:
        return 0 if high <= _FACTOR * low else 1 if high <= _ROUGH_FACTOR * low else 2
    half = max(high - p.estimate, p.estimate - low)
    close = half / max(abs(p.estimate), 1e-300)
    return 0 if close <= _CLOSE else 1 if close <= _ROUGH else 2


def _ends(p: Estimate) -> str:
    low, high = p.interval or (None, None)
    return f"{_plain(low)} to {_plain(high)}"


def _plain(value: float | None) -> str:
    """Three digits, without a power of ten where the number is easier to read."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.10g}" if rounded == 0 or 1e-4 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def _leaning(fit: Fit) -> str:
    """Whether predictions need what is not known."""
    inside = precision(fit)[0]
    enough = inside is not None and inside < _FINE and fit.target == "loss"
    return " (predictions within the data do not need them)" if enough else ""


def predicts_within(fit: Fit) -> str:
    """How far its predictions within the data may be off, in a word."""
    away = None if fit.doubts else precision(fit)[0]
    return "—" if away is None else _within(fit, away).removeprefix("within ")
