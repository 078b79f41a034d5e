"""What the benchmarks share: simulated P² curves, timing in turns, tables."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from p2fit import LAWS

HERE = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent

#: The P² law that the simulated curves follow: 0.15 to 0.88 nats above the base model on DESIGN.
TRUTH = {
    "gamma": -1.3,
    "delta": 0.05,
    "N_C": 600.0,
    "alpha": 0.3,
    "D_C": 2700.0,
    "beta": 0.35,
    "E": 2.4,
}
#: Sizes before pruning, and pruning rates.
DESIGN = {"sizes": (0.5e9, 1.5e9, 3e9), "rates": (0.15, 0.25, 0.35)}
#: Noise of each row, as a share of the loss.
NOISE = 0.002

Array = npt.NDArray[np.float64]
Row = tuple[str, ...]


def simulate(
    tokens: Array,
    *,
    sizes: Sequence[float] = DESIGN["sizes"],
    rates: Sequence[float] = DESIGN["rates"],
    repeats: int = 1,
    seed: int = 0,
) -> pl.DataFrame:
    """Loss curves of the P² law with independent noise: one run per size, rate and repeat.

    Returns:
        The columns that p2fit needs, and ``exact``, the loss without noise.
    """
    runs = list(itertools.product(sizes, rates, range(repeats)))
    size, rate, _ = np.repeat(np.array(runs), len(tokens), axis=0).T
    inputs = {
        "params": size,
        "pruning_rate": rate,
        "tokens": np.tile(tokens, len(runs)),
        "base_loss": 2.9 - 0.25 * np.log10(size / 5e8),
    }
    exact = LAWS["p2"].predict(TRUTH, inputs)
    noise = np.random.default_rng(seed).standard_normal(len(exact))
    names = [f"{n / 1e9:g}B-{r:g}-{k:.0f}" for n, r, k in runs]
    return pl.DataFrame(
        {
            "run": np.repeat(names, len(tokens)),
            **inputs,
            "loss": exact * np.exp(NOISE * noise),
            "exact": exact,
        }
    )


# ---------------------------------------------------------------- timing


def medians(actions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each action, run in turns (A B C A B C …) after one round unmeasured.

    Other work on the machine then falls on all of them alike. An action returns its seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 1):
        for name, action in actions.items():
            taken = action()
            if turn:
                seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def timed(action: Callable[[], Any]) -> Callable[[], float]:
    """The action, made to return the seconds that it took."""

    def run() -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    return run


class CommandError(Exception):
    """A command that failed, or was stopped; the message is for a table."""


def output(command: Sequence[str | Path], cap: float | None = None) -> str:
    """Standard output of a command, which is stopped after ``cap`` seconds.

    Raises:
        CommandError: it failed or was stopped.
    """
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the processes it starts are stopped with it
    )
    try:
        out, err = child.communicate(timeout=cap)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise CommandError(f"stopped after {cap:g} s") from None
    if child.returncode:
        print(f"{' '.join(map(str, command))}\n{err}", file=sys.stderr)
        raise CommandError("failed")
    return out


def process(command: Sequence[str | Path], cap: float | None = None) -> tuple[float, float]:
    """Wall seconds and peak memory in MiB of a command, its output thrown away.

    A small process in between starts it: a child's peak includes what its parent held.

    Raises:
        CommandError: it failed or was stopped.
    """
    seconds, peak = output([sys.executable, "-S", HERE / "spawn.py", *command], cap).split()
    return float(seconds), float(peak)


# ---------------------------------------------------------------- tables


def table(header: Row, rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def target(
    what: str, measured: float | None, limit: float, show: Callable[[float], str], most: bool = True
) -> Row:
    """A row of a table of targets; ``most``: the limit is from above."""
    bound = f"{'at most' if most else 'at least'} {show(limit)}"
    if measured is None:
        return what, "not measured", bound, "—"
    met = measured <= limit if most else measured >= limit
    return what, show(measured), bound, "met" if met else "**missed**"


TARGETS = ("target", "measured", "wanted", "")


def times(ratio: float) -> str:
    return f"{ratio:.2f} ×"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def setting(*packages: str) -> str:
    """The versions that a block of tables was measured with."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"Python {python}, " + ", ".join(f"{name} {version(name)}" for name in packages) + "."
