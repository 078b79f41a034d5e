"""``p2fit run pretrain``."""

from __future__ import annotations

import json
from typing import Any

import click

from p2fit.cli.shared import json_option
from p2fit.cli.values import Pair, Share
from p2fit.schedules import KINDS
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


@click.command("pretrain")
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
@text_option
@count_option("--tokens", "100M", "Training tokens of each run.")
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
@evaluation_options
@batch_options
@lr_option(1e-3, "Learning rate between warm-up and decay.")
@click.option(
    "--decay",
    type=Share(),
    default="20%",
    show_default=True,
    help="Share of the steps, at the end, over which the learning rate falls to 0; 0 for none.",
)
@other_options
@out_option("pretrained")
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

    results = pretrain_each(
        _pretraining(options), _sparsities(sparsities, options), out, make_report()
    )
    print_results(results, lambda r: f"{r.params} params, sparsity {r.sparsity:.4g}", out, as_json)


def _pretraining(options: dict[str, Any]) -> Any:
    """The run that all those of a command have in common."""
    from p2fit_adapters.pretraining import Pretraining
    from p2fit_adapters.text import TextSource
    from p2fit_adapters.training import Training

    text = TextSource(options["text"], **fields_of(TextSource, options))
    return Pretraining(
        options["model"],
        text,
        config={name: _value(text) for name, text in options["config"]},
        training=Training(**fields_of(Training, options)),
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
