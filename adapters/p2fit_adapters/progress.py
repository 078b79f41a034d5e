"""What a run tells while it goes: nothing, lines, or a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2fit_adapters.training import Trainer


class Quiet:
    """Says nothing; what a report must be able to do."""

    def say(self, text: str) -> None:
        """What is being done now."""

    def warn(self, text: str) -> None:
        """What the user should know."""

    def row(self, row: dict[str, Any]) -> None:
        """A row that was measured."""

    @contextmanager
    def run(self, name: str, trainer: Trainer) -> Iterator[Callable[[float], None]]:
        """Around a run; what it yields is called with the training loss of each step."""
        yield lambda _: None


class Lines(Quiet):
    """A line on standard error for each thing, and for each evaluation."""

    def __init__(self) -> None:
        self._speed = ""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def row(self, row: dict[str, Any]) -> None:
        self.say(f"{row['run']}: {row['tokens']} tokens, loss {row['loss']:.4f}{self._speed}")

    @contextmanager
    def run(self, name: str, trainer: Trainer) -> Iterator[Callable[[float], None]]:
        began, first = time.monotonic(), trainer.tokens

        def step(_: float) -> None:
            speed = (trainer.tokens - first) / max(1e-9, time.monotonic() - began)
            left = (trainer.steps - trainer.step) * trainer.windows * trainer.seq_len / speed
            self._speed = f", {_short(speed)} tokens/s, {_duration(left)} left"

        yield step


class Bar(Lines):
    """A bar with tokens/s, loss and time left, for a terminal."""

    @contextmanager
    def run(self, name: str, trainer: Trainer) -> Iterator[Callable[[float], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
        ) as bar:
            task = bar.add_task(name, total=trainer.steps, completed=trainer.step, state="")
            with super().run(name, trainer) as inner:

                def step(loss: float) -> None:
                    inner(loss)
                    speed = self._speed.split(",")[1].strip()
                    state = f"{_short(trainer.tokens)} tokens, loss {loss:.3f}, {speed}"
                    bar.update(task, completed=trainer.step, state=state)

                yield step


def _short(count: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
