"""What the commands share: options, errors, progress and printing."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from p2fit.cli.values import Count, Output, Pair, Range, Share, Values, mapping, names
from p2fit.results import Result
from p2fit.wording import printable


@contextmanager
def working(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A spinner on a terminal's standard error; what it yields reports progress there."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda done, total: status.update(f"{what}: {done} of {total}")


def echo(renderable: Any) -> None:
    """Colours and the terminal's width on a terminal; plain and stable when piped."""
    from p2fit.show.parts import Printable, text

    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        Console().print(Printable(renderable))
    else:
        click.echo(text(renderable), nl=False)


def print_all(
    found: Sequence[Any],
    form: str = "text",
    *,
    as_list: bool = False,
    overview: Callable[[Sequence[Any]], Any] | None = None,
) -> None:
    """Results one below the other, then what ``overview`` makes of several; as JSON a list, or a
    lone one by itself unless ``as_list``; as CSV the tables of all of them as one."""
    if form == "json":
        documents = [one.to_dict() for one in found]
        print_json(documents if as_list or len(documents) > 1 else documents[0])
    elif form == "csv":
        print_csv([one.to_polars() for one in found])
    else:
        several = overview is not None and len(found) > 1
        print_parts([*found, *([overview(found)] if several and overview else [])], form)


def print_parts(parts: Sequence[Any], form: str, *, hinted: bool = True) -> None:
    """Results or layouts one below the other, as text, Markdown or LaTeX.

    Args:
        hinted: whether to name the words in them that p2fit explain knows.
    """
    for i, part in enumerate(parts):
        if i:
            click.echo()
        if form == "text":
            echo(part)
            continue
        from p2fit import show

        if form == "latex":
            click.echo(show.to_latex(part), nl=False)
        else:
            layout = show.renderable(part) if isinstance(part, Result) else part
            click.echo(show.to_markdown(layout), nl=False)
    if form == "text" and hinted:
        hint(parts)


def hint(parts: Sequence[Any]) -> None:
    """On a terminal, which of the printed words p2fit explain knows."""
    if sys.stdout is None or not sys.stdout.isatty():
        return
    from rich.text import Text

    from p2fit.glossary import words_in
    from p2fit.show.parts import text

    used = [word.term for word in words_in("\n".join(map(text, parts)))]
    if used:
        click.echo()
        echo(Text(f"p2fit explain WORD says what these mean: {', '.join(used)}", style="dim"))


def print_csv(frames: Sequence[Any]) -> None:
    """Tables below each other as one, with the columns of all, and numbers in full."""
    import polars as pl

    click.echo(pl.concat(frames, how="diagonal_relaxed").write_csv().encode(), nl=False)


def print_json(document: Any) -> None:
    whole = "utf" in str(getattr(sys.stdout, "encoding", "utf-8")).lower()
    text = json.dumps(document, indent=2, ensure_ascii=not whole, allow_nan=False)
    click.echo(printable(text))


column_option = click.option(
    "--column",
    "columns",
    multiple=True,
    callback=mapping,
    type=Pair("COLUMN=NAME"),
    metavar="COLUMN=NAME",
    help="Take a column from one of another name, e.g. loss=loss_pile, from numbers, names and + - "
    "* / ^ exp log, e.g. pruning_rate=sparsity_pct/100, loss=log(eval_ppl), params=8B, or from "
    "texts, e.g. \"run=model + '-' + seed\". Names with other characters in double quotes. "
    "Repeatable.",
)
run_by_option = click.option(
    "--run-by",
    callback=names,
    metavar="COLUMNS",
    help="A run for each combination of these columns, e.g. model,sparsity_pct.",
)
#: Columns that laws may read, by the option that gives them.
INPUTS = {
    "params": "Parameter count before pruning.",
    "tokens": "Tokens of this stage.",
    "pruning_rate": "Share of the parameters removed.",
    "base_loss": "Loss of the unpruned model.",
    "avg_params": "Average active parameter count.",
}
VALUES = "8B, 1B,3B, 1B..100B (steps even in the log) or 1B..100B:20 (so many points)"


