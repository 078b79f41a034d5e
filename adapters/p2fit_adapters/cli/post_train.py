"""``p2fit run post-train``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import click

from p2fit.cli.shared import json_option, print_json
from p2fit.cli.values import Count, Share
from p2fit_adapters.cli.options import (
    batch_options,
    count_option,
    evaluation_options,
    fields_of,
    lr_option,
    optional_text_option,
    other_options,
    out_option,
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
@optional_text_option
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
@click.option(
    "--plan",
    is_flag=True,
    help="Train nothing: say what memory each process needs and how to launch the run. Needs "
    "--gpu-memory and --gpu-peak, and no --text.",
)
@click.option(
    "--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="For --plan."
)
@click.option("--gpu-memory", type=Count(), help="Bytes of each GPU, for --plan: 80G.")
@click.option(
    "--gpu-peak",
    type=Count(),
    help="FLOP/s of each GPU in the format of --dtype, for --plan: 989T.",
)
@click.option(
    "--peak-share",
    type=Share(),
    default="40%",
    show_default=True,
    help="Share of the peak that training reaches, for --plan.",
)
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
    plan: bool,
    gpus: int,
    gpu_memory: float | None,
    gpu_peak: float | None,
    peak_share: float,
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
      p2fit run post-train --model my-model --plan --gpus 8 --gpu-memory 80G --gpu-peak 989T
      p2fit fit runs/curves.csv
    """
    asked = {"gpu_memory": gpu_memory, "gpu_peak": gpu_peak} if plan else {"text": options["text"]}
    for name, value in asked.items():
        if value is None:
            raise click.UsageError(f"Missing option '--{name.replace('_', '-')}'.")
    from p2fit_adapters.distillation import distillations

    taught = distillations(teachers, distil_weight, teacher_top_k)
    if plan:
        _show_plan(
            _planned(options, methods, rates, taught),
            gpus,
            gpu_memory,
            gpu_peak,
            peak_share,
            as_json,
        )
        return
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
    results = post_train_each(_post_training(options), prunings, out, make_report(), taught)
    print_results(
        results,
        lambda result: f"pruning rate {result.pruning_rate:.4g}, base loss {result.base_loss:.4f}",
        out,
        as_json,
    )


def _planned(options: dict[str, Any], methods: Any, rates: Any, taught: Any) -> Any:
    """The run that needs most of those of a command."""
    from p2fit_adapters.pruning import Pruning

    teachers = [one for one in taught if one]
    if len(teachers) > 1:
        raise click.UsageError("--plan is for one --teacher")
    prunings = [
        Pruning(name, max(rates, default=None) if name in ("depth", "width") else None)
        for name in methods
    ]
    prunings.sort(key=lambda one: (one.method == "none", one.is_structured))
    return replace(
        _post_training(options),
        pruning=prunings[0] if prunings else Pruning(),
        distillation=teachers[0] if teachers else None,
    )


def _show_plan(
    settings: Any, gpus: int, memory: Any, peak: Any, share: float, as_json: bool
) -> None:
    from p2fit_adapters.errors import RunError
    from p2fit_adapters.memory import HEADROOM, launches
    from p2fit_adapters.progress import duration, short_count

    found = launches(settings, gpus, memory, peak, share)
    best = next((one for one in found if one.fits), None)
    if as_json:
        print_json([{**asdict(one), "total": one.memory.total} for one in found])
    else:
        shown = best or min(found, key=lambda one: max(one.memory.total, one.loading))
        parts = {name: size for name, size in asdict(shown.memory).items() if size}
        for name, size in [*parts.items(), ("together", shown.memory.total)]:
            click.echo(f"{name:>12}  {short_count(size)}")
        click.echo(f"{'at the start':>12}  {short_count(shown.loading)}")
        loads = "the first process" if shown.how == "FSDP" else "each process"
        click.echo(f"{'not on a GPU':>12}  {short_count(shown.host)}, in {loads}, for a moment")
        click.echo(f"bytes of each process: {shown.how}, --batch-size {shown.batch_size}")
        if best:
            click.echo(f"{duration(best.seconds)} of training at {share:.0%} of the peak")
            click.echo(f"{best.command} --model {settings.model} …")
    if not best:
        raise RunError(
            f"nothing fits {1 - HEADROOM:.0%} of {short_count(memory)} bytes: more --gpus, a "
            "shorter --seq-len, or --lora-rank"
        )


def _post_training(options: dict[str, Any]) -> Any:
    """The run that all those of a command have in common."""
    from p2fit_adapters.post_training import PostTraining
    from p2fit_adapters.text import TextSource
    from p2fit_adapters.training import Training

    text = TextSource(options["text"] or "", **fields_of(TextSource, options))
    return PostTraining(
        options["model"],
        text,
        training=Training(**fields_of(Training, options)),
        revision=options["revision"],
        family=options["family"],
        save_model=options["save_models"],
    )
