"""The command line: every command is a thin wrapper over one public function."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

from p2fit import __version__

_SUFFIX = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


class Count(click.ParamType[float]):
    """A number that may end in K, M, B or T: ``8B``, ``350M``, ``20e9``."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*([KMBGT]?)\s*", str(value), re.I)
        try:
            return float(found[1]) * _SUFFIX[found[2].upper()] if found else float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number (8B, 350M, 20e9)", param, ctx)


class Share(click.ParamType[float]):
    """A share: ``10%`` or ``0.1``."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        try:
            text = str(value).strip()
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{value!r} is not a share (10%, 0.1)", param, ctx)
        if not 0 <= share < 1:
            self.fail(f"{value!r} is not a share below 100%", param, ctx)
        return share


class Pair(click.ParamType[tuple[str, Any]]):
    """``name=value``; with ``number``, the value is a :class:`Count`."""

    def __init__(self, kind: str, number: bool = False) -> None:
        self.name, self.number = kind, number

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, sign, right = (part.strip() for part in str(value).partition("="))
        if not (name and sign and right):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return name, Count().convert(right, param, ctx) if self.number else right


def _names(ctx: Any, param: Any, value: str | None) -> list[str] | None:
    if value is None:
        return None
    return [part for part in (p.strip() for p in value.split(",")) if part]


def _mapping(ctx: Any, param: Any, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(n for n in found if sum(n == m for m, _ in pairs) > 1)
        raise click.BadParameter(f"{twice} is given twice", ctx, param)
    return found


def _errors(command: Callable[..., None]) -> Callable[..., None]:
    """One clear line on standard error and exit code 2 for what the user can mend."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from p2fit.curves import CurvesError
        from p2fit.laws import LawError
        from p2fit.rows import FitError

        try:
            command(*args, **kwargs)
        except (CurvesError, FitError, LawError) as error:
            click.echo(str(error), err=True)
            sys.exit(2)
        except OSError as error:
            if isinstance(error, BrokenPipeError):  # the reader has seen enough
                raise
            click.echo(f"cannot write: {error.strerror or error}", err=True)
            sys.exit(2)

    return wrapped