def inputs(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options for the inputs of a law, collected in ``inputs``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def collected(**options: Any) -> None:
            found = {x: v for x in INPUTS if (v := options.pop(x, None)) is not None}
            more = options.pop("more")
            twice = sorted(found.keys() & more.keys())
            if twice:
                raise click.UsageError(f"{twice[0]} is given twice")
            command(inputs={**found, **more}, **options)

        made: Callable[..., None] = click.option(
            "--set",
            "more",
            multiple=True,
            callback=mapping,
            type=Pair("NAME=NUMBERS", Values(4)),
            metavar="NAME=NUMBERS",
            help="Another column of the law. Repeatable.",
        )(collected)
        for x in reversed([x for x in INPUTS if x not in left_out]):
            name = f"--{x.replace('_', '-')}"
            kind = Values(4, shares=x == "pruning_rate")
            made = click.option(name, x, type=kind, metavar="NUMBERS", help=INPUTS[x])(made)
        return made

    return decorate


def saved_fit(command: Callable[..., None]) -> Callable[..., None]:
    """The argument of every command that works from a saved fit: its fits, in ``fits``."""

    @functools.wraps(command)
    def loaded(fit: str, group: dict[str, str], **options: Any) -> None:
        from p2fit.errors import FitError
        from p2fit.fit import load

        found = load(fit)
        every = found if isinstance(found, list) else [found]
        fits = [f for f in every if all(f.group.get(k) == v for k, v in group.items())]
        if not fits:
            have = "; ".join(", ".join(f"{k}={v}" for k, v in f.group.items()) for f in every)
            raise FitError(f"{fit}: no such group; it has {have or 'one fit without a group'}")
        command(fits=fits, **options)

    loaded = click.option(
        "--group",
        multiple=True,
        callback=mapping,
        type=Pair("COLUMN=VALUE"),
        metavar="COLUMN=VALUE",
        help="Of the groups that were fitted, only those, e.g. family=llama-3. Repeatable.",
    )(loaded)
    return click.argument("fit", metavar="FIT.JSON")(loaded)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
format_option = click.option(
    "--format",
    "table",
    type=click.Choice(["markdown", "csv", "latex"]),
    help="Print Markdown; CSV: the table alone, its numbers with all digits; or LaTeX, with tables "
    "for booktabs.",
)


def forms(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that prints a table: which ``form`` it is printed in."""

    @functools.wraps(command)
    def chosen(as_json: bool, table: str | None, latex: bool = False, **options: Any) -> None:
        asked = {"--json": as_json, f"--format {table}": table, "--latex": latex}
        named = [name for name, given in asked.items() if given]
        if len(named) > 1 and (as_json or table != "latex"):
            from p2fit.errors import FitError

            raise FitError(f"{' and '.join(named)} contradict each other: choose one")
        command(form="json" if as_json else "latex" if latex else table or "text", **options)

    return format_option(json_option(chosen))


def picture_file(ctx: Any, param: Any, path: str | None) -> str | None:
    """Refuses the name of another kind of file."""
    if path is not None:  # before the work, not after it
        from p2fit.pictures.style import check_format

        check_format(path)
    return path


picture_option = click.option(
    "--plot",
    "picture",
    type=Output(),
    callback=picture_file,
    metavar="PICTURE",
    help="Also draw it: a file that ends in .png, .svg or .pdf.",
)


ROWS_AND_FIT = (
    click.option(
        "--law",
        metavar="LAW",
        help="A law by name (see p2fit laws) or a formula, e.g. 'E + A/params^alpha'. "
        "Chosen from the columns by default.",
    ),
    column_option,
    run_by_option,
    click.option(
        "--target",
        default="loss",
        show_default=True,
        metavar="COLUMN",
        help="The column that the law predicts, e.g. accuracy; needs --law.",
    ),
    click.option(
        "--where", metavar="SQL", help="Rows to use, e.g. \"kept == 1 and method = 'depth'\"."
    ),
    click.option(
        "--by",
        callback=names,
        metavar="COLUMNS",
        help="Fit each value of these columns on its own, e.g. family,method (the default for P² "
        "laws, where the file has them).",
    ),
    click.option("--pool", is_flag=True, help="Fit all families and methods together."),
    click.option(
        "--fix",
        multiple=True,
        callback=mapping,
        type=Pair("PARAMETER=NUMBER", Count()),
        metavar="PARAMETER=NUMBER",
        help="Hold a parameter at a value, e.g. gamma=-1. Repeatable.",
    ),
    click.option(
        "--tie",
        multiple=True,
        callback=mapping,
        type=Pair("PARAMETER=PARAMETER"),
        metavar="PARAMETER=PARAMETER",
        help="Hold a parameter equal to another, e.g. beta=alpha. Repeatable.",
    ),
    click.option(
        "--range",
        "ranges",
        multiple=True,
        callback=mapping,
        type=Range(),
        metavar="PARAMETER=LOW..HIGH",
        help="Search a parameter here, e.g. gamma=0.5..20, or E=-5..5 to let it be negative: "
        "coefficients are searched from 0 up. With --backend a prior, 95% in it. "
        "Repeatable.",
    ),
    click.option(
        "--start",
        multiple=True,
        callback=mapping,
        type=Pair("PARAMETER=NUMBER", Count()),
        metavar="PARAMETER=NUMBER",
        help="Begin the search for a parameter here, in a law that is not a sum of monomials; all "
        "over its range by default. Repeatable.",
    ),
    click.option(
        "--residual",
        type=click.Choice(["log", "linear", "arcsine"]),
        help="Of the log of the target, of the target itself, or of the angle of a share. By "
        "default log for the loss; for another column arcsine where all of it is in [0, 1], else "
        "log, or linear where it is not above 0.",
    ),
    click.option(
        "--loss",
        type=click.Choice(["huber", "squared"]),
        default="huber",
        show_default=True,
        help="What is summed over the residuals.",
    ),
    click.option(
        "--delta",
        type=Count(),
        help="Huber's threshold, of the residual before weights; by default 1.345 standard "
        "deviations of a row's own error with errors of runs, else 0.02 for arcsine residuals, "
        "0.001 of the mean size of another target than the loss for linear ones, else 0.001.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["rows", "runs", "stderr"]),
        help="All rows equal, all runs equal, or 1/(s² + τ²) with s from loss_stderr, or the "
        "target's own, as accuracy_stderr (the default where that column is filled).",
    ),
    click.option(
        "--errors",
        type=click.Choice(["rows", "runs"]),
        help="runs: runs differ in level and rate, and their points follow each other, as much as "
        "the residuals say; a run in progress is then predicted from its own points too (the "
        "default where runs have several rows). rows: each has an error of its own.",
    ),
    click.option(
        "--cluster",
        default="run",
        show_default=True,
        metavar="COLUMN",
        help="Column whose values are independent of each other, for the intervals.",
    ),
    click.option(
        "--min-tokens", type=Count(), default=0.0, help="Leave out rows with fewer tokens."
    ),
    click.option(
        "--burn-in", type=Share(), default=0.0, help="Leave out this share of each run's tokens."
    ),
    click.option(
        "--include-undecayed",
        is_flag=True,
        help="Also fit rows with final = 0 (pre-training laws leave them out).",
    ),
    click.option(
        "--subtract-control",
        is_flag=True,
        help="Take off each loss what the unpruned model (pruning_rate 0, the same family, params, "
        "base_loss and seed) gained or lost on the same tokens.",
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of resamples and of the starts."
    ),
)


def bayesian(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a model that is fitted by Bayes."""
    noise = click.option(
        "--noise",
        type=click.Choice(["student-t", "normal"]),
        help="bayes: noise of the log of the loss (default student-t).",
    )
    prior = click.option(
        "--prior",
        multiple=True,
        metavar="PRIOR",
        help="bayes: a prior in place of the default, e.g. 'alpha ~ Normal(0.35, 0.1)'. "
        "Repeatable.",
    )
    return noise(prior(command))


def fitting(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and the options of every command that fits."""
    for option in reversed(ROWS_AND_FIT):
        command = option(command)
    return click.argument("curves", metavar="CURVES.CSV")(command)


def comparing(command: Callable[..., None]) -> Callable[..., None]:
    """As for every command that fits, with several laws in place of the first option's one."""
    for option in reversed(ROWS_AND_FIT[1:]):
        command = option(command)
    return click.argument("curves", metavar="CURVES.CSV")(command)


def bootstrapping(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a bootstrap."""
    command = click.option(
        "--resample",
        type=click.Choice(["wild", "runs"]),
        help="How: random weights for each run's residuals (the default where runs have several "
        "rows), or runs with replacement.",
    )(command)
    return click.option(
        "--bootstrap",
        type=click.IntRange(min=0),
        default=0,
        metavar="NUMBER",
        help="Standard errors and intervals from this many resamples, e.g. 4000.",
    )(command)
