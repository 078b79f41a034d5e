"""Commands that read curves and fit them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from p2fit.cli.shared import (
    bayesian,
    bootstrapping,
    column_option,
    fitting,
    forms,
    json_option,
    print_all,
    print_csv,
    print_json,
    print_parts,
    run_by_option,
    working,
)
from p2fit.cli.values import Output

#: Options of some backends only: passed on where they are given.
_LEFT_OUT = ("noise", "prior", "draws", "tune", "chains", "prior_sensitivity", "save_trace")


@click.command()
@fitting
@bootstrapping
@click.option(
    "--backend",
    type=click.Choice(["least-squares", "bayes", "laplace"]),
    default="least-squares",
    show_default=True,
    help="How: least squares, the posterior by NUTS, or a quick approximation of it (the last two "
    "need the extra bayes).",
)
@bayesian
@click.option(
    "--draws", type=int, metavar="NUMBER", help="bayes: draws of each chain (default 1000)."
)
@click.option(
    "--tune", type=int, metavar="NUMBER", help="bayes: steps to adapt before them (default 500)."
)
@click.option("--chains", type=int, metavar="NUMBER", help="bayes: chains (default 4).")
@click.option(
    "--prior-sensitivity",
    is_flag=True,
    help="bayes, laplace: also say what moves with each prior half and twice as wide.",
)
@click.option(
    "--save-trace",
    type=Output(),
    metavar="TRACE.NC",
    help="bayes: also write all draws, for ArviZ (NetCDF).",
)
@click.option(
    "--allow-unconverged",
    is_flag=True,
    help="Exit with 0 even where a fit did not converge: its gradient is not 0, or its draws fail "
    "their diagnostics (3 otherwise).",
)
@click.option("--latex", is_flag=True, help="The same as --format latex.")
@forms
@click.option(
    "-o",
    "--output",
    type=Output(),
    metavar="FIT.JSON",
    help="Also write the fit to this file.",
)
def fit(
    curves: str,
    form: str,
    output: str | None,
    allow_unconverged: bool,
    **options: Any,
) -> None:
    """Fit a law to loss curves.

    CURVES.CSV has a header and the columns run, params, tokens and loss, and what the law needs
    besides (p2fit schema); - reads standard input.

    \b
    Examples:
      p2fit fit curves.csv
      p2fit fit curves.csv --where "kept == 1" --json
      p2fit fit curves.csv --law p2 --fix gamma=-1 -o fit.json
      p2fit fit curves.csv --law "E + A/params^alpha" --column loss=val_loss
      p2fit fit sweep.csv --run-by model,pct --column pruning_rate=pct/100 --column tokens=B*1e9
      p2fit fit curves.csv --backend bayes --prior "alpha ~ Normal(0.35, 0.1)"
    """
    from p2fit.files import write_text
    from p2fit.fit import to_json
    from p2fit.fitting import fit_each
    from p2fit.show.fit import overview

    options = {name: value for name, value in options.items() if name not in _LEFT_OUT or value}
    with working(f"fitting {curves}") as progress:
        fits = fit_each(curves, progress=progress, **options)
    if output is not None:
        write_text(output, to_json(fits))
    print_all(fits, form, overview=overview)
    if not (allow_unconverged or all(one.converged for one in fits)):
        click.get_current_context().exit(3)


@click.command()
@click.argument("curves", metavar="CURVES.CSV")
@click.option("--law", metavar="LAW", help="Also check what this law needs.")
@column_option
@run_by_option
@json_option
def check(curves: str, law: str | None, as_json: bool, **options: Any) -> None:
    """Check a file of loss curves, list every fault, and say how to fit it.

    The last line is the command to type, with what the columns seem to be by their names and sizes.

    \b
    Examples:
      p2fit check curves.csv --law p2
      p2fit check sweep.csv --run-by model,sparsity_pct --column loss=eval_loss
    """
    from p2fit.curves.choosing import check as check_curves
    from p2fit.curves.command import fit_command
    from p2fit.errors import CurvesError, FitError

    try:
        found = check_curves(curves, law, **options)
    except (CurvesError, FitError) as error:
        click.echo(str(error), err=True)
        if curves != "-":
            with suppress(CurvesError, FitError):  # then there is no header to read
                command, more = fit_command(curves, law, **options)
                if more:
                    click.echo(f"fit it: {command}", err=True)
        click.get_current_context().exit(2)
    if as_json:
        print_json(found)
        return
    laws = ", ".join(found["laws"]) or "none"
    click.echo(f"{found['source']}: {found['rows']} rows, {found['runs']} runs, no faults")
    click.echo(f"laws it can serve: {laws}")
    for note in found["notes"]:
        click.echo(f"note: {note}")
    if curves != "-":
        click.echo(f"fit it: {fit_command(curves, law, **options)[0]}")


@click.command()
@click.argument("name", required=False)
@forms
def laws(name: str | None, form: str) -> None:
    """List the laws, or show one with its formula in plain text and LaTeX.

    \b
    Examples:
      p2fit laws
      p2fit laws p2
    """
    from p2fit.curves.choosing import required_columns
    from p2fit.laws.table import LAWS, get_law
    from p2fit.results import frame_of
    from p2fit.show.laws import law_page, law_table

    chosen = [get_law(name)] if name else list(LAWS.values())
    facts = [
        {
            "name": law.name,
            "formula": law.formula,
            "latex": law.latex(),
            "columns": list(required_columns(law)),
            "parameters": list(law.parameters),
            "description": law.description,
        }
        for law in chosen
    ]
    if form == "json":
        print_json(facts[0] if name else facts)
    elif form == "csv":
        words = {"columns": " ", "parameters": " "}
        print_csv([frame_of([f | {k: s.join(f[k]) for k, s in words.items()} for f in facts])])
    else:
        print_parts([law_page(chosen[0]) if name else law_table(chosen)], form)


@click.command()
def schema() -> None:
    """Print the data format: the Table Schema of a file of loss curves.

    \b
    Example:
      p2fit schema > curves.schema.json
    """
    from p2fit.curves.checking import schema as curves_schema

    print_json(curves_schema())
