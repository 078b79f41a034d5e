"""``p2fit run evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from p2fit.cli.shared import json_option, print_json
from p2fit_adapters.cli.options import batch_size_option, fields_of, machine_options
from p2fit_adapters.cli.output import make_report


@click.command("evaluate")
@click.argument("runs", type=click.Path(file_okay=False))
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="TASK",
    help="A task of lm-evaluation-harness, such as hellaswag. Repeatable.",
)
@click.option(
    "--tasks-from",
    type=click.Path(file_okay=False),
    help="A folder of tasks of your own, as YAML files of the harness.",
)
@click.option(
    "--metric", default="acc", show_default=True, help="Of the harness: acc, acc_norm, exact_match."
)
@click.option(
    "--few-shot",
    type=click.IntRange(min=0),
    help="Examples in each prompt; by default as many as the task says.",
)
@batch_size_option
@machine_options
@json_option
def evaluate(
    runs: str,
    tasks: tuple[str, ...],
    tasks_from: str | None,
    metric: str,
    few_shot: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask the models that runs have saved, with lm-evaluation-harness (extra eval).

    RUNS is the folder of runs made with --save-models, or save_model = true in a sweep. Their
    curves, with a column for each task and one for its standard error, filled in the last row of
    each run, go to RUNS/answers.csv. What was asked before is not asked again.

    \b
    Examples:
      p2fit run evaluate runs/post-train --task hellaswag --task arc_easy
      p2fit fit runs/post-train/answers.csv --target hellaswag \\
        --law "chance + (top - chance)/(1 + exp(k*(loss - mid)))" -o accuracy.json
      p2fit predict accuracy.json --through loss.json --tokens 10M,100M
    """
    from p2fit_adapters.downstream import TABLE, evaluate_tasks
    from p2fit_adapters.training import Training

    found = evaluate_tasks(
        runs,
        tasks,
        metric=metric,
        few_shot=few_shot,
        tasks_from=tasks_from,
        training=Training(**fields_of(Training, options)),
        report=make_report(),
    )
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        shown = (
            f"{task} {score['value']:.4f}"
            + ("" if score["stderr"] is None else f" ± {score['stderr']:.4f}")
            for task, score in one.scores.items()
        )
        click.echo(f"{one.run}: {', '.join(shown)}")
    click.echo(f"{runs}/{TABLE}")
