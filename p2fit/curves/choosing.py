"""Which rows go into a fit: read the curves, settle on a law, leave out, split, all in the open."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import polars as pl

from p2fit.curves.checking import REQUIRED
from p2fit.curves.columns import with_run_by
from p2fit.curves.control import control_drift, drift_warning, subtract_control
from p2fit.curves.frames import is_table
from p2fit.curves.options import Options
from p2fit.curves.proposing import meant, misspelt, offer
from p2fit.curves.reading import Curves, from_frame, read_curves, read_stdin
from p2fit.curves.selecting import where_expression
from p2fit.errors import FitError, LawError, NotMonomialError
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS, get_law
from p2fit.wording import closest, join


class ArrowTable(Protocol):
    """A table with the Arrow PyCapsule interface, as of pandas, pyarrow, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Source = (
    Curves
    | str
    | Path
    | BinaryIO
    | pl.DataFrame
    | Mapping[str, Any]
    | Sequence[Mapping[str, Any]]
    | ArrowTable
)

#: Columns that a law of post-training after pruning never pools silently.
GROUPS = ("family", "method")


@dataclass(frozen=True)
class Dataset:
    """A law and the rows that it is to be fitted to. Made by :func:`datasets`."""

    law: Law
    """The law, with what is fixed and tied."""
    frame: pl.DataFrame
    """The rows, by run, then tokens."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this dataset's values of them."""
    excluded: Mapping[str, int]
    """Rows left out, by reason."""
    curves: Curves
    """Where the rows come from."""
    why: str
    """Why this law, if it was chosen by the columns."""
    options: Options
    """What was asked for."""
    control: Mapping[str, Any] | None = None
    """How the unpruned controls move (:func:`p2fit.curves.control.control_drift`), and whether that
    was ``subtracted``; None where there is none."""
    warnings: tuple[str, ...] = ()
    """What the reader should know besides."""

    @property
    def label(self) -> str:
        """The source and the group, to begin a message with."""
        group = ", ".join(f"{k} = {v}" for k, v in self.group.items())
        return f"{self.curves.source}: {group}" if group else self.curves.source


def datasets(source: Source, law: str | Law | None = None, **options: Any) -> list[Dataset]:
    """Read curves, settle on a law, split and leave out: one dataset per group, ready to fit.

    Args:
        source, law: as in :func:`p2fit.fit_each`.
        options: the fields of :class:`Options`.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law.
    """
    unknown = sorted(set(options) - {f.name for f in fields(Options)})
    if unknown:
        close = closest(unknown[0], [f.name for f in fields(Options)])
        instead = f": did you mean {close}?" if close else "; see p2fit.Options"
        raise FitError(f"no option is called {unknown[0]}{instead}")
    asked = Options(**options)
    curves, chosen, why = open_curves(source, law, asked.columns, asked.target, asked.where)
    chosen = chosen.restrict(asked.fix, asked.tie) if asked.fix or asked.tie else chosen
    chosen = chosen.within(asked.ranges)
    if chosen.monomial and asked.start:
        raise LawError(f"{chosen.name} is a sum of monomials: its optimum is found without a start")
    strangers = [n for n in asked.start if n not in chosen.exponents]
    if strangers:
        raise LawError(
            f"a start is for what the loss is not linear in: {', '.join(chosen.exponents)}; "
            f"{strangers[0]} is not"
        )
    names = curves.frame.columns
    by = list(dict.fromkeys(asked.by or ()))
    timed = ("tokens",) if asked.min_tokens or asked.burn_in else ()
    for column in (*by, asked.cluster, *timed):
        if column not in names:
            raise FitError(f"{curves.source}: no column {column}; there are {', '.join(names)}")
    if asked.by is None and "base_loss" in chosen.inputs and not asked.pool:
        by = [c for c in GROUPS if c in names]
    whole = without_drift(curves, chosen, asked.target) if asked.subtract_control else curves.frame
    controlled = _has_control(chosen, asked.target)
    unread = curves.escaped
    gone = {} if unread is None else {v: f.height for v, f in split_groups(unread, by)}
    unheld = f"{asked.where} does not hold"
    found, empty, missed = [], [], []
    for values, frame in split_groups(whole, by):
        rows = select(frame, chosen, asked)
        if values in gone:
            rows.excluded[unheld] = rows.excluded.get(unheld, 0) + gone[values]
        group = dict(zip(by, values))
        moved = (
            control_drift(rows.frame, curves.frame) if controlled and rows.frame.height else None
        )
        control = moved and {**moved, "subtracted": asked.subtract_control}
        drifting = control and drift_warning(control)
        said = (*curves.notes, *((drifting,) if drifting else ()))
        dataset = Dataset(
            chosen, rows.frame, group, rows.excluded, curves, why, asked, control, said
        )
        if rows.frame.height:
            found.append(dataset)
        else:
            account = "; ".join(f"{count}: {reason}" for reason, count in rows.excluded.items())
            empty.append(f"{dataset.label}: no row is left to fit ({account})")
            # A filter may be meant to leave groups out; of controls no row is ever fitted.
            filtered = rows.excluded.get(unheld) == frame.height + gone.get(values, 0)
            if not filtered and not (controlled and not frame["pruning_rate"].max()):
                missed.append(empty[-1])
    if not found:
        raise FitError("\n".join(empty))
    # What is left out has no say in it.
    asked = asked.settled(pl.concat([dataset.frame for dataset in found]))
    # A group without rows has no fit of its own to say so: all the others do.
    return [
        replace(dataset, options=asked, warnings=(*dataset.warnings, *missed)) for dataset in found
    ]


