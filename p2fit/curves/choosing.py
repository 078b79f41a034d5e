"""Which rows go into a fit: read the curves, settle on a law, leave out, split, all in the open."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl

from p2fit.curves.control import drift_warning, movement, subtracted
from p2fit.curves.reading import REQUIRED, Curves, from_frame, read_curves
from p2fit.laws.law import LAWS, Law, LawError, get_law
from p2fit.scales import SCALES, Linear, Residual
from p2fit.solver.identify import join

Source = Curves | str | Path | BinaryIO | pl.DataFrame | Mapping[str, Any]

#: Columns that a law of post-training after pruning never pools silently.
GROUPS = ("family", "method")

#: Huber's threshold where none is given. Of a share it is the error of counting 2500 answers.
DELTAS = {"log": 1e-3, "linear": 1e-3, "arcsine": 0.02}


class FitError(ValueError):
    """A fit that cannot be done; the message says what to change."""


@dataclass(frozen=True)
class Options:
    """What goes into a fit, and how it is made.

    Raises:
        FitError: a value out of its range.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column -> its name in the file, e.g. ``{"loss": "loss_pile"}``."""
    target: str = "loss"
    """The column that the law predicts. With another than the loss, rows where it is empty are
    left out, and a law must be given."""
    where: str | None = None
    """Rows to use, e.g. ``"kept == 1"`` (SQL)."""
    by: Sequence[str] | None = None
    """Columns to split by; None: ``family`` and ``method``, where the file has them, for laws of
    post-training after pruning, and nothing for others."""
    pool: bool = False
    """Fit everything together."""
    fix: Mapping[str, float] = field(default_factory=dict)
    """Parameters held at values."""
    tie: Mapping[str, str] = field(default_factory=dict)
    """Parameters held equal to others."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Where parameters are searched, if not where their role in the formula says; in a posterior
    also their prior, with 95 % of its mass there."""
    start: Mapping[str, float] = field(default_factory=dict)
    """Where the search for parameters begins, in a law that is not a sum of monomials; all over
    their ranges by default."""
    residual: Residual | None = None
    """Of the log of the target, of the target itself (``linear``), or of the angle 2 arcsin √p of
    a share p (``arcsine``). None: ``log`` for the loss; for another column ``arcsine`` where all
    its fitted values lie in [0, 1], else ``log`` where all are above 0, else ``linear``."""
    loss: Literal["huber", "squared"] = "huber"
    """What is summed over the residuals."""
    delta: float | None = None
    """Huber's threshold, of the residual before weights; None: 0.02 for ``arcsine``, 1e-3 of the
    mean size of another target than the loss for ``linear``, else 1e-3."""
    weights: Literal["rows", "runs", "stderr"] | None = None
    """All rows equal, each run equal, or 1/(s² + τ²) with s from loss_stderr (``accuracy_stderr``
    for a target ``accuracy``) and τ estimated; None: ``stderr`` where that column is filled, else
    ``rows``."""
    cluster: str = "run"
    """Column whose values are independent of each other."""
    min_tokens: float = 0.0
    """Leave out rows with fewer tokens."""
    burn_in: float = 0.0
    """Leave out this share of each run's tokens, at its start."""
    include_undecayed: bool = False
    """Also fit rows with ``final`` = 0."""
    subtract_control: bool = False
    """Take off each loss what the unpruned model gained or lost on the same tokens; for laws with
    ``base_loss`` and ``pruning_rate``."""
    bootstrap: int = 0
    """Number of resamples; with it standard errors and intervals are the bootstrap's."""
    resample: Literal["wild", "runs"] | None = None
    """How; None: ``wild`` where runs have several rows, else ``runs``."""
    seed: int = 0
    """Of the resamples, and of the rows that starts are compared on, with more than 4096."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("residual", (None, *SCALES)),
            ("loss", ("huber", "squared")),
            ("weights", (None, "rows", "runs", "stderr")),
            ("resample", (None, "wild", "runs")),
        ):
            if getattr(self, name) not in allowed:
                shown = " or ".join(str(a) for a in allowed if a is not None)
                raise FitError(f"{name} is {getattr(self, name)!r}: use {shown}")
        for name, good, what in (
            (
                "delta",
                self.delta is None or 1e-12 <= self.delta < math.inf,
                "a number from 1e-12 up",
            ),
            ("seed", self.seed >= 0, "a whole number from 0 up"),
            (
                "bootstrap",
                self.bootstrap == 0 or self.bootstrap >= 40,
                "0, or 40 resamples and more",
            ),
            ("burn_in", 0 <= self.burn_in < 1, "a share in [0, 1)"),
            ("min_tokens", self.min_tokens >= 0, "a count"),
        ):
            if not good:
                raise FitError(f"{name} is {getattr(self, name)}: use {what}")
        if isinstance(self.by, str):
            raise FitError(f"by is {self.by!r}: give a list of columns")
        if self.pool and self.by:
            raise FitError("by and pool contradict each other: give one")

    @property
    def scale(self) -> Linear:
        """The scale of the residuals."""
        return SCALES[self.residual or "log"]

    @property
    def threshold(self) -> float:
        """Huber's threshold; infinite for squared loss."""
        return math.inf if self.loss == "squared" else self.delta or DELTAS[self.residual or "log"]

    def settled(self, frame: pl.DataFrame) -> Options:
        """With the residual and its threshold that rows call for, where none was given.

        Raises:
            FitError: the target has values that the residual is not for.
        """
        kind, name = self.residual, self.target
        low, high = (float(frame[name].min()), float(frame[name].max()))  # type: ignore[arg-type]
        if kind is None:
            share = name != "loss" and low >= 0 and high <= 1
            log = name == "loss" or low > 0
            kind = "arcsine" if share else "log" if log else "linear"
        if (kind == "log" and low <= 0) or (kind == "arcsine" and not 0 <= low <= high <= 1):
            wants = "values above 0" if kind == "log" else "shares in [0, 1]"
            raise FitError(
                f"{kind} residuals are for {wants}; {name} goes from {low:g} to {high:g}"
            )
        plain = kind == "linear" and name != "loss"
        size = float(frame[name].abs().mean()) if plain else 1.0  # type: ignore[arg-type]
        return replace(self, residual=kind, delta=self.delta or DELTAS[kind] * (size or 1.0))

    def recorded(self) -> dict[str, Any]:
        """What a saved fit says of its making; the rest stands elsewhere in it."""
        elsewhere = {"columns", "by", "pool", "fix", "tie"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}


