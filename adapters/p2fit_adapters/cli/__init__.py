"""``p2fit run``: thin wrappers over the functions of this package.

torch is imported when a run starts, not for the help.
"""

from __future__ import annotations

import click

from p2fit_adapters.cli.evaluate import evaluate
from p2fit_adapters.cli.post_train import post_train
from p2fit_adapters.cli.pretrain import pretrain
from p2fit_adapters.cli.sweep import sweep


@click.group()
def run() -> None:
    """Make loss curves from real runs: pre-train, prune, post-train, evaluate.

    \b
    Example:
      p2fit run post-train --help
    """


for _command in (evaluate, post_train, pretrain, sweep):
    run.add_command(_command)
