"""Linear algebra on one thread while p2fit computes, and as the caller had it afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import threadpoolctl

import p2fit
from tests import simulate

CURVES = simulate.p2(checkpoints=4, seed=0)
FIXED: dict[str, Any] = {"fix": {"gamma": -1.3, "delta": 0.05, "alpha": 0.3, "beta": 0.35}}
DOORS: dict[str, Callable[..., object]] = {
    "fit": lambda **asked: p2fit.fit(CURVES, bootstrap=40, **FIXED, **asked),
    "compare": lambda **asked: p2fit.compare(CURVES, ["p2", "p2-no-size"], **FIXED, **asked),
    "validate": lambda **asked: p2fit.validate(CURVES, holdout=["k-fold:2"], **FIXED, **asked),
    "profile": lambda **asked: p2fit.profile(CURVES, parameters=["E"], **FIXED, **asked),
}


def threads() -> list[int]:
    return [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]


@pytest.mark.parametrize("door", DOORS)
def test_one_thread_while_it_computes_and_as_many_as_before_afterwards(door: str) -> None:
    during: list[int] = []
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        DOORS[door](progress=lambda *_: during.extend(threads()))
        assert threads() == before
    assert during
    assert set(during) == {1}


#: What solves nothing, and `fit`, which is `fit_each` for one group.
WITHOUT = {
    *("check", "explain", "fit", "get_law", "import_logs", "load", "read_curves", "simulate"),
}


@pytest.mark.parametrize(
    "name", [n for n in p2fit.__all__ if inspect.isfunction(getattr(p2fit, n)) and n not in WITHOUT]
)
def test_every_public_function_that_computes_does_so_on_one_thread(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Pools:
        @staticmethod
        def limit(limits: int) -> AbstractContextManager[None]:
            asked.append(limits)
            return nullcontext()

    monkeypatch.setattr("p2fit.arrays._pools", Pools)
    with pytest.raises(TypeError, match="missing"):
        getattr(p2fit, name)()
    assert asked == [1]


def test_as_many_as_before_after_an_error_too() -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        with pytest.raises(p2fit.FitError):
            p2fit.fit(CURVES, "E + log(tokens - 1e30)^a")
        assert threads() == before
