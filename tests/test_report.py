"""The report: true to the fit, safe from what names hold, and readable everywhere."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit import FitError
from p2fit.cli import main
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS
from p2fit.reporting.mathml import formula
from p2fit.reporting.themes import themed
from tests import browser, simulate

EXAMPLES = Path(__file__).parents[1] / "examples"
CHINCHILLA = EXAMPLES / "chinchilla" / "chinchilla.csv"
OPEN = EXAMPLES / "pruned_llama3_depth" / "pruned_llama3_depth.csv"
SMALL: Any = {"where": "kept == 1 and tokens > 3e10"}  # as fast as it gets


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


def parsed(text: str) -> Any:
    """The page; a fault in its HTML is an error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


MATH = "{http://www.w3.org/1998/Math/MathML}math"


def words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def headings(page: Any) -> Iterator[tuple[int, str]]:
    for element in page.iter():
        if isinstance(element.tag, str) and re.fullmatch("h[1-6]", element.tag):
            yield int(element.tag[1]), words(element)


def sound(text: str) -> Any:
    """What must hold for every page."""
    page = parsed(text)
    assert page.get("lang") == "en"
    levels = [level for level, _ in headings(page)]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip([0, *levels], levels))
    ids = [e.get("id") for e in page.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for element in page.iter():
        for name in ("href", "{http://www.w3.org/1999/xlink}href"):
            target = element.get(name, "")
            assert target.startswith(("#", "data:")) or not target
            assert not target.startswith("#") or target[1:] in ids
        if element.get("aria-labelledby"):
            assert element.get("aria-labelledby") in ids
        if element.tag == "figure":
            (image,) = (e for e in element.iter("div") if e.get("role") == "img")
            assert len(image.get("aria-label")) > 30
            assert len(list(element.iter("figcaption"))) == 1
        if element.tag == "th":
            assert element.get("scope") in ("row", "col")
        assert element.tag not in ("script", "link", "iframe", "img", "object")
    assert len(text.encode()) < 3_000_000
    return page


@pytest.fixture(scope="module")
def dense() -> str:
    return p2fit.report(CHINCHILLA, **SMALL)


@pytest.fixture(scope="module")
def undetermined() -> str:
    return p2fit.report(OPEN)


def test_what_is_on_the_page(dense: str) -> None:
    page = sound(dense)
    found = [name for _, name in headings(page)]
    assert found == [
        "The Chinchilla law on chinchilla.csv",
        "The law",
        "Parameters",
        "What these curves do not tell",
        "How well it fits",
        "Does it hold where it was not fitted?",
        "Other laws on the same rows",
        "The law as a landscape",
        "What it says for planning",
        "What went in",
        "Words",
        "How to make this page again",
    ]
    (contents,) = page.iter("nav")
    assert [words(e) for e in contents.iter("a")] == found[1:]
    assert len(dense.encode()) < 1_000_000
    fit = p2fit.fit(CHINCHILLA, **SMALL)
    text = words(page)
    for p in fit.parameters.values():
        assert f"{p.estimate:.4g}" in text or p.estimate > 1e5  # type: ignore[operator]
    assert fit.data["sha256"] in text
    assert "p2fit chose the Chinchilla law because the file has neither" in text
    assert "left out 5" not in text
    assert "kept == 1 and tokens &gt; 3e10 does not hold" in dense
    assert len(list(page.iter("figure"))) == 10


def test_the_same_curves_give_the_same_page(dense: str) -> None:
    assert p2fit.report(str(CHINCHILLA), **SMALL) == dense


def test_the_command_it_names_makes_it_again(dense: str, tmp_path: Path) -> None:
    import shlex

    (command,) = (words(e) for e in parsed(dense).iter("pre"))
    arguments = shlex.split(command)[1:]
    assert arguments[-1] == "report.html"
    made = tmp_path / "report.html"
    found = run(*arguments[:-1], made)
    assert (found.exit_code, found.output) == (0, "")
    assert made.read_text(encoding="utf-8") == dense


RUNS = EXAMPLES / "p2_study" / "post_train.csv"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"errors": "rows"},
        {"loss": "squared"},
        {"loss": "squared", "errors": "rows", "weights": "runs"},
        {"delta": 0.01, "burn_in": 0.1, "cluster": "params"},
        {"residual": "linear", "fix": {"E": 0.5}, "ranges": {"beta": (0.1, 0.9)}},
        {"subtract_control": True, "tie": {"alpha": "beta"}, "seed": 3},
    ],
    ids=str,
)
def test_the_command_on_a_page_fits_the_same(options: dict[str, Any]) -> None:
    import json
    import shlex

    from p2fit.reporting.command import command

    fit = p2fit.fit(RUNS, where="method == 'depth'", **options)
    made = shlex.split(command(fit))
    assert made[:2] == ["p2fit", "report"]
    assert made[-2] == "-o"
    found = run("fit", *made[2:-2], "--json")
    assert found.exit_code == 0, found.output
    again = json.loads(found.stdout)
    assert again["options"] == json.loads(json.dumps(fit.to_dict()))["options"]
    assert again["parameters"]["beta"]["estimate"] == fit.parameters["beta"].estimate


