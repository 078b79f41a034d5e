"""Tables for papers and notes: LaTeX, Markdown and CSV of every result, and what to cite."""

from __future__ import annotations

import io
import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.laws.papers import PAPERS
from p2fit.show.rounding import between, plus_minus
from tests import simulate
from tests.test_show import RESULTS, WORD, dense

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "chinchilla" / "chinchilla.csv"


def run(*words: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.stderr if code else found.stdout


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "curves.csv"
    pl.DataFrame(simulate.p2(seed=0)).write_csv(path)
    return path


# ---------------------------------------------------------------- numbers

SIZES = st.floats(-12, 12).map(lambda x: 10.0**x)
VALUES = st.tuples(SIZES, st.sampled_from([-1, 1])).map(lambda t: t[0] * t[1]) | st.just(0.0)
POWER = re.compile(r" \\times 10\^\{(-?\d+)\}$")


def parts(text: str) -> tuple[list[str], float]:
    """The numbers in it, and what they are multiplied by."""
    power = POWER.search(text)
    return re.findall(r"-?\d+(?:\.\d+)?", POWER.sub("", text)), 10.0 ** int(
        power[1]
    ) if power else 1


def digits(number: str) -> int:
    return len(number.replace(".", "").strip("-").strip("0") or "0")


def decimals(number: str) -> int:
    return len(number.partition(".")[2])


@given(VALUES, SIZES)
def test_an_error_has_two_digits_and_its_value_ends_where_it_ends(
    value: float, error: float
) -> None:
    (shown, off), factor = parts(plus_minus(value, error))
    assert digits(off) <= 2
    assert float(off) * factor == pytest.approx(error, rel=0.0501)
    assert decimals(shown) == decimals(off)
    unit = 10.0 ** (math.floor(math.log10(float(off) * factor) + 1e-9) - 1)
    assert abs(float(shown) * factor - value) <= unit * 0.501 + abs(value) * 1e-12
    assert "e" not in shown + off


@given(VALUES, st.none() | SIZES, st.none() | SIZES)
def test_an_interval_is_told_from_its_value(
    value: float, below: float | None, above: float | None
) -> None:
    assume(below is not None or above is not None)
    low = None if below is None else value - below
    high = None if above is None else value + above
    # Beside a value that is a thousand million times larger an end is that value.
    assume(all(e is None or e > 1e-9 * abs(value) for e in (below, above)))
    text = between(value, low, high)
    found = re.fullmatch(r"(.+?)\^\{(.+?)\}_\{(.+?)\}( \\times.*)?", text)
    assert found is not None, text
    _, factor = parts(text)
    for sign, error, shown in (("+", above, found[2]), ("-", below, found[3])):
        if error is None:
            assert shown == r"\mathrm{open}"
        else:
            assert shown[0] == sign
            assert digits(shown[1:]) <= 2
            assert float(shown[1:]) * factor == pytest.approx(error, rel=0.0502)


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (1.8172, 1.7707, 1.8650, "1.817^{+0.048}_{-0.046}"),
        (19.56, None, 1183, r"20^{+1200}_{\mathrm{open}}"),
        (0.0, 0.0, 3.0, "0.0^{+3.0}_{-0}"),
        (2.5e9, 2.4e9, 2.7e9, r"2.50^{+0.20}_{-0.10} \times 10^{9}"),
        (5.0, 6.0, 7.0, r"6\ \mathrm{to}\ 7"),  # a mode at the side of its draws
    ],
)
def test_intervals(value: float, low: float | None, high: float | None, text: str) -> None:
    assert between(value, low, high) == text


# ---------------------------------------------------------------- formulas

COLUMNS = {
    r"\mathrm{unique}_{\mathrm{tokens}}": "unique_tokens",
    r"\mathrm{lr}_{\mathrm{annealing}}": "lr_annealing",
    r"\mathrm{lr}_{\mathrm{area}}": "lr_area",
    r"\mathrm{precision}": "precision",
    r"\bar{N}": "avg_params",
    r"\rho": "pruning_rate",
    "L_0": "base_loss",
    "N_0": "params",
    "N": "params",
    "D": "tokens",
}


