"""The command that says what words mean."""

from __future__ import annotations

from dataclasses import asdict

import click

from p2fit.cli.shared import forms, print_csv, print_json, print_parts


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]")
@forms
def explain(words: tuple[str, ...], form: str) -> None:
    """Say what a word means that p2fit prints; without one list them all.

    Columns, laws and their parameters are words too.

    \b
    Examples:
      p2fit explain
      p2fit explain open
      p2fit explain local rank
      p2fit explain base_loss
    """
    from p2fit.glossary import WORDS
    from p2fit.glossary import explain as meaning
    from p2fit.results import frame_of
    from p2fit.show.words import word_table

    found = meaning(" ".join(words)) if words else WORDS
    if form == "json":
        print_json([asdict(word) for word in found])
    elif form == "csv":
        print_csv([frame_of([{"word": word.term, "meaning": word.meaning} for word in found])])
    else:
        print_parts([word_table(found)], form, hinted=False)
