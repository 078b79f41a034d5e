"""Laws: the parser, what follows from a formula, and the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit import LAWS, Law, LawError, get_law
from p2fit.errors import NotMonomialError
from p2fit.laws.expression import evaluate
from p2fit.laws.law import EITHER_SIGN, ONE_SIGN
from tests import simulate

POINT = {
    "params": np.array([1e8, 3e9]),
    "tokens": np.array([2e9, 5e11]),
    "pruning_rate": np.array([0.15, 0.4]),
    "base_loss": np.array([2.7, 2.1]),
    "avg_params": np.array([8e7, 2e9]),
    "precision": np.array([4.0, 8.0]),
    "unique_tokens": np.array([1e9, 2e10]),
    "lr_area": np.array([3.0, 40.0]),
    "lr_annealing": np.array([0.1, 7.0]),
}


def expanded(law: Law, parameters: dict[str, float]) -> np.ndarray:
    """The law by its monomials."""
    total = np.zeros(2)
    for term in law.terms:
        part = np.full(2, term.number)
        if term.coefficient:
            part *= parameters[term.coefficient] ** term.scale.value(parameters)
        for base, power in term.powers:
            part *= evaluate(base, POINT) ** power.value(parameters)
        total += part
    return total


@pytest.mark.parametrize("name", [n for n, law in LAWS.items() if law.monomial])
@given(data=st.data())
def test_the_monomials_are_the_formula(name: str, data: st.DataObject) -> None:
    law = LAWS[name]
    parameters = {p: data.draw(st.floats(0.1, 3.0), label=p) for p in law.parameters}
    np.testing.assert_allclose(expanded(law, parameters), law.predict(parameters, POINT), rtol=1e-9)


def test_the_p2_law_as_published() -> None:
    # L0 + (1/rho)^gamma (1/N0)^delta (N_C/N0^alpha + D_C/D^beta + E)
    rho, n, d, base = 0.25, 1.5e9, 4e8, 2.4
    parameters = {"gamma": -1.2, "delta": 0.1, "N_C": 9.0, "alpha": 0.2}
    parameters |= {"D_C": 70.0, "beta": 0.3, "E": 0.7}
    columns = {"params": n, "pruning_rate": rho, "tokens": d, "base_loss": base}
    inner = 9.0 / n**0.2 + 70.0 / d**0.3 + 0.7
    expected = base + (1 / rho) ** -1.2 * (1 / n) ** 0.1 * inner
    assert float(LAWS["p2"].predict(parameters, columns)) == pytest.approx(expected, rel=1e-12)


def test_what_follows_from_a_formula() -> None:
    law = Law.parse("E + A/(params*(1 - sparsity))^alpha", columns=["params", "sparsity"])
    assert law.inputs == ("params", "sparsity")
    assert law.parameters == ("E", "A", "alpha")
    assert law.coefficients == ("E", "A")
    assert law.exponents == ("alpha",)
    assert law.latex() == (
        r"L = E + \frac{A}{\left(N \, \left(1 - \mathrm{sparsity}\right)\right)^{\alpha}}"
    )


def test_ranges_follow_the_role_of_an_exponent() -> None:
    ranges = LAWS["p2"].ranges
    assert ranges["gamma"] == ranges["delta"] == EITHER_SIGN
    assert ranges["alpha"] == ranges["beta"] == ONE_SIGN
    # What is fixed or tied does not change the role.
    assert LAWS["p2"].restrict({"N_C": 0, "alpha": 1, "E": 0}).ranges["gamma"] == EITHER_SIGN
    assert LAWS["chinchilla"].restrict(tie={"beta": "alpha"}).ranges["alpha"] == ONE_SIGN


def test_each_law_names_its_source() -> None:
    for law in LAWS.values():
        assert "Source: " in law.description
        assert "arXiv" in law.description


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("E +", "cannot read the formula"),
        ("E + __import__('os')", "only numbers, names"),
        ("E + params.real", "only numbers, names"),
        ("E + [1][0]", "only numbers, names"),
        ("E + (A if 1 else 2)", "only numbers, names"),
        ("E + sin(params)", r"functions: exp\(x\), log\(x\)"),
        ("E + True", "has True"),
        ("E + 1j", "only numbers, names"),
        ("E % params", "only numbers, names"),
        ("params + tokens", "no parameter to fit"),
        ("E*(1/0) + params", "1 / 0 is not a finite number"),
        ("E + A*B/params^alpha", "A and B multiply each other"),
        ("A^alpha + E/params", "the power of no input"),
        ("(" * 2000 + "E" + ")" * 2000, "cannot read the formula"),
    ],
)
def test_a_formula_with_a_fault_says_which(formula: str, message: str) -> None:
    with pytest.raises(LawError, match=message):
        _ = Law.parse(formula).terms


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("E + exp(A/params)", "inside exp or log"),
        ("E + A/(params + B)^alpha", "a sum with parameters"),
        ("E + A/(B + params)", "a sum, B . params, divides"),
        ("E + A/params^(alpha*beta)", "not a plain sum of exponents"),
        ("E + alpha/params^alpha", "both an exponent and a coefficient"),
        ("(A/params)^alpha + (A/tokens)^beta", "two different powers"),
    ],
)
def test_a_formula_of_another_kind_says_why(formula: str, message: str) -> None:
    with pytest.raises(NotMonomialError, match=message):
        _ = Law.parse(formula).terms


def test_fixed_and_tied_parameters_are_put_in() -> None:
    law = LAWS["chinchilla"].restrict({"E": 1.7}, {"beta": "alpha"})
    assert law.free == ("A", "alpha", "B")
    assert law.full({"A": 1.0, "alpha": 0.3, "B": 2.0}) == {
        "E": 1.7,
        "A": 1.0,
        "alpha": 0.3,
        "B": 2.0,
        "beta": 0.3,
    }
    fixed = LAWS["kaplan-n"].restrict({"N_c": 8.8e13})
    value = {"N_c": 8.8e13, "alpha_N": 0.076}
    np.testing.assert_allclose(expanded(fixed, value), fixed.predict(value, POINT))


@pytest.mark.parametrize(
    ("fix", "tie", "message"),
    [
        ({"omega": 1}, {}, "omega is not a parameter of chinchilla"),
        ({"alpha": float("nan")}, {}, "cannot be fixed at nan"),
        ({}, {"alpha": "beta", "beta": "alpha"}, "tied to itself"),
        ({"alpha": 1}, {"alpha": "beta"}, "both fixed and tied"),
        ({"alpha": 1}, {"beta": "alpha"}, "both fixed and tied"),
        (dict.fromkeys(LAWS["chinchilla"].parameters, 1.0), {}, "nothing is left to fit"),
    ],
)
def test_impossible_restrictions(fix: dict[str, float], tie: dict[str, str], message: str) -> None:
    with pytest.raises(LawError, match=message):
        LAWS["chinchilla"].restrict(fix, tie)


def test_prediction_says_what_is_missing() -> None:
    with pytest.raises(LawError, match="chinchilla needs beta, tokens"):
        LAWS["chinchilla"].predict({"E": 1, "A": 1, "alpha": 1, "B": 1}, {"params": 1e9})


def test_laws_by_name_and_by_formula() -> None:
    assert get_law("p2") is LAWS["p2"]
    assert get_law("E + A/size^alpha", ["size"]).inputs == ("size",)
    with pytest.raises(LawError, match="no law is called nowhere; there are p2"):
        get_law("nowhere")


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("chinchila", "no law is called chinchila: did you mean chinchilla?"),
        ("P2", "no law is called P2: did you mean p2?"),
        ("chinchilla_pruned", "did you mean chinchilla-pruned?"),
        ("L = E + A/params^alpha", "give only what is right of =, 'E + A/params^alpha'"),
        ("E + A/sqrt(params)", "has sqrt: write params^0.5"),
        ("E + A/sqrt(params + 1)", "has sqrt: write (params + 1)^0.5"),
        ("E - A*ln(params + 1)", "has ln: write log(params + 1)"),
        (lambda params: params, "is no law: give a name, a formula as text, or a Law"),
        (3, "3 is no law"),
    ],
)
def test_a_slip_in_a_law_is_answered_with_what_to_write(law: Any, message: str) -> None:
    with pytest.raises(LawError) as caught:
        get_law(law)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("E + A/N^alpha", "N is no column; did you mean params?"),
        ("E + A/params^alpha + B/D^beta", "D is no column; did you mean tokens?"),
        ("E + A/tokns^beta", "tokns is no column; did you mean tokens?"),
        ("E + A/(tokns + C)^beta", "tokns is no column; did you mean tokens?"),
        ("E + A/Params^alpha", "Params is no column; did you mean params?"),
        ("E + A*exp(-D/tau)", "D is no column; did you mean tokens?"),
        ("E + A*B/params^alpha", "A and B multiply each other"),
    ],
)
def test_a_name_that_is_no_column_is_said_to_be_none(formula: str, message: str) -> None:
    with pytest.raises(LawError) as caught:
        p2fit.fit(simulate.chinchilla(20, seed=0), formula)
    assert str(caught.value).startswith(message)


def test_a_parameter_may_be_called_as_papers_call_a_column() -> None:
    """Where a formula can be fitted, all names that are no columns are parameters."""
    data = simulate.chinchilla(20, seed=0)
    found = p2fit.fit(data, "E + D/params^alpha + B/tokens^beta")
    assert found.objective == pytest.approx(p2fit.fit(data).objective)


@pytest.mark.parametrize("name", LAWS)
def test_the_gradient_agrees_with_differences(name: str) -> None:
    law = LAWS[name]
    rng = np.random.default_rng(2)
    parameters = {p: float(v) for p, v in zip(law.parameters, rng.uniform(0.2, 0.9, 9))}
    found = law.gradient(parameters, POINT)
    for p in law.parameters:
        ahead, back = dict(parameters), dict(parameters)
        if p in law.coefficients or p in law.scales:
            ahead[p], back[p] = parameters[p] * np.exp(1e-6), parameters[p] * np.exp(-1e-6)
        else:
            ahead[p], back[p] = parameters[p] + 1e-6, parameters[p] - 1e-6
        expected = (law.predict(ahead, POINT) - law.predict(back, POINT)) / 2e-6
        np.testing.assert_allclose(found[p], expected, rtol=1e-5, atol=1e-9)
