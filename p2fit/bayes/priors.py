"""Prior distributions: the defaults for every parameter of every law, and a user's own.

Every prior is written for a parameter in the formula's own units, except the defaults of the
coefficients, which are for the size of their terms at the centre of the data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p2fit.arrays import Array
from p2fit.bayes.functions import HALF_LOG_2PI
from p2fit.errors import FitError
from p2fit.laws import law as laws
from p2fit.laws.law import Law

_KINDS = {
    "Normal": ("mean", "sd"),
    "HalfNormal": ("sd",),
    "LogNormal": ("mean of the log", "sd of the log"),
    "Uniform": ("lower", "upper"),
    "HalfStudentT": ("degrees of freedom", "scale"),
    "Gamma": ("shape", "rate"),
}
_TEXT = re.compile(r"\s*(\w+)\s*~\s*(\w+)\s*\(([^()]*)\)\s*")


@dataclass(frozen=True)
class Prior:
    """One distribution."""

    kind: str
    """``Normal``, ``HalfNormal``, ``LogNormal``, ``Uniform``, ``HalfStudentT`` or ``Gamma``."""
    values: tuple[float, ...]
    """Its numbers: mean and sd, sd, mean and sd of the log, ends, degrees and scale, shape and
    rate."""

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{v:g}' for v in self.values)})"

    @property
    def positive(self) -> bool:
        """Whether it has no mass at 0 and below."""
        return self.kind not in ("Normal", "Uniform")

    def widened(self, factor: float) -> Prior:
        """The same, so many times as wide, about the same place: its mean (of the log, for
        LogNormal), or 0 where it begins there."""
        a, b = (*self.values, 0.0)[:2]
        match self.kind:
            case "HalfNormal":
                return Prior(self.kind, (a * factor,))
            case "Uniform":
                middle, half = (a + b) / 2, factor * (b - a) / 2
                return Prior(self.kind, (middle - half, middle + half))
            case "Gamma":
                return Prior(self.kind, (a / factor**2, b / factor**2))
        return Prior(self.kind, (a, b * factor))

    def log_density(self, value: Any, xp: Any) -> Any:
        """Log density at values inside the support, with the functions of ``xp``."""
        a, b = (*self.values, 0.0)[:2]
        match self.kind:
            case "Normal":
                return -0.5 * ((value - a) / b) ** 2 - math.log(b) - HALF_LOG_2PI
            case "HalfNormal":
                return -0.5 * (value / a) ** 2 - math.log(a) - HALF_LOG_2PI + math.log(2)
            case "LogNormal":
                log = xp.log(value)
                return -0.5 * ((log - a) / b) ** 2 - math.log(b) - HALF_LOG_2PI - log
            case "Uniform":
                return 0.0 * value - math.log(b - a)
            case "HalfStudentT":
                constant = math.lgamma((a + 1) / 2) - math.lgamma(a / 2)
                constant += math.log(2 / b) - 0.5 * math.log(a * math.pi)
                return constant - (a + 1) / 2 * xp.log1p((value / b) ** 2 / a)
        constant = a * math.log(b) - math.lgamma(a)
        return constant + (a - 1) * xp.log(value) - b * value

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Random values, shape (size,)."""
        a, b = (*self.values, 0.0)[:2]
        match self.kind:
            case "Normal":
                return rng.normal(a, b, size)
            case "HalfNormal":
                return np.abs(rng.normal(0.0, a, size))
            case "LogNormal":
                return rng.lognormal(a, b, size)
            case "Uniform":
                return rng.uniform(a, b, size)
            case "HalfStudentT":
                return np.abs(b * rng.standard_t(a, size))
        return rng.gamma(a, 1 / b, size)


