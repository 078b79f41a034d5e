"""The command that says what words mean."""

from __future__ import annotations

import click

from p2fit.cli.shared import echo


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]")
def explain(words: tuple[str, ...]) -> None:
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
    from p2fit.show.words import word_table

    echo(word_table(meaning(" ".join(words)) if words else WORDS))
