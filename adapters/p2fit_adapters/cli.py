"""``p2fit run``: a thin wrapper over :func:`p2fit_adapters.post_train`.

torch is imported when a run starts, not for the help.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from typing import Any

import click

from p2fit.cli.shared import Count, Share, json_option, print_json

_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "bf16", "fp32")


def _whole(ctx: Any, param: Any, value: float | None) -> int | None:
    return None if value is None else round(value)


def _count(name: str, default: str, text: str) -> Any:
    return click.option(
        name, type=Count(), default=default, callback=_whole, show_default=True, help=text
    )


@click.group()
def run() -> None:
    """Make loss curves from real runs: prune, post-train, evaluate.

    \b
    Example:
      p2fit run post-train --help
    """


@run.command("post-train")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Folder or hub id of a Hugging Face causal language model.",
)
@click.option("--revision", help="Revision of the model on the hub.")
@click.option(
    "--text",
    required=True,
    metavar="TEXT",
    help="A file or folder, hub:NAME[:CONFIG][@SPLIT], or corpus: the Python sources and "
    "documentation on this machine.",
)
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
@_count("--tokens", "100M", "Training tokens of each run.")
@click.option(
    "--evals",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Evaluations of each run, besides the one at 0 tokens.",
)
@click.option(
    "--spacing",
    type=click.Choice(["log", "linear"]),
    default="log",
    show_default=True,
    help="Of the evaluations; log begins at 1 % of the tokens.",
)
@_count("--eval-tokens", "250K", "Tokens of the evaluation set.")
@_count("--calibration", "128", "Windows that pruning is calibrated on.")
@_count("--seq-len", "1024", "Tokens of a window.")
@_count("--batch-tokens", "64K", "Tokens of an optimizer step.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Windows in one forward pass: speed and memory, not results.",
)
@click.option(
    "--gradient-checkpointing", is_flag=True, help="Compute activations twice, to save memory."
)
@click.option(
    "--lr",
    type=float,
    default=1e-4,
    show_default=True,
    help="Learning rate, constant after the warm-up.",
)
@click.option(
    "--warmup",
    type=Share(),
    default="1%",
    show_default=True,
    help="Share of the steps over which the learning rate rises.",
)
@click.option("--weight-decay", type=float, default=0.1, show_default=True, help="Of AdamW.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Order of the training text, and the calibration.",
)
@click.option(
    "--split-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which text is held out.",
)
@click.option("--family", help="For the column family; by default the model's type.")
@click.option(
    "--device",
    type=click.Choice(_DEVICES),
    default="auto",
    show_default=True,
    help="auto takes a GPU where there is one.",
)
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    default="auto",
    show_default=True,
    help="Of matrix products: auto is bf16 on a GPU. Weights and optimizer are fp32.",
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Time between checkpoints.",
)
@click.option("--save-models", is_flag=True, help="Keep each trained model, in OUT/RUN/model.")
@click.option(
    "--track", metavar="TRACKER", help="Also log to tensorboard, wandb or another of Accelerate's."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default="runs",
    show_default=True,
    help="Folder for the curves, checkpoints and tokenized text.",
)
@json_option
def post_train(
    methods: tuple[str, ...],
    rates: tuple[float, ...],
    criteria: tuple[str, ...],
    dimensions: str,
    control: bool,
    calibration: int,
    out: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune a model, train it on, and write how the held-out loss falls.

    One run for each method, rate and criterion, and one of the unpruned model beside them. The rows
    go to OUT/curves.csv, what made them to OUT/curves.meta.json. Killed or stopped, the same
    command goes on where it was.

    \b
    Examples:
      p2fit run post-train --model Qwen/Qwen2.5-0.5B --text hub:DKYoon/SlimPajama-6B \\
        --method depth --rate 15% --rate 25% --rate 35% --tokens 500M
      p2fit run post-train --model my-model --text corpus --method 2:4 --criterion wanda
      p2fit fit runs/curves.csv
    """
    from p2fit_adapters.post_training import post_train_each
    from p2fit_adapters.progress import Bar, Lines
    from p2fit_adapters.pruning import combinations

    prunings = combinations(
        methods,
        rates,
        criteria,
        control=control,
        dimensions=dimensions.split(","),
        calibration_windows=calibration,
    )
    results = post_train_each(
        _settings(options), prunings, out, Bar() if sys.stderr.isatty() else Lines()
    )
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        for result in results:
            click.echo(
                f"{result.run}: {result.status}, pruning rate {result.pruning_rate:.4g}, "
                f"base loss {result.base_loss:.4f}, loss {result.loss:.4f}"
            )
        click.echo(f"{out}/curves.csv")
    if any(result.status != "done" for result in results):
        sys.exit(2)


def _settings(options: dict[str, Any]) -> Any:
    """The run that all those of a command have in common."""
    from p2fit_adapters.post_training import PostTraining
    from p2fit_adapters.text import TextSource
    from p2fit_adapters.training import Training

    def those_of(kind: type) -> dict[str, Any]:
        return {f.name: options[f.name] for f in fields(kind) if f.name in options}

    text = TextSource(options["text"], **those_of(TextSource))
    return PostTraining(
        options["model"],
        text,
        training=Training(**those_of(Training)),
        revision=options["revision"],
        family=options["family"],
        save_model=options["save_models"],
    )
