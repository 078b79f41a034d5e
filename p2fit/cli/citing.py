"""The command that says what to cite."""

from __future__ import annotations

import click


@click.command()
@click.argument("laws", metavar="[LAW|FIT.JSON]...", nargs=-1)
def cite(laws: tuple[str, ...]) -> None:
    """Print BibTeX of p2fit and of the papers that laws come from.

    A law is named (p2fit laws) or that of a fit saved by p2fit fit -o, a name that ends in .json.

    \b
    Examples:
      p2fit cite p2 > references.bib
      p2fit cite fit.json
    """
    from p2fit import __version__
    from p2fit.fit import Fit, load
    from p2fit.laws.papers import software, sources
    from p2fit.laws.table import LAWS, get_law

    found = [software(__version__)]
    for name in laws:
        if name.endswith(".json"):
            fits = load(name)
            first = fits if isinstance(fits, Fit) else fits[0]
            # A fit keeps the formula of its law, and not where it comes from.
            found += sources(LAWS.get(first.law.name, first.law))
        else:
            found += sources(get_law(name))
    click.echo("\n".join(dict.fromkeys(found)), nl=False)