def told(latex: str, columns: Mapping[str, float]) -> float:
    """What a formula in LaTeX with numbers in place of parameters amounts to."""
    text = latex.partition(" = ")[2]
    for i, symbol in enumerate(COLUMNS):
        text = text.replace(symbol, f"@{i}@")
    text = re.sub(r"\\left|\\right", "", text).replace(r"\cdot", "*").replace(r"\,", "*")
    text = text.replace("^{", "**{").replace(r"\frac", "").replace("}{", ")/(")
    text = text.replace("{", "(").replace("}", ")").replace("\\exp", "exp")
    for i, name in enumerate(COLUMNS.values()):
        text = text.replace(f"@{i}@", f"({columns.get(name)!r})")
    return float(eval(text, {"exp": math.exp}))


@given(st.data())
def test_a_formula_with_numbers_is_the_law(data: st.DataObject) -> None:
    law = p2fit.LAWS[data.draw(st.sampled_from(sorted(p2fit.LAWS)))]
    number = st.floats(-2, 2).map(lambda x: float(f"{x:.6g}")).filter(lambda x: abs(x) > 0.01)
    values = {n: data.draw(number) for n in law.parameters}
    # A law of N_0 says N where nothing is pruned, and L_0 and N_0 may be parameters.
    columns = {x: data.draw(st.floats(0.3, 3)) for x in law.inputs} | {"pruning_rate": 0.4}
    with np.errstate(all="ignore"):
        right = float(law.predict(values, {x: columns[x] for x in law.inputs}))
    assume(math.isfinite(right) and abs(right) < 1e9)
    try:
        found = told(law.latex(values=values), columns)
    except (OverflowError, TypeError):  # a negative base: no number for numpy either
        assume(False)
    assert found == pytest.approx(right, rel=1e-6, abs=1e-9)


def test_the_formula_of_a_fit_tells_its_losses() -> None:
    fit = dense()
    formula = fit.to_latex().split("\\[ ")[2].partition(" \\]")[0]
    for n, d in ((fit.data["range"]["params"], fit.data["range"]["tokens"]),):
        for end in ("min", "max"):
            at = {"params": float(n[end]), "tokens": float(d[end])}
            assert told(formula, at) == pytest.approx(float(fit.predict(at)), rel=1e-4)


# ---------------------------------------------------------------- every result

NAMES = {"Fit": 1, "Comparison": 2}


@pytest.mark.parametrize("kind", RESULTS)
def test_markdown_says_what_the_text_says(kind: str) -> None:
    result = RESULTS[kind]()
    text, page = str(result), result.to_markdown()
    found = sorted("".join(WORD.findall(page.replace("\\", ""))))
    letters = sorted("".join(WORD.findall(text)))
    remarks = sum(text.count(f"{w}: ") * len(w) for w in ("warning", "note", "mend"))
    assert len(found) >= len(letters) - remarks
    if not remarks:
        assert found == letters
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
        assert len(columns) == 1


@pytest.mark.parametrize("kind", RESULTS)
def test_csv_is_the_table(kind: str) -> None:
    frame = RESULTS[kind]().to_polars()
    assert frame.height > 0
    assert pl.read_csv(io.StringIO(frame.write_csv())).columns == frame.columns


def tex(body: str, folder: Path) -> str:
    """The log of LaTeX over it."""
    if shutil.which("pdflatex") is None or not booktabs():
        pytest.skip("there is no LaTeX with booktabs here")
    head = r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage{booktabs}"
    page = head + r"\begin{document}" + f"\n{body}\n" + r"\end{document}"
    (folder / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "page.pdf").stat().st_size > 0
    return done.stdout


def booktabs() -> bool:
    found = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True)
    return bool(found.stdout.strip())


def test_latex_compiles_every_result(tmp_path: Path) -> None:
    results = [made() for made in RESULTS.values()]
    log = tex("\n\n".join(result.to_latex() for result in results), tmp_path)
    assert "Missing character" not in log
    assert "! " not in log


NAMED = st.text(
    st.characters(codec="ascii", exclude_categories=["C"]) | st.sampled_from("éüñ"),
    min_size=1,
    max_size=12,
)


