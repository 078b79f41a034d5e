"""The pages say what p2fit prints: every command in them is run.

These are README.md, the pages of docs/ and those of examples/.

In a ``console`` block each line ``$ p2fit ...`` is a command (a backslash at its end continues
it) and what follows is its output (none with ``> /dev/null``, a part with ``| head -n 9`` or
``| tail -n 9``). ``$ cat FILE`` shows a file that the page has from there on; other commands are
left alone. A ``pycon`` block is a Python session. Of a block that is called ``console sampled``
only the words are compared: what a sampler draws differs from machine to machine. Commands run
from a copy of the repository's root in which only examples/ is there, one page after another, each
page from top to bottom. After a change of the output,

    python tests/test_examples.py --rewrite [PAGE ...]

runs them all again, writes what they print into the pages and the pictures that they draw into
examples/, and names the pages that changed.
"""

from __future__ import annotations

import contextlib
import csv
import doctest
import io
import itertools
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from p2fit import check
from p2fit.cli import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# tests/test_docs.py has the help texts.
DOCS = sorted({*(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "reference" / "cli.md"})
PAGES = [ROOT / "README.md", *DOCS, *sorted(EXAMPLES.rglob("*.md"))]
FILES = sorted(EXAMPLES.rglob("*.csv"))
BLOCK = re.compile(r"^```(console|pycon)( sampled)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PART = re.compile(r" \| (head|tail) -n (\d+)$")
COMMAND = re.compile(r"^\$ (?:.*\\\n)*.*\n", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w|\.\w)")
NUMBERS = re.compile(rf"(?:{NUMBER.pattern}|to|open|[±×%—\s])+")
PLUS_MINUS = re.compile(rf"{NUMBER.pattern} ± ({NUMBER.pattern})")
ERRORS = ("std. error", "post. sd")  # heads of the column beside the estimates


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ---------------------------------------------------------------- running a page


@contextlib.contextmanager
def workplace(*, rewriting: bool = False) -> Iterator[None]:
    """A temporary working directory with examples/ in it: what a command writes stays there, but
    for the pictures of pages that are being rewritten."""
    with tempfile.TemporaryDirectory() as folder:
        if rewriting:
            Path(folder, "examples").symlink_to(EXAMPLES, target_is_directory=True)
        else:
            shutil.copytree(EXAMPLES, Path(folder, "examples"))
        with contextlib.chdir(folder):
            yield


def p2fit(command: str) -> str:
    """What ``p2fit ...`` prints."""
    command = command.replace("\\\n", " ").strip()
    part = PART.search(command)
    arguments = shlex.split(PART.sub("", command))[1:]
    silent = arguments[-2:] == [">", "/dev/null"]
    arguments = arguments[:-2] if silent else arguments
    result = CliRunner().invoke(main, arguments, prog_name="p2fit", catch_exceptions=False)
    # A check is there to find faults.
    assert result.exit_code == 0 or arguments[0] == "check", f"{command}\n{result.output}"
    lines = [] if silent else result.output.splitlines(keepends=True)
    if part:
        lines = lines[: int(part[2])] if part[1] == "head" else lines[-int(part[2]) :]
    return "".join(lines)


def console(block: str) -> str:
    """A console block with the output of its p2fit commands made anew."""
    starts = [found.start() for found in COMMAND.finditer(block)]
    parts = []
    for start, end in itertools.pairwise([*starts, len(block)]):
        shown = COMMAND.match(block, start)
        assert shown is not None
        command = shown[0]
        if command.startswith("$ p2fit "):
            parts.append((command + p2fit(command[2:])).rstrip("\n") + "\n")
        else:
            parts.append(block[start:end].rstrip("\n") + "\n")
            if command.startswith("$ cat "):
                Path(command.split()[2]).write_text(
                    block[start + len(command) : end], encoding="utf-8"
                )
    return "\n".join(parts)


def session(block: str) -> str:
    """A Python session with its output made anew."""
    space: dict[str, Any] = {}
    parts = []
    for example in doctest.DocTestParser().get_examples(block):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(example.source, "<page>", "single"), space)
        first, *more = example.source.splitlines()
        parts += [f">>> {first}\n", *(f"... {line}\n" for line in more), printed.getvalue()]
    return "".join(parts)


def render(page: str) -> str:
    """A page with all its output made anew."""
    kinds = {"console": console, "pycon": session}

    def anew(found: re.Match[str]) -> str:
        kind, sampled, block = found.groups("")
        return f"```{kind}{sampled}\n{kinds[kind](block)}```"

    return BLOCK.sub(anew, page)


def without_draws(page: str) -> str:
    """A page without the numbers of its sampled blocks."""
    return BLOCK.sub(lambda found: NUMBER.sub("0", found[0]) if found[2] else found[0], page)


# ---------------------------------------------------------------- comparing


def differences(page: str, anew: str) -> list[tuple[str, str]]:
    """The pairs of lines that do not say the same.

    Widths aside, words, signs and whole numbers must be equal, and other numbers within 2 %, or a
    tenth of the standard error where one stands beside them. A whole number among others in a
    column of a table is no count.
    """
    wrong = []
    pairs = itertools.zip_longest(page.splitlines(), anew.splitlines(), fillvalue="")
    for _, group in itertools.groupby(pairs, lambda pair: bool(pair[0].strip())):
        paragraph = list(group)
        rows = [cells(old) for old, _ in paragraph]
        measured = {i for row in rows for i, cell in enumerate(row) if is_measured(cell)}
        errors = {row.index(head) for row in rows for head in ERRORS if head in row}
        for (old, new), row in zip(paragraph, rows):
            found = cells(new)
            beside = {i - 1: row[i] for i in errors if i < len(row)}
            if len(row) != len(found) or not all(
                alike(a, b, i in measured and is_numbers(a), beside.get(i, ""))
                for i, (a, b) in enumerate(zip(row, found))
            ):
                wrong.append((old, new))
    return wrong


def cells(line: str) -> list[str]:
    """What two spaces or more separate."""
    return re.split(r"\s{2,}", line.strip())


def is_measured(cell: str) -> bool:
    """Whether a cell is numbers and nothing else, and one of them no count."""
    return is_numbers(cell) and not all(map(is_whole, NUMBER.findall(cell)))


def is_numbers(cell: str) -> bool:
    return NUMBERS.fullmatch(cell) is not None


def is_whole(number: str) -> bool:
    return number.lstrip("+-").isdigit()


def alike(a: str, b: str, measured: bool, error: str) -> bool:
    """Whether two cells say the same; ``error`` stands in the next cell, or behind a ``±``."""
    pairs = list(zip(NUMBER.finditer(a), NUMBER.finditer(b)))
    behind = {m.start(): m[1] for m in PLUS_MINUS.finditer(a)}
    return NUMBER.sub("#", a) == NUMBER.sub("#", b) and all(
        close(x[0], y[0], measured, behind.get(x.start(), error)) for x, y in pairs
    )


def close(a: str, b: str, measured: bool, error: str) -> bool:
    """Whether two printed numbers say the same."""
    if a[0] != b[0] and {a[0], b[0]} & {"+", "-"}:
        return False
    if not measured and (is_whole(a) or is_whole(b)):
        return a == b
    x, y = Decimal(a), Decimal(b)
    return abs(x - y) <= (Decimal(error) / 10 if NUMBER.fullmatch(error) else abs(x) / 50)


TABLE = """
parameter  estimate  std. error  95 % interval
E             1.817      0.0239  1.771 to 1.865
A               478         134  275 to 831
alpha          -0.5           —  open            not determined
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.817", "1.819"),  # by less than a tenth of the standard error
        ("478", "491"),
        ("0.0239", "0.0235"),
        ("1.771", "1.8"),  # an end of an interval is no estimate: 2 %
        ("831", "847"),
        ("-0.5", "-0.508"),
        ("  134", "133.5"),
    ],
)
def test_a_table_may_differ_by_what_no_one_would_see(old: str, new: str) -> None:
    assert not differences(TABLE, TABLE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.817", "1.82"),  # by more than a tenth, though it is less than 2 %
        ("1.817", "-1.817"),
        ("478", "492"),
        ("0.0239", "0.0245"),
        ("0.0239", "—"),
        ("1.771", "1.81"),
        ("831", "849"),
        ("831", "open"),
        ("-0.5", "-0.52"),
        ("-0.5", "0.5"),
        ("not determined", ""),
        ("not determined", "at its bound"),
        ("alpha", "beta"),
        ("95 %", "96 %"),
        ("\nE ", "\n\nE "),
        ("E             1.817      0.0239  1.771 to 1.865\n", ""),
    ],
)
def test_a_table_may_not_differ_by_more(old: str, new: str) -> None:
    assert differences(TABLE, TABLE.replace(old, new))


@pytest.mark.parametrize(
    ("page", "anew", "same"),
    [
        ("p2   0.000317  3.45e-05 ± 0.00015", "p2   0.000317  3.48e-05 ± 0.00015", True),
        ("p2  0.317  3.45 ± 0.2", "p2  0.317  3.46 ± 0.2", True),
        ("p2  0.317  3.45 ± 0.2", "p2  0.317  3.48 ± 0.2", False),
        ("p2  0.317  3.45 ± 0.2", "p2  0.317  3.45 ± 0.3", False),
        ("p2  0.317  -3.45 ± 99", "p2  0.317  3.45 ± 99", False),
        ("R² 0.9942, MAPE 0.47 %", "R² 0.9899, MAPE 0.474 %", True),
        ("R² 0.9942, MAPE 0.47 %", "R² 0.9942, MAPE 0.5 %", False),
        ("from -0.017 to +0.03", "from -0.017 to 0.03", False),
        ("from -0.017 to +0.03", "from 0.017 to +0.03", False),
        ("2400 of 2450 rows", "2401 of 2450 rows", False),
        ("2400 of 2450 rows", "2400.5 of 2450 rows", False),
        ("run  rows\na  1000\nb  2000", "run  rows\na  1000\nb  2001", False),
        ("rank  loss\n500  2.5", "rank  loss\n501  2.5", False),
        ("on 2026-11-23", "on 2026-11-24", False),
        ("p2fit 1.100.1", "p2fit 1.101.1", False),
        ("a run of 100B", "a run of 101B", False),
        ("params^-0.500", "params^-0.501", True),
        ("E 0", "E 0.001", False),
        ("one line", "one line\nand more", False),
    ],
)
def test_words_signs_counts_and_dates_are_compared_exactly(
    page: str, anew: str, same: bool
) -> None:
    assert bool(differences(page, anew)) is not same


@given(
    st.integers(1, 10**9), st.integers(1, 10**9), st.sampled_from(["{} of 9 rows", "a  {}\nb  7"])
)
def test_no_two_counts_are_the_same(one: int, other: int, text: str) -> None:
    assert bool(differences(text.format(one), text.format(other))) == (one != other)


@given(st.floats(1e-9, 1e9), st.floats(0.5, 2))
def test_other_numbers_are_the_same_within_two_hundredths(value: float, factor: float) -> None:
    away = abs(factor - 1)
    assume(abs(away - 0.02) > 1e-5)
    assert bool(differences(f"at {value:.6e}", f"at {value * factor:.6e}")) == (away > 0.02)


# ---------------------------------------------------------------- the pages and the data


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_shows_what_p2fit_prints(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with workplace():
        new = render(text)
    wrong = differences(without_draws(text), without_draws(new))
    assert not wrong, (
        f"{name(page)} is out of date (python tests/test_examples.py --rewrite):\n"
        + "\n".join(f"  page:  {old}\n  p2fit: {anew}" for old, anew in wrong[:5])
    )


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_is_in_the_format(file: Path) -> None:
    assert check(file)["rows"] > 0


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_is_in_the_index_with_its_rows_and_licence(file: Path) -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    heads, _, *table = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in index.splitlines()
        if line.startswith("|")
    )
    link = f"[`{file.name}`]({file.relative_to(EXAMPLES).as_posix()})"
    (row,) = (dict(zip(heads, cells, strict=True)) for cells in table if cells[0] == link)
    with file.open(encoding="utf-8", newline="") as lines:
        assert int(row["rows"]) == sum(1 for _ in csv.DictReader(lines))
    licence = row["licence"]
    assert licence
    assert licence in (file.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=name)
def test_page_has_a_command_and_its_provenance(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"$ p2fit fit {name(folder)}/" in text
    assert "**Provenance.**" in text


# ---------------------------------------------------------------- rewriting


def rewrite(pages: Sequence[Path]) -> None:
    """Write what p2fit prints now into pages, and draw their pictures."""
    for page in pages:
        old = page.read_text(encoding="utf-8")
        with workplace(rewriting=True):
            new = render(old)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(f"rewrote {name(page)}")


if __name__ == "__main__":
    if sys.argv[1:2] != ["--rewrite"]:
        sys.exit("usage: python tests/test_examples.py --rewrite [PAGE ...]")
    rewrite([Path(page).resolve() for page in sys.argv[2:]] or PAGES)
