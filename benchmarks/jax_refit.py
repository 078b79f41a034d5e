"""p2fit's refits written for JAX: compiled, in 64 bits, all cores.

Of the Chinchilla law with its derivatives by hand, of any formula with JAX's own.

The same damped Newton method on the same objective in the same variables (see
p2fit/solver/least_squares.py), as one program: vmap over the resamples of a batch, map over
batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Array
from jax import lax

from p2fit.solver.least_squares import Problem

jax.config.update("jax_enable_x64", True)

#: Resamples × rows in a batch: of 2^11 to 2^20 all are about as fast, and this compiles fastest.
CELLS = 1 << 11
MOST = 200


def compiled(problem: Problem, start: Array, count: int) -> Callable[[Array], Array]:
    """A compiled function from weights (count, n) to the objectives (count,)."""
    evaluate = by_hand(problem) if problem.law.monomial else by_autodiff(problem)
    n = len(problem.y)
    low, high, sizes = (jnp.asarray(v) for v in (problem.lower, problem.upper, problem.sizes))

    def going(state: Any) -> Any:
        return ~state[-1] & (state[-2] < MOST)

    def refit(w: Any) -> Any:
        def step(state: Any) -> Any:
            z, (value, slope, hessian, bound), lam, count, _ = state
            scale = jnp.diagonal(bound)
            effect = scale * sizes**2
            free = effect > 1e-13 * effect.max()
            free &= ~(((z <= low) & (slope > 0)) | ((z >= high) & (slope < 0)))
            g = jnp.where(free, slope, 0.0)
            matrix = hessian + lam * bound + jnp.diag(0.1 * lam * scale)
            matrix = jnp.where(free[:, None] & free, matrix, 0.0) + jnp.diag(1.0 - free)
            root = 1 / jnp.sqrt(jnp.where(free, scale, 1.0))
            move = jnp.linalg.solve(matrix * root[:, None] * root, -g * root) * root
            decrease = -(g @ move)
            done = (jnp.abs(decrease) <= 1e-12 * value) & (lam <= 1e-2)
            trial = jnp.clip(z + move, low, high)
            new = evaluate(trial, w)
            better = (decrease > 0) & (new[0] <= value)
            predicted = 0.5 * (decrease + lam * (move @ (bound @ move)))
            gain = (value - new[0]) / jnp.maximum(predicted, 1e-300)
            factor = jnp.where(gain > 0.75, 0.1, jnp.where(gain > 0.25, 0.5, 3.0))
            wider = jnp.clip(lam * jnp.where(better, factor, 6.0), 1e-12)
            point = jax.tree.map(
                lambda ours, theirs: jnp.where(better, ours, theirs),
                new, (value, slope, hessian, bound),
            )  # fmt: skip
            return jnp.where(better, trial, z), point, wider, count + 1, done | (wider > 1e10)

        z = jnp.clip(jnp.asarray(start), low, high)
        return lax.while_loop(going, step, (z, evaluate(z, w), 0.1, 0, False))[1][0]

    batch = max(1, min(count, CELLS // n))
    program = jax.jit(lambda w: lax.map(refit, w, batch_size=batch))
    ready = program.lower(jax.ShapeDtypeStruct((count, n), np.float64)).compile()
    return lambda weights: np.asarray(ready(weights))


def by_hand(problem: Any) -> Callable[[Any, Any], tuple[Any, Any, Any, Any]]:
    """Objective, gradient, Hessian and its bound at z (5,) and weights (n,): Chinchilla's."""
    if problem.law.name != "chinchilla" or problem.residual != "log":
        raise ValueError("written for the Chinchilla law and log residuals")
    rows = [np.flatnonzero(problem.slope[:, e].any(axis=0))[0] for e in range(2)]
    log_n, log_d = (jnp.asarray(-problem.logs[i]) for i in rows)
    log_y, delta = jnp.asarray(np.log(problem.y)), problem.delta
    ones = jnp.ones(len(problem.y))

    def evaluate(z: Any, w: Any) -> tuple[Any, Any, Any, Any]:
        a, b = jnp.exp(z[3] * log_n), jnp.exp(z[4] * log_d)
        ta, tb = z[1] * a, z[2] * b
        fitted = z[0] + ta + tb
        r = jnp.log(fitted) - log_y
        dr = 1 / fitted
        size = jnp.abs(r)
        clipped = jnp.minimum(size, delta)
        psi = w * jnp.copysign(clipped, r)
        irls = w * (clipped / jnp.maximum(size, 1e-300))
        inside = w * (size <= delta)
        jac = jnp.stack([ones, a, b, ta * log_n, tb * log_d]) * dr
        value = (w * (clipped * (size - 0.5 * clipped))).sum()
        bound = (jac * irls) @ jac.T
        hessian = (jac * (inside - psi)) @ jac.T
        pull = psi * dr
        pa, pb = pull * log_n * a, pull * log_d * b
        ca, cb = pa.sum(), pb.sum()
        hessian = hessian.at[1, 3].add(ca).at[3, 1].add(ca).at[2, 4].add(cb).at[4, 2].add(cb)
        hessian = hessian.at[3, 3].add(z[1] * (pa @ log_n)).at[4, 4].add(z[2] * (pb @ log_d))
        return jnp.where(jnp.isfinite(value), value, jnp.inf), jac @ psi, hessian, bound

    return evaluate


def by_autodiff(problem: Any) -> Callable[[Any, Any], tuple[Any, Any, Any, Any]]:
    """The same for any formula and log residuals, differentiated by JAX."""
    if problem.residual != "log":
        raise ValueError("written for log residuals")
    law, k = problem.law, problem.coefficients
    known = {at: jnp.asarray(v[0] if np.ndim(v) else v) for at, v in problem.known.items()}
    log_y, delta, centre = jnp.asarray(np.log(problem.y)), problem.delta, problem.centre

    def model(z: Any) -> Any:
        sizes = z[:k] * jnp.exp(-centre[:, 0] - centre[:, 1:] @ z[k:])
        theta = [jnp.exp(v) if log else v for v, log in zip(z[k:], problem.logged, strict=True)]
        values = dict(zip((*law.coefficients, *law.exponents), (*sizes, *theta), strict=True))
        return law.tape.run(known, values, jnp)

    def evaluate(z: Any, w: Any) -> tuple[Any, Any, Any, Any]:
        fitted, jac = model(z), jax.jacfwd(model)(z).T
        r = jnp.log(fitted) - log_y
        dr = 1 / fitted
        size = jnp.abs(r)
        clipped = jnp.minimum(size, delta)
        psi = w * jnp.copysign(clipped, r)
        irls = w * (clipped / jnp.maximum(size, 1e-300))
        inside = w * (size <= delta)
        jac = jac * dr
        value = (w * (clipped * (size - 0.5 * clipped))).sum()
        hessian = (jac * (inside - psi)) @ jac.T
        hessian += jax.hessian(lambda z: psi * dr @ model(z))(z)
        return (
            jnp.where(jnp.isfinite(value), value, jnp.inf),
            jac @ psi,
            hessian,
            (jac * irls) @ jac.T,
        )

    return evaluate
