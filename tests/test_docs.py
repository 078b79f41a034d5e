"""The documentation stays in step with the code.

``python -m tests.test_docs`` rewrites the help texts in docs/cli.md, and docs/glossary.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.testing import CliRunner

import p2fit
from p2fit.cli import main
from p2fit.glossary import WORDS

ROOT = Path(__file__).parents[1]
CLI = ROOT / "docs" / "cli.md"
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
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    for page in [*pages, *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def glossary() -> str:
    words = "\n\n".join(f"**{word.term}**\n: {word.meaning}" for word in WORDS)
    return (
        "# Words\n\nWhat p2fit prints, in the words of `p2fit explain WORD`, which also explains "
        f"columns, laws and\ntheir parameters.\n\n{words}\n"
    )


def test_the_page_of_words_is_what_the_command_says() -> None:
    assert (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8") == glossary()


def rewrite() -> None:
    (ROOT / "docs" / "glossary.md").write_text(glossary(), encoding="utf-8")
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
