"""Draws from a posterior: NUTS by nutpie, and its diagnostics by ArviZ.

The density and its gradient are compiled by JAX. The sampler walks in
coordinates in which the posterior is close to a standard normal: those of
:mod:`p2fit.bayes.coordinates`, moved and scaled by the curvature at the mode.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from p2fit import extras
from p2fit.arrays import Array
from p2fit.bayes.coordinates import Coordinates
from p2fit.bayes.functions import jax_functions
from p2fit.bayes.laplace import Density, Mode, find_mode
from p2fit.bayes.posterior import Posterior

_TRIES = 1000  # draws from the prior, where least squares gives no start
_CLIMBS = 4  # from draws of the prior, to find other modes
_VALLEY = 3.0  # of the log density between two modes
_KERNEL = 4095  # numbers in an array of which XLA makes part of a kernel, at most
_ACCEPT = 0.95  # of proposals: more than the sampler's 0.8 walks ridges without divergences


@dataclass(frozen=True)
class Chains:
    """What the sampler drew."""

    x: Array
    """Draws of the posterior's variables, shape (chains, draws, d)."""
    energy: Array
    """Of each draw, shape (chains, draws)."""
    diverging: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether the draw's trajectory diverged, shape (chains, draws)."""


class NoDensityError(ValueError):
    """Where the density overflows; the sampler counts a divergence."""

    is_recoverable = True


def prepare(posterior: Posterior, start: Array) -> tuple[Coordinates, Mode]:
    """Coordinates that suit the posterior, and its mode in them, from a start x, shape (d,)."""
    rough = Coordinates(posterior, ())
    if not np.isfinite(rough.log_density(start[None])[0]):  # subtracted terms can leave no loss
        drawn = posterior.prior_draws(_TRIES)
        start = drawn[np.argmax(rough.log_density(drawn))]
    mode = find_mode(rough.log_density, start)
    spread = np.sqrt((mode.root**2).sum(axis=1))
    order = tuple(sorted(posterior.terms, key=spread.__getitem__))
    coordinates = Coordinates(posterior, order)
    return coordinates, find_mode(coordinates.log_density, coordinates.w(mode.x))


