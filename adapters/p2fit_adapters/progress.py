"""What a run tells while it goes: nothing, lines, or a bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Outcome:
    """What became of a run of a sweep."""

    label: str
    status: str
    """``done``, ``diverged``, ``failed``, or ``left out`` where what it needs is not there."""
    loss: float | None = None
    error: str | None = None


class Steps(Protocol):
    """What is read of a run that goes on."""

    @property
    def step(self) -> int:
        """Done so far."""

    @property
    def steps(self) -> int:
        """Of the whole run."""

    @property
    def tokens(self) -> int:
        """Seen so far."""

    @property
    def all_tokens(self) -> int:
        """Of the whole run."""


class Report:
    """Says nothing; what a report must be able to do."""

    def say(self, text: str) -> None:
        """What is being done now."""

    def warn(self, text: str) -> None:
        """What the user should know."""

    def row(self, row: dict[str, Any]) -> None:
        """A row that was measured."""

    def outcome(self, outcome: Outcome, done: int, total: int) -> None:
        """A run of a sweep has ended, as the ``done``-th of ``total``."""

    @contextmanager
    def run(self, name: str, trainer: Steps) -> Iterator[Callable[[float], None]]:
        """Around a run; what it yields is called with the training loss of each step."""
        yield lambda _: None


def world_size() -> int:
    """How many a launcher such as torchrun began, to make each run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the first of them, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def on_main_process(report: Report | None) -> Report:
    """The report of the first process; the others say nothing."""
    return report if report is not None and is_main_process() else Report()


class Lines(Report):
    """A line on standard error for each thing, and for each evaluation."""

    def __init__(self) -> None:
        self._speed, self._left = 0.0, 0.0
        self._since = 0.0  # when the step now being done was begun

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def row(self, row: dict[str, Any]) -> None:
        self.say(
            f"{row['run']}: {short_count(row['tokens'])} tokens, loss {row['loss']:.4f}, "
            f"{short_count(self._speed)} tokens/s, {duration(self._left)} left"
        )
        self._since = time.monotonic()

    def outcome(self, outcome: Outcome, done: int, total: int) -> None:
        what = outcome.error if outcome.loss is None else f"loss {outcome.loss:.4f}"
        self.say(f"{done} of {total}: {outcome.label}: {outcome.status}, {what}")

    @contextmanager
    def run(self, name: str, trainer: Steps) -> Iterator[Callable[[float], None]]:
        """Speed is that of training alone; the time left counts evaluations in."""
        first, began, training = trainer.tokens, time.monotonic(), 0.0
        self._since = began

        def step(_: float) -> None:
            nonlocal training
            now = time.monotonic()
            training += now - self._since
            self._since = now
            done = trainer.tokens - first
            self._speed = done / max(1e-9, training)
            self._left = (now - began) / done * (trainer.all_tokens - trainer.tokens)

        yield step


class Bar(Lines):
    """A bar with tokens/s, loss and time left, for a terminal."""

    @contextmanager
    def run(self, name: str, trainer: Steps) -> Iterator[Callable[[float], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        with (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[state]}"),
                console=Console(stderr=True),
                transient=True,
            ) as bar,
            super().run(name, trainer) as inner,
        ):
            task = bar.add_task(name, total=trainer.steps, completed=trainer.step, state="")

            def step(loss: float) -> None:
                inner(loss)
                state = (
                    f"{short_count(trainer.tokens)} tokens, loss {loss:.3f}, "
                    f"{short_count(self._speed)} tokens/s, {duration(self._left)} left"
                )
                bar.update(task, completed=trainer.step, state=state)

            yield step


def short_count(count: float) -> str:
    """``1.5B``."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def duration(seconds: float) -> str:
    """``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