#: Size of a coefficient's term at the centre of the data, as a share of the typical loss over the
#: number of coefficients: a tenth to ten times that share holds most of the mass.
TERM = Prior("LogNormal", (0.0, 1.5))
#: An exponent that shapes one term: published ones lie between 0.05 and 1.
ONE_SIGN = Prior("LogNormal", (math.log(0.35), 0.8))
#: An exponent of a factor that several terms share, of either sign.
EITHER_SIGN = Prior("Normal", (0.0, 1.0))
#: Scale of the levels and rates of runs as shares of the loss above base_loss.
SHARES = Prior("HalfStudentT", (3.0, 0.1))
#: Degrees of freedom of Student's t noise (Juárez & Steel 2010).
DEGREES = Prior("Gamma", (2.0, 0.1))


def scatter(typical: float) -> Prior:
    """Of the scale of the error of a point, and of levels and rates of runs, in terms of which 1 is
    typical: the log of the loss, say."""
    return Prior("HalfStudentT", (3.0, 0.02 * typical))


def length(gap: float) -> Prior:
    """Of how far the errors of a run are correlated: from 0.06 of the typical distance of
    neighbours, which is not at all, to 150 of them, which is a random walk."""
    return Prior("LogNormal", (math.log(3 * gap), 2.0))


def default_prior(law: Law, name: str) -> Prior:
    """The prior of an exponent."""
    return ONE_SIGN if law.ranges[name][0] >= 0 else EITHER_SIGN


def range_priors(law: Law) -> dict[str, Prior]:
    """Priors with 95 % of their mass in the ranges that are stated for parameters.

    Ranges that are those of any exponent, or without end, say nothing.
    """
    found = {}
    for name, (low, high) in law.stated.items():
        if (low, high) in (laws.ONE_SIGN, laws.EITHER_SIGN) or name not in law.free:
            continue
        if not math.isfinite(high - low):
            continue
        if low > 0:
            found[name] = Prior("LogNormal", (math.log(low * high) / 2, math.log(high / low) / 4))
        elif low == 0:
            found[name] = Prior("HalfNormal", (high / 2,))
        else:
            found[name] = Prior("Normal", ((low + high) / 2, (high - low) / 4))
    return found


def parse(texts: Sequence[str] | Mapping[str, str], law: Law) -> dict[str, Prior]:
    """Read priors such as ``alpha ~ Normal(0.35, 0.1)`` for free parameters of a law.

    Raises:
        FitError: what cannot be read, does not fit the law or the parameter's range.
    """
    if isinstance(texts, str):
        texts = [texts]
    found: dict[str, Prior] = {}
    for text in texts:
        match = _TEXT.fullmatch(text)
        if match is None:
            raise FitError(f"prior {text!r} is not of the form 'alpha ~ Normal(0.35, 0.1)'")
        name, kind, inside = match.groups()
        if name not in law.free:
            raise FitError(
                f"prior {text!r}: {name} is not a free parameter; there are {', '.join(law.free)}"
            )
        if name in found:
            raise FitError(f"{name} has two priors")
        found[name] = _prior(text, kind, inside, low=law.ranges[name][0])
        if kind == "Uniform" and name in law.coefficients:
            raise FitError(f"prior {text!r}: a coefficient takes Normal, HalfNormal or LogNormal")
    return found


def _prior(text: str, kind: str, inside: str, low: float) -> Prior:
    if kind not in _KINDS:
        raise FitError(f"prior {text!r}: no distribution {kind}; there are {', '.join(_KINDS)}")
    words = _KINDS[kind]
    try:
        values = tuple(float(v) for v in inside.split(","))
    except ValueError:
        values = ()
    if len(values) != len(words) or not all(map(math.isfinite, values)):
        raise FitError(f"prior {text!r}: {kind} takes {' and '.join(words)}")
    first = 1 if kind in ("Normal", "LogNormal") else 0
    if kind == "Uniform":
        if not low <= values[0] < values[1]:
            least = f" from {low:g} up" if math.isfinite(low) else ""
            raise FitError(f"prior {text!r}: give a lower and a higher end{least}")
    elif min(values[first:]) <= 0:
        raise FitError(f"prior {text!r}: {words[first]} must be above 0")
    return Prior(kind, values)