def test_latex_takes_any_name(tmp_path: Path) -> None:
    names = []

    @given(NAMED)
    def draw(name: str) -> None:
        names.append(name.strip() or "x")

    draw()
    names += ["100% #1 & a_b^c ~{x}\\y", "[a]", "*", "$x$", "a\nb", "<|>"]
    points = pl.DataFrame(simulate.p2(seed=0)).head(len(names)).select("params", "tokens")
    points = pl.concat([points] * (len(names) // points.height + 1)).head(len(names))
    points = points.with_columns(name=pl.Series(names), pruning_rate=0.2, base_loss=2.0)
    found = p2fit.predict(RESULTS["Fit"](), points)  # type: ignore[arg-type]
    log = tex(r"\tiny" + "\n" + found.to_latex(), tmp_path)
    assert "! " not in log
    rows = [row for row in found.to_markdown().splitlines() if row.startswith("|")]
    assert len(rows) == len(names) + 2
    assert len({len(re.sub(r"\\.", "", row).split("|")) for row in rows}) == 1


def test_a_fit_in_latex_says_what_is_open_held_and_wrong() -> None:
    few = pl.DataFrame(simulate.p2(seed=0)).filter(pl.col("params") == pl.col("params").max())
    fit = p2fit.fit(few, "p2", fix={"gamma": -1.0}, tie={"alpha": "beta"})
    page = fit.to_latex()
    assert "& fixed" in page
    assert r"& $= \beta$" in page
    assert "not determined" in page
    assert page.count(r"\toprule") == 1
    assert all(f"% warning: {w}" in page for w in fit.warnings)


# ---------------------------------------------------------------- the command line


def test_latex_of_the_command_line(curves: Path) -> None:
    fit = p2fit.fit(curves)
    assert run("fit", curves, "--latex") == fit.to_latex()
    assert run("fit", curves, "--format", "latex", "--latex") == fit.to_latex()
    assert run("fit", curves, "--format", "markdown") == fit.to_markdown()
    assert run("fit", curves, "--format", "csv") == fit.to_polars().write_csv()


@pytest.mark.parametrize(
    "options",
    [
        ["--json", "--format", "csv"],
        ["--json", "--latex"],
        ["--latex", "--format", "csv"],
        ["--json", "--latex", "--format", "latex"],
    ],
)
def test_two_forms_at_once_are_refused_in_a_line(curves: Path, options: list[str]) -> None:
    assert re.fullmatch(
        r"--.* contradict each other: choose one\n", run("fit", curves, *options, code=2)
    )


def test_csv_of_several_tells_them_apart(curves: Path, tmp_path: Path) -> None:
    saved = tmp_path / "fit.json"
    run("fit", curves, "-o", saved)
    text = run(
        *("plan", "tokens", saved, "--params", "1B,8B", "--pruning-rate", "0.2,0.3"),
        *("--base-loss", "2", "--gain", "0.01", "--format", "csv"),
    )
    plans = pl.read_csv(io.StringIO(text))
    assert plans.select("params", "pruning_rate").unique().height == 4
    held = pl.read_csv(io.StringIO(run("validate", curves, "--format", "csv")))
    assert held["holdout"].n_unique() > 1
    profiles = pl.read_csv(
        io.StringIO(run("profile", curves, "--parameter", "beta", "--format", "csv"))
    )
    assert profiles["parameter"].to_list() == ["beta"]
    laws = pl.read_csv(io.StringIO(run("laws", "--format", "csv")))
    assert laws["name"].to_list() == list(p2fit.LAWS)


# ---------------------------------------------------------------- what to cite


@pytest.mark.parametrize("name", p2fit.LAWS)
def test_every_law_has_its_paper(name: str) -> None:
    said = re.findall(r"arXiv (\d{4}\.\d{5})", p2fit.LAWS[name].description)
    assert said
    page = run("cite", name)
    for number in said:
        assert f"eprint        = {{{number}}}" in page
        assert PAPERS[number].key in page
    assert page.count("{") == page.count("}")


def test_a_fit_is_cited_by_its_law(curves: Path, tmp_path: Path) -> None:
    run("fit", curves, "-o", tmp_path / "fit.json")
    assert run("cite", tmp_path / "fit.json") == run("cite", "p2")
    assert run("cite", "p2", "p2-no-size") == run("cite", "p2")  # each paper once
    assert run("cite", "E + A/params^alpha") == run("cite")
    assert "no law is called p3" in run("cite", "p3", code=2)


def test_keys_are_unique() -> None:
    assert len({paper.key for paper in PAPERS.values()}) == len(PAPERS)


def test_citation_file_says_the_same() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    said = dict(line.split(": ", 1) for line in lines if re.match(r"\w[\w-]*: ", line))
    assert said["version"] == p2fit.__version__
    page = run("cite")
    assert f"version = {{{p2fit.__version__}}}" in page
    assert f"title   = {{{said['title'].strip(chr(34))}}}" in page
