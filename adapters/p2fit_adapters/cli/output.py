"""What the commands print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from p2fit.cli.shared import print_json


def make_report() -> Any:
    from p2fit_adapters.progress import Bar, Lines

    return Bar() if sys.stderr.isatty() else Lines()


def print_results(results: Any, describe: Callable[[Any], str], out: str, as_json: bool) -> None:
    def line(result: Any) -> str:
        loss = "no loss" if result.loss is None else f"loss {result.loss:.4f}"
        return f"{result.run}: {result.status}, {describe(result)}, {loss}"

    print_outcomes(results, line, [f"{out}/curves.csv"], as_json)


def print_outcomes(found: Any, line: Callable[[Any], str], files: list[str], as_json: bool) -> None:
    from p2fit_adapters.progress import is_main_process

    if is_main_process():  # of several processes that make a run together
        if as_json:
            print_json([asdict(one) for one in found])
        else:
            click.echo("\n".join([*map(line, found), *files]))
    if any(one.status != "done" for one in found):
        sys.exit(2)
