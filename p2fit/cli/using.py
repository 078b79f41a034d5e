"""Commands that use a fit: predict, plan, simulate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from p2fit.cli.shared import column_option, forms, inputs, print_all, saved_fit, working
from p2fit.cli.values import Count, Output, Share, Values

if TYPE_CHECKING:
    from p2fit.fit import Fit
    from p2fit.laws.law import Law


def _crossed(given: dict[str, list[float]], law: Law, extra: tuple[str, ...] = ()) -> Any:
    """Every combination of the values given by options, once they are the law's."""
    from p2fit.curves.points import crossed_points
    from p2fit.errors import FitError

    unknown = [x for x in given if x not in (*law.inputs, *extra)]
    if unknown:
        raise FitError(
            f"{law.name} does not read {unknown[0]}; it reads {', '.join(law.inputs) or 'nothing'}"
        )
    return crossed_points({x: given[x] for x in (*law.inputs, *extra) if x in given})


@click.command()
@saved_fit
@inputs()
@click.option(
    "--through",
    metavar="FIRST.JSON",
    type=click.Path(dir_okay=False),
    help="A fit that predicts an input of this one, as the loss in a law of accuracy: the points "
    "are then its inputs.",
)
@click.option(
    "--at",
    metavar="POINTS.CSV",
    type=click.Path(dir_okay=False),
    help="Predict at the rows of this file.",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="NAME",
    help="Predict the rest of this run of the curves, from the law and the run's own points. "
    "Repeatable.",
)
@click.option(
    "--curves",
    type=click.Path(dir_okay=False),
    metavar="CURVES.CSV",
    help="Take the runs from this file (all of them without --run); the law is not fitted again.",
)
@column_option
@forms
@click.option(
    "-o",
    "--output",
    type=Output(),
    metavar="PREDICTED.CSV",
    help="Also write the points with the predictions to this file.",
)
def predict(
    fits: list[Fit],
    inputs: dict[str, list[float]],
    through: str | None,
    at: str | None,
    runs: tuple[str, ...],
    curves: str | None,
    columns: dict[str, str],
    form: str,
    output: str | None,
) -> None:
    """Predict the loss at any point, or the rest of a run, with intervals.

    NUMBERS are 8B, or 1B,3B, or 1B..100B (four per decade, even in the log), or 1B..100B:20 (so
    many points); every combination is predicted. How far a point is outside the fitted range is
    given in decades; a prediction that leans on what the data leave open says so.

    \b
    Examples:
      p2fit predict fit.json --params 8B --pruning-rate 0.3 --base-loss 2.05 --tokens 1B..100B
      p2fit predict fit.json --at points.csv -o predicted.csv
      p2fit predict fit.json --run 8B-depth --tokens 1B..10B
      p2fit predict fit.json --curves new.csv --tokens 10B
      p2fit predict accuracy.json --through loss.json --params 7B --tokens 1T,10T
    """
    from p2fit.curves.points import points_table
    from p2fit.errors import FitError
    from p2fit.fit import load
    from p2fit.plan.prediction import predict as predict_points

    if runs or curves is not None:
        if at is not None or through is not None or set(inputs) != {"tokens"}:
            raise click.UsageError("of a run, give --tokens alone: the rest is as in its rows")
        from p2fit.plan.continuing import predict_runs

        ahead = [predict_runs(f, tokens=inputs["tokens"], runs=runs, curves=curves) for f in fits]
        if output is not None:
            _save(output, [(a.frame, a.group) for a in ahead])
        print_all(ahead, form)
        return
    if (at is None) == (not inputs) or (columns and at is None):
        raise click.UsageError("give the law's inputs by options, or a file by --at")
    first = None if through is None else load(through)
    if isinstance(first, list):
        raise FitError(f"{through}: {len(first)} fits: a prediction goes through one")
    found = []
    for f in fits:
        law, own = f.law, f.law.inputs
        if first is not None:
            law, own = first.law, tuple(x for x in own if x != first.target)
        wanted = dict.fromkeys([*law.inputs, *own])
        points = points_table(at, wanted, columns) if at else _crossed(inputs, law, own)
        found.append(predict_points(f, points, through=first))
    if output is not None:
        _save(output, [(p.frame, p.group) for p in found])
    print_all(found, form)


def _save(output: str, found: list[tuple[Any, Any]]) -> None:
    """Tables of several groups as one CSV file."""
    import polars as pl

    from p2fit.files import write_text

    frames = [frame.with_columns(**{k: pl.lit(v) for k, v in own.items()}) for frame, own in found]
    write_text(output, pl.concat(frames, how="diagonal").write_csv())


@click.group()
def plan() -> None:
    """Plan from a fit: tokens to buy, compute to split, what to prune and what to run next.

    \b
    Example:
      p2fit plan tokens fit.json --params 8B --pruning-rate 0.3 --base-loss 2.05 --gain 0.01
    """


