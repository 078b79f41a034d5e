"""The documentation stays in step with the code.

``python -m tests.test_docs`` rewrites the help texts in docs/reference/cli.md,
docs/reference/glossary.md, and the picture of the README.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from click.testing import CliRunner
from matplotlib.image import imread

import p2fit
from p2fit.cli import main
from p2fit.glossary import WORDS
from tests.test_examples import DOCS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
CLI = ROOT / "docs" / "reference" / "cli.md"
GLOSSARY = CLI.with_name("glossary.md")
CONTOURS = ROOT / "docs" / "pictures" / "contours.png"
BLOCK = re.compile(r"```console\n\$ p2fit (?P<arguments>[^\n]*--help)\n(?P<help>.*?)```", re.DOTALL)


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command by its words, groups included."""
    found: list[tuple[str, ...]] = [prefix]
    context = click.Context(group)
    for name in group.list_commands(context):
        if name == "run":  # p2fit-adapters documents it
            continue
        command, inner = group.get_command(context, name), (*prefix, name)
        found += commands(command, inner) if isinstance(command, click.Group) else [inner]
    return found


def help_text(words: tuple[str, ...]) -> str:
    arguments = [*words, "--help"]
    return CliRunner().invoke(main, arguments, prog_name="p2fit", terminal_width=80).stdout


def test_every_command_is_documented_with_its_help() -> None:
    documented = {
        tuple(m["arguments"].split()[:-1]): m["help"]
        for m in BLOCK.finditer(CLI.read_text(encoding="utf-8"))
    }
    assert documented == {words: help_text(words) for words in commands(main)}


def test_every_help_has_an_example() -> None:
    for words in commands(main):
        assert "Example" in help_text(words), words


def test_the_changelog_names_this_version() -> None:
    assert f"## {p2fit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_page_links_to_a_file_that_is_not_there() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    for page in [*pages, *ROOT.glob("benchmarks/*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)", text):
            if target.startswith("_gallery/"):  # drawn by the page's own commands
                _, folder, picture = target.split("/")
                assert folder == page.stem
                assert re.search(rf"(-o|--plot) {picture}\b", text), target
            elif "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


class Web(BaseHTTPRequestHandler):
    """Says by a page's name whether it is there."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_links_to_what_the_web_has_no_more_are_found(tmp_path: Path) -> None:
    """And a site that is out of reach, or keeps robots out, is no dead link."""
    server = HTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    found = [f"{here}/{code}" for code in (200, 403, 404, 410, 429, 503)]
    found += ["http://no-such-host.invalid/a", "https://[::1]:1/b"]
    page = "".join(f'<a href="{address}">a</a>' for address in found)
    (tmp_path / "a.html").write_text(page + f'<a href="{here}/404#part">again</a>')
    command = [sys.executable, str(ROOT / "docs" / "links.py"), str(tmp_path)]
    alone = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    server.shutdown()
    server.server_close()
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"a.html: {here}/404",
        f"a.html: {here}/410",
        f"a.html: {here}/404#part",
    ]
    assert done.stderr == "5 addresses of the web could not be asked for from here\n"


def test_dead_links_of_the_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h1 id="top-1">b</h1><a href="../a.html#x">a</a>')

    def dead(body: str) -> list[str]:
        (tmp_path / "a.html").write_text(f'<p id="x">{body}</p>')
        command = [sys.executable, str(ROOT / "docs" / "links.py"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == bool(done.stdout)
        return done.stdout.splitlines()

    assert (
        dead('<a href="sub/b.html#top-1">b</a> <a href="#x">x</a> <a href="https://x.y">y</a>')
        == []
    )
    assert dead('<a href="sub/c.html">c</a>') == ["a.html: sub/c.html"]
    assert dead('<a href="sub/b.html#gone">b</a>') == ["a.html: sub/b.html#gone"]
    assert dead('<img src="no.png">') == ["a.html: no.png"]


FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_code_block_is_run_or_read() -> None:
    """tests/test_examples.py runs ``console`` and ``pycon``, Sphinx what is in braces; here are
    the few others: lines to set p2fit up, which CI runs by itself, and tables of runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(DOCS) == {*(ROOT / "docs").rglob("*.md")} - {CLI}
    for page in [ROOT / "README.md", *DOCS]:
        for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
            assert kind in ("console", "pycon", "toml", "sh") or kind.startswith("{"), (page, kind)
            if kind == "toml":
                assert tomllib.loads(block)
            for line in block.splitlines() if kind == "sh" else ():
                program, *words = shlex.split(line, comments=True)
                if program == "make":
                    assert set(words) <= set(targets), line
                    continue
                assert (program, words.pop(0)) == ("pip", "install"), line
                for word in words:
                    path, _, extras = word.partition("[")
                    assert (ROOT / path / "pyproject.toml").is_file(), line
                    named = set(filter(None, extras.strip("]").split(",")))
                    assert named <= set(project["optional-dependencies"]), line


def test_every_public_name_is_on_a_page_of_the_reference() -> None:
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/reference/api").iterdir())
    for name in p2fit.__all__:
        assert f":: p2fit.{name}\n" in pages, name


def glossary() -> str:
    words = "\n\n".join(f"**{word.term}**\n: {word.meaning}" for word in WORDS)
    return (
        "# Words\n\nWhat p2fit prints, in the words of `p2fit explain WORD`, which also explains "
        f"columns, laws and\ntheir parameters.\n\n{words}\n"
    )


def test_the_page_of_words_is_what_the_command_says() -> None:
    assert GLOSSARY.read_text(encoding="utf-8") == glossary()


def draw_contours() -> Figure:
    """The picture of the README, which is kept: a page on GitHub draws nothing."""
    curves = ROOT / "examples" / "chinchilla" / "chinchilla.csv"
    return p2fit.plot(p2fit.fit(curves, where="kept == 1"), "contours", curves=curves)


def test_the_picture_of_the_readme_is_what_p2fit_draws(tmp_path: Path) -> None:
    draw_contours().savefig(tmp_path / "now.png")
    kept, now = imread(CONTOURS), imread(tmp_path / "now.png")
    assert kept.shape == now.shape
    assert np.mean(np.abs(kept - now) > 0.1) < 0.01  # but for how letters are smoothed


def rewrite() -> None:
    draw_contours().savefig(CONTOURS)
    GLOSSARY.write_text(glossary(), encoding="utf-8")
    pages = [
        f"```console\n$ p2fit {' '.join([*w, '--help'])}\n{help_text(w)}```" for w in commands(main)
    ]
    head = (
        CLI.read_text(encoding="utf-8").split("```console")[0]
        if CLI.exists()
        else "# The command line\n\n"
    )
    CLI.write_text(head.rstrip() + "\n\n" + "\n\n".join(pages) + "\n", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