def _has_control(law: Law, target: str) -> bool:
    """Whether a law takes the loss of a base model for settled."""
    return target == "loss" and {"base_loss", "pruning_rate", "tokens"} <= set(law.inputs)


def without_drift(curves: Curves, law: Law, target: str = "loss") -> pl.DataFrame:
    """The rows of curves with losses without the drift of their control.

    Raises:
        FitError: the law is not of losses above base_loss, or a pruned run has no control.
    """
    if target != "loss":
        raise FitError(f"a control is subtracted from losses; this law predicts {target}")
    if not _has_control(law, target):
        raise FitError(
            f"{law.name} does not read base_loss, pruning_rate and tokens: there is no control to "
            "subtract"
        )
    frame, without = subtract_control(curves.frame)
    if without:
        raise FitError(
            f"{curves.source}: {without[0]} has rows without a control to subtract: a run with "
            "pruning_rate = 0 of the same family, params, base_loss and seed, at the same tokens"
        )
    return frame


def usable_columns(columns: Collection[str]) -> set[str]:
    """Columns that a law may use: those of the file, and what follows from them."""
    derived = {"avg_params"} if "active_params" in columns else set()
    return set(columns) | derived


def choose_law(columns: Collection[str], offered: Callable[[], str] = str) -> tuple[Law, str]:
    """The law that a file's columns call for, and why.

    Args:
        columns: what the file has.
        offered: gives the options that would name what it lacks.

    Raises:
        FitError: no law fits these columns.
    """
    if {"pruning_rate", "base_loss"} <= set(columns):
        name, why = "p2", "the file has pruning_rate and base_loss"
    elif "avg_params" in usable_columns(columns):
        has = "avg_params" if "avg_params" in columns else "active_params"
        name, why = "average-params", f"the file has {has}"
    elif "pruning_rate" in columns:
        name, why = "chinchilla-pruned", "the file has pruning_rate, but no base_loss for p2"
    else:
        name, why = "chinchilla", "the file has neither pruning_rate nor avg_params"
    law = LAWS[name]
    if not set(required_columns(law)) <= usable_columns(columns):
        raise FitError(_missing_columns(law, columns, offered=offered))
    return law, why


def required_columns(law: Law, target: str = "loss") -> tuple[str, ...]:
    """Columns that a file must have for a law: a user's own needs what its formula names."""
    base = REQUIRED if law.name in LAWS else ("run", "loss")
    base = tuple(target if name == "loss" else name for name in base)
    return tuple(dict.fromkeys((*base, *law.inputs)))


def laws_served(columns: Collection[str]) -> list[str]:
    """Names of the laws whose columns are all there."""
    return [
        name for name, law in LAWS.items() if set(required_columns(law)) <= usable_columns(columns)
    ]


def _missing_columns(
    law: Law, columns: Collection[str], target: str = "loss", offered: Callable[[], str] = str
) -> str:
    missing = [n for n in required_columns(law, target) if n not in usable_columns(columns)]
    if target != "loss":
        has = ", ".join(columns)
        return f"{law.name} needs {join(tuple(missing))}, which the file lacks; it has {has}"
    can = laws_served(columns)
    serves = f"this file can serve {', '.join(can)}" if can else "this file can serve no law here"
    remedy = "name other columns with --column, e.g. --column loss=val_loss"
    if options := offered():
        remedy = f"if its columns are what they are called, add {options}"
    return f"{law.name} needs {join(tuple(missing))}, which the file lacks; {serves} ({remedy})"


