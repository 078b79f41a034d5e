"""From a dataset to a Bayesian fit: least squares to start, a posterior, draws, what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from p2fit import extras
from p2fit.arguments import verify
from p2fit.arrays import Array, finite
from p2fit.bayes import laplace, leaving_out, sampling
from p2fit.bayes.build import posterior
from p2fit.bayes.checks import along_runs
from p2fit.bayes.posterior import Noise, Posterior
from p2fit.bayes.prior_sensitivity import prior_sensitivity
from p2fit.bayes.priors import parse
from p2fit.bayes.runs import Runs, runs_of
from p2fit.curves.choosing import Dataset, Source, datasets
from p2fit.diagnostics import UNMOVED, failed_checks, hanging
from p2fit.errors import FitError, LawError
from p2fit.estimation import fit_dataset, score
from p2fit.fit import Estimate, Fit
from p2fit.laws.law import Law
from p2fit.solver.solving import Solved, solve_dataset

Backend = Literal["bayes", "laplace"]

#: Draws that a saved fit keeps.
KEPT = 1000

_PRIOR_DRAWS = 4000


@dataclass(frozen=True)
class BayesOptions:
    """What a Bayesian fit takes besides :class:`p2fit.Options`.

    Raises:
        FitError: a value out of its range.
    """

    noise: Noise = "student-t"
    """Of the log of the loss: ``student-t`` or ``normal``."""
    prior: Sequence[str] = ()
    """Priors in place of the defaults, e.g. ``["alpha ~ Normal(0.35, 0.1)"]``."""
    draws: int = 1000
    """Draws of each chain."""
    tune: int = 500
    """Steps of each chain before them, in which the sampler adapts."""
    chains: int = 4
    """Independent chains."""
    prior_sensitivity: bool = False
    """Whether to tell how estimates move with each prior half and twice as wide."""
    save_trace: str | Path | None = None
    """Where to write all draws (NetCDF, for ArviZ)."""

    def __post_init__(self) -> None:
        verify(self)
        if self.noise not in ("student-t", "normal"):
            raise FitError(f"noise is {self.noise!r}: use student-t or normal")
        for name, least in (("draws", 100), ("tune", 100), ("chains", 2)):
            if getattr(self, name) < least:
                raise FitError(f"{name} is {getattr(self, name)}: use {least} and more")


def fit_bayes(
    source: Source,
    law: str | Law | None,
    backend: Backend,
    progress: Callable[[int, int], None] | None,
    options: Mapping[str, Any],
) -> list[Fit]:
    """As :func:`p2fit.fit_each`, from the posterior."""
    names = {f.name for f in fields(BayesOptions)}
    own = BayesOptions(**{k: v for k, v in options.items() if k in names})
    rest = {k: v for k, v in options.items() if k not in names}
    if rest.get("weights") == "runs":
        raise FitError("weights of runs have no meaning here: what runs share is in the model")
    if rest.get("bootstrap"):
        raise FitError("a posterior is not bootstrapped: leave bootstrap out, or the backend")
    if own.save_trace is not None and backend == "laplace":
        raise FitError("laplace has no chains to save: use the backend bayes with save_trace")
    _needs(backend)
    found = [with_runs(d, rest) for d in datasets(source, law, **rest)]
    if own.save_trace is not None and len(found) > 1:
        raise FitError(f"save_trace takes one fit, and here are {len(found)}: choose with where")
    return [fit_one(dataset, backend, own, progress) for dataset in found]


def with_runs(dataset: Dataset, asked: Mapping[str, Any]) -> Dataset:
    """The same with errors of runs wherever a run has several rows, unless others were asked for:
    least squares takes them where most runs have."""
    frame, options = dataset.frame, dataset.options
    if asked.get("errors") is not None or frame["run"].n_unique() == frame.height:
        return dataset
    found = replace(options, errors="runs", weights=asked.get("weights"), delta=asked.get("delta"))
    return replace(dataset, options=found.settled(frame))


def _needs(backend: Backend) -> None:
    from importlib.util import find_spec

    wanted = ("arviz", "jax", "nutpie", "scipy") if backend == "bayes" else ("arviz", "scipy")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise FitError(f"the backend {backend} needs {missing[0]}: {extras.command('bayes')}")


def left_out(
    dataset: Dataset, options: Mapping[str, Any], tick: Callable[[], None]
) -> leaving_out.Elpd:
    """The log predictive density of each run of a dataset, left out; see :mod:`.leaving_out`.
    ``options`` are ``prior`` and what was asked for of noise, errors, weights and delta."""
    law = dataset.law
    usable = [p for p in options.get("prior", ()) if p.partition("~")[0].strip() in law.free]
    own = BayesOptions(**{k: v for k, v in options.items() if k == "noise"}, prior=usable)
    dataset = with_runs(dataset, options)
    _needs("bayes")
    _, found, start = build_posterior(dataset, own)
    return leaving_out.elpd(found, start, dataset.options.seed, tick)


def build_posterior(dataset: Dataset, options: BayesOptions) -> tuple[Solved, Posterior, Array]:
    """The least-squares optimum, the posterior, and where to start in it, x of shape (d,).

    Raises:
        FitError: the law cannot be put on these rows.
    """
    solved = solve_dataset(dataset)
    problem, z, frame = solved.problem, solved.solution.z, solved.frame
    errors = None
    if solved.weighting["weights"] == "stderr":
        s = frame[f"{dataset.options.target}_stderr"].to_numpy()
        errors = s * problem.scale.slope(problem.y)
    runs = _runs(dataset, solved)
    try:
        priors = parse(options.prior, problem.law)
        found = posterior(problem, runs, noise=options.noise, errors=errors, priors=priors)
    except LawError as error:
        raise FitError(f"{dataset.label}: {error}") from None
    r = problem.scale.miss(problem.loss(z[None])[0], problem.y)
    sigma = max(1.4826 * float(np.median(np.abs(r))), 0.1 * float(np.std(r)), 1e-6)
    noise = {"sigma": sigma, "nu": 4.0, "tau": 0.5 * sigma, "rate": 0.5 * sigma}
    noise["length"] = runs.gap if runs is not None else 1.0
    if (known := solved.sharing) is not None:
        noise |= {"sigma": known.sigma, "nu": 10.0, "length": max(known.length, noise["length"])}
        noise |= {"tau": max(known.level, 0.01), "rate": max(known.rate, 0.01)}
    return solved, found, found.at(z, noise)


def _runs(dataset: Dataset, solved: Solved) -> Runs | None:
    """What the rows of runs share in the posterior.

    Raises:
        FitError: a unit of several runs, which have several rows.
    """
    problem, frame, options = solved.problem, solved.frame, dataset.options
    if options.errors == "rows" and options.cluster == "run":
        return None
    if options.errors == "runs" and options.cluster != "run":
        raise FitError(
            f"{dataset.label}: the Bayesian backends know runs that differ, or values of "
            f"{options.cluster}, not both: take errors of rows, or leave the cluster out"
        )
    known = "base_loss" in problem.law.inputs and problem.residual == "log"
    excess = known and np.array_equal(problem.offset, frame["base_loss"].to_numpy())
    along = None if solved.sharing is None else solved.sharing.along
    return runs_of(frame, options.cluster, excess=excess, along=along)


def fit_one(
    dataset: Dataset,
    backend: Backend,
    options: BayesOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fit the law of a dataset to its rows.

    Raises:
        FitError: the law cannot be put on these rows, or the Laplace approximation fails.
    """
    solved, own, start = build_posterior(dataset, options)
    coordinates, mode = sampling.prepare(own, start)
    seed = dataset.options.seed
    others = sampling.other_modes(coordinates, mode, seed)
    if backend == "laplace":
        weighted = laplace.importance(coordinates.log_density, mode, seed)
        if others or not weighted.pareto_k <= laplace.TRUST:
            why = f"Pareto k {weighted.pareto_k:.2f}, above {laplace.TRUST}"
            if others:
                why = f"the posterior has {1 + len(others)} modes"
            raise FitError(
                f"{dataset.label}: the Laplace approximation does not hold here ({why}): use the "
                "backend bayes"
            )
        x = coordinates.x(weighted.x)
        diagnostics: dict[str, Any] = {"pareto_k": weighted.pareto_k, "ess": weighted.ess}
        diagnostics |= dict.fromkeys(("r_hat", "ess_bulk", "ess_tail", "divergences"))
    else:
        size = {k: getattr(options, k) for k in ("draws", "tune", "chains")}
        chains = sampling.sample(
            coordinates, mode, others=others, seed=seed, progress=progress, **size
        )
        values = {n: v for n, v in own.natural(chains.x).items() if n in own.names}
        diagnostics = sampling.diagnose(values, chains)
        diagnostics["sampler"] = "nutpie, low-rank mass matrix"
        diagnostics["modes"] = 1 + len(others)
        if options.save_trace is not None:
            sampling.save_trace(options.save_trace, values, own, chains)
        x = chains.x.reshape(-1, chains.x.shape[-1])
    return _fit(dataset, backend, options, solved, own, x, diagnostics)


