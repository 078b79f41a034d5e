"""The Chinchilla law on real data: p2fit beside the tools that pip can install, and SciPy."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import (
    SCRIPTS,
    TARGETS,
    Array,
    CommandError,
    Row,
    duration,
    medians,
    output,
    percent,
    process,
    setting,
    simulate,
    table,
    target,
    timed,
    times,
)
from scipy.optimize import minimize

import p2fit

CSV = Path(__file__).parents[1] / "examples" / "chinchilla" / "chinchilla.csv"
#: Global minimum of the objective on the kept rows, and how far rounding moves it: the file has
#: 8 digits, which is worth 1.6e-7 of it (standard deviation over random last digits).
CERTIFIED, ROUNDING = 1.0182740178e-3, 1e-6
DELTA = 1e-3
ROUNDS = 15
#: Seconds that the chinchilla package may take, and the starts it is given.
CAP = 90
GRID = {
    "e": (-1.0, 0.0, 1.0),
    "a": (5.0, 10.0, 15.0),
    "b": (5.0, 10.0, 15.0),
    "alpha": (0.0, 0.5, 1.0),
    "beta": (0.0, 0.5, 1.0),
}
TARGET_COLUMN = "test_loss__cross_entropy"
FLOOR = "import numpy, polars, click"


def measure() -> str:
    """Time and objective of every tool, in process and as a command."""
    data = pl.read_csv(CSV).filter(pl.col("kept") == 1)
    peer = importlib.util.find_spec("simple_scaling_laws") is not None
    fits, fit_targets = in_process(data, peer)
    commands, command_targets = whole_process(data, peer)
    packages = ["p2fit", *(["simple-scaling-laws"] if peer else []), "chinchilla", "scipy", "numpy"]
    return "\n\n".join(
        [
            table(TARGETS, fit_targets + command_targets),
            table(("in process", "starts", "time", "Huber objective", "squares"), fits),
            table(("whole process", "time"), commands),
            setting(*packages),
        ]
    )


# ---------------------------------------------------------------- in process


def in_process(data: pl.DataFrame, peer: bool) -> tuple[list[Row], list[Row]]:
    """One fit by each tool: a row each, and the targets."""
    pruned = simulate(np.linspace(0.05, 1, 20) * 1e9)
    actions: dict[str, Callable[[], Any]] = {
        "p2fit": lambda: p2fit.fit(data, "chinchilla"),
        "squared": lambda: p2fit.fit(data, "chinchilla", loss="squared", residual="linear"),
        "p2": lambda: p2fit.fit(pruned, "p2"),
    }
    if peer:
        import simple_scaling_laws

        theirs = as_peer(data)
        actions["peer"] = lambda: simple_scaling_laws.fit(theirs, n_draws=1)
    print("  fits in process", flush=True)
    seconds = medians({name: timed(action) for name, action in actions.items()}, ROUNDS)

    rows: list[Row] = []
    for name, title in (("p2fit", "p2fit"), ("squared", "p2fit, squared error in nats")):
        fit = actions[name]()
        values = {n: p.estimate for n, p in fit.parameters.items()}
        rows.append(
            (title, str(fit.starts["tried"]), duration(seconds[name]), *scores(data, values))
        )
    if peer:
        values = raw_parameters(actions["peer"]())
        rows.append(
            ("simple-scaling-laws, 1 draw", "—", duration(seconds["peer"]), *scores(data, values))
        )
    else:
        rows.append(("simple-scaling-laws", "not run: needs Python 3.12 or newer", "", "", ""))
    rows.append(("p2fit, P² law on 180 rows", "—", duration(seconds["p2"]), "—", "—"))
    print("  chinchilla (the package)", flush=True)
    rows.append(chinchilla_row(data))
    print("  SciPy's L-BFGS from 4 500 starts", flush=True)
    row, lowest = lbfgs(data)
    rows.append(row)

    ratio = seconds["p2fit"] / seconds["peer"] if peer else None
    reached = actions["p2fit"]().objective
    digits = "{:.1e}".format
    targets = [
        target("Chinchilla fit, of simple-scaling-laws' time", ratio, 1 / 5, times),
        target("objective above the certified optimum", reached / CERTIFIED - 1, ROUNDING, digits),
        target("objective above the best of 4 500 × L-BFGS", reached / lowest - 1, 1e-9, digits),
        target("P² on 180 rows, of the Chinchilla fit's time", seconds["p2"] / seconds["p2fit"], 4,
               times),
    ]  # fmt: skip
    return rows, targets


def residuals(data: pl.DataFrame, values: dict[str, float]) -> tuple[Array, Array]:
    """Fitted minus observed, of the log of the loss and of the loss."""
    n, d, y = (data[c].to_numpy() for c in ("params", "tokens", "loss"))
    fitted = values["E"] + values["A"] / n ** values["alpha"] + values["B"] / d ** values["beta"]
    return np.log(fitted / y), fitted - y


def scores(data: pl.DataFrame, values: dict[str, float]) -> tuple[str, str]:
    """The Huber objective, and the sum of squares in nats², of given parameters."""
    log, linear = residuals(data, values)
    huber = np.where(np.abs(log) < DELTA, 0.5 * log**2, DELTA * (np.abs(log) - DELTA / 2)).sum()
    return f"{huber:.10e}", f"{linear @ linear:.6f}"


def as_peer(data: pl.DataFrame) -> pl.DataFrame:
    """The same rows with the columns that simple-scaling-laws asks for."""
    return data.select(
        training_run_id="run",
        train_set_id="run",
        test_set_id=pl.lit("test"),
        optimizer_seed=pl.lit(0),
        model_size__n_params="params",
        dataset_size__n_subjects="tokens",
        **{TARGET_COLUMN: "loss"},
    )


def raw_parameters(model: Any) -> dict[str, float]:
    """The parameters of simple-scaling-laws in absolute counts: it fits x / reference."""
    values = dict(model.params(TARGET_COLUMN))
    predictors = model.manifest["predictors"]
    values["A"] *= predictors["model_size__n_params"]["reference"] ** values["alpha"]
    values["B"] *= predictors["dataset_size__n_subjects"]["reference"] ** values["beta"]
    return values


def lbfgs(data: pl.DataFrame) -> tuple[Row, float]:
    """Hoffmann et al.'s recipe, L-BFGS from each of 4 500 starts: a row, and the lowest value."""
    log_n, log_d, log_y = (np.log(data[c].to_numpy()) for c in ("params", "tokens", "loss"))

    def objective(x: Array) -> tuple[float, Array]:
        e, a, b, alpha, beta = x
        terms = np.stack([np.full_like(log_y, e), a - alpha * log_n, b - beta * log_d])
        top = terms.max(axis=0)
        share = np.exp(terms - top)
        total = share.sum(axis=0)
        r = top + np.log(total) - log_y
        size = np.abs(r)
        value = np.where(size < DELTA, 0.5 * r**2, DELTA * (size - DELTA / 2)).sum()
        e_, a_, b_ = share / total * np.clip(r, -DELTA, DELTA)
        return value, np.array([e_.sum(), a_.sum(), b_.sum(), -(a_ @ log_n), -(b_ @ log_d)])

    powers, level, scale = np.linspace(0, 2, 5), np.linspace(-1, 1, 5), np.linspace(0, 25, 6)
    grid = itertools.product(level, scale, scale, powers, powers)
    start = time.perf_counter()
    ends = [minimize(objective, x, jac=True, method="L-BFGS-B") for x in grid]
    seconds = time.perf_counter() - start
    found = np.array([end.fun for end in ends])
    e, a, b, alpha, beta = ends[int(found.argmin())].x
    values = {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta}
    near = float(np.mean(found < CERTIFIED * 1.001))
    starts = f"4500, of which {percent(near)} end within 0.1 % of the optimum"
    row = ("SciPy's L-BFGS, exact gradient", starts, duration(seconds), *scores(data, values))
    return row, float(found.min())


