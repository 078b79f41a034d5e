"""``p2fit run post-train``."""

from __future__ import annotations

from typing import Any

import click

from p2fit.cli.shared import json_option
from p2fit.cli.values import Share
from p2fit_adapters.cli.options import (
    batch_options,
    count_option,
    evaluation_options,
    fields_of,
    lr_option,
    other_options,
    out_option,
    text_option,
)
from p2fit_adapters.cli.output import make_report, print_results


@click.command("post-train")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Folder or hub id of a Hugging Face causal language model.",
)
@click.option("--revision", help="Revision of the model on the hub.")
@text_option
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="depth, width, or N:M such as 2:4 (2 of 4 weights in a row stay). Repeatable.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=Share(),
    help="Share of all parameters to remove, for depth and width. Repeatable.",
)
@click.option(
    "--criterion",
    "criteria",
    multiple=True,
    help="block-influence or span for depth; activation for width; sparsegpt, wanda or magnitude "
    "for N:M. The first of each by default. Repeatable.",
)
@click.option(
    "--width",
    "dimensions",
    default="mlp",
    show_default=True,
    metavar="DIMENSIONS",
    help="What width pruning shrinks: mlp, heads, hidden, or several, e.g. mlp,hidden.",
)
@click.option(
    "--control/--no-control",
    default=True,
    help="Also train the unpruned model on the same tokens (the default).",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="TEACHER",
    help="Distil from self, the model before pruning, or from a folder or hub id; none is plain "
    "training (the default). Repeatable: --teacher none --teacher self.",
)
@click.option(
    "--distil-weight",
    type=Share(),
    help="Share of the loss that is the divergence from the teacher; the rest is cross-entropy. "
    "90% without it.",
)
@click.option(
    "--teacher-top-k",
    type=click.IntRange(min=1),
    help="Ask the teacher before training, once for each window, and keep its so many most "
    "probable tokens on disk: for one that is large, or asked by many runs.",
)
@click.option(
    "--lora-rank",
    type=click.IntRange(min=1),
    help="Train low-rank additions to the linear layers in place of all weights, merged by "
    "--save-models (extra lora).",
)
@count_option("--tokens", "100M", "Training tokens of each run.")
@evaluation_options
@count_option("--calibration", "128", "Windows that pruning is calibrated on.")
@batch_options
@lr_option(1e-4, "Learning rate, constant after the warm-up.")
@other_options
@out_option("runs")
@json_option
def post_train(
    methods: tuple[str, ...],
    rates: tuple[float, ...],
    criteria: tuple[str, ...],
    dimensions: str,
    control: bool,
    teachers: tuple[str, ...],
    distil_weight: float | None,
    teacher_top_k: int | None,
    calibration: int,
    out: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune a model, train it on, and write how the held-out loss falls.

    One run for each method, rate, criterion and teacher, and one of the unpruned model beside them.
    The rows go to OUT/curves.csv, what made them to OUT/curves.meta.json. Killed or stopped, the
    same command goes on where it was.

    \b
    Examples:
      p2fit run post-train --model Qwen/Qwen2.5-0.5B --text hub:DKYoon/SlimPajama-6B \\
        --method depth --rate 15% --rate 25% --rate 35% --tokens 500M
      p2fit run post-train --model my-model --text corpus --method 2:4 --criterion wanda
      p2fit run post-train --model my-model --text corpus --method depth --rate 20% \\
        --teacher none --teacher self
      p2fit fit runs/curves.csv
    """
    from p2fit_adapters.distillation import distillations
    from p2fit_adapters.post_training import post_train_each
    from p2fit_adapters.pruning import combinations

    prunings = combinations(
        methods,
        rates,
        criteria,
        control=control,
        dimensions=dimensions.split(","),
        calibration_windows=calibration,
    )
    taught = distillations(teachers, distil_weight, teacher_top_k)
    results = post_train_each(_post_training(options), prunings, out, make_report(), taught)
    print_results(
        results,
        lambda result: f"pruning rate {result.pruning_rate:.4g}, base loss {result.base_loss:.4f}",
        out,
        as_json,
    )


def _post_training(options: dict[str, Any]) -> Any:
    """The run that all those of a command have in common."""
    from p2fit_adapters.post_training import PostTraining
    from p2fit_adapters.text import TextSource
    from p2fit_adapters.training import Training

    text = TextSource(options["text"], **fields_of(TextSource, options))
    return PostTraining(
        options["model"],
        text,
        training=Training(**fields_of(Training, options)),
        revision=options["revision"],
        family=options["family"],
        save_model=options["save_models"],
    )
