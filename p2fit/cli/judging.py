"""Commands that say how far a fit, a law or a design can be trusted."""

from __future__ import annotations

from typing import Any

import click

from p2fit.cli.shared import (
    bayesian,
    comparing,
    fitting,
    forms,
    picture_option,
    print_all,
    print_csv,
    print_json,
    print_parts,
    working,
)
from p2fit.cli.values import Count, Pair, mapping


@click.command()
@comparing
@click.option(
    "--law",
    "laws",
    multiple=True,
    metavar="LAW",
    help="A law by name (see p2fit laws) or a formula. Repeatable; by default all laws by name "
    "that are sums of monomials and whose columns are there and vary.",
)
@click.option(
    "--backend",
    type=click.Choice(["least-squares", "bayes"]),
    default="least-squares",
    show_default=True,
    help="bayes: also by the predictive density of left-out runs (needs the extra bayes).",
)
@bayesian
@forms
def compare(curves: str, laws: tuple[str, ...], form: str, **options: Any) -> None:
    """Compare laws on the same rows by how they predict runs that were left out.

    Every law is fitted without one run (without a twentieth of them, where there are more than 60)
    and predicts it. Differences from the best law come with the standard error over runs. What
    --fix, --tie, --range and --start say goes for every law that has a parameter of that name.

    \b
    Examples:
      p2fit compare curves.csv
      p2fit compare curves.csv --law chinchilla --law average-params --json
      p2fit compare curves.csv --law chinchilla --law kaplan-n --backend bayes
      p2fit compare curves.csv --law p2 --law "base_loss + pruning_rate^-gamma*D_C/tokens^beta"
    """
    from p2fit.judging.comparison import compare as compare_laws

    with working(f"comparing laws on {curves}") as progress:
        found = compare_laws(curves, laws, progress=progress, **options)
    print_all(found, form)


@click.command()
@fitting
@click.option(
    "--holdout",
    multiple=True,
    metavar="HOLDOUT",
    help="checkpoints:0.2, tokens:0.2, params:largest (or another input of the law), run, or "
    "k-fold:5. Repeatable; by default what the curves allow of checkpoints:0.2, params:largest and "
    "pruning_rate:largest (run, for laws without a pruning rate).",
)
@picture_option
@forms
def validate(
    curves: str, holdout: tuple[str, ...], picture: str | None, form: str, **options: Any
) -> None:
    """Fit one part of the curves, predict the part held out, and score that.

    The last 20 % of each run's checkpoints (checkpoints:0.2) or of its range of tokens
    (tokens:0.2), the largest size or rate, each run in turn (run; of more than 60 runs a twentieth
    of them), or random parts of the runs in turn (k-fold:5). Scores come with the skill over simple
    baselines, 1 - RMSE / RMSE of the baseline. What the fitted part does not determine is answered
    by a range, without a score.

    \b
    Examples:
      p2fit validate curves.csv
      p2fit validate curves.csv --holdout checkpoints:0.2 --plot validate.png
      p2fit validate curves.csv --holdout run --holdout k-fold:10 --json
    """
    from p2fit.judging.validation import validate as validate_law
    from p2fit.show.validation import overview

    with working(f"validating on {curves}") as progress:
        found = validate_law(curves, holdout=holdout, progress=progress, **options)
    if picture is not None:
        from p2fit.pictures.checks import draw_validation
        from p2fit.pictures.style import save

        save(draw_validation(found), picture)
    print_all(found, form, as_list=True, overview=overview)


@click.command()
@fitting
@click.option(
    "--design", is_flag=True, help="CURVES.CSV has no losses; base_loss may be missing too."
)
@click.option(
    "--at",
    multiple=True,
    callback=mapping,
    type=Pair("PARAMETER=NUMBER", Count()),
    metavar="PARAMETER=NUMBER",
    help="Judge the design at this value, e.g. alpha=0.35. Repeatable.",
)
@forms
def identify(curves: str, form: str, **options: Any) -> None:
    """Say what a design can tell: which parameters, how well, and which run to add.

    From sizes, rates and token counts alone. Losses, where there are any, only set the point at
    which the law is looked at: the fit, where it determines everything, else typical values.

    \b
    Examples:
      p2fit identify curves.csv --law p2
      p2fit identify plan.csv --law p2 --design
      p2fit identify plan.csv --law chinchilla --design --at alpha=0.35 --at beta=0.37 --json
    """
    from p2fit.judging.design import identify_design

    found = identify_design(curves, **options)
    print_all(found, form)


@click.command()
@fitting
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="PARAMETER",
    help="Profile this one, e.g. alpha; all free ones by default. Repeatable.",
)
@picture_option
@forms
def profile(
    curves: str, parameters: tuple[str, ...], picture: str | None, form: str, **options: Any
) -> None:
    """Intervals by profile likelihood: hold each parameter at a grid of values, refit the others.

    They show what a covariance hides: a parameter that may be anything, or anything on one side,
    or that goes a crooked way with the others. The threshold is calibrated on the fit's covariance,
    so that both intervals agree where the objective is a parabola.

    \b
    Examples:
      p2fit profile curves.csv
      p2fit profile curves.csv --parameter alpha --parameter E
      p2fit profile curves.csv --plot profile.png --json
    """
    from p2fit.results import frame_of
    from p2fit.show.profiles import overview
    from p2fit.uncertainty.profiles import profile as profile_law

    with working(f"profiling {curves}") as progress:
        found = profile_law(curves, parameters=parameters, progress=progress, **options)
    if picture is not None:
        from p2fit.pictures.checks import draw_profiles
        from p2fit.pictures.style import save

        save(draw_profiles(found), picture)
    if form == "csv":
        print_csv([frame_of([one.to_dict() for one in found])])
    elif form == "json":
        print_json([one.to_dict() for one in found])
    else:
        print_parts([overview(found)], form)
