"""Every kind of result is text, rich's layout and HTML by one mechanism."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import html5lib
import pytest
from matplotlib.figure import Figure

import p2fit
from p2fit.fit import to_json
from p2fit.results import Result, Results
from p2fit.show import _MODULES
from tests import simulate

WORD = re.compile(r"[^\W_]+")


@cache
def fit() -> p2fit.Fit:
    return p2fit.fit(simulate.p2(seed=0))


@cache
def dense() -> p2fit.Fit:
    return p2fit.fit(simulate.chinchilla(seed=0), "chinchilla")


@cache
def going() -> p2fit.Fit:
    return p2fit.fit(simulate.p2(seed=0, offset=0.01), errors="runs")


MODEL = {"params": 8e9, "pruning_rate": 0.25, "base_loss": 2.0}
RESULTS: dict[str, Callable[[], Result]] = {
    "Fit": fit,
    "Validation": lambda: p2fit.validate(simulate.p2(seed=0), holdout=["checkpoints:0.2"])[0],
    "Comparison": lambda: p2fit.compare(simulate.p2(seed=0), ["p2", "p2-no-size"])[0],
    "DesignReport": lambda: p2fit.identify_design(simulate.p2(seed=0))[0],
    "Profile": lambda: p2fit.profile(simulate.p2(seed=0), parameters=["beta"])[0],
    "Prediction": lambda: p2fit.predict(fit(), {**MODEL, "tokens": [1e9, 1e12]}),
    "RunsAhead": lambda: p2fit.predict_runs(
        going(), tokens=[1e9, 1e10], runs=["run-1"], curves=simulate.p2(seed=0, offset=0.01)
    ),
    "Continuation": lambda: p2fit.plan_continue(
        going(), tokens=1e10, loss=2.5, curves=simulate.p2(seed=0, offset=0.01)
    ),
    "TokensPlan": lambda: p2fit.plan_tokens(fit(), MODEL, gain=[0.01]),
    "ComputePlan": lambda: p2fit.plan_compute(dense(), [1e20, 1e21]),
    "Choice": lambda: p2fit.plan_choose(
        fit(), {"params": [8e9, 3e9], "base_loss": [1.9, 2.1]}, 2e9, tokens=1e9
    ),
    "NextRuns": lambda: p2fit.plan_next(
        dense(), {"params": [1e9, 4e9], "tokens": [1e10, 1e10]}, at={"params": 1e10, "tokens": 1e11}
    ),
}


def test_every_kind_is_here() -> None:
    assert set(RESULTS) == set(_MODULES)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_repr_is_a_line_and_says_the_kind(kind: str) -> None:
    said = repr(RESULTS[kind]())
    assert said.startswith(f"<{kind}")
    assert said.endswith(">")
    assert len(said) <= 200
    assert "\n" not in said


def test_other_reprs_are_short_too() -> None:
    logs = Path(__file__).parents[1] / "examples" / "trainer_logs"
    found = p2fit.import_logs([logs], params=1e6, tokens_per_step=512, run_from_path=True)
    for one in (found, found.curves, *p2fit.LAWS.values()):
        assert repr(one).startswith(f"<{type(one).__name__} ")
        assert len(repr(one)) <= 250
    assert "<table" in found._repr_html_()


def test_a_list_of_results_is_shown_as_what_is_in_it(tmp_path: Path) -> None:
    found = p2fit.validate(simulate.p2(seed=0), holdout=["checkpoints:0.2", "params:largest"])
    assert isinstance(found, Results)
    assert len(repr(found)) < 300
    assert str(found) == "\n".join(map(str, found))
    assert found._repr_html_().count("<hr>") == 1
    profiles = p2fit.profile(simulate.chinchilla(24, seed=0), parameters=["alpha", "beta"])
    assert isinstance(profiles, Results)
    assert len(repr(profiles)) < 300
    assert profiles._repr_html_().count("<hr>") == 1
    (tmp_path / "fits.json").write_text(to_json([fit(), dense()]), encoding="utf-8")
    loaded = p2fit.load(tmp_path / "fits.json")
    assert isinstance(loaded, list)
    assert repr(loaded) == f"[{fit()!r}, {dense()!r}]"


def test_a_fit_draws_itself() -> None:
    curves = simulate.p2(seed=0)
    drawn = fit().plot("observed", curves=curves)
    assert isinstance(drawn, Figure)
    assert [a.get_xlabel() for a in drawn.axes] == [
        a.get_xlabel() for a in p2fit.plot(fit(), "observed", curves=curves).axes
    ]


@pytest.mark.parametrize("kind", RESULTS)
def test_text_and_html_say_the_same(kind: str) -> None:
    result = RESULTS[kind]()
    assert type(result).__name__ == kind
    text, html = str(result), result._repr_html_()
    assert text == result.summary()
    page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(html)
    said = " ".join(page.itertext())
    # A word may be broken between two lines of a narrow column: letters are compared, not words.
    letters = sorted("".join(WORD.findall(text)))
    headings = "".join(WORD.findall("".join(p.text or "" for p in page.iter("p"))))
    found = sorted("".join(WORD.findall(said)))
    remarks = [w for w in ("warning", "note", "mend") if f"{w}: " in text]
    if not remarks:
        assert found == letters
    else:  # the heading of a list stands for the word before each remark
        assert len(found) >= len(letters) - sum(len(w) * text.count(f"{w}: ") for w in remarks)
        assert headings
