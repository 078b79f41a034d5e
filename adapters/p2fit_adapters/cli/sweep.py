"""``p2fit run sweep``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from p2fit.cli.shared import forms, print_csv, print_json, print_parts
from p2fit_adapters.cli.options import out_option
from p2fit_adapters.cli.output import make_report, print_outcomes


@click.command("sweep")
@click.argument("file", metavar="SWEEP.TOML", type=click.Path(dir_okay=False))
@out_option("runs")
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
@forms
def sweep(
    file: str,
    out: str,
    dry_run: bool,
    index: int | None,
    jobs: int,
    ray: str | None,
    form: str,
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
    if form not in ("text", "json") and not dry_run:
        raise click.UsageError("--format goes with --dry-run, which prints a table")
    from p2fit_adapters.sweep import read_sweep

    found = read_sweep(file, out)
    if dry_run:
        _show_plan(found, jobs, form)
        return
    from p2fit_adapters.workers import run_one, run_sweep

    report = make_report()
    if index is not None:
        outcomes = [run_one(found, index, report)]
    else:
        outcomes = run_sweep(found, jobs=jobs, ray=ray, report=report)
    kinds = dict.fromkeys(job.kind for job in found.jobs)
    print_outcomes(outcomes, _line, [f"{out}/{kind}/curves.csv" for kind in kinds], form == "json")


def _line(outcome: Any) -> str:
    what = outcome.error if outcome.loss is None else f"loss {outcome.loss:.4f}"
    return f"{outcome.label}: {outcome.status}, {what}"


def _show_plan(found: Any, jobs: int, form: str) -> None:
    from p2fit_adapters.estimate import plan, totals
    from p2fit_adapters.progress import duration, short_count

    planned = plan(found, make_report())
    all_of_it = totals(planned, jobs)
    if form == "json":
        print_json({**all_of_it, "sweep": [asdict(one) for one in planned]})
        return
    if form == "csv":
        from p2fit.results import frame_of

        print_csv([frame_of([asdict(one) for one in planned])])
        return
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name in ("", "run", "params", "tokens", "FLOPs", "status", "time"):
        numeric = name in ("", "params", "tokens", "FLOPs", "time")
        # A name may be long; the rest is kept in one line.
        justify: Any = "right" if numeric else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "run")
    for i, one in enumerate(planned):
        counts = (short_count(one.params), short_count(one.tokens), f"{one.flops:.2e}")
        time = duration(one.seconds) if one.seconds else ""
        table.add_row(str(i), one.label, *counts, one.status, time)
    whole = (
        f"{all_of_it['runs']} runs, {all_of_it['left']} to make: {all_of_it['flops']:.3g} FLOPs, "
        f"about {duration(all_of_it['seconds'])} with --jobs {jobs} on this machine"
    )
    print_parts([Group(table, Text(whole))], form, hinted=False)
