"""The command line: every command is a thin wrapper over one public function.

A command's module is imported when the command is asked for, so that ``p2fit fit`` starts like a
small tool. A distribution adds commands of its own through the entry points of the group
``p2fit.commands``, as p2fit-adapters does with ``run``.
"""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import click

from p2fit import __version__, extras
from p2fit.wording import printable

_MODULES = {
    "citing": ("cite",),
    "explaining": ("explain",),
    "fitting": ("fit", "check", "laws", "schema"),
    "importing": ("import",),
    "drawing": ("plot", "report"),
    "judging": ("compare", "identify", "profile", "validate"),
    "using": ("plan", "predict", "simulate"),
}
_COMMANDS = {command: module for module, commands in _MODULES.items() for command in commands}
_FUNCTIONS = {"import": "import_logs"}  # what is called otherwise than its command
_ADAPTERS = "run"


class Commands(click.Group):
    """The group of all commands, each imported when it is asked for.

    What the user can mend ends in one clear line on standard error and exit code 2.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal may lack characters: a ? for each
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        from p2fit.errors import CurvesError, FitError, LawError
        from p2fit.files import guarding

        try:
            with guarding():
                return super().invoke(ctx)
        except (CurvesError, FitError, LawError) as error:
            click.echo(printable(str(error)), err=True)
        except UnicodeEncodeError as error:  # from the command line, which holds any bytes
            click.echo(f"{printable(error.object)} is not UTF-8", err=True)
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)
            raise
        except OSError as error:
            if isinstance(error, BrokenPipeError):  # the reader has seen enough
                raise
            click.echo(f"cannot write: {error.strerror or error}", err=True)
        return ctx.exit(2)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*_COMMANDS, _ADAPTERS])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            module = import_module(f"p2fit.cli.{_COMMANDS[name]}")
            found: click.Command = getattr(module, _FUNCTIONS.get(name, name))
            return found
        if name == _ADAPTERS:
            return _adapters()
        return None


def _adapters() -> click.Command:
    from importlib.metadata import entry_points

    for point in entry_points(group="p2fit.commands", name=_ADAPTERS):
        loaded: click.Command = point.load()
        return loaded
    return _missing


@click.command(
    _ADAPTERS,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def _missing(**_: Any) -> None:
    """Make loss curves from real runs: prune, post-train, evaluate (needs p2fit-adapters).

    \b
    Example:
      p2fit run post-train --help
    """
    click.echo(
        f"p2fit run makes curves from real runs and needs torch: {extras.adapters()}",
        err=True,
    )
    sys.exit(2)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="p2fit")
def main() -> None:
    """Fit scaling laws to loss curves, and say what the data can tell.

    \b
    Example:
      p2fit fit curves.csv
    """
