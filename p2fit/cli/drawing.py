"""Commands that show a fit: pictures, and a page of all there is to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from p2fit.cli.shared import bootstrapping, fitting, picture_file, saved_fit, working
from p2fit.cli.values import Count, Model, Output
from p2fit.pictures.plot import GAIN, KINDS
from p2fit.pictures.style import WIDTHS

if TYPE_CHECKING:
    from p2fit.fit import Fit


def _width(ctx: Any, param: Any, text: str | None) -> str | float | None:
    if text is None or text in WIDTHS:
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text} is neither {' nor '.join(WIDTHS)} nor a number") from None


@click.command()
@saved_fit
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="curves",
    show_default=True,
    help="curves: with the fit, its 95 % intervals and what lies beyond the data. observed: "
    "against predicted loss. residuals: against each input. contours: lines of equal loss. "
    "saturation: until more tokens hardly help. compute: the best split of compute. draws: every "
    "pair of parameters as the fit is unsure of them. profile: how the objective rises. certainty: "
    "intervals, and how sure predictions are near and far. isoflop: valleys of equal compute. "
    "runs: how runs differ from the law. ahead: where runs in progress go on to. recovery: what "
    "training wins back of what pruning cost.",
)
@click.option(
    "--curves",
    metavar="CURVES.CSV",
    help="Where the curves are now; by default where the fit found them.",
)
@click.option(
    "--gain",
    type=Count(),
    default=GAIN,
    show_default=True,
    metavar="NATS",
    help="For saturation: a curve is saturated where a doubling of the tokens gains less.",
)
@click.option(
    "--width",
    metavar="WIDTH",
    callback=_width,
    help="As papers print it: column (3.3 inches), page (6.9), or so many inches. As wide as its "
    "panels like to be by default.",
)
@click.option(
    "--dpi",
    type=click.IntRange(30, 1200),
    default=200,
    show_default=True,
    metavar="NUMBER",
    help="Dots per inch of a PNG.",
)
@click.option(
    "-o",
    "--output",
    type=Output(),
    callback=picture_file,
    required=True,
    metavar="PICTURE",
    help="A file that ends in .png, .svg or .pdf.",
)
def plot(fits: list[Fit], kind: Any, output: str, dpi: int, **options: Any) -> None:
    """Draw a saved fit.

    The rows are read again from the curves that the fit was made of, which must be as they were.

    \b
    Examples:
      p2fit plot fit.json -o curves.png
      p2fit plot fit.json --kind residuals -o residuals.svg
      p2fit plot fit.json --width column -o figure-2.pdf
      p2fit plot fit.json --kind contours --group method=depth -o contours.pdf
    """
    from p2fit.errors import FitError
    from p2fit.pictures.plot import plot as plot_fit
    from p2fit.pictures.style import save

    if len(fits) > 1:
        groups = "; ".join(", ".join(f"{k}={v}" for k, v in f.group.items()) for f in fits)
        raise FitError(f"{len(fits)} fits: choose the one to draw by --group ({groups})")
    with working(f"drawing {kind}"):
        save(plot_fit(fits[0], kind, **options), output, dpi)


@click.command()
@fitting
@bootstrapping
@click.option(
    "--plan",
    multiple=True,
    type=Model(),
    metavar="MODEL",
    help="A model to plan for, by the law's inputs: params=8B,pruning_rate=0.3,base_loss=2.05: "
    "tokens worth buying, and with tokens its loss. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    type=Output(),
    required=True,
    metavar="PAGE.HTML",
    help="The file to write.",
)
def report(curves: str, output: str, plan: Any, **options: Any) -> None:
    """Say all there is to say of a fit on one HTML page.

    What was fitted and why this law, the formula with its numbers, what the data do not tell, how
    well it fits and predicts, other laws beside it, a plan, and pictures. The page loads nothing
    from anywhere, is readable on paper, on a phone and in the dark, and holds no date: the same
    curves give the same page.

    In place of curves, CURVES.CSV may be a fit saved by p2fit fit -o (a name that ends in .json):
    its own options then hold.

    \b
    Examples:
      p2fit report curves.csv -o report.html
      p2fit report curves.csv --law p2 --where "tokens > 1e8" --bootstrap 4000 -o report.html
      p2fit report fit.json -o report.html
      p2fit report fit.json --plan params=8B,tokens=20B -o report.html
    """
    from p2fit.files import write_text
    from p2fit.fit import load
    from p2fit.reporting.report import report as page

    with working(f"reporting on {curves}") as progress:
        if curves.endswith(".json"):
            text = page(load(curves), plan=plan, progress=progress)
        else:
            text = page(curves, plan=plan, progress=progress, **options)
    write_text(output, text)
