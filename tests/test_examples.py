"""The pages say what p2fit prints: every command in them is run.

These are README.md, some pages of docs/ (see ``DOCS``) and those of examples/.

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

from p2fit import check
from p2fit.cli import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DOCS = [ROOT / "docs" / name for name in ("import.md", "laws.md", "planning.md", "pictures.md")]
PAGES = [ROOT / "README.md", *DOCS, *sorted(EXAMPLES.rglob("*.md"))]
FILES = sorted(EXAMPLES.rglob("*.csv"))
BLOCK = re.compile(r"^```(console|pycon)( sampled)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PART = re.compile(r" \| (head|tail) -n (\d+)$")
COMMAND = re.compile(r"^\$ (?:.*\\\n)*.*\n", re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


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
    assert result.exit_code == 0, f"{command}\n{result.output}"
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
                Path(command.split()[2]).write_text(block[start + len(command) : end])
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


def without_draws(page: str) -> list[str]:
    """The lines of a page, without the numbers of its sampled blocks."""
    return BLOCK.sub(
        lambda found: NUMBER.sub("0", found[0]) if found[2] else found[0], page
    ).splitlines()


# ---------------------------------------------------------------- comparing


def close(a: str, b: str) -> bool:
    """Whether two printed numbers differ by at most two units in the last digit."""
    x, y = Decimal(a), Decimal(b)
    if len(x.as_tuple().digits) == len(y.as_tuple().digits) == 1:
        return x == y
    unit = min(int(x.as_tuple().exponent), int(y.as_tuple().exponent))
    return abs(x - y) <= 2 * Decimal(1).scaleb(unit)


def same(a: str, b: str) -> bool:
    """Whether two lines say the same: numbers nearly, counts of starts aside, widths aside."""
    a, b = (re.sub(r"\d+ of \d+ starts", "starts", " ".join(line.split())) for line in (a, b))
    numbers = NUMBER.findall(a), NUMBER.findall(b)
    return NUMBER.sub("#", a) == NUMBER.sub("#", b) and all(map(close, *numbers))


def test_same_takes_close_numbers_and_nothing_else() -> None:
    assert same("alpha  0.3473  12 of 13 starts agree", "alpha 0.3471 5 of 12 starts agree")
    assert same("B 1.8 to 1.285e+04", "B 1.799 to 1.287e+04")
    assert not same("alpha 0.3473", "alpha 0.3470")
    assert not same("4 of 7 directions", "5 of 7 directions")
    assert not same("E -1.031", "E 1.031")
    assert not same("alpha 0.3473", "beta 0.3473")
    assert not same("E 1.8", "E 1.8 at its bound")


# ---------------------------------------------------------------- the pages and the data


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_shows_what_p2fit_prints(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with workplace():
        new = render(text)
    pairs = itertools.zip_longest(without_draws(text), without_draws(new), fillvalue="")
    wrong = [f"  page:  {a}\n  p2fit: {b}" for a, b in pairs if not same(a, b)]
    assert not wrong, (
        f"{name(page)} is out of date (python tests/test_examples.py --rewrite):\n"
        + "\n".join(wrong[:5])
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
