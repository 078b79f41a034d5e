"""The door of fit.json: a document is checked here once, and past it nobody checks it again.

Against schemas/fit.schema.json, and for what must hold between its parts, which a schema cannot
say: that names are those of the law, that a covariance is one, that draws belong together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from p2fit.errors import FitError, LawError
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS
from p2fit.wording import HALVED, halved

_SHOWN = 80  # characters of a value in a message


def parse_json(text: str) -> Any:
    """JSON as the standard has it: every number is finite.

    Raises:
        ValueError: it is not.
    """
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_float, parse_int=_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if halved(text, found):
        raise ValueError(HALVED)
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _int(text: str) -> int:
    if len(text) > 19:  # what no count is, and floats overflow at
        _no_number(text[:20] + "…")
    return int(text)


@cache
def _validator() -> Any:
    import jsonschema_rs

    path = Path(__file__).parent / "schemas" / "fit.schema.json"
    whole = json.loads(path.read_bytes())
    # One fit at a time: a fault then has a place in it.
    one = {"$schema": whole["$schema"], "$defs": whole["$defs"], "$ref": "#/$defs/fit"}
    return jsonschema_rs.validator_for(one)


def checked_law(document: Any) -> Law:
    """The law of a saved fit, after every check of the fit.

    Raises:
        FitError: not the JSON of a fit; the message says where, and what is wrong.
    """
    error = next(iter(_validator().iter_errors(document)), None)
    if error is not None:
        place = "/".join(map(str, error.instance_path)) or "the document"
        said = str(error.message)
        raise FitError(f"{place}: {said if len(said) <= _SHOWN else 'not ' + _wanted(error)}")
    try:
        law = _law(document)
    except (LawError, RecursionError) as wrong:
        raise FitError(f"formula: {wrong}") from None
    for place, what in _faults(document, law):
        raise FitError(f"{place}: {what}")
    return law


def _wanted(error: Any) -> str:
    return f"as the schema's {'/'.join(map(str, error.schema_path))} wants it"


def _law(document: Mapping[str, Any]) -> Law:
    law = LAWS.get(document["law"])
    if law is None or law.formula != document["formula"]:
        law = Law.parse(document["formula"], columns=document["inputs"], name=document["law"])
    ends = document["options"]["ranges"].items()
    law = law.within(
        {n: (-math.inf if a is None else a, math.inf if b is None else b) for n, (a, b) in ends}
    )
    if document["fixed"] or document["tied"]:
        law = law.restrict(document["fixed"], document["tied"])
    # A law is worked out when it is asked: a fault in its formula should show here.
    assert law.ranges is not None
    return law


def _faults(document: Mapping[str, Any], law: Law) -> Iterator[tuple[str, str]]:
    """Where parts contradict each other, and how."""
    if list(document["inputs"]) != list(law.inputs):
        yield "inputs", f"the formula reads {', '.join(law.inputs) or 'no column'}"
    yield from _names("parameters", document["parameters"], law.parameters)
    for name, p in document["parameters"].items():
        place = f"parameters/{name}"
        if p["interval"] is not None and not _ordered(p["interval"]):
            yield f"{place}/interval", "its lower end is above its upper"
        if p["stderr"] is not None and p["stderr"] < 0:
            yield f"{place}/stderr", "a standard error is not below 0"
        if p["fixed"] != (name in law.fixed) or p["tied"] != law.tied.get(name):
            yield place, "fixed or tied as the fit is not"
        if p["fixed"] and p["estimate"] != law.fixed[name]:
            yield f"{place}/estimate", f"it is fixed at {law.fixed[name]:g}"
    for x, span in document["data"]["range"].items():
        if span["min"] > span["max"]:
            yield f"data/range/{x}", "its least value is above its largest"
    yield from _names("data/range", document["data"]["range"], law.inputs)
    for i, corner in enumerate(document["data"]["corners"] or ()):
        yield from _names(f"data/corners/{i}", corner, tuple(document["data"]["corners"][0]))
        if not set(corner) <= set(law.inputs):
            yield f"data/corners/{i}", "names what is no input"
    if document["identification"]["rank"] > document["identification"]["parameters"]:
        yield "identification/rank", "more than there are parameters"
    if document["identification"]["parameters"] != len(law.free):
        yield "identification/parameters", f"the law has {len(law.free)} free ones"
    for i, one in enumerate(document["identification"]["undetermined"]):
        if not set(one["parameters"]) <= set(law.parameters):
            yield f"identification/undetermined/{i}", "names what is no parameter"
    for i, values in enumerate(document["equally_good"]):
        yield from _names(f"equally_good/{i}", values, law.parameters)
    for share, values in document["sensitivity"].items():
        if not set(values) <= set(law.parameters):
            yield f"sensitivity/{share}", "names what is no parameter"
    if document["covariance"] is not None:
        yield from _covariance(document["covariance"], law)
    if (draws := document["bootstrap"]) is not None:
        yield from _names("bootstrap/draws", draws["draws"], law.free)
        yield from _lengths("bootstrap/draws", draws["draws"], draws["count"])
        if document["covariance"] is None:
            yield "bootstrap", "there is none without a covariance"
    yield from _posterior(document, law)


def _covariance(covariance: Mapping[str, Any], law: Law) -> Iterator[tuple[str, str]]:
    names, rows = covariance["names"], covariance["matrix"]
    if names != [*law.coefficients, *law.exponents]:
        yield "covariance/names", "not the law's free parameters, coefficients first"
    elif len(rows) != len(names) or any(len(row) != len(names) for row in rows):
        yield "covariance/matrix", f"not {len(names)} rows of {len(names)} numbers"
    else:
        matrix = np.array(rows, float)
        size = np.sqrt(np.abs(np.outer(np.diag(matrix), np.diag(matrix))))
        if np.any(np.diag(matrix) < 0):
            yield "covariance/matrix", "a variance is below 0"
        elif np.any(np.abs(matrix - matrix.T) > 1e-6 * size):
            yield "covariance/matrix", "not symmetric"
    if ("basis" in covariance) != ("information" in covariance):
        yield "covariance", "basis and information come together"
    elif "basis" in covariance:
        basis, information = covariance["basis"], covariance["information"]
        rank = len(basis[0]) if basis else 0
        if len(basis) != len(names) or any(len(row) != rank for row in basis):
            yield "covariance/basis", f"not {len(names)} rows of as many numbers"
        elif len(information) != covariance["clusters"] or any(
            len(one) != rank or any(len(row) != rank for row in one) for one in information
        ):
            yield (
                "covariance/information",
                f"not {rank} rows of {rank} numbers for each of {covariance['clusters']} clusters",
            )
        elif any(one[i][i] < 0 for one in information for i in range(rank)):
            yield "covariance/information", "what a cluster tells is below 0"


def _posterior(document: Mapping[str, Any], law: Law) -> Iterator[tuple[str, str]]:
    posterior, diagnostics = document["posterior"], document["diagnostics"]
    bayesian = document["backend"] != "least-squares"
    if (posterior is not None) != bayesian or (diagnostics is not None) != bayesian:
        yield "backend", f"{document['backend']}, with or without a posterior and its diagnostics"
        return
    if posterior is None:
        return
    if document["covariance"] is not None or document["bootstrap"] is not None:
        yield "posterior", "beside a covariance or a bootstrap"
    if not {"noise", "prior"} <= set(document["options"]):
        yield "options", "without the noise and the prior of a posterior"
    draws, noise = posterior["draws"], posterior["noise"]
    yield from _names("posterior/draws", draws, law.free)
    count = len(next(iter(draws.values()), []))
    if not count:
        yield "posterior/draws", "there are none"
    yield from _lengths("posterior/draws", draws, count)
    wanted = {"sigma", *(["nu"] if document["options"].get("noise") == "student-t" else [])}
    if (runs := posterior["runs"]) is not None:
        wanted |= {"tau", *(["rate"] if runs["width"] else [])}
        wanted |= {"length"} if runs["along"] else set()
    if set(noise) != wanted:
        yield "posterior/noise", f"not {', '.join(sorted(wanted))}"
    yield from _lengths("posterior/noise", noise, count)
    if any(min(values, default=1) <= 0 for values in noise.values()):
        yield "posterior/noise", "a scale is not above 0"
    for what in ("contraction", "least_squares"):
        if not set(law.free) <= set(posterior[what]):
            yield f"posterior/{what}", "a parameter is missing"
    missing = {"laplace": ("pareto_k", "ess"), "bayes": ("e_bfmi", "chains", "draws", "sampler")}
    for name in (*missing[document["backend"]], *_MEASURED[document["backend"]]):
        if diagnostics.get(name) is None:
            yield f"diagnostics/{name}", "missing"


_MEASURED = {"laplace": (), "bayes": ("r_hat", "ess_bulk", "ess_tail", "divergences")}


def _names(
    place: str, found: Mapping[str, Any], wanted: Sequence[str]
) -> Iterator[tuple[str, str]]:
    if set(found) != set(wanted):
        yield place, f"has {', '.join(found) or 'nothing'}; the law has {', '.join(wanted)}"


def _lengths(place: str, draws: Mapping[str, Any], count: int) -> Iterator[tuple[str, str]]:
    for name, values in draws.items():
        if len(values) != count:
            yield f"{place}/{name}", f"{len(values)} values, not {count}"


def _ordered(ends: Sequence[float | None]) -> bool:
    low, high = ends
    return low is None or high is None or low <= high
