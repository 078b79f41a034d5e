"""``p2fit run``: thin wrappers over the functions of this package.

torch is imported when a run starts, not for the help.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import click

from p2fit.cli.shared import Count, Pair, Share, echo, json_option, print_json
from p2fit.schedules import KINDS

_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "bf16", "fp32")


def _whole(ctx: Any, param: Any, value: float | None) -> int | None:
    return None if value is None else round(value)


def _count(name: str, default: str, text: str) -> Any:
    return click.option(
        name, type=Count(), default=default, callback=_whole, show_default=True, help=text
    )


def _together(*options: Any) -> Callable[[Any], Any]:
    """Options that several commands have."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_text_option = click.option(
    "--text",
    required=True,
    metavar="TEXT",
    help="A file or folder, hub:NAME[:CONFIG][@SPLIT], or corpus: the Python sources and "
    "documentation on this machine.",
)
_evaluations = _together(
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
    _count("--eval-tokens", "250K", "Tokens of the evaluation set."),
)
_batches = _together(
    _count("--seq-len", "1024", "Tokens of a window."),
    _count("--batch-tokens", "64K", "Tokens of an optimizer step."),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Windows in one forward pass: speed and memory, not results.",
    ),
    click.option(
        "--gradient-checkpointing",
        is_flag=True,
        help="Compute activations twice, to save memory.",
    ),
)
_rest = _together(
    click.option(
        "--warmup",
        type=Share(),
        default="1%",
        show_default=True,
        help="Share of the steps over which the learning rate rises.",
    ),
    click.option("--weight-decay", type=float, default=0.1, show_default=True, help="Of AdamW."),
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
        help="Of matrix products: auto is bf16 on a GPU. Weights and optimizer are fp32.",
    ),
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


def _lr(default: float, text: str) -> Any:
    return click.option("--lr", type=float, default=default, show_default=True, help=text)


def _out(default: str) -> Any:
    return click.option(
        "--out",
        type=click.Path(file_okay=False),
        default=default,
        show_default=True,
        help="Folder for the curves, checkpoints and tokenized text.",
    )


