"""Problems with a known optimum that are hard to find: certified ones, simulated families, and laws
that hold another law."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from p2fit.laws.law import Law

Array = np.ndarray[Any, np.dtype[np.float64]]

# ---------------------------------------------------------------- NIST

#: The models of NIST's Statistical Reference Datasets for nonlinear regression that are made of
#: + - * / ^, exp and log (ENSO and Roszman1 are not). https://www.itl.nist.gov/div898/strd/nls
NIST = {
    "Bennett5": "b1*(b2 + x)^(-1/b3)",
    "BoxBOD": "b1*(1 - exp(-b2*x))",
    "Chwirut1": "exp(-b1*x)/(b2 + b3*x)",
    "Chwirut2": "exp(-b1*x)/(b2 + b3*x)",
    "DanWood": "b1*x^b2",
    "Eckerle4": "(b1/b2)*exp(-0.5*((x - b3)/b2)^2)",
    "Gauss1": "b1*exp(-b2*x) + b3*exp(-(x - b4)^2/b5^2) + b6*exp(-(x - b7)^2/b8^2)",
    "Hahn1": "(b1 + b2*x + b3*x^2 + b4*x^3)/(1 + b5*x + b6*x^2 + b7*x^3)",
    "Kirby2": "(b1 + b2*x + b3*x^2)/(1 + b4*x + b5*x^2)",
    "Lanczos1": "b1*exp(-b2*x) + b3*exp(-b4*x) + b5*exp(-b6*x)",
    "MGH09": "b1*(x^2 + x*b2)/(x^2 + x*b3 + b4)",
    "MGH10": "b1*exp(b2/(x + b3))",
    "MGH17": "b1 + b2*exp(-x*b4) + b3*exp(-x*b5)",
    "Misra1a": "b1*(1 - exp(-b2*x))",
    "Misra1b": "b1*(1 - (1 + b2*x/2)^-2)",
    "Misra1c": "b1*(1 - (1 + 2*b2*x)^-0.5)",
    "Misra1d": "b1*b2*x*(1 + b2*x)^-1",
    "Nelson": "b1 - b2*x*exp(-b3*x2)",
    "Rat42": "b1/(1 + exp(b2 - b3*x))",
    "Rat43": "b1/(1 + exp(b2 - b3*x))^(1/b4)",
}
NIST |= dict.fromkeys(("Gauss2", "Gauss3"), NIST["Gauss1"])
NIST |= dict.fromkeys(("Lanczos2", "Lanczos3"), NIST["Lanczos1"])
NIST["Thurber"] = NIST["Hahn1"]
NIST = dict(sorted(NIST.items()))


@dataclass(frozen=True)
class Certified:
    """A NIST problem and its answer."""

    formula: str
    columns: Mapping[str, Any]
    """The table, its response in y."""
    values: Mapping[str, float]
    errors: Mapping[str, float]
    """Certified standard errors."""
    starts: tuple[Mapping[str, float], Mapping[str, float]]
    squares: float
    """Certified residual sum of squares."""

    def ranges(self, times: float = 10.0) -> dict[str, tuple[float, float]]:
        """Ranges that let those parameters be negative whose certified value is."""
        return {n: (v * times, -v * times) for n, v in self.values.items() if v < 0}


@cache
def certified(name: str) -> Certified:
    """A problem from its file of NIST's."""
    text = (Path(__file__).parent / "nist" / f"{name}.dat").read_text(encoding="ascii")
    rows = re.findall(r"^ *(b\d) = +(\S+) +(\S+) +(\S+) +(\S+)", text, re.MULTILINE)
    one, two, values, errors = ({r[0]: float(r[i]) for r in rows} for i in (1, 2, 3, 4))
    squares = re.search(r"Residual Sum of Squares: +(\S+)", text)
    assert squares is not None
    data = text[text.rindex("Data:") :].splitlines()[1:]
    table = np.array([[float(v) for v in line.split()] for line in data if line.strip()]).T
    y = np.log(table[0]) if name == "Nelson" else table[0]
    columns = {"run": [f"r{i}" for i in range(len(y))], **dict(zip(("x", "x2"), table[1:])), "y": y}
    return Certified(NIST[name], columns, values, errors, (one, two), float(squares[1]))


# ---------------------------------------------------------------- simulated families


def _step(r: np.random.Generator) -> tuple[float, float]:
    """The steepness of a step, and that times its place."""
    k = r.uniform(5, 20)
    return k, k * r.uniform(0.25, 0.75)


def _logistic(r: np.random.Generator) -> dict[str, float]:
    k, a = _step(r)
    return {"b1": 1.0, "b2": a, "b3": k}


def _falling(r: np.random.Generator) -> dict[str, float]:
    k, a = _step(r)
    return {"E": r.uniform(0.2, 3), "C": 1.0, "k": k, "a": a}


