"""What goes into a fit, and how it is made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, TypeVar

import polars as pl

from p2fit.arguments import verify
from p2fit.curves.columns import with_run_by
from p2fit.errors import FitError
from p2fit.scales import SCALES, Linear, Residual

#: Huber's threshold where none is given. Of a share it is the error of counting 2500 answers.
DELTAS = {"log": 1e-3, "linear": 1e-3, "arcsine": 0.02}


@dataclass(frozen=True)
class Options:
    """What goes into a fit, and how it is made.

    Raises:
        FitError: a value out of its range.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column -> its name in the file, ``{"loss": "loss_pile"}``, or an expression,
    ``{"tokens": "tokens_B*1e9"}``."""
    run_by: Sequence[str] | None = None
    """Columns of which each combination of values is a run, in place of ``columns["run"]``."""
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
    """Huber's threshold, of the residual before weights; None: with errors of runs 1.345 standard
    deviations of a row's own error, else 0.02 for ``arcsine``, 1e-3 of the mean size of another
    target than the loss for ``linear``, else 1e-3."""
    weights: Literal["rows", "runs", "stderr"] | None = None
    """All rows equal, each run equal, or 1/(s² + τ²) with s from loss_stderr (``accuracy_stderr``
    for a target ``accuracy``) and τ estimated; None: ``stderr`` where that column is filled, else
    ``rows``."""
    errors: Literal["rows", "runs"] | None = None
    """``rows``: each row has an error of its own. ``runs``: runs differ in level and rate, and the
    errors of neighbouring rows are correlated, all as large as the residuals say: for curves whose
    runs have several rows. A run in progress is then predicted from its own points too. None:
    ``runs`` where runs have several rows each."""
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
        verify(self)
        for name, allowed in (
            ("residual", (None, *SCALES)),
            ("loss", ("huber", "squared")),
            ("weights", (None, "rows", "runs", "stderr")),
            ("errors", (None, "rows", "runs")),
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
        if self.errors == "runs" and self.weights == "runs":
            raise FitError("errors of runs weigh each run by what it tells: leave weights out")
        object.__setattr__(self, "columns", with_run_by(self.columns, self.run_by))
        object.__setattr__(self, "run_by", None)
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
        several = frame["run"].value_counts()["count"].median() > 1  # type: ignore[operator]
        errors = self.errors or ("runs" if several and self.weights != "runs" else "rows")
        delta = self.delta
        if errors == "rows":
            delta = delta or DELTAS[kind] * (size or 1.0)
        elif frame["run"].n_unique() == frame.height:
            raise FitError("errors of runs are for runs of several rows; here each run has one")
        return replace(self, residual=kind, errors=errors, delta=delta)

    def recorded(self) -> dict[str, Any]:
        """What a saved fit says of its making; the rest stands elsewhere in it."""
        elsewhere = {"columns", "run_by", "by", "pool", "fix", "tie"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}


class OptionNames(TypedDict, total=False):
    """:class:`Options` as keyword arguments, for editors and type checkers."""

    columns: Mapping[str, str]
    run_by: Sequence[str] | None
    target: str
    where: str | None
    by: Sequence[str] | None
    pool: bool
    fix: Mapping[str, float]
    tie: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    start: Mapping[str, float]
    residual: Residual | None
    loss: Literal["huber", "squared"]
    delta: float | None
    weights: Literal["rows", "runs", "stderr"] | None
    errors: Literal["rows", "runs"] | None
    cluster: str
    min_tokens: float
    burn_in: float
    include_undecayed: bool
    subtract_control: bool
    bootstrap: int
    resample: Literal["wild", "runs"] | None
    seed: int


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
Function = TypeVar("Function", bound=Callable[..., Any])


def showing(*options: type) -> Callable[[Function], Function]:
    """Have ``help()`` show each option in place of ``**options``: the fields of dataclasses."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        shown = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
        names = {p.name for p in shown}
        for kind in options:
            for one in fields(kind):
                if one.name not in names:
                    made = one.default_factory
                    default = one.default if made is MISSING else made()
                    shown.append(
                        inspect.Parameter(one.name, _KEYWORD, default=default, annotation=one.type)
                    )
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return function

    return decorate
