"""Laws that are not sums of monomials: the general path beside the fast one, and beside JAX."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from bootstrap import beside_jax
from common import (
    SCRIPTS,
    TARGETS,
    Row,
    duration,
    medians,
    process,
    setting,
    table,
    target,
    timed,
    times,
)
from peers import CSV

import p2fit
from p2fit.solver import search
from p2fit.solver.build import build

#: The Chinchilla law, written so that no monomial can be seen in it.
HIDDEN = "E + A*exp(-alpha*log(params)) + B*exp(-beta*log(tokens))"
#: Laws of the general path, and the time of their fit before the search took on special cases and
#: squared loss, of the fast path's (commit a696925, processor time, this same table's rows).
BEFORE = {HIDDEN: 2.42, "skaling": 9.68, "shifted": 3.69, "kaplan-joint": 3.19,
          "bounded-rational": 19.75}  # fmt: skip
#: Most that a command may take, in seconds.
COLD = 4.0
ROUNDS, COMMAND_ROUNDS = 15, 5


def measure() -> str:
    """Agreement and time of both paths on the Chinchilla rows, and where JAX overtakes."""
    data = pl.read_csv(CSV).filter(pl.col("kept") == 1)
    rows, targets = in_process(data)
    laws, slower = since(data)
    commands, cold = whole_process(data)
    parts = [
        table(TARGETS, [*targets, slower, cold]),
        table(("in process", "starts", "time", "of the fast path's", "objective"), rows),
        table(("law", "processor time", "of the fast path's", "was", "of that"), laws),
        table(("whole process", "time"), commands),
    ]
    packages = ["p2fit", "numpy"]
    if importlib.util.find_spec("jax") is not None:
        parts.append(beside_jax(HIDDEN))
        packages.append("jax")
    return "\n\n".join([*parts, setting(*packages)])


def in_process(data: pl.DataFrame) -> tuple[list[Row], list[Row]]:
    """Both paths in turns, the whole fit and its solver alone: a row each, and the targets."""
    columns = {x: data[x].to_numpy() for x in ("params", "tokens")}
    y = data["loss"].to_numpy()
    ones = np.ones(len(y))
    laws = {"monomials": p2fit.LAWS["chinchilla"], "general": p2fit.get_law(HIDDEN)}
    print("  both paths in process", flush=True)
    actions = {
        **{f"fit, {n}": timed(partial(p2fit.fit, data, law)) for n, law in laws.items()},
        **{
            f"solver alone, {n}": timed(lambda law=law: search.solve(  # type: ignore[misc]
                build(law, columns, y, ones)))
            for n, law in laws.items()
        },
    }  # fmt: skip
    seconds = medians(actions, ROUNDS)
    fits = {n: p2fit.fit(data, law) for n, law in laws.items()}
    squares = {n: p2fit.fit(data, law, loss="squared") for n, law in laws.items()}
    rows: list[Row] = []
    for name, taken in seconds.items():
        what, path = name.split(", ")
        fit = fits[path]
        rows.append(
            (
                name,
                str(fit.starts["tried"]),
                duration(taken),
                times(taken / seconds[f"{what}, monomials"]),
                f"{fit.objective:.10e}",
            )
        )
    apart = max(
        abs(found["general"].objective / found["monomials"].objective - 1)
        for found in (fits, squares)
    )
    ratio = seconds["fit, general"] / seconds["fit, monomials"]
    return rows, [
        target("objectives apart, of both losses the most", apart, 1e-8, "{:.1e}".format),
        target("warm fit, of the fast path's time", ratio, 5, times),
    ]


def since(data: pl.DataFrame) -> tuple[list[Row], Row]:
    """The time of each law's fit beside what it was: a row each, and the target."""
    print("  laws of the general path", flush=True)

    def used(law: str) -> float:
        start = time.process_time()
        p2fit.fit(data, law)
        return time.process_time() - start

    laws = ("chinchilla", *BEFORE)
    fast, *seconds = medians({law: partial(used, law) for law in laws}, ROUNDS).values()
    shares = [s / fast / was for s, was in zip(seconds, BEFORE.values())]
    rows: list[Row] = [
        (f"`{law}`", duration(s), times(s / fast), times(was), times(share))
        for (law, was), s, share in zip(BEFORE.items(), seconds, shares)
    ]
    return rows, target("a law's fit, of what it was, the most", max(shares), 1.5, times)


def whole_process(data: pl.DataFrame) -> tuple[list[Row], Row]:
    """The command on either path, from start to exit: a row each, and the target."""
    print("  commands", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chinchilla.csv"
        data.write_csv(file)
        laws = ("chinchilla", HIDDEN)
        command = {law: [SCRIPTS / "p2fit", "fit", file, "--law", law] for law in laws}
        seconds = medians(
            {law: partial(_seconds, words) for law, words in command.items()}, COMMAND_ROUNDS
        )
    rows = [
        (f'`p2fit fit chinchilla.csv --law "{law}"`', duration(s)) for law, s in seconds.items()
    ]
    return rows, target("`p2fit fit` with the general path", seconds[HIDDEN], COLD, duration)


def _seconds(command: list[str | Path]) -> float:
    return process(command)[0]
