"""Words: every one explained, found under each of its forms, and the page in step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.glossary import WORDS, explain, words_in
from p2fit.show.headline import headline, known
from tests import simulate


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments, prog_name="p2fit")


def test_each_form_of_a_word_finds_it_and_is_found_in_a_text() -> None:
    forms = [(form, word) for word in WORDS for form in (word.term, *word.also)]
    assert len({form.lower() for form, _ in forms}) == len(forms)
    for form, word in forms:
        assert explain(form)[0] == word, form
        assert explain(form.upper() if form.isascii() else form)[0] == word
        assert word in list(words_in(f"of {form}, it")), form
    assert not list(words_in("cat opened"))


@pytest.mark.parametrize(
    "word", ["directions", "open", "decades outside", "contraction", "ASD", "local rank", "leans"]
)
def test_jargon_is_explained(word: str) -> None:
    found = run("explain", *word.split())
    assert found.exit_code == 0
    assert len(found.stdout) > 60
    meaning = explain(word)[0].meaning
    for form in ("markdown", "latex", "csv"):
        shown = run("explain", *word.split(), "--format", form).stdout
        assert meaning.split(",")[0].replace("%", "\\%" if form == "latex" else "%") in shown
    assert json.loads(run("explain", *word.split(), "--json").stdout)[0]["meaning"] == meaning


def test_columns_laws_and_parameters_are_words() -> None:
    assert "column base_loss" in [w.term for w in explain("base_loss")]
    assert "Hoffmann" in explain("chinchilla")[0].meaning
    assert "chinchilla: E + A/params^alpha" in explain("alpha")[0].meaning
    assert len(run("explain").stdout) > 4000


@given(st.text(max_size=12))
def test_any_other_word_is_refused_in_one_line(word: str) -> None:
    found = CliRunner().invoke(main, ["explain", "--", word or "x"], prog_name="p2fit")
    assert found.exit_code in (0, 2)
    if found.exit_code:
        assert "none of p2fit's words" in found.stderr
        assert found.stderr.count("\n") == 1 + word.count("\n")


def test_a_word_that_is_none() -> None:
    found = run("explain", "opn")
    assert found.exit_code == 2
    assert found.stderr == "opn is none of p2fit's words; did you mean open?\n"


@given(
    seed=st.integers(0, 50),
    sizes=st.sampled_from([None, [1e9, 4e9] * 10]),
    noise=st.sampled_from([1e-4, 0.01, 0.1]),
)
def test_the_headline_says_no_more_than_the_intervals(seed: int, sizes: Any, noise: float) -> None:
    """Every free parameter is in one class; what is known has two ends, what is open is not."""
    fit = p2fit.fit(simulate.chinchilla(20, seed=seed, params=sizes, noise=noise))
    narrow, wide, none = known(fit)
    assert sorted([*narrow, *wide, *none]) == sorted(fit.law.free)
    for name in (*narrow, *wide):
        p = fit.parameters[name]
        assert p.identified
        assert p.interval is not None
        assert None not in p.interval
    for name, p in fit.parameters.items():
        if not p.identified or p.interval is None or None in p.interval:
            assert name in none
    said = dict(headline(fit))
    if fit.doubts:
        assert not said
        return
    assert ("not known" in said) == bool(none)
    assert set(said) <= {"predicts", "known", "roughly", "not known"}
    assert "%" in said["predicts"] or "not known" in said["predicts"] or "not" in said["predicts"]