@plan.command()
@saved_fit
@inputs("tokens")
@click.option(
    "--loss", multiple=True, type=Count(), metavar="NATS", help="Tokens to this loss. Repeatable."
)
@click.option(
    "--recover",
    multiple=True,
    type=Share(),
    metavar="SHARE",
    help="Tokens to win back this share of what pruning cost, e.g. 90%. Repeatable.",
)
@click.option(
    "--gain",
    multiple=True,
    type=Count(),
    metavar="NATS",
    help="Tokens from which a doubling of them gains less. Repeatable.",
)
@click.option(
    "--gain-per-billion",
    multiple=True,
    type=Count(),
    metavar="NATS",
    help="The same, for the gain of a doubling divided by its billions of tokens. Repeatable.",
)
@click.option(
    "--pruned-loss",
    type=Count(),
    metavar="NATS",
    help="Measured loss right after pruning, for --recover.",
)
@click.option(
    "--curves",
    type=click.Path(dir_okay=False),
    metavar="CURVES.CSV",
    help="Or the curves that have it, in a row of tokens = 0 at the same inputs. Without any "
    "inputs: plan for every pruned model in them.",
)
@click.option(
    "--kept",
    type=Count(),
    metavar="NUMBER",
    help="Parameters that each token is computed with, 6 FLOPs each: by default what pruning "
    "leaves, or all of them where the method is N:M.",
)
@forms
def tokens(
    fits: list[Fit],
    inputs: dict[str, list[float]],
    curves: str | None,
    form: str,
    **options: Any,
) -> None:
    """Tokens to a loss, to win back what pruning cost, or until more hardly helps.

    One table for every combination of the inputs, and one for all of them. "never" means that the
    law does not go there; "can be reached" is the share of the draws in which it does.

    \b
    Examples:
      p2fit plan tokens fit.json --params 8B --loss 2.1 --gain 0.01
      p2fit plan tokens fit.json --params 8B --pruning-rate 0.2,0.3 --base-loss 2.05 \\
        --recover 90% --curves curves.csv
      p2fit plan tokens fit.json --curves curves.csv --recover 50% --gain 0.01
    """
    from p2fit.plan.tokens import models, plan_tokens
    from p2fit.show.tokens import overview

    found = []
    for f in fits:
        if inputs or curves is None:
            points = _crossed(inputs, f.law, ("base_loss", "params", "pruning_rate"))
            rows = [dict(zip(points, values)) for values in zip(*points.values())] or [{}]
        else:
            rows = models(f, curves)
        found += [plan_tokens(f, row, curves=curves, **options) for row in rows]
    print_all(found, form, overview=overview)


@plan.command("continue")
@saved_fit
@click.option(
    "--tokens", required=True, type=Count(), metavar="NUMBER", help="At which the runs are to end."
)
@click.option("--loss", type=Count(), metavar="NATS", help="Also: tokens to this loss.")
@click.option("--run", "runs", multiple=True, metavar="NAME", help="Only this run. Repeatable.")
@click.option(
    "--curves",
    type=click.Path(dir_okay=False),
    metavar="CURVES.CSV",
    help="Where the runs are; by default the curves that the fit was made of.",
)
@forms
def continue_(fits: list[Fit], form: str, **options: Any) -> None:
    """Where runs in progress end, and which to stop.

    Each run is predicted from the law and its own points: its loss at the planned end, what
    doubling its tokens from here gains, the tokens to a target, and how likely it ends lowest.

    \b
    Examples:
      p2fit plan continue fit.json --tokens 10B
      p2fit plan continue fit.json --curves new.csv --tokens 10B --loss 2.1 --json
    """
    from p2fit.plan.continuing import plan_continue

    print_all([plan_continue(f, **options) for f in fits], form)


@plan.command()
@saved_fit
@inputs("params", "tokens", "avg_params")
@click.option(
    "--flops",
    required=True,
    type=Values(1),
    metavar="NUMBERS",
    help="Compute, 6 FLOPs per parameter and token: 1e22, 1e22,1e23, or 1e20..1e24, one per "
    "decade.",
)
@click.option(
    "--sparsity",
    type=Share(),
    metavar="SHARE",
    help="For avg_params: also the dense start, the final size and the schedule that prunes to "
    "this share between 25% and 75% of the compute.",
)
@forms
def compute(
    fits: list[Fit],
    inputs: dict[str, list[float]],
    flops: list[float],
    sparsity: float | None,
    form: str,
) -> None:
    """Split compute between size and tokens for the least loss.

    For laws of params (or avg_params) and tokens. One number of FLOPs is shown with the two decades
    on either side.

    \b
    Examples:
      p2fit plan compute fit.json --flops 1e22
      p2fit plan compute fit.json --flops 1e18..1e26 --json
      p2fit plan compute fit.json --flops 1e22 --sparsity 80%
    """
    from p2fit.plan.compute import plan_compute

    if len(flops) == 1:
        flops = [flops[0] * factor for factor in (1e-2, 1e-1, 1, 1e1, 1e2)]
    found = []
    for f in fits:
        points = _crossed(inputs, f.law)
        rows = [dict(zip(points, values)) for values in zip(*points.values())] or [{}]
        found += [plan_compute(f, flops, sparsity=sparsity, at=row) for row in rows]
    print_all(found, form)