def _fit(
    dataset: Dataset,
    backend: Backend,
    options: BayesOptions,
    solved: Solved,
    own: Posterior,
    x: Array,
    diagnostics: Mapping[str, Any],
) -> Fit:
    least_squares = fit_dataset(dataset, solved=solved)
    natural = own.natural(x)
    diagnostics = {**diagnostics, "along_runs": along_runs(own, x, dataset.options.seed)}
    kept = np.linspace(0, len(x) - 1, min(KEPT, len(x))).round().astype(int)
    contraction = contracted(own, x)
    unmoved = [n for n, share in contraction.items() if share < UNMOVED]
    fitted = np.median(own.in_batches(own.fitted, x[kept]), axis=0)
    recorded = {f.name: getattr(options, f.name) for f in fields(options)}
    recorded |= {"prior": list(options.prior), "save_trace": None}
    lines = [w for w in least_squares.warnings if not w.startswith("no intervals")]
    lines += [
        f"{name}: posterior = prior (contraction {contraction[name]:.0%}); the data say next to "
        "nothing of it"
        for name in unmoved
    ]
    sensitivity = prior_sensitivity(own, x) if options.prior_sensitivity else None
    lines += hanging(sensitivity or {}, unmoved)
    if own.runs is None and len(solved.frame) > solved.frame["run"].n_unique():
        lines.append(
            "the rows of a run are taken for independent, as asked: where they follow each other, "
            "or runs differ, the posterior's intervals are too narrow"
        )
    if (modes := diagnostics.get("modes", 1)) > 1:
        lines.append(
            f"the posterior has {modes} modes, and chains started in each: a firmer prior, a tie "
            "or a fixed value can choose one"
        )
    return replace(
        least_squares,
        backend=backend,
        parameters=_estimates(own.problem.law, natural, least_squares, unmoved),
        converged=not failed_checks(diagnostics),
        metrics=score(own.problem, fitted, solved.frame, dataset.options),
        covariance=None,
        bootstrap=None,
        runs=None,
        sensitivity={},
        options={**least_squares.options, **recorded},
        posterior={
            "draws": {n: natural[n][kept] for n in own.problem.law.free},
            "noise": {n: natural[n][kept] for n in own.names[len(own.problem.names) :]},
            "errors": f"{dataset.options.target}_stderr" if own.errors is not None else None,
            "runs": own.runs
            and {"excess": own.runs.excess, "along": own.runs.along, "width": own.runs.width},
            "priors": {n: _prior_text(own, n) for n in own.names},
            "contraction": contraction,
            "prior_sensitivity": sensitivity,
            "least_squares": {n: p.estimate for n, p in least_squares.parameters.items()},
        },
        diagnostics=diagnostics,
        warnings=tuple(lines),
    )