def test_a_saved_fit_gives_the_page_of_its_curves(dense: str, tmp_path: Path) -> None:
    fit = p2fit.fit(CHINCHILLA, **SMALL)
    fit.save(tmp_path / "fit.json")
    assert p2fit.report(fit) == dense
    found = run("report", tmp_path / "fit.json", "-o", tmp_path / "r.html")
    assert (found.exit_code, found.output) == (0, "")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == dense


def test_what_is_not_determined_is_said_in_words(undetermined: str) -> None:
    page = sound(undetermined)
    text = words(page)
    assert (
        "delta, N_C, alpha, D_C, beta and E cannot be told apart by these curves (1 distinct "
        "value of tokens, 3 needed). The values in the table are one choice of many" in text
    )
    assert "Known: gamma -1.12 to -0.94." in text
    assert "Not known: delta, N_C, alpha, D_C, beta and E." in text
    assert "Local rank 4 of 7" in text
    assert "every interval has two ends" not in text.lower()
    assert "Parameters that are not determined stay letters" in text
    # gamma = -1.031 is known: rho^1.031; delta is not.
    second = [e for e in page.iter(MATH) if e.get("display") == "block"][1]
    assert words(second).startswith("L=L0+ρ1.031")
    assert "δ" in words(second)
    assert "Not compared:" in text
    assert re.search(r"gains < 0.01 nats *not determined", text)


def test_groups_have_a_section_each(tmp_path: Path) -> None:
    path = EXAMPLES / "gadre_overtraining" / "gadre_overtraining.csv"
    made = tmp_path / "r.html"
    found = run("report", path, "--by", "train_set", "--where", "tokens > 1e10", "-o", made)
    assert found.exit_code == 0, found.output
    page = sound(made.read_text(encoding="utf-8"))
    names = [name for level, name in headings(page) if level == 2]
    assert names[0] == "All groups"
    assert names[1:4] == [f"train_set = {v}" for v in ("c4_original", "rpj", "rw_original")]
    assert sum(name == "Parameters" for level, name in headings(page) if level == 3) == 3
    # Each has the same few pictures, and the page stays one that can be sent.
    assert len(list(page.iter("figure"))) == 1 + 3 * 5
    assert "has all kinds" in words(page)
    assert made.stat().st_size < 600_000


@given(
    st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=2, max_size=60),
    st.booleans(),
)
def test_a_line_of_fewer_points_is_the_same_line(
    points: list[tuple[float, float]], closed: bool
) -> None:
    """To less than a tenth of a point, wherever it goes."""
    points += points[:1] * closed
    path = "L ".join(f"{x:.6f} {y:.6f} \n" for x, y in points)
    drawing = themed(f'<svg viewBox="0 0 9 9">\n<path d="M {path}"/></svg>', "x")
    kept = np.array(re.findall(r"[ML] ?(-?[\d.]+) (-?[\d.]+)", drawing), float)
    assert len(kept) <= len(points)
    near = np.full(len(points), np.inf)
    for a, b in itertools.pairwise(kept):
        along = b - a
        share = np.clip((points - a) @ along / max(along @ along, 1e-9), 0, 1)
        near = np.minimum(near, np.hypot(*(points - a - share[:, None] * along).T))
    assert near.max() < 0.1


def test_many_groups_stay_small() -> None:
    parts = []
    for i in range(10):
        part = pl.DataFrame(simulate.chinchilla(12, seed=i))
        name = pl.format("{} of set {}", "run", pl.lit(i))
        parts.append(part.with_columns(pl.lit(f"set {i}").alias("set"), name.alias("run")))
    text = p2fit.report(pl.concat(parts), by=["set"])
    sound(text)
    assert len(text) < 3_000_000


def test_one_run_without_intervals_and_a_law_of_ones_own() -> None:
    tokens = [1e9, 2e9, 4e9, 8e9, 1.6e10, 3.2e10]
    curves = {
        "run": ["only"] * 6,
        "params": [1e9] * 6,
        "tokens": tokens,
        "loss": [1.8 + 2100 / d**0.37 for d in tokens],
    }
    text = words(sound(p2fit.report(curves, "E + B/tokens^beta")))
    assert "A law of your own on a table" in text
    assert "There are no intervals: see below." in text
    assert "No intervals: 1 independent run, 4 needed" in text
    assert "by p2fit.report on the same fit or table" in text


def test_a_plan_that_is_open_is_not_given() -> None:
    curves = simulate.chinchilla(12, seed=1, params=[1e9, 4e9] * 6)
    text = words(sound(p2fit.report(curves)))
    assert "These curves leave the best split of compute open." in text
    assert "grows as compute to the power" not in text


