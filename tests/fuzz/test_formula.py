"""The door of formulas: any text is a law, or refused in a line."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.laws.table import LAWS
from tests.fuzz.fuzzing import COUNT, REFUSALS, attack, finite, mutants, watched

N = np.geomspace(1e7, 1e10, 12)
COLUMNS = {
    "params": N,
    "tokens": 1e20 / N,
    "avg_params": 0.7 * N,
    "pruning_rate": np.full(12, 0.3),
    "base_loss": np.full(12, 2.0),
    "x": np.linspace(-1, 1, 12),
}
TABLE = {"run": [f"r{i}" for i in range(12)], **COLUMNS, "loss": 2 + 9 / N**0.1}


def use(text: str) -> None:
    """What is done with a formula before any data, and its value at two points."""
    law = p2fit.get_law(text, COLUMNS)
    law.latex()
    columns = {x: COLUMNS[x] for x in law.inputs}
    for value in (0.3, 1e3):
        at = dict.fromkeys(law.free, value)
        law.predict(at, columns)
        law.gradient(at, columns)


def test_any_text_is_a_law_or_refused() -> None:
    seeds = [law.formula.encode() for law in LAWS.values()]
    seeds += [
        b"E + A*exp(-alpha*log(params))",
        b"(b1/b2)*exp(-0.5*((x - b3)/b2)^2)",
        b"2*x - a/x^b",
    ]
    attack("formula", mutants(seeds), lambda data: use(data.decode("utf-8", "surrogateescape")))


ATOMS = st.sampled_from(
    ["E", "A", "alpha", "beta", "params", "tokens", "x", "0", "1", "2.5", "1e200", "-3", "1e-320"]
)
FORMULAS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/^"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(st.sampled_from(["exp", "log", "-"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
    ),
    max_leaves=12,
)


@given(FORMULAS)
@settings(max_examples=COUNT)
def test_any_formula_is_put_to_use_or_refused(formula: str) -> None:
    try:
        with watched():
            use(formula)
    except REFUSALS:
        return


@given(FORMULAS, st.sampled_from(["huber", "squared"]), st.sampled_from(["log", "linear"]))
@settings(max_examples=COUNT // 40)
def test_any_formula_is_fitted_or_refused(formula: str, loss: Any, residual: Any) -> None:
    try:
        with watched():
            fit = p2fit.fit(TABLE, formula, loss=loss, residual=residual)
            str(fit)
    except REFUSALS:
        return
    assert finite(fit.to_dict())