def _prior_text(own: Posterior, name: str) -> str:
    term = " of its term at the centre of the data" if own.is_size(name) else ""
    return f"{own.priors[name]}{term}"


def contracted(own: Posterior, x: Array) -> dict[str, float]:
    """1 - variance of the posterior / variance of the prior, of each parameter: of the log of
    what is positive, in the formula's units.

    Args:
        x: draws from the posterior, shape (draws, d).
    """
    before, after = own.natural(own.prior_draws(_PRIOR_DRAWS)), own.natural(x)
    found = {}
    for name in own.problem.law.free:
        pair = [before[name], after[name]]
        if own.logged(name):
            with np.errstate(divide="ignore"):
                pair = [np.log(v) for v in pair]
        spread = [float(np.var(v[np.isfinite(v)])) for v in pair]
        found[name] = 1 - spread[1] / spread[0]
    return found


def _estimates(
    law: Law, natural: Mapping[str, Array], start: Fit, unmoved: Sequence[str]
) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for name in law.free:
        low, middle, high = (finite(v) for v in np.quantile(natural[name], [0.025, 0.5, 0.975]))
        found[name] = Estimate(
            estimate=middle,
            stderr=finite(np.std(natural[name])),
            interval=(low, high),
            identified=start.parameters[name].identified and name not in unmoved,
        )
    for name, value in law.fixed.items():
        found[name] = Estimate(float(value), fixed=True)
    for name, other in law.tied.items():
        found[name] = replace(found[other], tied=other)
    return {n: found[n] for n in law.parameters}