def other_modes(coordinates: Coordinates, mode: Mode, seed: int) -> list[Mode]:
    """Modes besides the one found from least squares, by climbs from likely draws of the prior.

    They are apart from it, with a valley between, and by their height and curvature hold more than
    a thousandth of its mass.
    """
    density = coordinates.log_density
    with np.errstate(all="ignore"):
        drawn = coordinates.w(coordinates.posterior.prior_draws(_TRIES, seed))
    heights = density(drawn)
    likely = np.argsort(-heights)[: _TRIES // 20]
    likely = likely[np.isfinite(heights[likely])]
    chosen = np.random.default_rng(seed).permutation(likely)[:_CLIMBS]
    found: list[Mode] = []
    for start in drawn[chosen]:
        other = find_mode(density, start)
        if _mass(density, other) < _mass(density, mode) - math.log(1000):
            continue
        if all(_apart(density, known, other) for known in (mode, *found)):
            found.append(other)
    return found


def _mass(density: Density, mode: Mode) -> float:
    """The log of a mode's mass, as if it were normal, but for a constant."""
    return float(density(mode.x[None])[0] + np.linalg.slogdet(mode.root)[1])


def _apart(density: Density, one: Mode, other: Mode) -> bool:
    """Whether there is a valley between two modes."""
    path = one.x + np.linspace(0, 1, 21)[:, None] * (other.x - one.x)
    heights = density(path)
    return bool(heights.min() < min(heights[0], heights[-1]) - _VALLEY)


def sample(
    coordinates: Coordinates,
    mode: Mode,
    *,
    others: Sequence[Mode] = (),
    draws: int,
    tune: int,
    chains: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Chains:
    """Run NUTS with nutpie's low-rank mass matrix.

    Args:
        others: further modes, in each of which a chain starts.
        progress: called with draws done and in all, tuning included.
    """
    compiled = value_and_slope(coordinates, mode)  # ArviZ imports JAX, without its settings
    extras.arviz()
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    d, done = len(mode.x), 0

    def keep(*_: Any) -> Callable[[Array], dict[str, Array]]:
        def expand(step: Array) -> dict[str, Array]:
            nonlocal done
            done += 1
            if progress is not None and done % 50 == 0:
                progress(min(done, chains * (draws + tune)), chains * (draws + tune))
            return {"step": step}

        return expand

    starts = itertools.count()

    def start(own: int) -> Array:
        rng, chain = np.random.default_rng([seed, own]), next(starts)
        at = others[chain - 1] if 1 <= chain <= len(others) else mode
        points = at.x + rng.standard_normal((50, d)) @ at.root.T
        usable = np.flatnonzero(np.isfinite(coordinates.log_density(points)))
        chosen = points[usable[0]] if len(usable) else at.x
        found: Array = np.linalg.solve(mode.root, chosen - mode.x)
        return found

    model = from_pyfunc(
        d,
        lambda: compiled,
        keep,
        [np.dtype("float64")],
        [(d,)],
        ["step"],
        make_initial_point_fn=start,
    )
    if "adaptation" in signature(nutpie.sample).parameters:
        how: dict[str, Any] = {"adaptation": "low_rank"}
    else:  # nutpie up to 0.16.8
        how = {"low_rank_modified_mass_matrix": True}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        sampler = nutpie.sample(
            model,
            draws=draws,
            tune=tune,
            chains=chains,
            # A second would wait for Python's lock while rows are few; with one, chains start in
            # order.
            cores=1 if others or _small(coordinates.posterior) else 2,
            seed=seed,
            save_warmup=False,
            progress_bar=False,
            target_accept=_ACCEPT,
            blocking=False,
            **how,
        )
        try:
            trace = sampler.wait()
        except BaseException:  # half a chain says nothing
            sampler.cancel()
            raise
    steps = np.asarray(trace.posterior["step"])
    stats = trace.sample_stats
    return Chains(
        x=coordinates.x(mode.x + steps @ mode.root.T),
        energy=np.asarray(stats["energy"]),
        diverging=np.asarray(stats["diverging"]),
    )


def value_and_slope(coordinates: Coordinates, mode: Mode) -> Callable[[Array], tuple[float, Array]]:
    """Log density and gradient a step, shape (d,), away from the mode, in units of its root:
    compiled by JAX. The function raises :class:`NoDensityError` where there is none."""
    jax = extras.jax()
    from jax.experimental import xla_metadata

    metadata: Any = xla_metadata.set_xla_metadata
    functions, device = jax_functions(), jax.local_devices(backend="cpu")[0]

    def height(step: Any) -> Any:
        # XLA's product of matrices hands over to threads: 20 µs for a few numbers.
        return coordinates.density(mode.x + (mode.root * step).sum(-1), functions)

    def both(step: Any) -> Any:  # in one array, as handing one over takes 5 µs
        value, slope = jax.value_and_grad(height)(step)
        return functions.concatenate([value[None], slope])

    def kernel(step: Any) -> Any:
        # Else XLA makes a hundred of it, and hands them over to threads: four times as slow.
        with metadata(inlineable="false", xla_cpu_small_call="true"):
            return jax.jit(both)(step)

    def ready(function: Callable[[Any], Any]) -> Any:
        with jax.enable_x64(True), jax.default_device(device), np.errstate(all="ignore"):
            return jax.jit(function).lower(np.zeros(len(mode.x))).compile()

    try:
        compiled = ready(kernel if _small(coordinates.posterior) else both)
    except jax.errors.JaxRuntimeError:  # it has what XLA makes no part of a kernel
        compiled = ready(both)

    def at(step: Array) -> tuple[float, Array]:
        with jax.enable_x64(True):
            found = np.asarray(compiled(step))
        if not np.isfinite(found).all():
            raise NoDensityError
        return float(found[0]), found[1:]

    return at


def _small(posterior: Posterior) -> bool:
    """Whether the density fits into one kernel of XLA's."""
    return len(posterior.observed) <= (_KERNEL if posterior.runs is None else _KERNEL // 3)


def diagnose(values: Mapping[str, Array], chains: Chains) -> dict[str, Any]:
    """The worst of each diagnostic, and R-hat and effective sizes by parameter.

    Args:
        values: draws by parameter, each of shape (chains, draws).
    """
    az = extras.arviz()
    each = {
        name: {
            "r_hat": float(az.rhat(draws)),
            "ess_bulk": float(az.ess(draws, method="bulk")),
            "ess_tail": float(az.ess(draws, method="tail", prob=(0.05, 0.95))),
        }
        for name, draws in values.items()
    }
    moves = np.diff(chains.energy, axis=1)
    fraction = (moves**2).mean(axis=1) / chains.energy.var(axis=1, ddof=1)
    return {
        "r_hat": max(e["r_hat"] for e in each.values()),
        "ess_bulk": min(e["ess_bulk"] for e in each.values()),
        "ess_tail": min(e["ess_tail"] for e in each.values()),
        "divergences": int(chains.diverging.sum()),
        "e_bfmi": float(fraction.min()),
        "chains": chains.x.shape[0],
        "draws": chains.x.shape[1],
        "parameters": each,
    }


def save_trace(
    path: str | Path, values: Mapping[str, Array], posterior: Posterior, chains: Chains
) -> None:
    """Write the draws, the log likelihood of each run and the sampler's account as NetCDF.

    Raises:
        FitError: it cannot be written.
    """
    from p2fit.files import replacing

    az = extras.arviz()
    flat = chains.x.reshape(-1, chains.x.shape[-1])
    by_run = posterior.in_batches(posterior.log_likelihood, flat)
    groups = {
        "posterior": dict(values),
        "sample_stats": {"energy": chains.energy, "diverging": chains.diverging},
        "log_likelihood": {"run": by_run.reshape(*chains.x.shape[:2], -1)},
        "observed_data": {"observed": posterior.observed},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = az.__version__.startswith("0.")
        trace = az.from_dict(**groups) if old else az.from_dict(groups)
        with replacing(path) as temporary:
            trace.to_netcdf(str(temporary), engine="h5netcdf")