def test_models_of_ones_choice(tmp_path: Path) -> None:
    """The numbers are those of the commands, and the page's own command asks for them again."""
    fit = p2fit.fit(CHINCHILLA, **SMALL)
    model = {"params": 8.03e9, "tokens": 2e10}
    text = words(sound(p2fit.report(fit, plan=[model])))
    assert "Parameters 8.03B, tokens 20B" in text
    predicted = float(p2fit.predict(fit, model).predicted[0])
    assert re.search(rf"loss of the law\s*{predicted:.4g}", text)
    assert "--plan params=8030000000,tokens=20000000000" in text
    assert "e+0" not in text
    with pytest.raises(FitError, match="does not read pruning_rate: a model is its"):
        p2fit.report(fit, plan=[{"params": 8e9, "pruning_rate": 0.3}])
    for wrong in ("params", "params=x", "params=1B,params=2B", ""):
        found = run("report", CHINCHILLA, "--plan", wrong, "-o", tmp_path / "r.html")
        assert found.exit_code == 2
        assert "Invalid value for '--plan'" in found.stderr


def test_runs_in_progress_end_as_plan_continue_says() -> None:
    from tests.test_plot import under_way

    curves = under_way()
    fit = p2fit.fit(curves)
    text = words(sound(p2fit.report(fit, curves=curves)))
    most = float(curves["tokens"].max())  # type: ignore[arg-type]
    plan = p2fit.plan_continue(fit, tokens=most, curves=curves)
    listed = text.partition("Ends lowest")[2]
    going = [run for run in plan.runs if run.tokens < 0.95 * most]
    assert going
    for one in going:
        low, high = one.interval or (0.0, 0.0)
        assert f"{one.end:.4g}" in listed
        assert f"{low:.4g} to {high:.4g}" in listed
        assert f"{one.doubling:.3g}" in listed


def test_thousands_of_columns_are_left_unread() -> None:
    """The same page, but for the hash of the curves."""
    table = pl.DataFrame(simulate.chinchilla(12, seed=1))
    wide = table.with_columns(**{f"x{i}": pl.lit(float(i)) for i in range(300)})

    def page(rows: pl.DataFrame) -> str:
        return re.sub(r"<code>[0-9a-f]{64}</code>", "", p2fit.report(rows))

    assert page(wide) == page(table)


NASTY = [
    "<script>alert(1)</script>",
    "</svg><img src=x onerror=alert(1)>",
    "$\\frac{1}{2}$ {{ 7*7 }} {% raw %}",
    "模型 ö \u202eabc 🦙",
    "a\"b'c&amp;d --> ]]>",
    "x" * 300,
]


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    curves = pl.DataFrame(simulate.p2(seed=3, checkpoints=4, offset=0.005))
    curves = curves.with_columns(
        pl.col("run").replace_strict({f"run-{i}": NASTY[i % 6] + str(i) for i in range(9)}),
        family=pl.lit(NASTY[1]),
        method=pl.lit(NASTY[2]),
    )
    path = tmp_path / "<b>&curves.csv"
    curves.write_csv(path)
    text = p2fit.report(path)
    page = sound(text)
    assert "<script" not in text
    assert "<img" not in text
    assert "49 {" not in text
    assert "The P² law on <b>&curves.csv" in words(page)
    found = browser.measure(text, tmp_path, width=360)
    assert found["complaints"] == found["loaded"] == []
    assert found["width"] == found["inner"] <= 360


@pytest.mark.parametrize("law", [*LAWS.values()], ids=lambda law: law.name)
def test_every_law_is_set(law: Law) -> None:
    """With symbols, and with numbers of either sign and any size."""
    numbers = dict(zip(law.parameters, (-1.3, 0.05, 7.2e6, 0.3, 38.7, 2e-9, 1.0)))
    for values in (None, numbers):
        page = parsed(f"<!doctype html><title>x</title>{formula(law, values)}")
        (math_,) = page.iter(MATH)
        assert math_.get("alttext") == f"L = {law.formula}"
        assert "−−" not in words(math_)
    assert "10−9" in words(math_) or len(law.parameters) < 6


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_in_a_browser(
    dense: str, undetermined: str, tmp_path: Path, width: int, dark: bool
) -> None:
    for text in (dense, undetermined):
        found = browser.measure(text, tmp_path, width=width, dark=dark)
        assert found["complaints"] == []
        assert found["loaded"] == []
        assert found["scripts"] == 0
        assert found["width"] == found["inner"] <= width
        assert found["contrast"] > 4.5, found["where"]
        assert (sum(found["ground"][:3]) < 120) == dark
        assert min(found["drawings"]) > 200


def test_on_paper(dense: str, tmp_path: Path) -> None:
    page, paper = tmp_path / "r.html", tmp_path / "r.pdf"
    page.write_text(dense, encoding="utf-8")
    browser.run(page, f"--print-to-pdf={paper}")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    sheets = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 4 <= sheets <= 20


def test_faults_in_one_line(tmp_path: Path) -> None:
    made = tmp_path / "r.html"
    found = run("report", CHINCHILLA, "--law", "p2", "-o", made)
    assert found.exit_code == 2
    assert "p2 needs base_loss and pruning_rate" in found.stderr
    assert not made.exists()
    assert run("report", tmp_path / "none.json", "-o", made).exit_code == 2
    with pytest.raises(FitError, match="takes law and options from them"):
        p2fit.report(p2fit.fit(CHINCHILLA, **SMALL), law="p2")