def open_curves(
    source: Source,
    law: str | Law | None = None,
    columns: Mapping[str, str] | None = None,
    target: str = "loss",
    where: str | None = None,
) -> tuple[Curves, Law, str]:
    """Read curves and settle on a law: the curves, the law, and why that one.

    The loss must be there in every row; another target may be empty in some. Rows that ``where``
    does not take may have faults.

    Raises:
        CurvesError: faults in the file.
        FitError: the file lacks columns that the law needs.
        LawError: no such law, or a formula with a fault.
    """
    if isinstance(source, str) and source == "-":
        source = Stdin()
    sparse = target != "loss"
    curves = read(source, columns, needs=("run",) if sparse else ("run", "loss"), where=where)
    names = curves.frame.columns
    why = ""

    def offered() -> str:
        return offer(names, curves.frame.get_column, columns or {})

    if law is not None:
        chosen = get_law(law, names)
        _check_names(chosen, names)
    elif sparse:
        raise FitError(f"a law for {target} must be given: no law here is chosen by the columns")
    else:
        chosen, why = choose_law(names, offered)
    if target in chosen.inputs:
        other = "; --target names another column to predict" if target == "loss" else ""
        raise LawError(f"a law predicts the {target}: it cannot be an input{other}")
    wanted = required_columns(chosen, target)
    if not set(wanted) <= usable_columns(names):
        raise FitError(f"{curves.source}: {_missing_columns(chosen, names, target, offered)}")
    schema = curves.frame.schema
    if sparse:
        wanted = tuple(n for n in wanted if n != target)
        if schema[target] != pl.Float64:  # read again for the lines of what is no number
            read(source, columns, needs=(target,), where=where)
            raise FitError(f"{curves.source}: {target} is not a column of numbers")
        if curves.frame[target].null_count() == curves.frame.height:
            raise FitError(f"{curves.source}: {target} is empty in every row")
    usable = all(n in schema and not curves.frame[n].null_count() for n in wanted)
    if not usable or any(schema[n] != pl.Float64 for n in chosen.inputs):
        # Read again with the law's own needs: it names the lines of what is missing.
        curves = read(source, columns, needs=wanted, numeric=chosen.inputs, where=where)
    return curves, chosen, why


def _check_names(law: Law, names: Sequence[str]) -> None:
    """Raise if a formula names what is no column and cannot be a parameter, or is hardly one."""
    if law.name in LAWS:
        return
    likely = not law.inputs
    try:
        _ = law.terms
    except NotMonomialError:
        pass
    except LawError:
        likely = True
    for name in law.parameters:
        column = meant(name, names) if likely else misspelt(name, names)
        if column and column not in law.inputs:
            raise LawError(f"{name} is no column; did you mean {column}?")


def check(
    source: Source,
    law: str | Law | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    run_by: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Check loss curves, against the needs of a law if one is named.

    Returns:
        ``source``, ``sha256``, ``rows``, ``runs``, ``columns``, the ``laws`` that they serve and
        ``notes``.

    Raises:
        CurvesError, FitError, LawError: every fault.
    """
    columns = with_run_by(columns, run_by)
    if law is None:
        curves = read(source, columns, needs=REQUIRED)
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
        "laws": laws_served(filled),
        "notes": list(curves.notes),
    }


def read(source: Source, columns: Mapping[str, str] | None, **wanted: Any) -> Curves:
    """Curves from any source; ``wanted`` goes to ``read_curves`` or ``from_frame``."""
    wanted["columns"] = dict(columns or {})
    if isinstance(source, Curves):
        again = from_frame(source.frame, **wanted)
        again = replace(again, source=source.source, notes=source.notes)
        return replace(again, escaped=source.escaped) if again.escaped is None else again
    if is_table(source):
        return from_frame(source, **wanted)
    if not isinstance(source, str | Path):
        stream: Any = source
        if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
            raise FitError(
                "curves come as a path, a table (Polars, pandas, Arrow, columns by name, a list "
                "of dicts), Curves, or a file opened in binary mode"
            )
        stream.seek(0)
    return read_curves(source, **wanted)


class Stdin(io.BytesIO):
    """Standard input that can be read twice."""

    name = "<stdin>"

    def __init__(self) -> None:
        super().__init__(read_stdin())


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


def select(frame: pl.DataFrame, law: Law, options: Options) -> Rows:
    """The rows that a law is fitted to, by the options.

    Raises:
        FitError: the filter does not fit the columns.
    """
    rows = Rows(frame)
    names = frame.columns
    if options.target != "loss":
        rows.keep(pl.col(options.target).is_not_null(), f"{options.target} is empty")
    if options.where:
        rows.keep(where_expression(options.where, rows.frame), f"{options.where} does not hold")
    if "tokens" in law.inputs:
        rows.keep(pl.col("tokens") > 0, "tokens = 0 (kept, never fitted)")
    if "base_loss" in law.inputs and "pruning_rate" in law.inputs:
        rows.keep(pl.col("pruning_rate") > 0, "pruning_rate = 0 (the base model)")
    decayed = law.name in LAWS and "base_loss" not in law.inputs
    if decayed and "final" in names and not options.include_undecayed:
        rows.keep(
            pl.col("final").fill_null(0) == 1,
            "final = 0 (learning rate not decayed; --include-undecayed keeps them)",
        )
    if options.min_tokens:
        rows.keep(pl.col("tokens") >= options.min_tokens, f"tokens < {options.min_tokens:g}")
    if options.burn_in:
        rows.keep(
            pl.col("tokens") >= options.burn_in * pl.col("tokens").max().over("run"),
            f"the first {options.burn_in:.0%} of a run's tokens",
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
