"""Kinds of values on the command line."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from p2fit.numerals import read_count, read_share


class Count(click.ParamType[float]):
    """A number that may end in K, M, B or T: ``8B``, ``350M``, ``20e9``."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        if (count := read_count(str(value))) is None:
            self.fail(f"{value!r} is not a number (8B, 350M, 20e9)", param, ctx)
        return count


class Output(click.Path):
    """A file to write: never one that the same command reads, nor one that it writes as well."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        from p2fit.files import claim

        path = super().convert(value, param, ctx)
        claim(str(path))
        return path


class Values(click.ParamType[list[float]]):
    """Numbers: ``8B``, ``1B,3B``, ``1B..100B`` in steps even in the log, ``1B..100B:5`` points;
    shares are ``30%`` or ``0.3``."""

    name = "numbers"

    def __init__(self, per_decade: int, shares: bool = False) -> None:
        self.per_decade = per_decade
        self.kind: click.ParamType[float] = Share() if shares else Count()

    def convert(self, value: Any, param: Any, ctx: Any) -> list[float]:
        if isinstance(value, list):
            return value
        found: list[float] = []
        for part in str(value).split(","):
            ends, _, count = part.partition(":")
            first, dots, last = ends.partition("..")
            low = self.kind.convert(first, param, ctx)
            if not dots:
                if count:
                    self.fail(f"{part!r} is no range: 1B..100B:5", param, ctx)
                found.append(low)
                continue
            high = self.kind.convert(last, param, ctx)
            if not 0 < low < high < math.inf:
                self.fail(f"{part!r}: a range goes up from above 0 (1B..100B)", param, ctx)
            decades = math.log10(high) - math.log10(low)
            steps = math.ceil(self.per_decade * decades - 1e-9)
            points = count if count else max(steps, 1) + 1
            # Python makes no number of thousands of digits.
            if not (re.fullmatch("[0-9]{1,5}", str(points)) and 2 <= int(points) <= 10_000):
                self.fail(f"{part!r}: a range has 2 to 10000 points (1B..100B:5)", param, ctx)
            n = int(points) - 1
            inner = (_between(low, high, i / n) for i in range(1, n))
            found += [low, *(float(f"{v:.15g}") for v in inner), high]
        return found


def _between(low: float, high: float, share: float) -> float:
    """The value at a share of the way, in the log; the ends may be as far apart as numbers go."""
    ratio = high / low
    if math.isfinite(ratio):
        return float(low * ratio**share)
    return float(low ** (1 - share) * high**share)


class Share(click.ParamType[float]):
    """A share: ``10%`` or ``0.1``."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        if (share := read_share(str(value))) is None:
            self.fail(f"{value!r} is not a share (10%, 0.1)", param, ctx)
        if not 0 <= share < 1:
            self.fail(f"{value!r} is not a share below 100%", param, ctx)
        return share


class Pair(click.ParamType[tuple[str, Any]]):
    """``name=value``; the value is text, or what ``values`` makes of it."""

    def __init__(self, kind: str, values: click.ParamType[Any] | None = None) -> None:
        self.name, self.values = kind, values

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, sign, right = (part.strip() for part in str(value).partition("="))
        if not (name and sign and right):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return name, self.values.convert(right, param, ctx) if self.values else right


class Range(click.ParamType[tuple[str, tuple[float, float]]]):
    """``name=low..high``."""

    name = "PARAMETER=LOW..HIGH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, tuple[float, float]]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"\s*(\w+)\s*=\s*(.+?)\s*\.\.\s*(.+?)\s*", str(value))
        if not found:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        low, high = (Count().convert(end, param, ctx) for end in found.groups()[1:])
        return found[1], (low, high)


def names(ctx: Any, param: Any, value: str | None) -> list[str] | None:
    if value is None:
        return None
    return [part for part in (p.strip() for p in value.split(",")) if part]


def mapping(ctx: Any, param: Any, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(n for n in found if sum(n == m for m, _ in pairs) > 1)
        raise click.BadParameter(f"{twice} is given twice", ctx, param)
    return found


class Model(click.ParamType[dict[str, float]]):
    """``params=8B,pruning_rate=30%``: inputs of a law by name."""

    name = "model"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        found: dict[str, float] = {}
        for part in value.split(","):
            name, equals, text = (piece.strip() for piece in part.partition("="))
            number = read_share(text) if text.endswith("%") else read_count(text)
            if not (name and equals) or number is None:
                self.fail(f"{part!r} is not NAME=NUMBER, e.g. params=8B", param, ctx)
            if name in found:
                self.fail(f"{name} is given twice", param, ctx)
            found[name] = number
        return found