@dataclass(frozen=True)
class Task:
    """A law and the rows that it is to be fitted to. Made by :func:`tasks`."""

    law: Law
    """The law, with what is fixed and tied."""
    frame: pl.DataFrame
    """The rows, by run, then tokens."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this task's values of them."""
    excluded: Mapping[str, int]
    """Rows left out, by reason."""
    curves: Curves
    """Where the rows come from."""
    why: str
    """Why this law, if it was chosen by the columns."""
    options: Options
    """What was asked for."""
    control: Mapping[str, Any] | None = None
    """How the unpruned controls move (:func:`p2fit.curves.control.movement`), and whether that was
    ``subtracted``; None where there is none."""
    warnings: tuple[str, ...] = ()
    """What the reader should know besides."""

    @property
    def label(self) -> str:
        """The source and the group, to begin a message with."""
        group = ", ".join(f"{k} = {v}" for k, v in self.group.items())
        return f"{self.curves.source}: {group}" if group else self.curves.source


def tasks(source: Source, law: str | Law | None = None, **options: Any) -> list[Task]:
    """Read curves, settle on a law, split and leave out: one task per group, ready to fit.

    Args:
        source, law: as in :func:`p2fit.fit_each`.
        options: the fields of :class:`Options`.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law.
    """
    unknown = sorted(set(options) - {f.name for f in fields(Options)})
    if unknown:
        raise FitError(f"no option is called {unknown[0]}; see p2fit.Options")
    asked = Options(**options)
    curves, chosen, why = open_curves(source, law, asked.columns, asked.target)
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
    controlled = _controlled(chosen, asked.target)
    found, empty, missed = [], [], []
    for values, frame in split_groups(whole, by):
        rows = select(frame, chosen, asked)
        group = dict(zip(by, values))
        moved = movement(rows.frame, curves.frame) if controlled and rows.frame.height else None
        control = moved and {**moved, "subtracted": asked.subtract_control}
        drifting = control and drift_warning(control)
        said = (drifting,) if drifting else ()
        task = Task(chosen, rows.frame, group, rows.excluded, curves, why, asked, control, said)
        if rows.frame.height:
            found.append(task)
        else:
            account = "; ".join(f"{count}: {reason}" for reason, count in rows.excluded.items())
            empty.append(f"{task.label}: no row is left to fit ({account})")
            # A filter may be meant to leave groups out; of controls no row is ever fitted.
            filtered = rows.excluded.get(f"{asked.where} does not hold") == frame.height
            if not filtered and not (controlled and not frame["pruning_rate"].max()):
                missed.append(empty[-1])
    if not found:
        raise FitError("\n".join(empty))
    # What is left out has no say in it.
    asked = asked.settled(pl.concat([task.frame for task in found]))
    # A group without rows has no fit of its own to say so: all the others do.
    return [replace(task, options=asked, warnings=(*task.warnings, *missed)) for task in found]


