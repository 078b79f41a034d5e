"""Refits on resamples of real data: p2fit beside its peer and SciPy's BFGS, by NumPy and by JAX."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from common import (
    SCRIPTS,
    TARGETS,
    Array,
    Row,
    duration,
    medians,
    output,
    process,
    setting,
    table,
    target,
    timed,
    times,
)
from intervals import SUM
from peers import CSV, DELTA, as_peer
from scipy.optimize import minimize

import p2fit
from p2fit import extras
from p2fit.curves.choosing import datasets
from p2fit.solver import refits
from p2fit.solver.compiled import refitting
from p2fit.solver.refits import Refits
from p2fit.solver.solving import Solved, solve_dataset
from p2fit.uncertainty.bootstrap import bootstrap, draw_weights

#: Resamples of the command and of p2fit in process; BFGS takes its time for so few of them.
DRAWS, FEW = 4000, 40
#: Turns of the commands, of the refits in process, and of those beside JAX.
COMMAND_ROUNDS, ROUNDS, JAX_ROUNDS = 5, 5, 3
#: Where the replication's notebook starts: log A, log B, log E, α and β of Hoffmann et al.
HOFFMANN = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])
#: Rows by resamples at which NumPy and JAX are compared.
SHAPES = ((240, 400), (240, 4000), (2400, 400), (24000, 40))

Indices = npt.NDArray[np.int64]


def measure() -> str:
    """The command beside its peer, the refits beside BFGS, NumPy beside JAX."""
    data = pl.read_csv(CSV).filter(pl.col("kept") == 1)
    peer = importlib.util.find_spec("simple_scaling_laws") is not None
    commands, command_target = whole_process(data, peer)
    refits, refit_targets = in_process(data)
    parts = [
        table(TARGETS, [command_target, *refit_targets]),
        table(("whole process", "time"), commands),
        table(("refits in process", "time of one resample", "of p2fit's", "objective above p2fit's",
               "p2fit worse"), refits),
    ]  # fmt: skip
    packages = ["p2fit", *(["simple-scaling-laws"] if peer else []), "scipy", "autograd", "numpy"]
    if importlib.util.find_spec("jax") is not None:
        parts.append(beside_jax())
        packages.append("jax")
    return "\n\n".join([*parts, setting(*packages)])


# ---------------------------------------------------------------- whole process


def whole_process(data: pl.DataFrame, peer: bool) -> tuple[list[Row], Row]:
    """The commands with all draws, from start to exit: a row each, and the target."""
    print(f"  commands with {DRAWS} draws", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, out = (Path(folder) / n for n in ("chinchilla.csv", "in.csv", "out.slaw"))
        data.write_csv(ours)
        as_peer(data).write_csv(theirs)
        commands: dict[str, list[str | Path]] = {
            f"p2fit fit chinchilla.csv --bootstrap {DRAWS}": [
                SCRIPTS / "p2fit", "fit", ours, "--bootstrap", str(DRAWS),
            ]
        }  # fmt: skip
        if peer:
            commands[f"scaling-laws fit in.csv -o out.slaw --draws {DRAWS} --quiet"] = [
                SCRIPTS / "scaling-laws", "fit", theirs, "-o", out, "--draws", str(DRAWS),
                "--quiet",
            ]  # fmt: skip
        actions = {name: partial(_seconds, command) for name, command in commands.items()}
        seconds = medians(actions, COMMAND_ROUNDS)
    own, *rest = seconds.values()
    title = "`p2fit fit --bootstrap 4000`, of `scaling-laws fit` with 4 000 draws"
    judged = target(title, own / rest[0] if rest else None, 1 / 4, times)
    return [(f"`{name}`", duration(taken)) for name, taken in seconds.items()], judged


def _seconds(command: list[str | Path]) -> float:
    return process(command)[0]


# ---------------------------------------------------------------- in process


def in_process(data: pl.DataFrame) -> tuple[list[Row], list[Row]]:
    """p2fit and BFGS on the same resamples: a row each, and the targets."""
    import autograd.numpy as anp
    from autograd import grad

    print("  refits in process", flush=True)
    solved = solve_dataset(datasets(data, "chinchilla")[0])
    frame = solved.frame
    size, tokens, loss = (frame[c].to_numpy() for c in ("params", "tokens", "loss"))
    optimum = _as_theirs(solved, solved.solution.z[None])[0]
    weights = _weights(solved, range(FEW))
    drawn = [np.repeat(np.arange(len(loss)), w.astype(int)) for w in weights]

    # The replication's objective, with autograd's numpy and gradient as in its notebook.
    automatic = partial(objective, anp)
    variants: dict[str, Callable[[Indices], Array]] = {}

    def bfgs(start: Array, kind: str, index: Indices) -> Array:
        rows = size[index], tokens[index], loss[index]
        function, slope = {
            "automatic": (automatic, grad(automatic)),
            "numerical": (partial(objective, np), None),
            "exact": (partial(objective, np), gradient),
        }[kind]
        found: Array = minimize(function, start, args=rows, jac=slope, method="BFGS").x
        return found

    for kind in ("automatic", "numerical", "exact"):
        for origin, start in (("Hoffmann et al.'s", HOFFMANN), ("the optimum", optimum)):
            variants[f"BFGS, {kind} gradient, from {origin}"] = partial(bfgs, start, kind)

    ends: dict[str, Array] = {}

    def refit(name: str) -> None:
        ends[name] = np.array([variants[name](index) for index in drawn])

    whole = partial(_draws, solved, DRAWS)
    actions = {"p2fit": timed(whole), **{n: timed(partial(refit, n)) for n in variants}}
    seconds = medians(actions, ROUNDS)
    each = seconds["p2fit"] / DRAWS
    ours = _as_theirs(solved, whole().z[:FEW])
    rows: list[Row] = [("p2fit, batches of NumPy", _micro(each), "1.00 ×", "—", "—")]
    values = _objectives(ours, drawn, size, tokens, loss)
    worst, slowest = -np.inf, {}
    for name in variants:
        taken = seconds[name] / FEW
        excess = _objectives(ends[name], drawn, size, tokens, loss) / values - 1
        worst = max(worst, float(-excess.min()))
        slowest[name] = taken / each
        above = f"median {np.median(excess):.0e}, most {excess.max():.0e}"
        worse = f"{int((excess < -1e-9).sum())} of {FEW}"
        rows.append((name, _micro(taken), f"{taken / each:.0f} ×", above, worse))
    digits = "{:.0e}".format
    judged = [
        target(f"{name}, of p2fit's time", slowest[name], 50, "{:.0f} ×".format, most=False)
        for name in variants
        if "exact" not in name  # the replication has no formula for the gradient
    ]
    lowest = target("p2fit's objective above the lowest of any BFGS", worst, 1e-9, digits)
    return rows, [*judged, lowest]


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs"


def _weights(solved: Solved, numbers: Iterable[int]) -> Array:
    """How often each row is drawn, shape (draws, n): p2fit's own resamples."""
    groups = int(solved.clusters[-1]) + 1
    drawn = np.stack([draw_weights(0, int(b), groups, "runs") for b in numbers])
    spread: Array = drawn[:, solved.clusters]
    return spread


