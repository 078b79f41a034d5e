"""Problems whose optimum is known: NIST's, beside lmfit, simulated families, nested laws."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

import numpy as np
from common import HERE, TARGETS, Array, Row, duration, setting, table, target

import p2fit
from p2fit.laws.law import Law
from p2fit.laws.table import get_law

sys.path.append(str(HERE.parent))
from tests import hard

SEEDS = 40
NESTED_SEEDS = 34  # of each of the six laws: 204 sets
LOSSES: dict[str, dict[str, Any]] = {
    "Huber, δ = 1e-3": {},
    "Huber, δ = 0.01": {"delta": 0.01},
    "squared": {"loss": "squared"},
}
SQUARES: dict[str, Any] = {"target": "y", "loss": "squared", "residual": "linear"}


def measure() -> str:
    """What p2fit and lmfit find of NIST's problems, and p2fit of families and nested laws."""
    found, targets = certified()
    simulated, families = in_families()
    above, nested = among_nested()
    packages = ["p2fit", "numpy", *(["lmfit"] if importlib.util.find_spec("lmfit") else [])]
    return "\n\n".join(
        [
            table(TARGETS, [*targets, families, nested]),
            table(("NIST, from", "right", "wrong, not said", "lmfit right", "mean time"), found),
            table(("family", "right", "wrong, not said", "median time"), simulated),
            table(("law ⊃ its special case", *LOSSES, "median time"), above),
            setting(*packages),
        ]
    )


def right(squares: float, wanted: float) -> bool:
    """To six digits; 1e-20 is rounding."""
    return squares <= wanted * (1 + 1e-6) + 1e-20


def doubted(fit: p2fit.Fit) -> bool:
    """Whether a fit says that it may be wrong."""
    return not fit.converged or any("others may be lower" in w for w in fit.warnings)


def certified() -> tuple[list[Row], list[Row]]:
    """NIST's problems from four beginnings: a row each, and the targets."""
    print("  NIST", flush=True)
    rows, targets = [], []
    for begin in ("defaults", "defaults, with ranges", "start 1", "start 2"):
        start = {"start 1": 0, "start 2": 1}.get(begin)
        good, silent, theirs, count, seconds = 0, 0, 0, 0, 0.0
        for name in hard.NIST:
            problem = hard.certified(name)
            ranges = {} if begin == "defaults" else problem.ranges()
            law = get_law(problem.formula, list(problem.columns)).within(ranges)
            if start is not None:
                theirs += right(by_lmfit(law, problem, start), problem.squares)
            if start is not None and law.monomial:
                continue
            given = {} if start is None else problem.starts[start]
            given = {n: v for n, v in given.items() if n in law.exponents}
            clock = time.perf_counter()
            fit = p2fit.fit(problem.columns, problem.formula, ranges=ranges, start=given, **SQUARES)
            seconds += time.perf_counter() - clock
            count += 1
            if right(2 * fit.objective, problem.squares):
                good += 1
            elif begin == "defaults" and problem.ranges():
                pass  # the certified values lie outside the default ranges
            else:
                silent += not doubted(fit)
        other = "needs a start" if start is None else f"{theirs} of {len(hard.NIST)}"
        rows.append((begin, f"{good} of {count}", str(silent), other, duration(seconds / count)))
        if begin != "defaults":
            targets.append(
                target(f"NIST, {begin}: wrong", count - good, 2 - (start is not None), str)
            )
    return rows, targets


def by_lmfit(law: Law, problem: hard.Certified, start: int) -> float:
    """The residual sum of squares that lmfit ends at; inf where it has no answer."""
    if importlib.util.find_spec("lmfit") is None:
        return np.inf
    import lmfit

    parameters = lmfit.create_params(**problem.starts[start])
    y = np.asarray(problem.columns["y"])
    columns = {x: problem.columns[x] for x in law.inputs}

    def miss(at: Any) -> Array:
        with np.errstate(all="ignore"):
            found: Array = law.predict(at.valuesdict(), columns) - y
        return found

    try:
        return float(lmfit.minimize(miss, parameters).chisqr)
    except ValueError:  # it met what is not finite
        return np.inf


def in_families() -> tuple[list[Row], Row]:
    """Each family's problems, held against the optimum next to the truth."""
    from scipy.optimize import least_squares

    print("  families", flush=True)
    rows, wrong = [], 0
    for family in hard.FAMILIES:
        good, silent, seconds = 0, 0, []
        for seed in range(SEEDS):
            formula, data, truth = hard.member(family, seed)
            law, names, y = Law.parse(formula, columns=["x"]), list(truth), np.asarray(data["y"])
            unit = np.array([truth[n] for n in names])
            ends = np.array([law.ranges[n] for n in names]).T / unit

            def miss(
                at: Array, law: Law = law, names: Any = names, x: Any = data["x"], y: Array = y,
                unit: Array = unit,
            ) -> Array:  # fmt: skip
                found: Array = law.predict(dict(zip(names, at * unit)), {"x": x}) - y
                return found

            near = least_squares(miss, np.ones(len(names)), bounds=ends, xtol=1e-14, ftol=1e-14)
            clock = time.perf_counter()
            fit = p2fit.fit(data, formula, **SQUARES)
            seconds.append(time.perf_counter() - clock)
            if right(2 * fit.objective, 2 * float(near.cost)):
                good += 1
            else:
                silent += not doubted(fit)
        wrong = max(wrong, SEEDS - good)
        rows.append(
            (family, f"{good} of {SEEDS}", str(silent), duration(float(np.median(seconds))))
        )
    return rows, target(f"families of {SEEDS}: wrong, at most", wrong, 2, str)


def among_nested() -> tuple[list[Row], Row]:
    """How often a law ends above its special case, by more than 1e-6."""
    print("  nested laws", flush=True)
    rows, total = [], 0
    for name, (wide, narrow) in hard.NESTED.items():
        cells, seconds = [], []
        for options in LOSSES.values():
            above = 0
            for seed in range(NESTED_SEEDS):
                data = hard.nested(name, seed)
                clock = time.perf_counter()
                fit = p2fit.fit(data, wide, **options)
                seconds.append(time.perf_counter() - clock)
                above += fit.objective > p2fit.fit(data, narrow, **options).objective * (1 + 1e-6)
            total += above
            cells.append(f"{above} of {NESTED_SEEDS}")
        rows.append((f"{wide} ⊃ {narrow}", *cells, duration(float(np.median(seconds)))))
    return rows, target("nested laws above their special case", total, 0, str)
