"""Fit a law to loss curves: from a file to a :class:`Fit`.

>>> import p2fit
>>> n = [1e8, 4e8, 1e9, 4e9] * 4
>>> d = [1e9] * 4 + [4e9] * 4 + [2e10] * 4 + [1e11] * 4
>>> curves = {"run": [f"r{i}" for i in range(16)], "params": n, "tokens": d,
...           "loss": [1.8 + 480 / a**0.35 + 2100 / b**0.37 for a, b in zip(n, d)]}
>>> fit = p2fit.fit(curves)
>>> round(fit.parameters["alpha"].estimate, 4)
0.35
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from p2fit import __version__
from p2fit.arguments import hold
from p2fit.arrays import Array, finite
from p2fit.curves.choosing import Dataset, Source, datasets
from p2fit.curves.options import Options
from p2fit.errors import FRAME, FitError, LawError
from p2fit.files import opening, write_text
from p2fit.laws.law import Law
from p2fit.results import Drawable, Results
from p2fit.saved import checked_law, parse_json
from p2fit.scales import SCALES, Linear
from p2fit.wording import join

_ENDS = (0.025, 0.975)


#: What is said of least squares that ended elsewhere.
UNCONVERGED = (
    "not converge: its gradient is not 0, so the objective is not at a minimum, and these numbers "
    "are not the law's best"
)


@dataclass(frozen=True)
class Estimate:
    """One parameter of a fitted law, in the units of the formula."""

    estimate: float | None
    """The value; None where it overflows (a coefficient in the paper's form at power 0)."""
    stderr: float | None = None
    """Standard error; None where there is none to give."""
    interval: tuple[float | None, float | None] | None = None
    """95 % interval; an end of None is open: the data do not bound it."""
    identified: bool = True
    """Whether the data determine it."""
    at_bound: bool = False
    """Whether it ended at the end of its range."""
    fixed: bool = False
    """Whether it was given."""
    tied: str | None = None
    """The parameter that it was held equal to."""


@dataclass(frozen=True)
class Fit(Drawable):
    """A fitted law: parameters, their uncertainty, and what the data could tell.

    Immutable; ``save`` and ``load`` round-trip it through plain JSON (schemas/fit.schema.json).
    """

    table = ("parameters", "parameter")

    law: Law
    """The law, with what was fixed and tied."""
    backend: str
    """``least-squares``, ``bayes`` (NUTS) or ``laplace``; with the latter two an estimate is the
    posterior's median, its standard error the posterior's standard deviation."""
    group: Mapping[str, str]
    """The columns that the curves were split by, and this fit's values of them."""
    parameters: Mapping[str, Estimate]
    """Every parameter of the formula."""
    objective: float
    """Value of the objective: the weighted sum over rows."""
    converged: bool
    """Whether it is at a minimum: the gradient is next to nothing there, in an evaluation of its
    own; of a Bayesian fit, whether the draws meet their diagnostics."""
    starts: Mapping[str, int]
    """``tried`` distinct starts, of which ``agreed`` ended at the best objective."""
    metrics: Mapping[str, float | str | None]
    """``r2`` of the loss, ``r2_excess`` of the loss above base_loss (where the law uses it),
    ``rmse``, ``mape``, ``huber`` (mean), ``asd`` and its unit, ``scatter`` (standard deviation of
    the residuals, n - p degrees of freedom). Of another target likewise, without ``asd``, and
    without ``mape`` where it is not above 0 in every row."""
    identification: Mapping[str, Any]
    """``rank`` of ``parameters``, ``condition`` number, ``undetermined`` groups with reasons."""
    covariance: Mapping[str, Any] | None
    """``names`` and ``matrix`` (of the logs of coefficients, or of the coefficient itself where it
    is 0; and of the exponents), ``clusters``, their ``unit``, and the t quantile ``critical``."""
    bootstrap: Mapping[str, Any] | None
    """``draws`` (name to estimates), how they were made, how many failed, lost a level or ended
    at a bound."""
    runs: Mapping[str, Any] | None
    """What the rows of a run share; None where each row has an error of its own. Deviations are on
    the residuals' scale, or, with ``excess``, shares of the loss above base_loss: of a run's
    ``level`` and its ``rate`` (change per e-fold of tokens), of a row's error ``sigma``, whose
    correlation falls to 1/e over ``length`` ``along`` log tokens or rows (``neighbours``: that of
    neighbouring rows). ``width`` of a run in log tokens (root mean square), Huber's ``delta``,
    and the ``freedom`` that the spread of new runs is known with."""
    equally_good: Sequence[Mapping[str, float | None]]
    """Where the data leave parameters open: parameters that fit as well (within 1e-6) and predict
    lowest or highest around the data; empty where all is determined."""
    sensitivity: Mapping[str, Mapping[str, float]]
    """Exponents when the first 10 % and 20 % of each run's tokens are dropped."""
    data: Mapping[str, Any]
    """Where the rows came from, how many were used, what was left out and why, their range."""
    options: Mapping[str, Any]
    """Residual, loss, delta, weights and the rest of what was asked for."""
    posterior: Mapping[str, Any] | None = None
    """Of a Bayesian fit: ``draws`` (name to values), those of the ``noise`` (``sigma``, ``nu``,
    ``tau``, ``rate``, ``length``), what ``runs`` share (as in ``runs`` above), the ``priors`` in
    words, the ``contraction`` of each parameter, and the estimates by ``least_squares``, from which
    it started."""
    diagnostics: Mapping[str, Any] | None = None
    """Of a Bayesian fit: the worst ``r_hat``, ``ess_bulk``, ``ess_tail`` and ``e_bfmi``, the
    number of ``divergences``, and each parameter's own; of ``laplace`` its ``pareto_k``; of both
    how rarely the posterior predicts rows as odd ``along_runs`` as those observed."""
    warnings: tuple[str, ...] = ()
    """What the reader should know, one line each."""
    version: str = field(default=__version__)
    """Version of p2fit."""

    @property
    def target(self) -> str:
        """The column that the law predicts; the unit of what follows from it is that column's."""
        return str(self.options["target"])

    @property
    def scale(self) -> Linear:
        """The scale of the residuals."""
        return SCALES[self.options["residual"]]

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why its numbers are not to be used, in words: it did not converge; else empty."""
        if self.converged:
            return ()
        if self.posterior is None:
            return (f"the fit did {UNCONVERGED}",)
        return ("the fit did not converge: its draws fail their checks: do not use these numbers",)

    def of_loss(self, what: str) -> None:
        """Refuse what is for fits of the loss alone.

        Raises:
            FitError: the fit predicts another column.
        """
        if self.target != "loss":
            raise FitError(f"{what} is for laws of the loss; this fit predicts {self.target}")

    def predict(self, columns: Mapping[str, Any]) -> Array:
        """Fitted loss, nats per token, at the law's inputs (scalars or arrays of one shape); of a
        fit of another target, that.

        Of a Bayesian fit: the median of the posterior's losses.

        Raises:
            LawError: an input is missing, or a parameter has no finite value.
        """
        if self.posterior is not None:
            middle: Array = np.median(self._losses(columns), axis=0)
            return middle
        return self.law.predict(self.estimates(), columns)

    def estimates(self) -> dict[str, float]:
        """The value of every parameter.

        Raises:
            LawError: one has no finite value.
        """
        values = {n: p.estimate for n, p in self.parameters.items()}
        gone = [n for n, v in values.items() if v is None]
        if gone:
            raise LawError(f"{join(tuple(gone))} has no finite value in this fit")
        return {n: v for n, v in values.items() if v is not None}

    def interval(
        self, columns: Mapping[str, Any], *, new_run: bool = False
    ) -> tuple[Array, Array] | None:
        """95 % interval of the predicted loss (or other target): (lower, upper).

        From the posterior's draws, or the bootstrap's if there are any, else by the delta method
        from the covariance; None where the fit has none of them. It stands for the determined
        directions only; a posterior has all of them.

        Args:
            columns: the law's inputs, scalars or arrays of one shape.
            new_run: for one measured point of a new run, its scatter about the law included.

        Raises:
            LawError: an input is missing, or a parameter has no finite value.
        """
        if self.posterior is not None:
            losses = self._losses(columns)
            if new_run:
                from p2fit.uncertainty.new_runs import measured

                rng = np.random.default_rng(0)
                losses = measured(self.posterior, self.scale, columns, losses, rng)
            ends = np.quantile(losses, _ENDS, axis=0)
            return ends[0], ends[1]
        if self.covariance is None:
            return None
        from p2fit.uncertainty.jackknife import quantiles

        centre = self.predict(columns)
        # Of a share on the scale of its angle, which ends at 0 and 1; else of the loss itself.
        scale = self.scale if self.options["residual"] == "arcsine" else SCALES["linear"]
        place = scale.to(centre)
        if self.bootstrap is not None:
            ends = scale.to(np.nanquantile(self._losses(columns), _ENDS, axis=0))
            below, above = (place - ends[0], ends[1] - place) * np.array(self.bootstrap["few"])
        else:
            values = {n: float(p.estimate or 0.0) for n, p in self.parameters.items()}
            slopes = self.law.gradient(values, columns)
            names = self.covariance["names"]
            rows = np.stack([np.broadcast_to(slopes[n], centre.shape) for n in names])
            matrix = np.array(self.covariance["matrix"])
            spread = np.einsum("i...,ij,j...->...", rows, matrix, rows)
            reach = quantiles(self.covariance, rows) * np.sqrt(np.maximum(spread, 0.0))
            below = above = reach * scale.slope(centre)
        if new_run:
            scatter = self._scatter(columns, centre) * scale.slope(centre)
            scatter = scatter / self.scale.slope(centre)
            below, above = np.hypot(below, scatter), np.hypot(above, scatter)
        low, high = scale.back(place - below), scale.back(place + above)
        if self.options["residual"] == "arcsine":
            low, high = (
                np.maximum(low, np.minimum(centre, 0)),
                np.minimum(high, np.maximum(centre, 1)),
            )
        return low, high

    def _scatter(self, columns: Mapping[str, Any], centre: Array) -> Array:
        """Half the width of the 95 % interval of a new run's point about the law's, to scale."""
        if self.runs is not None:
            from p2fit.uncertainty.new_runs import scatter

            return scatter(self.runs, self.scale, columns, centre)
        plain = (self.covariance or {})["critical"] * float(self.metrics["scatter"] or 0.0)
        return np.broadcast_to(plain, centre.shape)

    def draws(self, size: int = 1000, seed: int = 0) -> dict[str, Array] | None:
        """Values of all parameters, fixed and tied ones included, drawn as the fit is unsure.

        All of the posterior's or the bootstrap's draws, as they are, or ``size`` draws whose
        predictions over the data's range are a multivariate t about the fitted ones, its spread
        from the covariance, its degrees of freedom those of the clusters; None where the fit has
        none of them. But for a posterior's they move in the determined directions only.
        """
        if self.posterior is not None:
            kept = {n: np.array(v, float) for n, v in self.posterior["draws"].items()}
            return self._all(kept, len(next(iter(kept.values()))))
        if self.bootstrap is not None:
            own = {n: np.array(v, float) for n, v in self.bootstrap["draws"].items()}
            return self._all(own, self.bootstrap["count"])
        if self.covariance is None or any(p.estimate is None for p in self.parameters.values()):
            return None
        if (size, seed) not in self._drawn:
            from p2fit.uncertainty.draws import covariance_draws

            drawn = covariance_draws(
                self.law,
                self.estimates(),
                self.covariance,
                self.data["range"],
                # Losses in their log, whatever the residual was; another target as that.
                residual="log" if self.target == "loss" else self.options["residual"],
                size=size,
                seed=seed,
            )
            self._drawn[size, seed] = self._all(drawn, size)
        return self._drawn[size, seed]

    @cached_property
    def _drawn(self) -> dict[tuple[int, int], dict[str, Array]]:
        return {}

    def _losses(self, columns: Mapping[str, Any]) -> Array:
        """The law's loss at each draw, shape (draws, …)."""
        missing = [x for x in self.law.inputs if x not in columns]
        if missing:
            raise LawError(f"{self.law.name} needs {', '.join(missing)}")
        shape = np.broadcast_shapes(*(np.shape(columns[x]) for x in self.law.inputs))
        draws = {n: v[:, None] for n, v in (self.draws() or {}).items()}
        flat = {x: np.broadcast_to(columns[x], shape).reshape(1, -1) for x in self.law.inputs}
        return self.law.predict(draws, flat).reshape(-1, *shape)

    def _all(self, drawn: Mapping[str, Array], size: int) -> dict[str, Array]:
        return {n: np.broadcast_to(v, (size,)) for n, v in self.law.full(drawn).items()}

    def range(self, columns: Mapping[str, Any]) -> tuple[Array, Array] | None:
        """Lowest and highest prediction over parameters that fit equally well, nats per token.

        None where the data determine every parameter. It is a range from inside, exact near the
        data and at half and double their range; it holds no noise, as ``interval`` does.

        Args:
            columns: the law's inputs, scalars or arrays of one shape.

        Raises:
            LawError: an input is missing.
        """
        usable = [p for p in self.equally_good if None not in p.values()]
        if not usable:
            return None
        found = np.stack([self.law.predict(cast("dict[str, float]", p), columns) for p in usable])
        return found.min(axis=0), found.max(axis=0)

    def request(self) -> dict[str, Any]:
        """What :func:`fit_each` takes to make it again, besides its curves and its law."""
        own = {f.name for f in fields(Options)} & set(self.options)
        return {
            "columns": dict(self.data["columns"]),
            "by": list(self.group) or None,
            "pool": not self.group,
            **{name: self.options[name] for name in own},
        }

    def dataset(self, curves: Source | None = None) -> Dataset:
        """The rows that it was fitted to, chosen as then, and how.

        Args:
            curves: where they are; None: the file that the fit names, which must be as it was.

        Raises:
            FitError: they are not there, or not the rows that it was fitted to.
            CurvesError: faults in the file.
        """
        source, data = curves, self.data
        if source is None:
            if data["source"] in (FRAME, "<stdin>"):
                raise FitError(f"the fit was made of {data['source']}: say where the curves are")
            source = Path(data["source"])
        found = datasets(source, self.law, **self.request())
        dataset = next((t for t in found if dict(t.group) == dict(self.group)), None)
        moved = isinstance(source, str | Path) and found[0].curves.sha256 != data["sha256"]
        if moved or dataset is None or dataset.frame.height != data["used"]:
            raise FitError(f"{found[0].curves.source}: not the rows of this fit: fit again")
        return dataset

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; null where there is no number, never NaN."""
        document = {
            "p2fit": self.version,
            "law": self.law.name,
            "formula": self.law.formula,
            "inputs": list(self.law.inputs),
            "backend": self.backend,
            "group": dict(self.group),
            "parameters": {n: asdict(p) for n, p in self.parameters.items()},
            "fixed": dict(self.law.fixed),
            "tied": dict(self.law.tied),
        }
        for f in fields(self):
            if f.name not in ("law", "backend", "group", "parameters", "version"):
                document[f.name] = getattr(self, f.name)
        found: dict[str, Any] = _plain(document)
        return found

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Fit:
        """The inverse of :meth:`to_dict`.

        Raises:
            FitError: not the JSON of a fit.
        """
        law = checked_law(document)
        parameters = {
            n: Estimate(**{**p, "interval": tuple(p["interval"]) if p["interval"] else None})
            for n, p in document["parameters"].items()
        }
        rest = {
            f.name: document[f.name]
            for f in fields(Fit)
            if f.name not in ("law", "parameters", "version", "warnings")
        }
        return Fit(
            law=law,
            parameters=parameters,
            version=document["p2fit"],
            warnings=tuple(document["warnings"]),
            **rest,
        )

    def save(self, path: str | Path) -> None:
        """Write the fit as JSON, whole or not at all."""
        hold("path", path, str | Path)
        write_text(path, to_json(self))


def load(path: str | Path) -> Fit | list[Fit]:
    """Read what ``Fit.save`` or ``p2fit fit -o`` wrote: one fit, or a list of them.

    Raises:
        FitError: no such file, or not the JSON of a fit.
    """
    hold("path", path, str | Path)
    opening(path)
    try:
        document = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FitError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise FitError(f"{path}: not a fit saved by p2fit (p2fit fit -o fit.json)") from None
    except ValueError as error:
        raise FitError(f"{path}: not a fit saved by p2fit: {error}") from None
    try:
        if isinstance(document, list) and document:
            return Results(Fit.from_dict(d) for d in document)
        return Fit.from_dict(document)
    except FitError as error:
        raise FitError(f"{path}: not a fit saved by p2fit: {error}") from None


def to_json(fits: Fit | Sequence[Fit]) -> str:
    """JSON text: an object for one fit, a list for several."""
    document = fits.to_dict() if isinstance(fits, Fit) else [f.to_dict() for f in fits]
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return finite(value)
    return value