def _draws(solved: Solved, count: int) -> Any:
    return bootstrap(
        solved.problem, solved.solution.z, solved.clusters, count, resample="runs", seed=0
    )


def _as_theirs(solved: Solved, z: Array) -> Array:
    """The parameters in the replication's order and form: log A, log B, log E, α, β."""
    found = solved.problem.natural(z)
    logs = [np.log(found[n]) for n in ("A", "B", "E")]
    return np.stack([*logs, found["alpha"], found["beta"]], axis=1)


def objective(xp: Any, x: Any, size: Array, tokens: Array, loss: Array) -> Any:
    """The replication's: Huber's function of the log residuals, summed; xp is a numpy."""
    a, b, e, alpha, beta = x
    fitted = xp.log(
        xp.exp(a - alpha * xp.log(size)) + xp.exp(b - beta * xp.log(tokens)) + xp.exp(e)
    )
    r = xp.log(loss) - fitted
    far = DELTA * (xp.abs(r) - 0.5 * DELTA)
    return xp.sum(xp.where(xp.abs(r) <= DELTA, 0.5 * r**2, far))


def gradient(x: Array, size: Array, tokens: Array, loss: Array) -> Array:
    """The gradient of that objective, by formula."""
    a, b, e, alpha, beta = x
    log_n, log_d = np.log(size), np.log(tokens)
    terms = np.exp([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    total = terms.sum(axis=0)
    a_, b_, e_ = terms / total * np.clip(np.log(total / loss), -DELTA, DELTA)
    return np.array([a_.sum(), b_.sum(), e_.sum(), -(a_ @ log_n), -(b_ @ log_d)])


def _objectives(x: Array, drawn: list[Indices], size: Array, tokens: Array, loss: Array) -> Array:
    return np.array(
        [objective(np, p, size[i], tokens[i], loss[i]) for p, i in zip(x, drawn, strict=True)]
    )


# ---------------------------------------------------------------- NumPy or JAX


def beside_jax(law: str = "chinchilla") -> str:
    """The same refits by p2fit's two engines, for several rows by resamples."""
    from jax.experimental.compilation_cache import compilation_cache

    rows: list[Row] = []
    imports = {
        module: timed(partial(output, [sys.executable, "-c", f"import {module}"]))
        for module in ("numpy", "jax")
    }
    loading = medians(imports, COMMAND_ROUNDS)
    importing = loading["jax"] - loading["numpy"]
    for n, count in SHAPES:
        print(f"  NumPy and JAX, {n} rows, {count} resamples", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            extras.jax().config.update("jax_compilation_cache_dir", folder)
            compilation_cache.reset_cache()
            rows.append(_engines(solve_dataset(datasets(simulated(n), law)[0]), count, importing))
    header = ("rows × resamples", "NumPy, one core", "JAX, all cores", "JAX, of NumPy's",
              "of its processor time", "importing JAX", "compiling", "compiled before",
              "earned back from", "objectives apart",
              )  # fmt: skip
    return table(header, rows)


def _engines(solved: Solved, count: int, importing: float) -> Row:
    problem, value, used = solved.problem, {}, {}
    size = max(1, refits._COMPILED // len(problem.y))
    new, again = (timed(partial(refitting, problem, size))() for _ in range(2))

    def refit(engine: str, many: Refits) -> None:
        refits.PAYS = 0.0 if engine == "jax" else np.inf
        start = time.process_time()
        value[engine] = many(
            count,
            lambda numbers: {"weights": _weights(solved, numbers)},
            damping=0.02,
        ).value
        used.setdefault(engine, []).append(time.process_time() - start)

    actions = {}
    for engine in ("numpy", "jax"):
        many = Refits(problem, solved.solution.z)
        refit(engine, many)  # compiles
        actions[engine] = timed(partial(refit, engine, many))
        used[engine].clear()
    seconds = medians(actions, JAX_ROUNDS)
    processor = {engine: float(np.median(taken)) for engine, taken in used.items()}
    saved = (seconds["numpy"] - seconds["jax"]) / count
    apart = np.abs(value["jax"] / value["numpy"] - 1).max()
    return (
        f"{len(problem.y):,} × {count:,}",
        duration(seconds["numpy"]),
        duration(seconds["jax"]),
        times(seconds["jax"] / seconds["numpy"]),
        times(processor["jax"] / processor["numpy"]),
        duration(importing),
        duration(new),
        duration(again),
        f"{(importing + new) / saved:,.0f} resamples" if saved > 0 else "never",
        f"{apart:.0e}",
    )


def simulated(n: int) -> pl.DataFrame:
    """Chinchilla curves of one row a run, with 1 % noise."""
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(np.log(4e7), np.log(1e10), n))
    tokens = np.exp(rng.uniform(np.log(1e9), np.log(1e12), n))
    exact = p2fit.LAWS["chinchilla"].predict(SUM, {"params": size, "tokens": tokens})
    loss = exact * np.exp(0.01 * rng.standard_normal(n))
    names = [f"r{i}" for i in range(n)]
    return pl.DataFrame({"run": names, "params": size, "tokens": tokens, "loss": loss})