def _controlled(law: Law, target: str) -> bool:
    """Whether a law takes the loss of a base model for settled."""
    return target == "loss" and {"base_loss", "pruning_rate", "tokens"} <= set(law.inputs)


def without_drift(curves: Curves, law: Law, target: str = "loss") -> pl.DataFrame:
    """The rows of curves with losses without the drift of their control.

    Raises:
        FitError: the law is not of losses above base_loss, or a pruned run has no control.
    """
    if target != "loss":
        raise FitError(f"a control is subtracted from losses; this law predicts {target}")
    if not _controlled(law, target):
        raise FitError(
            f"{law.name} does not read base_loss, pruning_rate and tokens: there is no control to "
            "subtract"
        )
    frame, without = subtracted(curves.frame)
    if without:
        raise FitError(
            f"{curves.source}: {without[0]} has rows without a control to subtract: a run with "
            "pruning_rate = 0 of the same family, params, base_loss and seed, at the same tokens"
        )
    return frame


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


def needs(law: Law, target: str = "loss") -> tuple[str, ...]:
    """Columns that a file must have for a law: a user's own needs what its formula names."""
    base = REQUIRED if law.name in LAWS else ("run", "loss")
    base = tuple(target if name == "loss" else name for name in base)
    return tuple(dict.fromkeys((*base, *law.inputs)))


def servable(columns: Collection[str]) -> list[str]:
    """Names of the laws whose columns are all there."""
    return [name for name, law in LAWS.items() if set(needs(law)) <= available(columns)]


def _lacks(law: Law, columns: Collection[str], target: str = "loss") -> str:
    missing = [n for n in needs(law, target) if n not in available(columns)]
    if target != "loss":
        has = ", ".join(columns)
        return f"{law.name} needs {join(tuple(missing))}, which the file lacks; it has {has}"
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
    target: str = "loss",
) -> tuple[Curves, Law, str]:
    """Read curves and settle on a law: the curves, the law, and why that one.

    The loss must be there in every row; another target may be empty in some.

    Raises:
        CurvesError: faults in the file.
        FitError: the file lacks columns that the law needs.
        LawError: no such law, or a formula with a fault.
    """
    if isinstance(source, str) and source == "-":
        source = Stdin()
    sparse = target != "loss"
    curves = read(source, columns, needs=("run",) if sparse else ("run", "loss"))
    names = curves.frame.columns
    why = ""
    if law is not None:
        chosen = get_law(law, names)
    elif sparse:
        raise FitError(f"a law for {target} must be given: no law here is chosen by the columns")
    else:
        chosen, why = choose_law(names)
    if target in chosen.inputs:
        other = "; --target names another column to predict" if target == "loss" else ""
        raise LawError(f"a law predicts the {target}: it cannot be an input{other}")
    wanted = needs(chosen, target)
    if not set(wanted) <= available(names):
        raise FitError(f"{curves.source}: {_lacks(chosen, names, target)}")
    schema = curves.frame.schema
    if sparse:
        wanted = tuple(n for n in wanted if n != target)
        if schema[target] != pl.Float64:  # read again for the lines of what is no number
            read(source, columns, needs=(target,))
            raise FitError(f"{curves.source}: {target} is not a column of numbers")
        if curves.frame[target].null_count() == curves.frame.height:
            raise FitError(f"{curves.source}: {target} is empty in every row")
    usable = all(n in schema and not curves.frame[n].null_count() for n in wanted)
    if not usable or any(schema[n] != pl.Float64 for n in chosen.inputs):
        # Read again with the law's own needs: it names the lines of what is missing.
        curves = read(source, columns, needs=wanted, numeric=chosen.inputs)
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
        "laws": servable(filled),
    }


def read(source: Source, columns: Mapping[str, str] | None, **wanted: Any) -> Curves:
    """Curves from any source; ``wanted`` goes to ``read_curves`` or ``from_frame``."""
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


class Stdin(io.BytesIO):
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
