"""How time and memory of `p2fit fit` grow with the number of rows."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from common import (
    NOISE,
    SCRIPTS,
    TARGETS,
    CommandError,
    Row,
    duration,
    process,
    setting,
    simulate,
    table,
    target,
    times,
)
from peers import as_peer

from p2fit import LAWS

COUNTS = (10_000, 100_000, 1_000_000)
ROUNDS = 5
#: 100 runs, the rows shared among them.
SIZES = (0.5e9, 1e9, 1.5e9, 2e9, 3e9)
RATES = (0.15, 0.25, 0.35, 0.5)
REPEATS = 5
#: Seconds that simple-scaling-laws may take for the smallest count.
CAP = 30


def measure() -> str:
    """Wall time and peak memory of the whole process on 1e4 to 1e6 rows."""
    with tempfile.TemporaryDirectory() as name:
        rows, targets = pruned(Path(name))
        dense = beside_peer(Path(name))
    return "\n\n".join(
        [
            table(TARGETS, targets),
            table(("P² law, rows", "time", "time per row", "peak memory"), rows),
            table((f"Chinchilla law, {COUNTS[0]:,} rows", "time", "peak memory"), dense),
            setting("p2fit", "numpy", "polars"),
        ]
    )


def pruned(folder: Path) -> tuple[list[Row], list[Row]]:
    """P² curves of each length, in turns: a row each, and the targets."""
    runs = len(SIZES) * len(RATES) * REPEATS
    for n in COUNTS:
        tokens = np.geomspace(0.01, 1, n // runs) * 1e9
        frame = simulate(tokens, sizes=SIZES, rates=RATES, repeats=REPEATS)
        frame.drop("exact").write_csv(folder / f"{n}.csv")
    seconds: dict[int, list[float]] = {n: [] for n in COUNTS}
    peaks: dict[int, list[float]] = {n: [] for n in COUNTS}
    for turn in range(ROUNDS):
        print(f"  {', '.join(map(str, COUNTS))} rows, round {turn + 1} of {ROUNDS}", flush=True)
        for n in COUNTS:
            taken, peak = process([SCRIPTS / "p2fit", "fit", folder / f"{n}.csv"])
            seconds[n].append(taken)
            peaks[n].append(peak)
    wall = [statistics.median(seconds[n]) for n in COUNTS]
    rows: list[Row] = [
        (f"{n:,}", duration(t), f"{1e6 * t / n:.1f} µs", f"{statistics.median(peaks[n]):.0f} MiB")
        for n, t in zip(COUNTS, wall)
    ]
    targets = [
        target("time of 1e5 rows, of that of 1e4", wall[1] / wall[0], 10, times),
        target("time of 1e6 rows, of that of 1e5", wall[2] / wall[1], 10, times),
    ]
    return rows, targets


def beside_peer(folder: Path) -> list[Row]:
    """The Chinchilla law on the smallest count, each row a run of its own as the peer wants."""
    print(f"  Chinchilla law, {COUNTS[0]} rows", flush=True)
    n = COUNTS[0]
    columns = {
        "params": np.repeat(np.geomspace(1e8, 1e10, 100), n // 100),
        "tokens": np.tile(np.geomspace(1e9, 1e12, n // 100), 100),
    }
    truth = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2100.0, "beta": 0.37}
    noise = np.exp(NOISE * np.random.default_rng(0).standard_normal(n))
    loss = LAWS["chinchilla"].predict(truth, columns) * noise
    frame = pl.DataFrame({"run": [f"r{i}" for i in range(n)], **columns, "loss": loss})
    ours, theirs, out = (folder / name for name in ("ours.csv", "theirs.csv", "out.slaw"))
    frame.write_csv(ours)
    as_peer(frame).write_csv(theirs)
    commands: dict[str, list[str | Path]] = {"`p2fit fit`": [SCRIPTS / "p2fit", "fit", ours]}
    if importlib.util.find_spec("simple_scaling_laws"):
        commands["`scaling-laws fit`, 1 draw"] = [
            SCRIPTS / "scaling-laws", "fit", theirs, "-o", out, "--draws", "1", "--quiet",
        ]  # fmt: skip
    rows: list[Row] = []
    for name, command in commands.items():
        try:
            taken, peak = process(command, CAP)
            rows.append((name, duration(taken), f"{peak:.0f} MiB"))
        except CommandError as error:
            rows.append((name, str(error), "—"))
    return rows
