"""The door of fit.json under mutated files: a fit that works, or one line."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import p2fit
from p2fit.errors import FitError, LawError
from tests import simulate
from tests.fuzz.fuzzing import COUNT, attack, corpus, finite, watched

STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**18, 1e-300, 1e300, -1e300, 0.5, "", "x", "loss", "NaN",
    "E + F", "A/params^alpha", [], [[]], [None], [0, "x"], {}, {"a": 1}, {"E": None}, "\ud800",
]  # fmt: skip


TABLE = simulate.p2(seed=0)


def fits() -> Iterator[p2fit.Fit]:
    yield p2fit.fit(TABLE)
    yield p2fit.fit(TABLE, bootstrap=40)
    yield p2fit.fit(simulate.chinchilla(seed=0), "chinchilla", fix={"E": 1.7})
    yield p2fit.fit(simulate.chinchilla(seed=0), "skaling")
    yield p2fit.fit(TABLE, where="params > 1e9", tie={"alpha": "beta"})
    yield p2fit.fit(TABLE, backend="laplace")


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    found = [json.loads(json.dumps(fit.to_dict())) for fit in fits()]
    for document in found:  # few draws will do, and are mutated as often as the rest
        for part in ("bootstrap", "posterior"):
            if document[part] is not None:
                draws = document[part]["draws"]
                document[part]["draws"] = {n: v[:5] for n, v in draws.items()}
        if document["bootstrap"] is not None:
            document["bootstrap"]["count"] = 5
        if document["posterior"] is not None:
            noise = document["posterior"]["noise"]
            document["posterior"]["noise"] = {n: v[:5] for n, v in noise.items()}
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*path, i))


def mutated(document: dict[str, Any], rng: random.Random) -> Any:
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice([p for p in places(document) if p])
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        kind = rng.randrange(4)
        if kind == 0:
            del parent[path[-1]]
        elif kind == 1:
            parent[path[-1]] = copy.deepcopy(rng.choice(STRANGE))
        elif kind == 2 and isinstance(parent[path[-1]], int | float):
            parent[path[-1]] *= rng.choice((-1, 0, 1e6, 1e-6, 2))
        else:
            _, other = rng.choice([(p, v) for p, v in walk(document)])
            parent[path[-1]] = copy.deepcopy(other)
    return document


def walk(document: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for path in places(document):
        value = document
        for key in path:
            value = value[key]
        yield path, value


def use(fit: p2fit.Fit) -> None:
    """What a user would do with a fit; what may be refused is refused by p2fit's own errors."""
    str(fit)
    fit._repr_html_()
    assert finite(fit.to_dict())
    at = {x: 0.3 if x == "pruning_rate" else 1e9 for x in fit.law.inputs} | {"base_loss": 2.0}
    at = {x: v for x, v in at.items() if x in fit.law.inputs}
    try:
        found = p2fit.predict(fit, at)
        assert finite(found.to_dict())
        str(found)
        if "tokens" in at and fit.target == "loss":
            others = {x: v for x, v in at.items() if x != "tokens"}
            plan = p2fit.plan_tokens(fit, others, gain=[0.01], loss=[3.0])
            assert finite(plan.to_dict())
            str(plan)
        if fit.runs is not None:
            going = p2fit.plan_continue(fit, tokens=1e12, loss=3.0, curves=TABLE)
            assert finite(going.to_dict())
            str(going)
    except (FitError, LawError):
        return


def test_a_mutated_fit_works_or_is_refused_in_a_line(
    documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    rng, path = random.Random(0), tmp_path / "fit.json"
    mutants = (mutated(documents[i % len(documents)], rng) for i in range(COUNT))

    def enter(data: bytes) -> None:
        path.write_bytes(data)
        try:
            fits = p2fit.load(path)
        except FitError as error:
            if not str(error).startswith(f"{path}: ") or "\n" in str(error):
                raise AssertionError(str(error)) from None
            raise
        for fit in fits if isinstance(fits, list) else [fits]:
            use(fit)

    attack("fit", (json.dumps(document).encode() for document in mutants), enter)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "1e999", "NaN", "[" * 5000, '"\\ud800"'])
def test_what_is_no_fit(text: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FitError, match="not a fit saved by p2fit"):
        p2fit.load(path)


@pytest.mark.parametrize("data", corpus("fit"))
def test_what_was_once_too_much(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_bytes(data)
    with watched(), pytest.raises(FitError, match="not a fit saved by p2fit"):
        p2fit.load(path)
