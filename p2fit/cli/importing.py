"""The command that makes loss curves of other people's logs."""

from __future__ import annotations

from typing import Any

import click

from p2fit.cli.shared import column_option, json_option, print_json, run_by_option, working
from p2fit.cli.values import Count, Output, Share
from p2fit.wording import printable


@click.command("import")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@column_option
@run_by_option
@click.option("--run-from-path", is_flag=True, help="Name runs by their folders or files.")
@click.option(
    "--runs",
    metavar="RUNS.TOML",
    help="What the logs lack, per run: a table [NAME] with params, pruning_rate, base_loss, "
    "method, family, seed, tokens_per_step, loss_unit, bytes_per_token. It comes before the "
    "options below, which hold for all runs.",
)
@click.option("--params", type=Count(), help="Parameters before pruning, e.g. 1.2B.")
@click.option(
    "--tokens-per-step",
    type=Count(),
    help="Tokens of one optimizer step over all devices, e.g. 4M: batch × length × accumulation.",
)
@click.option("--pruning-rate", type=Share(), help="Share of the parameters removed, e.g. 0.25.")
@click.option(
    "--base-loss", type=float, help="Loss of the unpruned model, in the unit of the losses."
)
@click.option("--method", metavar="TEXT", help="How it was pruned, e.g. depth.")
@click.option("--family", metavar="TEXT", help="Model family, e.g. llama-3.")
@click.option("--seed", metavar="TEXT", help="Seed of the run.")
@click.option(
    "--loss-unit",
    type=click.Choice(["nats", "bits", "perplexity", "bits-per-byte"]),
    help="Of the losses in the logs; nats (per token) by default. Others are converted.",
)
@click.option("--bytes-per-token", type=Count(), help="Bytes of text per token, for bits-per-byte.")
@json_option
@click.option(
    "-o",
    "--output",
    type=Output(),
    metavar="CURVES.CSV",
    help="Write the curves to this file, not to standard output.",
)
def import_logs(logs: tuple[str, ...], as_json: bool, output: str | None, **options: Any) -> None:
    """Make loss curves from the logs of training runs.

    LOG is a trainer_state.json of Hugging Face's Trainer, a chart that W&B exported as CSV, W&B's
    history as JSONL, a TensorBoard event file, the console of nanoGPT, modded-nanogpt or
    Megatron-LM, results of lm-evaluation-harness, any other CSV or JSONL, or a folder of runs. The
    curves go to standard output or to -o, and a report of what was taken and what was left out to
    standard error; with --json only the report is printed.

    \b
    Examples:
      p2fit import runs/*/trainer_state.json --run-from-path --runs runs.toml -o curves.csv
      p2fit import run.jsonl --column loss=eval/loss --params 1.2B --tokens-per-step 4M
      p2fit import logs/ --run-from-path --params 70M --tokens-per-step 1M --json
    """
    from p2fit.files import write_text
    from p2fit.logs.importing import import_logs as read_logs

    with working("reading logs") as progress:
        found = read_logs(logs, progress=progress, **options)
    if output is not None:
        write_text(output, found.csv())
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(printable(found.summary()), nl=False, err=True)
    if output is None:
        click.echo(found.csv().encode(), nl=False)