def chinchilla_row(data: pl.DataFrame) -> Row:
    """The chinchilla package on a small grid, stopped when it takes too long."""
    starts = str(len(list(itertools.product(*GRID.values()))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        data.write_csv(path)
        try:
            found = json.loads(output([sys.executable, __file__, path, folder], CAP))
        except CommandError as error:
            return ("chinchilla, all cores", starts, str(error), "—", "—")
    seconds, values = found["seconds"], found["parameters"]
    return ("chinchilla, all cores", starts, duration(seconds), *scores(data, values))


def run_chinchilla(path: str, folder: str) -> None:
    """Fit by the chinchilla package and print its time and parameters as JSON."""
    import logging
    import multiprocessing

    os.environ["MPLBACKEND"] = "Agg"
    multiprocessing.set_start_method("fork")  # its pool runs a function that cannot be pickled
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    peer = Chinchilla(
        folder, GRID, loss_fn=partial(log_huber, delta=DELTA), log_level=logging.ERROR
    )
    for n, d, loss in pl.read_csv(path).select("params", "tokens", "loss").iter_rows():
        peer.append(N=n, D=d, loss=loss)
    seconds = timed(peer.fit)()
    print(json.dumps({"seconds": seconds, "parameters": peer.get_params()}))


# ---------------------------------------------------------------- whole process


def whole_process(data: pl.DataFrame, peer: bool) -> tuple[list[Row], list[Row]]:
    """The commands, from start to exit: a row each, and the targets."""
    print("  whole processes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, out = (Path(folder) / n for n in ("chinchilla.csv", "in.csv", "out.slaw"))
        data.write_csv(ours)
        as_peer(data).write_csv(theirs)
        commands: dict[str, list[str | Path]] = {
            "p2fit fit chinchilla.csv": [SCRIPTS / "p2fit", "fit", ours],
            f"python -c '{FLOOR}'": [sys.executable, "-c", FLOOR],
        }
        if peer:
            commands["scaling-laws fit in.csv -o out.slaw --draws 1 --quiet"] = [
                SCRIPTS / "scaling-laws", "fit", theirs, "-o", out, "--draws", "1", "--quiet",
            ]  # fmt: skip
        seconds = medians(
            {name: partial(_seconds, command) for name, command in commands.items()}, ROUNDS
        )
    own, floor, *rest = seconds.values()
    ratio = own / rest[0] if peer else None
    targets = [
        target("`p2fit fit`, of `scaling-laws fit`", ratio, 1 / 3, times),
        target("`p2fit fit`, of importing numpy, polars and click", own / floor, 1.5, times),
    ]
    return [(f"`{name}`", duration(taken)) for name, taken in seconds.items()], targets


def _seconds(command: list[str | Path]) -> float:
    return process(command)[0]


if __name__ == "__main__":
    run_chinchilla(*sys.argv[1:])