Draw = Callable[[np.random.Generator], dict[str, float]]
#: Formulas, and how their parameters are drawn where x goes from 0 to 1.
FAMILIES: dict[str, tuple[str, Draw]] = {
    "logistic": ("b1/(1 + exp(b2 - b3*x))", _logistic),
    "exponential": (
        "a + b*exp(-c*x)",
        lambda r: {"a": r.uniform(0.1, 2), "b": 1.0, "c": math.exp(r.uniform(0.5, 2.5))},
    ),
    "Gaussian": (
        "(b1/b2)*exp(-0.5*((x - b3)/b2)^2)",
        lambda r: {"b1": 1.0, "b2": r.uniform(0.04, 0.3), "b3": r.uniform(0.2, 0.8)},
    ),
    "Hill": (
        "b*x^n/(k^n + x^n)",
        lambda r: {"b": 1.0, "n": r.uniform(1, 4), "k": r.uniform(0.1, 0.8)},
    ),
    "shifted power": (
        "a + b*(x + c)^-d",
        lambda r: {
            "a": r.uniform(0, 2),
            "b": 1.0,
            "c": r.uniform(0.01, 0.3),
            "d": r.uniform(0.3, 1.5),
        },
    ),
    "falling step": ("E + C/(1 + exp(k*x - a))", _falling),
    "two exponentials": (
        "a*exp(-b*x) + c*exp(-d*x)",
        lambda r: {
            "a": 1.0,
            "b": r.uniform(0.3, 2),
            "c": r.uniform(0.3, 3),
            "d": r.uniform(6, 20),
        },
    ),
}
#: Powers in which a parameter of a family changes with the units of x and of y.
_UNITS = {
    "logistic": {"b1": (0, 1), "b3": (-1, 0)},
    "exponential": {"a": (0, 1), "b": (0, 1), "c": (-1, 0)},
    "Gaussian": {"b1": (1, 1), "b2": (1, 0), "b3": (1, 0)},
    "Hill": {"b": (0, 1), "k": (1, 0)},
    "shifted power": {"a": (0, 1), "b": (0, 1), "c": (1, 0)},
    "falling step": {"E": (0, 1), "C": (0, 1), "k": (-1, 0)},
    "two exponentials": {"a": (0, 1), "b": (-1, 0), "c": (0, 1), "d": (-1, 0)},
}


def member(family: str, seed: int) -> tuple[str, dict[str, Any], dict[str, float]]:
    """A problem of a family, in units of its own: formula, table (response in y) and truth."""
    formula, draw = FAMILIES[family]
    rng = np.random.default_rng([seed, *family.encode()])
    truth, noise = draw(rng), float(rng.choice([1e-3, 1e-2]))
    length, size = 10.0 ** rng.uniform(-2, 4), 10.0 ** rng.uniform(-1, 3)
    for name, (a, b) in _UNITS[family].items():
        truth[name] *= length**a * size**b
    if family == "shifted power":
        truth["b"] *= length ** truth["d"]
    x = np.linspace(0.02, 1, int(rng.integers(20, 60))) * length
    exact = Law.parse(formula, columns=["x"]).predict(truth, {"x": x})
    y = exact + noise * exact.max() * rng.standard_normal(len(x))
    return formula, {"run": [f"r{i}" for i in range(len(x))], "x": x, "y": y}, truth


# ---------------------------------------------------------------- laws that hold others

#: A law, and values of its parameters at which it is simpler.
NESTED: dict[str, tuple[str, str]] = {
    "skaling": ("skaling", "chinchilla"),
    "shifted": ("shifted", "chinchilla"),
    "p2-shifted": ("p2-shifted", "p2"),
    "broken": ("broken", "E + A*tokens^-c_0"),
    "precision": ("precision", "chinchilla"),
    "post-quantised": ("post-quantised", "chinchilla"),
}


def nested(name: str, seed: int) -> dict[str, Any]:
    """9 or 16 clean runs of the simpler law of :data:`NESTED`."""
    rng = np.random.default_rng([seed, *name.encode()])
    side = 3 + seed % 2
    sizes, ratios = np.geomspace(1e8, 3e9, side), np.geomspace(5, 80, side)
    runs = np.array([(n, r) for n in sizes for r in ratios])
    steps = np.geomspace(1 / 8, 1, 8)
    params = np.repeat(runs[:, 0], len(steps))
    tokens = (runs[:, :1] * runs[:, 1:] * steps).ravel()
    run = np.repeat([f"r{i:03}" for i in range(len(runs))], len(steps))
    columns: dict[str, Any] = {"run": run, "params": params, "tokens": tokens}
    excess = rng.uniform(100, 900) / params ** rng.uniform(0.25, 0.45)
    excess += rng.uniform(400, 4000) / tokens ** rng.uniform(0.25, 0.45)
    floor = rng.uniform(1, 2.2)
    loss = floor + excess
    if name == "p2-shifted":
        rate = np.repeat(rng.choice([0.15, 0.25, 0.35, 0.5], len(runs)), len(steps))
        base = 2.9 - 0.25 * np.log10(params / 5e8)
        columns |= {"pruning_rate": rate, "base_loss": base}
        loss = base + rate ** rng.uniform(0.5, 1.5) * (0.2 * floor + excess)
    elif name == "broken":
        loss = floor + rng.uniform(5, 50) * tokens ** -rng.uniform(0.1, 0.3)
    elif name in ("precision", "post-quantised"):
        columns["precision"] = np.resize([3.0, 4.0, 6.0, 8.0, 16.0], len(params))
    noise = float(rng.choice([5e-4, 1e-3, 2e-3]))
    error = rng.standard_normal(len(loss)) + np.repeat(rng.standard_normal(len(runs)), len(steps))
    return columns | {"loss": loss * np.exp(noise * error)}
