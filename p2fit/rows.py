"""Which rows go into a fit: read the curves, settle on a law, leave out, split, all in the open."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from p2fit.curves import REQUIRED, Curves, from_frame, read_curves
from p2fit.identify import join
from p2fit.laws import LAWS, Law, get_law

Source = Curves | str | Path | BinaryIO | pl.DataFrame | Mapping[str, Any]

#: Columns that a law of post-training after pruning never pools silently.
GROUPS = ("family", "method")


class FitError(ValueError):
    """A fit that cannot be done; the message says what to change."""


def available(columns: Collection[str]) -> set[str]:
    """Columns that a law may use: those of the file, and what follows from them."""
    derived = {"avg_params"} if "active_params" in columns else set()
    return set(columns) | derived


def choose_law(columns: Collection[str]) -> tuple[Law, str]:
    """The law that a file's columns call for, and why.

    Raises:
        FitError: no law fits these columns.
    """
    if {"pruning_rate", "base_loss"} <= set(columns):
        name, why = "p2", "the file has pruning_rate and base_loss"
    elif "avg_params" in available(columns):
        has = "avg_params" if "avg_params" in columns else "active_params"
        name, why = "average-params", f"the file has {has}"
    elif "pruning_rate" in columns:
        name, why = "chinchilla-pruned", "the file has pruning_rate, but no base_loss for p2"
    else:
        name, why = "chinchilla", "the file has neither pruning_rate nor avg_params"
    law = LAWS[name]
    if not set(needs(law)) <= available(columns):
        raise FitError(_lacks(law, columns))
    return law, why


def needs(law: Law) -> tuple[str, ...]:
    """Columns that a file must have for a law: a user's own needs what its formula names."""
    base = REQUIRED if law.name in LAWS else ("run", "loss")
    return tuple(dict.fromkeys((*base, *law.inputs)))


def servable(columns: Collection[str]) -> list[str]:
    """Names of the laws whose columns are all there."""
    return [name for name, law in LAWS.items() if set(needs(law)) <= available(columns)]


def _lacks(law: Law, columns: Collection[str]) -> str:
    missing = [n for n in needs(law) if n not in available(columns)]
    can = servable(columns)
    serves = f"this file can serve {', '.join(can)}" if can else "this file can serve no law here"
    return (
        f"{law.name} needs {join(tuple(missing))}, which the file lacks; {serves} "
        "(name other columns with --column, e.g. --column loss=val_loss)"
    )


def open_curves(
    source: Source,
    law: str | Law | None = None,
    columns: Mapping[str, str] | None = None,
) -> tuple[Curves, Law, str]:
    """Read curves and settle on a law: the curves, the law, and why that one.

    Raises:
        CurvesError: faults in the file.
        FitError: the file lacks columns that the law needs.
        LawError: no such law, or a formula with a fault.
    """
    if isinstance(source, str) and source == "-":
        source = _Stdin()
    curves = _read(source, columns, needs=("run", "loss"))
    names = curves.frame.columns
    why = ""
    if law is None:
        chosen, why = choose_law(names)
    else:
        chosen = get_law(law, names)
    wanted = needs(chosen)
    if not set(wanted) <= available(names):
        raise FitError(f"{curves.source}: {_lacks(chosen, names)}")
    schema = curves.frame.schema
    usable = all(n in schema and not curves.frame[n].null_count() for n in wanted)
    if not usable or any(schema[n] != pl.Float64 for n in chosen.inputs):
        # Read again with the law's own needs: it names the lines of what is missing.
        curves = _read(source, columns, needs=wanted, numeric=chosen.inputs)
    return curves, chosen, why