@click.group()
def run() -> None:
    """Make loss curves from real runs: pre-train, prune, post-train, evaluate.

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
@_text_option
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
@_evaluations
@_count("--calibration", "128", "Windows that pruning is calibrated on.")
@_batches
@_lr(1e-4, "Learning rate, constant after the warm-up.")
@_rest
@_out("runs")
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
    from p2fit_adapters.pruning import combinations

    prunings = combinations(
        methods,
        rates,
        criteria,
        control=control,
        dimensions=dimensions.split(","),
        calibration_windows=calibration,
    )
    results = post_train_each(_post_training(options), prunings, out, _report())
    _tell(
        results,
        lambda result: f"pruning rate {result.pruning_rate:.4g}, base loss {result.base_loss:.4f}",
        out,
        as_json,
    )


@run.command("pretrain")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="Folder or hub id whose configuration is used, or a type of model: llama, qwen3 ….",
)
@click.option(
    "--set",
    "config",
    multiple=True,
    type=Pair("field=value"),
    help="A field of the configuration, e.g. hidden_size=256. Repeatable.",
)
@click.option("--revision", help="Revision of the model on the hub.")
@click.option(
    "--tokenizer",
    help="Folder or hub id; by default the model's own, and a BPE trained on the text where it has "
    "none.",
)
@click.option("--label", help="What the model is called in the names of runs.")
@_text_option
@_count("--tokens", "100M", "Training tokens of each run.")
@click.option(
    "--sparsity",
    "sparsities",
    multiple=True,
    type=Share(),
    default=["0"],
    show_default=True,
    help="Share of the linear weights that is pruned in the end; 0 is dense. Repeatable.",
)
@click.option(
    "--schedule",
    type=click.Choice(KINDS),
    default="geometric",
    show_default=True,
    help="Shape of the density while pruning.",
)
@click.option(
    "--start",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Share of the training compute after which pruning starts.",
)
@click.option(
    "--end",
    type=click.FloatRange(0, 1),
    default=0.75,
    show_default=True,
    help="Share of the training compute after which it ends.",
)
@click.option(
    "--events",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Times that weights are pruned.",
)
@_evaluations
@_batches
@_lr(1e-3, "Learning rate between warm-up and decay.")
@click.option(
    "--decay",
    type=Share(),
    default="20%",
    show_default=True,
    help="Share of the steps, at the end, over which the learning rate falls to 0; 0 for none.",
)
@_rest
@_out("pretrained")
@json_option
def pretrain(sparsities: tuple[float, ...], out: str, as_json: bool, **options: Any) -> None:
    """Train a model from nothing, dense or while pruning it, and write its loss curve.

    One run for each sparsity. The rows go to OUT/curves.csv, with the parameters active on the way
    and their mean, what made them to OUT/curves.meta.json. Killed or stopped, the same command goes
    on where it was. Rows before the end of a run that decays are not comparable with its end: p2fit
    fits those with final = 1.

    \b
    Examples:
      p2fit run pretrain --model llama --set hidden_size=256 --set num_hidden_layers=6 \\
        --set intermediate_size=768 --set num_attention_heads=4 --set vocab_size=4096 \\
        --text corpus --tokens 100M --sparsity 0 --sparsity 50% --sparsity 80%
      p2fit fit pretrained/curves.csv
    """
    from p2fit_adapters.pretraining import pretrain_each

    results = pretrain_each(_pretraining(options), _sparsities(sparsities, options), out, _report())
    _tell(results, lambda r: f"{r.params} params, sparsity {r.sparsity:.4g}", out, as_json)


@run.command("sweep")
@click.argument("file", metavar="SWEEP.TOML", type=click.Path(dir_okay=False))
@_out("runs")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only list the runs, with their FLOPs and the time they will take, from a few steps of "
    "each model measured here.",
)
@click.option(
    "--index",
    type=click.IntRange(min=0),
    help="Make one run alone, by its number in --dry-run: for the array of a batch system.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs side by side on this machine; its GPUs are dealt out to them.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Make the runs on a Ray cluster: at this address, or a new one on this machine. Its "
    "machines must see the same folders.",
)
@json_option
def sweep(
    file: str,
    out: str,
    dry_run: bool,
    index: int | None,
    jobs: int,
    ray: str | None,
    as_json: bool,
) -> None:
    """Make all runs of a grid: models, sparsities, ways and rates to prune, tokens, seeds.

    A [[pretrain]] block trains models, a [[post-train]] block prunes and trains on those or others.
    Runs that are done are skipped, half-done ones go on, so the same command finishes a sweep that
    was killed. The curves are in OUT/pretrain/curves.csv and OUT/post-train/curves.csv.

    \b
    Example of a file:
      [text]
      spec = "corpus"
    \b
      [models.small]
      type = "llama"
      hidden_size = 128
      intermediate_size = 384
      num_hidden_layers = 6
      num_attention_heads = 4
      vocab_size = 4096
    \b
      [[pretrain]]
      tokens = ["20x"]             # 20 tokens per parameter
      save_model = true
    \b
      [[post-train]]
      methods = ["depth", "width", "2:4"]
      rates = [0.15, 0.25, 0.35]
      tokens = ["2x"]
      seeds = [1, 2]
    \b
    Examples:
      p2fit run sweep sweep.toml --dry-run
      p2fit run sweep sweep.toml --jobs 2
      p2fit run sweep sweep.toml --index "$SLURM_ARRAY_TASK_ID"
    """
    ways = (index is not None, jobs > 1, ray is not None)
    if sum(ways) > 1 or (dry_run and index is not None):
        raise click.UsageError("give one of --dry-run, --index, --jobs and --ray")
    from p2fit_adapters.sweep import read_sweep

    found = read_sweep(file, out)
    if dry_run:
        _show_plan(found, jobs, as_json)
        return
    from p2fit_adapters.workers import run_one, run_sweep

    report = _report()
    if index is not None:
        outcomes = [run_one(found, index, report)]
    else:
        outcomes = run_sweep(found, jobs=jobs, ray=ray, report=report)
    kinds = dict.fromkeys(job.kind for job in found.jobs)
    _print(outcomes, _line, [f"{out}/{kind}/curves.csv" for kind in kinds], as_json)


def _line(outcome: Any) -> str:
    what = outcome.error if outcome.loss is None else f"loss {outcome.loss:.4f}"
    return f"{outcome.label}: {outcome.status}, {what}"


def _show_plan(found: Any, jobs: int, as_json: bool) -> None:
    from p2fit_adapters.estimate import plan, totals
    from p2fit_adapters.progress import duration, short

    planned = plan(found, _report())
    all_of_it = totals(planned, jobs)
    if as_json:
        print_json({**all_of_it, "sweep": [asdict(one) for one in planned]})
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name in ("", "run", "params", "tokens", "FLOPs", "status", "time"):
        numeric = name in ("", "params", "tokens", "FLOPs", "time")
        # A name may be long; the rest is kept in one line.
        justify: Any = "right" if numeric else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "run")
    for i, one in enumerate(planned):
        counts = (short(one.params), short(one.tokens), f"{one.flops:.2e}")
        time = duration(one.seconds) if one.seconds else ""
        table.add_row(str(i), one.label, *counts, one.status, time)
    echo(table)
    click.echo(
        f"{all_of_it['runs']} runs, {all_of_it['left']} to make: {all_of_it['flops']:.3g} FLOPs, "
        f"about {duration(all_of_it['seconds'])} with --jobs {jobs} on this machine"
    )


def _report() -> Any:
    from p2fit_adapters.progress import Bar, Lines

    return Bar() if sys.stderr.isatty() else Lines()


def _tell(results: Any, describe: Callable[[Any], str], out: str, as_json: bool) -> None:
    def line(result: Any) -> str:
        loss = "no loss" if result.loss is None else f"loss {result.loss:.4f}"
        return f"{result.run}: {result.status}, {describe(result)}, {loss}"

    _print(results, line, [f"{out}/curves.csv"], as_json)


def _print(found: Any, line: Callable[[Any], str], files: list[str], as_json: bool) -> None:
    from p2fit_adapters.progress import is_first

    if is_first():  # of several processes that make a run together
        if as_json:
            print_json([asdict(one) for one in found])
        else:
            click.echo("\n".join([*map(line, found), *files]))
    if any(one.status != "done" for one in found):
        sys.exit(2)


def _those_of(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    return {f.name: options[f.name] for f in fields(kind) if f.name in options}


def _post_training(options: dict[str, Any]) -> Any:
    """The run that all those of a command have in common."""
    from p2fit_adapters.post_training import PostTraining
    from p2fit_adapters.text import TextSource
    from p2fit_adapters.training import Training

    text = TextSource(options["text"], **_those_of(TextSource, options))
    return PostTraining(
        options["model"],
        text,
        training=Training(**_those_of(Training, options)),
        revision=options["revision"],
        family=options["family"],
        save_model=options["save_models"],
    )


def _pretraining(options: dict[str, Any]) -> Any:
    """The same, for pre-training."""
    from p2fit_adapters.pretraining import Pretraining
    from p2fit_adapters.text import TextSource
    from p2fit_adapters.training import Training

    text = TextSource(options["text"], **_those_of(TextSource, options))
    return Pretraining(
        options["model"],
        text,
        config={name: _value(text) for name, text in options["config"]},
        training=Training(**_those_of(Training, options)),
        save_model=options["save_models"],
        **{n: options[n] for n in ("tokenizer", "revision", "family", "label")},
    )


def _value(text: str) -> Any:
    """As JSON says: 64, true, null, [1, 2]; else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _sparsities(shares: tuple[float, ...], options: dict[str, Any]) -> list[Any]:
    from p2fit_adapters.pretraining import Sparsity

    return [
        Sparsity(share, *(options[name] for name in ("schedule", "start", "end", "events")))
        for share in dict.fromkeys(shares)
    ]