@contextmanager
def _working(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A spinner on a terminal's standard error; what it yields reports progress there."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda done, total: status.update(f"{what}: {done} of {total}")


def _echo(renderable: Any) -> None:
    """Colours and the terminal's width on a terminal; plain and stable when piped."""
    from p2fit.show import text

    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        Console().print(renderable)
    else:
        click.echo(text(renderable), nl=False)


def _json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


_column = click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_mapping,
    type=Pair("COLUMN=NAME"),
    metavar="COLUMN=NAME",
    help="Take a column from one of another name, e.g. loss=loss_pile. Repeatable.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


_ROWS_AND_FIT = (
    click.option(
        "--law",
        metavar="LAW",
        help="A law by name (see p2fit laws) or a formula, e.g. 'E + A/params^alpha'. "
        "Chosen from the columns by default.",
    ),
    _column,
    click.option(
        "--where", metavar="SQL", help="Rows to use, e.g. \"kept == 1 and method = 'depth'\"."
    ),
    click.option(
        "--by",
        callback=_names,
        metavar="COLUMNS",
        help="Fit each value of these columns on its own, e.g. family,method (the default for P² "
        "laws, where the file has them).",
    ),
    click.option("--pool", is_flag=True, help="Fit all families and methods together."),
    click.option(
        "--fix",
        multiple=True,
        callback=_mapping,
        type=Pair("PARAMETER=NUMBER", number=True),
        metavar="PARAMETER=NUMBER",
        help="Hold a parameter at a value, e.g. gamma=-1. Repeatable.",
    ),
    click.option(
        "--tie",
        multiple=True,
        callback=_mapping,
        type=Pair("PARAMETER=PARAMETER"),
        metavar="PARAMETER=PARAMETER",
        help="Hold a parameter equal to another, e.g. beta=alpha. Repeatable.",
    ),
    click.option(
        "--residual",
        type=click.Choice(["log", "linear"]),
        default="log",
        show_default=True,
        help="Of the log of the loss, or of the loss in nats.",
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
        default=1e-3,
        show_default=True,
        help="Huber's threshold; it applies to the residual before weights.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["rows", "runs", "stderr"]),
        help="All rows equal, all runs equal, or 1/(s² + τ²) with s from loss_stderr (the default "
        "where that column is filled).",
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
        "--seed", type=int, default=0, show_default=True, help="Of resamples and of the starts."
    ),
)


def _fitting(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and the options of every command that fits."""
    for option in reversed(_ROWS_AND_FIT):
        command = option(command)
    return click.argument("curves", metavar="CURVES.CSV")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="p2fit")
def main() -> None:
    """Fit scaling laws to loss curves, and say what the data can tell.

    \b
    Example:
      p2fit fit curves.csv
    """


@main.command()
@_fitting
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="Standard errors and intervals from this many resamples, e.g. 4000.",
)
@click.option(
    "--resample",
    type=click.Choice(["wild", "runs"]),
    help="How: random weights for each run's residuals (the default where runs have several "
    "rows), or runs with replacement.",
)
@_as_json
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FIT.JSON",
    help="Also write the fit to this file.",
)
@_errors
def fit(curves: str, as_json: bool, output: str | None, **options: Any) -> None:
    """Fit a law to loss curves by least squares.

    CURVES.CSV has a header and the columns run, params, tokens and loss, and what the law needs
    besides (p2fit schema); - reads standard input.

    \b
    Examples:
      p2fit fit curves.csv
      p2fit fit curves.csv --where "kept == 1" --json
      p2fit fit curves.csv --law p2 --fix gamma=-1 -o fit.json
      p2fit fit curves.csv --law "E + A/params^alpha" --column loss=val_loss
    """
    from p2fit.fit import fit_each, to_json, write_text

    with _working(f"fitting {curves}") as progress:
        fits = fit_each(curves, progress=progress, **options)
    if output is not None:
        write_text(output, to_json(fits))
    if as_json:
        click.echo(to_json(fits), nl=False)
        return
    for i, one in enumerate(fits):
        if i:
            click.echo()
        _echo(one)


@main.command()
@click.argument("curves", metavar="CURVES.CSV")
@click.option("--law", metavar="LAW", help="Also check what this law needs.")
@_column
@_as_json
@_errors
def check(curves: str, law: str | None, columns: dict[str, str], as_json: bool) -> None:
    """Check a file of loss curves and list every fault.

    \b
    Example:
      p2fit check curves.csv --law p2
    """
    from p2fit.rows import check as check_curves

    found = check_curves(curves, law, columns=columns)
    if as_json:
        _json(found)
        return
    laws = ", ".join(found["laws"]) or "none"
    click.echo(f"{found['source']}: {found['rows']} rows, {found['runs']} runs, no faults")
    click.echo(f"laws it can serve: {laws}")


@main.command()
@click.argument("name", required=False)
@_as_json
@_errors
def laws(name: str | None, as_json: bool) -> None:
    """List the laws, or show one with its formula in plain text and LaTeX.

    \b
    Examples:
      p2fit laws
      p2fit laws p2
    """
    from p2fit.laws import LAWS, get_law
    from p2fit.rows import needs

    chosen = [get_law(name)] if name else list(LAWS.values())
    facts = [
        {
            "name": law.name,
            "formula": law.formula,
            "latex": law.latex(),
            "columns": list(needs(law)),
            "parameters": list(law.parameters),
            "description": law.description,
        }
        for law in chosen
    ]
    if as_json:
        _json(facts[0] if name else facts)
        return
    from p2fit.show import law_page, law_table

    _echo(law_page(chosen[0]) if name else law_table(chosen))


@main.command()
@_errors
def schema() -> None:
    """Print the data format: the Table Schema of a file of loss curves.

    \b
    Example:
      p2fit schema > curves.schema.json
    """
    from p2fit.curves import schema as curves_schema

    _json(curves_schema())


def _comparing(command: Callable[..., None]) -> Callable[..., None]:
    """As for every command that fits, with several laws in place of the first option's one."""
    for option in reversed(_ROWS_AND_FIT[1:]):
        command = option(command)
    return click.argument("curves", metavar="CURVES.CSV")(command)


@main.command()
@_comparing
@click.option(
    "--law",
    "laws",
    multiple=True,
    metavar="LAW",
    help="A law by name (see p2fit laws) or a formula. Repeatable; by default all laws by name "
    "whose columns are there and vary.",
)
@_as_json
@_errors
def compare(curves: str, laws: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compare laws on the same rows by how they predict runs that were left out.

    Every law is fitted without one run (without a twentieth of them, where there are more than 60)
    and predicts it. Differences from the best law come with the standard error over runs. What
    --fix and --tie hold is held in every law that has a parameter of that name.

    \b
    Examples:
      p2fit compare curves.csv
      p2fit compare curves.csv --law chinchilla --law average-params --json
      p2fit compare curves.csv --law p2 --law "base_loss + pruning_rate^-gamma*D_C/tokens^beta"
    """
    from p2fit.comparison import compare as compare_laws

    with _working(f"comparing laws on {curves}") as progress:
        found = compare_laws(curves, laws, progress=progress, **options)
    if as_json:
        _json([one.to_dict() for one in found] if len(found) > 1 else found[0].to_dict())
        return
    for i, one in enumerate(found):
        if i:
            click.echo()
        _echo(one)


@main.command()
@_fitting
@click.option(
    "--holdout",
    multiple=True,
    metavar="HOLDOUT",
    help="checkpoints:0.2, tokens:0.2, params:largest (or another input of the law), run, or "
    "k-fold:5. Repeatable; by default what the curves allow of checkpoints:0.2, params:largest and "
    "pruning_rate:largest (run, for laws without a pruning rate).",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    metavar="PICTURE",
    help="Also draw it: a file that ends in .png, .svg or .pdf.",
)
@_as_json
@_errors
def validate(
    curves: str, holdout: tuple[str, ...], plot: str | None, as_json: bool, **options: Any
) -> None:
    """Fit one part of the curves, predict the part held out, and score that.

    The last 20 % of each run's checkpoints (checkpoints:0.2) or of its range of tokens
    (tokens:0.2), the largest size or rate, each run in turn (run), or random parts of the runs in
    turn (k-fold:5). Scores come with the skill over simple baselines, 1 - RMSE / RMSE of the
    baseline. What the fitted part does not determine is answered by a range, without a score.

    \b
    Examples:
      p2fit validate curves.csv
      p2fit validate curves.csv --holdout checkpoints:0.2 --plot validate.png
      p2fit validate curves.csv --holdout run --holdout k-fold:10 --json
    """
    from p2fit.validation import validate as validate_law

    if plot is not None:
        from p2fit.plot import check_format

        check_format(plot)
    with _working(f"validating on {curves}") as progress:
        found = validate_law(curves, holdout=holdout, progress=progress, **options)
    if plot is not None:
        from p2fit.plot import draw_validation, save

        save(draw_validation(found), plot)
    if as_json:
        _json([one.to_dict() for one in found])
        return
    for i, one in enumerate(found):
        if i:
            click.echo()
        _echo(one)


@main.command()
@_fitting
@click.option(
    "--design", is_flag=True, help="CURVES.CSV has no losses; base_loss may be missing too."
)
@click.option(
    "--at",
    multiple=True,
    callback=_mapping,
    type=Pair("PARAMETER=NUMBER", number=True),
    metavar="PARAMETER=NUMBER",
    help="Judge the design at this value, e.g. alpha=0.35. Repeatable.",
)
@_as_json
@_errors
def identify(curves: str, as_json: bool, **options: Any) -> None:
    """Say what a design can tell: which parameters, how well, and which run to add.

    From sizes, rates and token counts alone. Losses, where there are any, only set the point at
    which the law is looked at: the fit, where it determines everything, else typical values.

    \b
    Examples:
      p2fit identify curves.csv --law p2
      p2fit identify plan.csv --law p2 --design
      p2fit identify plan.csv --law chinchilla --design --at alpha=0.35 --at beta=0.37 --json
    """
    from p2fit.design import identify_design

    found = identify_design(curves, **options)
    if as_json:
        _json([one.to_dict() for one in found] if len(found) > 1 else found[0].to_dict())
        return
    for i, one in enumerate(found):
        if i:
            click.echo()
        _echo(one)


@main.command()
@_fitting
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="PARAMETER",
    help="Profile this one, e.g. alpha; all free ones by default. Repeatable.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    metavar="PICTURE",
    help="Also draw the profiles: a file that ends in .png, .svg or .pdf.",
)
@_as_json
@_errors
def profile(
    curves: str, parameters: tuple[str, ...], plot: str | None, as_json: bool, **options: Any
) -> None:
    """Intervals by profile likelihood: hold each parameter at a grid of values, refit the others.

    They show what a covariance hides: directions that are flat, open to one side, or crooked. The
    threshold is calibrated on the jackknife, so that both intervals agree where the objective is a
    parabola.

    \b
    Examples:
      p2fit profile curves.csv
      p2fit profile curves.csv --parameter alpha --parameter E
      p2fit profile curves.csv --plot profile.png --json
    """
    from p2fit.profiles import profile as profile_law
    from p2fit.profiles import renderable

    if plot is not None:
        from p2fit.plot import check_format

        check_format(plot)
    with _working(f"profiling {curves}") as progress:
        found = profile_law(curves, parameters=parameters, progress=progress, **options)
    if plot is not None:
        from p2fit.plot import draw_profiles, save

        save(draw_profiles(found), plot)
    if as_json:
        _json([one.to_dict() for one in found])
        return
    _echo(renderable(found))