def check(
    source: Source, law: str | Law | None = None, *, columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Check loss curves, against the needs of a law if one is named.

    Returns:
        ``source``, ``sha256``, ``rows``, ``runs``, ``columns`` and the ``laws`` that they serve.

    Raises:
        CurvesError, FitError, LawError: every fault.
    """
    if law is None:
        curves = _read(source, columns, needs=REQUIRED)
    else:
        curves, _, _ = open_curves(source, law, columns)
    frame = curves.frame
    filled = [c for c in frame.columns if not frame[c].null_count()]
    return {
        "source": curves.source,
        "sha256": curves.sha256,
        "rows": frame.height,
        "runs": frame["run"].n_unique(),
        "columns": frame.columns,
        "laws": servable(filled),
    }


def _read(source: Source, columns: Mapping[str, str] | None, **wanted: Any) -> Curves:
    wanted["columns"] = dict(columns or {})
    if isinstance(source, Curves):
        return replace(from_frame(source.frame, **wanted), source=source.source)
    if isinstance(source, pl.DataFrame | Mapping):
        return from_frame(source, **wanted)
    if not isinstance(source, str | Path):
        if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
            raise FitError(
                "curves come as a path, a table, Curves, or a file opened in binary mode"
            )
        source.seek(0)
    return read_curves(source, **wanted)


class _Stdin(io.BytesIO):
    """Standard input that can be read twice."""

    name = "<stdin>"

    def __init__(self) -> None:
        import sys

        if sys.stdin is None:
            raise FitError("standard input is closed")
        super().__init__(sys.stdin.buffer.read())


@dataclass
class Rows:
    """Rows on their way into a fit, and the account of those left out."""

    frame: pl.DataFrame
    """What is left."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""

    def keep(self, condition: pl.Expr, reason: str) -> None:
        """Leave out the rows that fail a condition, and count them under a reason."""
        kept = self.frame.filter(condition)
        if kept.height < self.frame.height:
            self.excluded[reason] = self.frame.height - kept.height
        self.frame = kept


def where_expression(text: str, frame: pl.DataFrame) -> pl.Expr:
    """A filter such as ``kept == 1`` or ``method = 'depth' and params > 1e9`` (SQL).

    Raises:
        FitError: it cannot be read, or does not fit the columns.
    """
    try:
        expression = pl.sql_expr(text)
        frame.filter(expression)
    except pl.exceptions.PolarsError as error:
        detail = str(error).splitlines()[0]
        raise FitError(f"--where {text!r}: {detail}") from None
    return expression


def select(frame: pl.DataFrame, law: Law, options: Mapping[str, Any]) -> Rows:
    """The rows that a law is fitted to, by the options of ``fit_each``.

    Raises:
        FitError: the filter does not fit the columns.
    """
    rows = Rows(frame)
    names = frame.columns
    if options["where"]:
        rows.keep(
            where_expression(options["where"], rows.frame), f"{options['where']} does not hold"
        )
    if "tokens" in law.inputs:
        rows.keep(pl.col("tokens") > 0, "tokens = 0 (kept, never fitted)")
    if "base_loss" in law.inputs and "pruning_rate" in law.inputs:
        rows.keep(pl.col("pruning_rate") > 0, "pruning_rate = 0 (the base model)")
    decayed = law.name in LAWS and "base_loss" not in law.inputs
    if decayed and "final" in names and not options["include_undecayed"]:
        rows.keep(
            pl.col("final").fill_null(0) == 1,
            "final = 0 (learning rate not decayed; --include-undecayed keeps them)",
        )
    if options["min_tokens"]:
        rows.keep(pl.col("tokens") >= options["min_tokens"], f"tokens < {options['min_tokens']:g}")
    if options["burn_in"]:
        rows.keep(
            pl.col("tokens") >= options["burn_in"] * pl.col("tokens").max().over("run"),
            f"the first {options['burn_in']:.0%} of a run's tokens",
        )
    return rows


def split_groups(
    frame: pl.DataFrame, by: Sequence[str]
) -> list[tuple[tuple[str, ...], pl.DataFrame]]:
    """Rows by the values of some columns, in the order of those values."""
    if not by:
        return [((), frame)]
    ordered = frame.sort(by, nulls_last=True, maintain_order=True)
    found = ordered.partition_by(list(by), as_dict=True, include_key=True, maintain_order=True)
    return [(tuple("" if v is None else _name(v) for v in key), f) for key, f in found.items()]


def _name(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)