@plan.command()
@saved_fit
@click.argument("candidates", metavar="CANDIDATES.CSV")
@column_option
@click.option(
    "--deploy-params", required=True, type=Count(), metavar="NUMBER", help="Parameters left."
)
@click.option("--flops", type=Count(), metavar="NUMBER", help="Budget of training after pruning.")
@click.option("--tokens", type=Count(), metavar="NUMBER", help="Or the budget in tokens.")
@forms
def choose(fits: list[Fit], candidates: str, form: str, **options: Any) -> None:
    """Which base model to prune to a given size, for a given budget.

    CANDIDATES.CSV has a row for each base model: params and base_loss (all on one evaluation set),
    and perhaps name, family and method. The pruning rate follows from the deployed size. With fits
    of several methods and no column method, every method is tried.

    \b
    Examples:
      p2fit plan choose fit.json models.csv --deploy-params 3B --flops 1e20
      p2fit plan choose fit.json models.csv --deploy-params 3B --tokens 10B --json
    """
    from p2fit.plan.choose import plan_choose

    print_all([plan_choose(fits, candidates, **options)], form)


@plan.command()
@saved_fit
@click.argument("candidates", metavar="CANDIDATES.CSV")
@column_option
@click.option(
    "--at",
    type=click.Path(dir_okay=False),
    metavar="POINTS.CSV",
    help="Predict these points well; all parameters by default.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many runs to choose.",
)
@click.option("--flops", type=Count(), metavar="NUMBER", help="What they may cost together.")
@click.option(
    "--correlation",
    type=float,
    default=0.8,
    show_default=True,
    metavar="NUMBER",
    help="Of the noise of neighbouring rows of a run.",
)
@forms
def next(fits: list[Fit], candidates: str, form: str, **options: Any) -> None:
    """Which runs to make next: those that narrow the wanted predictions most per FLOP.

    CANDIDATES.CSV has the inputs of the law; rows of one run are one run, else each row is one. A
    column flops says what a run costs, else it is 6 FLOPs per token and parameter kept.

    \b
    Examples:
      p2fit plan next fit.json candidates.csv --at wanted.csv
      p2fit plan next fit.json candidates.csv --count 5 --flops 1e21 --json
    """
    from p2fit.plan.runs import plan_next

    with working(f"choosing runs from {candidates}"):
        found = [plan_next(f, candidates, **options) for f in fits]
    print_all(found, form)


@click.command()
@click.argument("design", metavar="[DESIGN.CSV]", required=False)
@column_option
@click.option("--law", required=True, metavar="LAW", help="A law by name, or a formula.")
@inputs()
@click.option(
    "--noise",
    type=float,
    default=0.0,
    show_default=True,
    metavar="NUMBER",
    help="Standard deviation of the log of the loss, 0.002 for 0.2%.",
)
@click.option(
    "--correlation",
    type=float,
    default=0.0,
    show_default=True,
    metavar="NUMBER",
    help="Of the noise of neighbouring rows of a run; 1: one offset per run.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option(
    "-o",
    "--output",
    type=Output(),
    metavar="CURVES.CSV",
    help="Write the curves to this file; standard output by default.",
)
def simulate(
    design: str | None,
    law: str,
    inputs: dict[str, list[float]],
    output: str | None,
    **noise: Any,
) -> None:
    """Write loss curves from known parameters, to try a design before paying for it.

    Parameters, and columns of a formula, are given by --set. The design is every combination of
    the inputs given by options (8B, or 1B,3B, or 1B..100B:20), or the rows of DESIGN.CSV. Rows of
    one run, or that differ in tokens alone, have noise that is correlated from row to row.

    \b
    Examples:
      p2fit simulate --law chinchilla --set E=1.8 --set A=480 --set alpha=.35 \\
        --set B=2100 --set beta=.37 --params 100M..10B:4 --tokens 1B..1T:4 -o curves.csv
      p2fit simulate design.csv --law "E + A/params^alpha" --set E=1.8 --set A=480 \\
        --set alpha=.35 --noise 0.002 --correlation 0.8
    """
    from p2fit.curves.points import crossed_points
    from p2fit.curves.simulation import simulate as simulate_law
    from p2fit.files import write_text
    from p2fit.laws.law import COLUMNS

    given = {x: v for x, v in inputs.items() if x in COLUMNS or len(v) > 1}
    if (design is None) == (not given):
        raise click.UsageError("give the design as a file, or the law's inputs by options")
    parameters = {n: v[0] for n, v in inputs.items() if n not in given}
    found = simulate_law(law, parameters, design or crossed_points(given), **noise)
    text = found.write_csv()
    if output is None:
        click.echo(text.encode(), nl=False)
    else:
        write_text(output, text)
