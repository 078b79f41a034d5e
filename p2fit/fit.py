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
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl

from p2fit import __version__, metrics
from p2fit.curves.choosing import FitError, Options, Source, Task, tasks
from p2fit.curves.reading import FRAME
from p2fit.files import write_text
from p2fit.laws.law import LAWS, Array, Law, LawError
from p2fit.scales import SCALES, Linear
from p2fit.solver.identify import Identification, join
from p2fit.solver.least_squares import Solution, minimise
from p2fit.solver.problem import Index, Problem
from p2fit.solver.solving import Solved, solve_task
from p2fit.uncertainty.jackknife import Covariance

if TYPE_CHECKING:
    from p2fit.uncertainty.bootstrap import Draws

_ENDS = (0.025, 0.975)
_SHARES = (0.1, 0.2)  # of each run's tokens, dropped to see whether the exponents stay put


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
class Fit:
    """A fitted law: parameters, their uncertainty, and what the data could tell.

    Immutable; ``save`` and ``load`` round-trip it through plain JSON (schemas/fit.schema.json).
    """

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
    """Whether the best start met the convergence test."""
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
    ``tau``), the ``priors`` in words, the ``contraction`` of each parameter, and the estimates by
    ``least_squares``, from which it started."""
    diagnostics: Mapping[str, Any] | None = None
    """Of a Bayesian fit: the worst ``r_hat``, ``ess_bulk``, ``ess_tail`` and ``e_bfmi``, the
    number of ``divergences``, and each parameter's own; of ``laplace`` its ``pareto_k``."""
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
            ends = np.quantile(self._measured(losses) if new_run else losses, _ENDS, axis=0)
            return ends[0], ends[1]
        if self.covariance is None:
            return None
        centre = self.predict(columns)
        critical = self.covariance["critical"]
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
            below = above = critical * np.sqrt(np.maximum(spread, 0.0)) * scale.slope(centre)
        if new_run:
            scatter = critical * float(self.metrics["scatter"] or 0.0)
            scatter = scatter * scale.slope(centre) / self.scale.slope(centre)
            below, above = np.hypot(below, scatter), np.hypot(above, scatter)
        low, high = scale.back(place - below), scale.back(place + above)
        if self.options["residual"] == "arcsine":
            low, high = (
                np.maximum(low, np.minimum(centre, 0)),
                np.minimum(high, np.maximum(centre, 1)),
            )
        return low, high

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

            self._drawn[size, seed] = self._all(covariance_draws(self, size, seed), size)
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

    def _measured(self, losses: Array) -> Array:
        """One point of a new run for each of a posterior's losses (draws, …)."""
        rng = np.random.default_rng(0)
        noise = {n: np.array(v, float) for n, v in (self.posterior or {})["noise"].items()}
        noise = {n: v.reshape(-1, *[1] * (losses.ndim - 1)) for n, v in noise.items()}
        error = noise["sigma"] * rng.standard_normal(losses.shape)
        if "nu" in noise:
            error /= np.sqrt(rng.chisquare(noise["nu"], losses.shape) / noise["nu"])
        if "tau" in noise:
            error += noise["tau"] * rng.standard_normal(losses.shape)
        return losses * np.exp(error)

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

    def task(self, curves: Source | None = None) -> Task:
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
        found = tasks(source, self.law, **self.request())
        task = next((t for t in found if dict(t.group) == dict(self.group)), None)
        moved = isinstance(source, str | Path) and found[0].curves.sha256 != data["sha256"]
        if moved or task is None or task.frame.height != data["used"]:
            raise FitError(f"{found[0].curves.source}: not the rows of this fit: fit again")
        return task

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
        try:
            law = LAWS.get(document["law"])
            if law is None or law.formula != document["formula"]:
                law = Law.parse(
                    document["formula"], columns=document["inputs"], name=document["law"]
                )
            law = law.within({n: tuple(r) for n, r in document["options"]["ranges"].items()})
            if document["fixed"] or document["tied"]:
                law = law.restrict(document["fixed"], document["tied"])
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
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FitError(f"not a fit saved by p2fit: {type(error).__name__}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the fit as JSON, whole or not at all."""
        write_text(path, to_json(self))

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The fit as plain text, 100 columns wide."""
        from p2fit.show.fit import text

        return text(self)

    def __rich__(self) -> Any:
        from p2fit.show.fit import renderable

        return renderable(self)

    def _repr_html_(self) -> str:
        from p2fit.show.fit import html

        return html(self)


def load(path: str | Path) -> Fit | list[Fit]:
    """Read what ``Fit.save`` or ``p2fit fit -o`` wrote: one fit, or a list of them.

    Raises:
        FitError: no such file, or not the JSON of a fit.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FitError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise FitError(f"{path}: not a fit saved by p2fit (p2fit fit -o fit.json)") from None
    try:
        if isinstance(document, list):
            return [Fit.from_dict(d) for d in document]
        return Fit.from_dict(document)
    except FitError as error:
        raise FitError(f"{path}: {error}") from None


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
        return float(value) if math.isfinite(value) else None
    return value


# ---------------------------------------------------------------- fitting


def fit(source: Source, law: str | Law | None = None, **options: Any) -> Fit:
    """Fit one law to one set of loss curves. Options are those of :func:`fit_each`.

    Raises:
        FitError: also when the curves form several groups (choose with ``where``, fit each with
            :func:`fit_each`, or pool them with ``pool=True``).
    """
    fits = fit_each(source, law, **options)
    if len(fits) > 1:
        groups = "; ".join(", ".join(f"{k} = {v}" for k, v in f.group.items()) for f in fits)
        raise FitError(
            f"the curves form {len(fits)} groups ({groups}): "
            "use fit_each, choose one with where, or pass pool=True"
        )
    return fits[0]


def fit_each(
    source: Source,
    law: str | Law | None = None,
    *,
    backend: str = "least-squares",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Fit]:
    """Fit one law to each group of loss curves.

    Args:
        source: a CSV file (``-`` for standard input), a table, or :class:`Curves`.
        law: a name from :data:`LAWS`, a formula, or a :class:`Law`; None: by the columns.
        backend: ``least-squares``; ``bayes`` for the posterior by NUTS, or ``laplace`` for a quick
            approximation of it (both need the extra ``bayes``).
        progress: called with resamples or draws done and in all.
        options: the fields of :class:`Options`; for the Bayesian backends also those of
            :class:`p2fit.BayesOptions`.

    Returns:
        One :class:`Fit` per group, in the order of the groups' values.

    Raises:
        CurvesError, FitError, LawError: what is wrong with the file, the request, the law.
    """
    if backend in ("bayes", "laplace"):
        from p2fit.bayes.fitting import fit_bayes

        return fit_bayes(source, law, cast("Any", backend), progress, options)
    if backend != "least-squares":
        raise FitError(f"backend is {backend!r}: use least-squares, bayes or laplace")
    fits = []
    for task in tasks(source, law, **options):
        solved = solve_task(task)
        found = fit_task(task, progress, solved)
        if solved.identification.undetermined:
            from p2fit.uncertainty.equally_good import members

            found = replace(found, equally_good=members(solved))
        fits.append(found)
    return fits


def fit_task(
    task: Task,
    progress: Callable[[int, int], None] | None = None,
    solved: Solved | None = None,
) -> Fit:
    """Fit the law of a task to its rows, without the search for equally good parameters.

    Args:
        progress: called with resamples done and in all.
        solved: the task's optimum, where it is known already.
    """
    solved, options = solved or solve_task(task), task.options
    problem, solution, found = solved.problem, solved.solution, solved.identification
    spread, frame, columns = solved.covariance, solved.frame, solved.columns
    draws = None
    if options.bootstrap and spread is not None:
        from p2fit.uncertainty.bootstrap import bootstrap as resampled

        several = frame.height > spread.clusters
        draws = resampled(
            problem,
            solution.z,
            solved.clusters,
            options.bootstrap,
            resample=options.resample or ("wild" if several else "runs"),
            seed=options.seed,
            levels=[v for v in map(_levels, columns.values()) if v is not None],
            progress=progress,
        )
    return Fit(
        law=task.law,
        backend="least-squares",
        group=dict(task.group),
        parameters=_estimates(problem, solution.z, found, spread, draws),
        objective=solution.value,
        converged=solution.converged,
        starts={"tried": solution.starts, "agreed": solution.agreed},
        metrics=score(problem, problem.loss(solution.z[None])[0], frame, options),
        identification={
            "rank": found.rank,
            "parameters": found.parameters,
            "condition": found.condition if math.isfinite(found.condition) else None,
            "undetermined": [
                {"parameters": list(u.parameters), "reasons": list(u.reasons)}
                for u in found.undetermined
            ],
        },
        covariance=None
        if spread is None
        else {
            "names": list(problem.names),
            "matrix": spread.natural().tolist(),
            "clusters": spread.clusters,
            "unit": options.cluster,
            "critical": spread.critical,
        },
        bootstrap=None if draws is None else _account(problem, draws),
        equally_good=(),
        sensitivity=_sensitivity(problem, solution, frame) if not found.undetermined else {},
        data={
            "source": task.curves.source,
            "sha256": task.curves.sha256,
            "columns": dict(task.curves.renamed),
            "rows": frame.height + sum(task.excluded.values()),
            "used": frame.height,
            "runs": frame["run"].n_unique(),
            "excluded": dict(task.excluded),
            "chosen": task.why,
            "control": task.control,
            "range": {
                x: {"min": v.min(), "max": v.max(), "distinct": frame[x].n_unique()}
                for x, v in columns.items()
            },
        },
        options={**options.recorded(), **solved.weighting},
        warnings=(*_warn(solved, options), *task.warnings),
    )


def score(
    problem: Problem, fitted: Array, frame: pl.DataFrame, options: Options
) -> dict[str, float | str | None]:
    """The metrics of fitted losses, shape (n,)."""
    y = problem.y
    r = problem.scale.miss(fitted, y)
    known = "base_loss" in problem.law.inputs and options.target == "loss"
    slope = None
    if "tokens" in frame.columns and options.target == "loss":
        runs, tokens = frame["run"].to_numpy(), frame["tokens"].to_numpy()
        slope = metrics.asd(runs, tokens, y, fitted)
    scores: dict[str, float | str | None] = {
        "r2": metrics.r_squared(y, fitted),
        "r2_excess": metrics.r_squared(y - problem.offset, fitted - problem.offset)
        if known
        else None,
        "rmse": metrics.rmse(y, fitted),
        "mape": metrics.mape(y, fitted) if y.min() > 0 else None,
        "huber": metrics.mean_huber(r, options.delta or options.threshold),
        "asd": slope,
        "asd_unit": metrics.ASD_UNIT,
        "scatter": math.sqrt(float(r @ r) / max(len(r) - len(problem.names), 1)),
    }
    return scores


def _estimates(
    problem: Problem,
    z: Array,
    found: Identification,
    spread: Covariance | None,
    draws: Draws | None,
) -> dict[str, Estimate]:
    law = problem.law
    values = {n: float(v) for n, v in problem.natural(z).items()}
    result: dict[str, Estimate] = {}
    for i, name in enumerate(problem.names):
        stderr, interval = None, None
        if spread is not None and name not in found.names:
            stderr, low, high = spread.interval(i) if draws is None else draws.interval(i)
            interval = (_end(low), _end(high))
            stderr = None if interval == (None, None) else stderr
        at_bound = bool(z[i] <= problem.lower[i] or z[i] >= problem.upper[i])
        result[name] = Estimate(
            estimate=_end(values[name]),
            stderr=None if at_bound else _end(stderr),
            interval=interval,
            identified=name not in found.names,
            at_bound=at_bound,
        )
    for name, value in law.fixed.items():
        result[name] = Estimate(float(value), fixed=True)
    for name, other in law.tied.items():
        result[name] = Estimate(**{**asdict(result[other]), "tied": other})
    return {n: result[n] for n in law.parameters}


def _levels(column: Array) -> Index | None:
    """The level of each row, where an input has few: a size, a rate."""
    values = sorted(set(column.tolist()))
    return np.searchsorted(values, column) if len(values) <= 10 else None


def _account(problem: Problem, draws: Draws) -> dict[str, Any]:
    at = {n: int(c) for n, c in zip(problem.names, draws.at_bound.sum(axis=0)) if c}
    return {
        "draws": {n: np.asarray(draws.natural[n]) for n in problem.names},
        "count": len(draws.z),
        "resample": draws.resample,
        "few": draws.few,
        "failed": int(np.count_nonzero(draws.converged == 0)),
        "lost_level": draws.lost,
        "at_bound": at,
    }


def _end(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _sensitivity(
    problem: Problem, solution: Solution, frame: pl.DataFrame
) -> dict[str, dict[str, float]]:
    """Exponents without the first part of each run, from the optimum on all of it."""
    if "tokens" not in frame.columns or frame["run"].n_unique() == frame.height:
        return {}
    share = frame.select(pl.col("tokens") / pl.col("tokens").max().over("run")).to_series()
    shares = share.to_numpy()
    moved = {}
    for part in _SHARES:
        kept = np.flatnonzero(shares >= part)
        if len(kept) < len(shares):
            z = minimise(problem.rows(kept), solution.z[None], iterations=60).z[0]
            values = problem.natural(z)
            moved[f"{part:.0%}"] = {e: float(values[e]) for e in problem.law.exponents}
    return moved


def _warn(solved: Solved, options: Options) -> list[str]:
    unit, target = options.cluster, options.target
    problem, solution, found = solved.problem, solved.solution, solved.identification
    spread, frame, columns = solved.covariance, solved.frame, solved.columns
    lines = found.warnings
    if solution.agreed == 1 and solution.starts > 3:
        lines.append(
            f"only 1 of {solution.starts} starts reached this objective: others may be lower"
        )
    errors = f"{target}_stderr"
    if errors in frame.columns and 0 < frame[errors].null_count() < frame.height:
        empty = frame[errors].null_count()
        lines.append(f"{errors} is empty in {empty} rows, so it is not used for weights")
    if not solution.converged:
        lines.append("the solver did not converge: the objective may not be at its minimum")
    if spread is None:
        count = frame[unit].n_unique()
        what = f"run{'s' * (count > 1)}" if unit == "run" else f"values of {unit}"
        lines.append(
            f"no intervals: {count} independent {what} for {found.rank} parameters, or residuals "
            "too large to tell"
            if count > found.rank
            else f"no intervals: {count} independent {what}, {found.rank + 1} needed"
        )
    names = problem.names
    for i, name in enumerate(names):
        if name in found.names:
            continue
        if solution.z[i] <= problem.lower[i]:
            other = name in problem.law.powers and problem.law.name not in LAWS
            sign = ": for the other direction, write its power with the other sign" if other else ""
            lines.append(f"{name} is at its lower bound, {problem.law.ranges[name][0]:g}{sign}")
        elif solution.z[i] >= problem.upper[i]:
            lines.append(f"{name} is at its upper bound, {problem.law.ranges[name][1]:g}")
    if "base_loss" in columns and target == "loss":
        under = frame.filter(pl.col("loss") < pl.col("base_loss"))
        if under.height:
            runs = under["run"].unique(maintain_order=True).to_list()
            shown = ", ".join(runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
            lines.append(
                f"{under.height} rows have loss below base_loss, where the law cannot go (runs "
                f"{shown}): was the base model trained to the end, on the same data?"
            )
    return lines
