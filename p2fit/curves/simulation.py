"""Loss curves from known parameters: to try a design before paying for it.

>>> truth = {"E": 1.8, "A": 480, "alpha": 0.35, "B": 2100, "beta": 0.37}
>>> design = {"params": [1e8, 1e9], "tokens": [1e10, 1e11]}
>>> simulate("chinchilla", truth, design)["loss"].round(4).to_list()
[2.9798, 2.3186]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from p2fit.arrays import Array
from p2fit.curves.choosing import Source, read, required_columns
from p2fit.curves.points import points_table
from p2fit.curves.reading import from_frame
from p2fit.errors import FitError, LawError
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS, get_law
from p2fit.wording import join


def simulate(
    law: str | Law,
    parameters: Mapping[str, float],
    design: Source,
    *,
    noise: float = 0.0,
    correlation: float = 0.0,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Loss curves that follow a law, with noise that is correlated along each run.

    The noise of log loss is normal, independent between runs; along a run it is a stationary
    autoregression of first order over the rows: rows k apart are correlated correlation^k.

    Args:
        law: a name from :data:`LAWS`, a formula, or a :class:`Law`.
        parameters: a value for every parameter.
        design: the law's inputs: a CSV file, a table, or values by name (scalars, or arrays of
            one shape). Rows of one ``run`` are one run; without that column, rows that differ in
            nothing but ``tokens``.
        noise: standard deviation of the log of the loss, 0.002 for 0.2 %.
        correlation: between neighbouring rows of a run, in [0, 1]; 1 is one offset per run.
        seed: of the noise.
        columns: column -> its name in the design, or an expression, as in
            :class:`Options`.

    Returns:
        The design with ``run`` and ``loss``, by run, then tokens: loss curves that p2fit reads.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the design, the law, the parameters.
    """
    if not (0 <= noise < math.inf and 0 <= correlation <= 1 and seed >= 0):
        raise FitError("noise and seed are from 0 up, a correlation is in [0, 1]")
    chosen = _law(law, parameters, design, columns)
    if "loss" in chosen.inputs:
        raise LawError("a law predicts the loss: it cannot be an input")
    unknown = [n for n in parameters if n not in chosen.parameters]
    missing = tuple(n for n in chosen.parameters if n not in parameters)
    if unknown or missing:
        which = f"{join(missing)} not given" if missing else f"{unknown[0]} is none"
        have = ", ".join(chosen.parameters)
        raise FitError(f"the parameters of {chosen.name} are {have}: {which}")
    inputs = [c for c in required_columns(chosen) if c not in ("run", "loss")]
    frame = points_table(design, inputs, columns)
    frame = frame.drop("loss", strict=False)
    if "run" not in frame.columns:
        frame = frame.with_columns(run=pl.Series(_runs(frame)))
    order = ["run", "tokens"] if "tokens" in frame.columns else ["run"]
    frame = frame.select("run", pl.exclude("run")).sort(order, maintain_order=True)
    loss = chosen.predict(parameters, {x: frame[x].to_numpy() for x in chosen.inputs})
    wrong = np.flatnonzero(~(np.isfinite(loss) & (loss > 0)))
    if len(wrong):
        row = frame.row(int(wrong[0]), named=True)
        at = ", ".join(f"{x} = {row[x]:g}" for x in chosen.inputs)
        raise FitError(f"the law has no finite loss above 0 at {at}")
    runs = frame["run"].to_list()
    loss = loss * np.exp(noise * correlated(runs, correlation, np.random.default_rng(seed)))
    curves = from_frame(frame.with_columns(loss=pl.Series(loss)), needs=required_columns(chosen))
    return curves.frame


def correlated(runs: Sequence[str], correlation: float, rng: np.random.Generator) -> Array:
    """Standard normal noise, one per row, autoregressive along the rows of each run."""
    fresh = rng.standard_normal(len(runs))
    rest = math.sqrt(1 - correlation**2)
    found = fresh.copy()
    for i in range(1, len(runs)):
        if runs[i] == runs[i - 1]:
            found[i] = correlation * found[i - 1] + rest * fresh[i]
    return found


def _law(
    law: str | Law,
    parameters: Mapping[str, float],
    design: Source,
    columns: Mapping[str, str] | None,
) -> Law:
    """The law; of a formula's names those are columns that the design has."""
    if isinstance(law, Law) or law in LAWS:
        return get_law(law)
    names = (
        list(design)
        if isinstance(design, Mapping)
        else read(design, columns, needs=()).frame.columns
    )
    return get_law(law, [c for c in names if c not in parameters])


def _runs(frame: pl.DataFrame) -> list[str]:
    """Names of runs: rows that differ in tokens alone share one."""
    own = frame.drop("tokens", strict=False)
    keys = own.rows() if own.columns else [()] * frame.height
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    width = len(str(len(number) - 1))
    return [f"run-{number[key]:0{width}d}" for key in keys]
