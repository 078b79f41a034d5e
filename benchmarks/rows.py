"""How time and memory of `p2fit fit` grow with the number of rows."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import SCRIPTS, TARGETS, duration, process, setting, simulate, table, target, times

COUNTS = (10_000, 100_000, 1_000_000)
ROUNDS = 3
#: 100 runs, the rows shared among them.
SIZES = (0.5e9, 1e9, 1.5e9, 2e9, 3e9)
RATES = (0.15, 0.25, 0.35, 0.5)
REPEATS = 5


def measure() -> str:
    """Wall time and peak memory of the whole process on P² curves of 1e4 to 1e6 rows."""
    runs = len(SIZES) * len(RATES) * REPEATS
    seconds: dict[int, list[float]] = {n: [] for n in COUNTS}
    peaks: dict[int, list[float]] = {n: [] for n in COUNTS}
    with tempfile.TemporaryDirectory() as folder:
        for n in COUNTS:
            tokens = np.geomspace(0.01, 1, n // runs) * 1e9
            frame = simulate(tokens, sizes=SIZES, rates=RATES, repeats=REPEATS)
            frame.drop("exact").write_csv(Path(folder) / f"{n}.csv")
        for turn in range(ROUNDS):
            print(f"  {', '.join(map(str, COUNTS))} rows, round {turn + 1} of {ROUNDS}", flush=True)
            for n in COUNTS:
                taken, peak = process(SCRIPTS / "p2fit", "fit", Path(folder) / f"{n}.csv")
                seconds[n].append(taken)
                peaks[n].append(peak)
    wall = [statistics.median(seconds[n]) for n in COUNTS]
    rows = [
        (f"{n:,}", duration(t), f"{1e6 * t / n:.1f} µs", f"{statistics.median(peaks[n]):.0f} MiB")
        for n, t in zip(COUNTS, wall)
    ]
    targets = [
        target("ten times the rows, 1e4 to 1e5, of the time", wall[1] / wall[0], 10, times),
        target("ten times the rows, 1e5 to 1e6, of the time", wall[2] / wall[1], 10, times),
    ]
    return "\n\n".join(
        [
            table(TARGETS, targets),
            table(("rows", "time", "time per row", "peak memory"), rows),
            setting("p2fit", "numpy", "polars"),
        ]
    )
