"""The options that several commands have, and what they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from p2fit.cli.values import Count, Share

_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "bf16", "fp32")


def _whole(ctx: Any, param: Any, value: float | None) -> int | None:
    return None if value is None else round(value)


def count_option(name: str, default: str, text: str) -> Any:
    return click.option(
        name, type=Count(), default=default, callback=_whole, show_default=True, help=text
    )


def together(*options: Any) -> Callable[[Any], Any]:
    """Options that several commands have."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _text_option(required: bool) -> Any:
    return click.option(
        "--text",
        required=required,
        metavar="TEXT",
        help="A file or folder, hub:NAME[:CONFIG][@SPLIT], or corpus: the Python sources and "
        "documentation on this machine.",
    )


text_option, optional_text_option = _text_option(True), _text_option(False)
evaluation_options = together(
    click.option(
        "--evals",
        type=click.IntRange(min=1),
        default=20,
        show_default=True,
        help="Evaluations of each run, besides any at 0 tokens.",
    ),
    click.option(
        "--spacing",
        type=click.Choice(["log", "linear"]),
        default="log",
        show_default=True,
        help="Of the evaluations; log begins at 1 % of the tokens.",
    ),
    count_option("--eval-tokens", "250K", "Tokens of the evaluation set."),
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Windows in one forward pass: speed and memory, not results.",
)
batch_options = together(
    count_option("--seq-len", "1024", "Tokens of a window."),
    count_option("--batch-tokens", "65536", "Tokens of an optimizer step."),
    batch_size_option,
    click.option(
        "--gradient-checkpointing",
        is_flag=True,
        help="Compute activations twice, to save memory.",
    ),
)
machine_options = together(
    click.option(
        "--device",
        type=click.Choice(_DEVICES),
        default="auto",
        show_default=True,
        help="auto takes a GPU where there is one.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(_DTYPES),
        default="auto",
        show_default=True,
        help="Of matrix products: auto is bf16 on a GPU and on a CPU that has it in hardware. "
        "Weights and optimizer are fp32.",
    ),
)
other_options = together(
    click.option(
        "--warmup",
        type=Share(),
        default="1%",
        show_default=True,
        help="Share of the steps over which the learning rate rises.",
    ),
    click.option("--weight-decay", type=float, default=0.1, show_default=True, help="Of AdamW."),
    click.option(
        "--moment-bits",
        type=click.Choice([32, 8]),
        default=32,
        show_default=True,
        help="Of AdamW's moments: 8 takes a quarter of their memory (extra adam8).",
    ),
    click.option(
        "--compile",
        is_flag=True,
        help="Train by torch.compile: a quarter to two fifths more tokens a second on a CPU, "
        "after 40 s to 3 min of compiling.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of the order of the training text, of calibration and of new weights.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Which text is held out.",
    ),
    click.option("--family", help="For the column family; by default the model's type."),
    machine_options,
    click.option(
        "--checkpoint-minutes",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="Time between checkpoints.",
    ),
    click.option("--save-models", is_flag=True, help="Keep each trained model, in OUT/RUN/model."),
    click.option(
        "--track",
        metavar="TRACKER",
        help="Also log to tensorboard, wandb or another of Accelerate's.",
    ),
)


def lr_option(default: float, text: str) -> Any:
    return click.option("--lr", type=float, default=default, show_default=True, help=text)


def out_option(default: str) -> Any:
    return click.option(
        "--out",
        type=click.Path(file_okay=False),
        default=default,
        show_default=True,
        help="Folder for the curves, checkpoints and tokenized text.",
    )


def fields_of(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    return {f.name: options[f.name] for f in fields(kind) if f.name in options}
