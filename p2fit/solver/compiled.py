"""The damped Newton of :mod:`p2fit.solver.least_squares` as one program, compiled by JAX.

The same steps by the same rules from the same derivatives, so that a refit ends where it does
there, but for rounding. The objective stands in the program once: a pass of its loop evaluates one
point of each refit, be it a step or a step that was taken back to the floor of a valley.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from p2fit import extras
from p2fit.arrays import Array
from p2fit.laws.jets import Functions
from p2fit.solver.least_squares import Minimum
from p2fit.solver.problem import Problem

MOST = 50  # steps; who creeps along a valley holds up the batch, and is better left to NumPy


class _Point(NamedTuple):
    """As in :mod:`p2fit.solver.least_squares`."""

    value: Any
    gradient: Any
    hessian: Any
    bound: Any


class _Step(NamedTuple):
    to: Any
    decrease: Any
    """That the slope promises."""
    promised: Any
    """By the quadratic model."""
    last: Any
    """Whether it promises too little for another one."""


class _State(NamedTuple):
    """An entry for each refit."""

    z: Any
    point: _Point
    damping: Any
    step: _Step
    """What is tried next; ``to`` may be the floor of the valley below it."""
    aside: tuple[Any, _Point]
    """Where the step led, while the floor below is tried."""
    below: Any
    """Whether it is."""
    judged: Any
    """How many steps were; -1 before the start was."""
    tried: Any
    going: Any
    converged: Any


def refitting(problem: Problem, batch: int) -> Callable[[Array, Array, Array, float], Minimum]:
    """Refits of a problem whose rows share nothing, a batch at once.

    Returns:
        A function of the start (p,), losses and weights (B, n), and the damping of the first step,
        which threads may call at once. What took too many steps has not converged.

    Raises:
        ImportError: there is no JAX, or an old one.
    """
    jax = extras.jax()
    if not hasattr(jax, "enable_x64"):
        raise ImportError("jax is older than 0.10")
    from jax import numpy as jnp

    p, n = len(problem.lower), len(problem.y)

    def refit(start: Any, y: Any, weights: Any, damping: Any) -> Any:
        def further(state: _State) -> _State:
            return _judged(problem, state, _at(problem, state.step.to, y, weights))

        z = jnp.broadcast_to(jnp.clip(start, problem.lower, problem.upper), (batch, p))
        none, no, square = jnp.zeros(batch), jnp.zeros(batch, bool), jnp.zeros((batch, p, p))
        nowhere = _Point(none + jnp.inf, 0 * z, square, square)
        first = _Step(z, none + 1, none + 1, no)
        aside, judged = (z, nowhere), jnp.full(batch, -1)
        state = _State(z, nowhere, none + damping, first, aside, no, judged, judged + 1, ~no, no)
        state = jax.lax.while_loop(lambda state: state.going.any(), further, state)
        return state.z, state.point.value, state.converged, state.tried

    rows = jax.ShapeDtypeStruct((batch, n), np.float64)
    device = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device), np.errstate(all="ignore"):
        ready = jax.jit(refit).lower(np.zeros(p), rows, rows, 1.0).compile()

    def found(start: Array, y: Array, weights: Array, damping: float) -> Minimum:
        with jax.enable_x64(True):
            return Minimum(*map(np.array, ready(start, y, weights, damping)))

    return found


def _at(problem: Problem, z: Any, y: Any, weights: Any) -> _Point:
    from jax import lax
    from jax import numpy as jnp

    model, scale = problem.jet(z, Functions(jnp)), problem.scale
    once: Any = lax.optimization_barrier  # else XLA works out anew what several sums need
    fitted = jnp.broadcast_to(model.value, y.shape)
    slope = scale.slope(fitted, jnp)
    r = scale.miss(fitted, y, jnp)
    size = jnp.abs(r)
    clipped = jnp.minimum(size, problem.delta)
    psi = weights * jnp.copysign(clipped, r)
    irls = weights * (clipped / jnp.maximum(size, 1e-300))
    inside = weights * (size <= problem.delta)
    value = (weights * (clipped * (size - 0.5 * clipped))).sum(1)
    p = z.shape[1]
    columns = [jnp.broadcast_to(model.first.get(i, 0.0), y.shape) * slope for i in range(p)]
    curve = scale.curve(inside, psi, fitted, jnp)
    jac, psi, irls, curve = once((jnp.stack(columns, 1), psi, irls, curve))
    both = jnp.concatenate([jac * curve[:, None], jac * irls[:, None]], 1) @ jac.transpose(0, 2, 1)
    hessian, bound = jnp.split(both, 2, axis=1)
    second = model.second or {}
    if second:
        place = np.zeros((len(second), p, p))
        for m, (i, j) in enumerate(second):
            place[m, i, j] = place[m, j, i] = 1.0
        pulled = jnp.stack([(psi * slope * bend).sum(1) for bend in second.values()], 1)
        hessian += (pulled @ place.reshape(-1, p * p)).reshape(hessian.shape)
    value = jnp.where(jnp.isfinite(value), value, jnp.inf)
    return _Point(value, (jac @ psi[..., None])[..., 0], hessian, bound)


def _judged(problem: Problem, state: _State, new: _Point) -> _State:
    """The state once what was tried is known; see ``minimise`` there."""
    from jax import numpy as jnp

    after, share = problem.valleys
    step, value, lam = state.step, state.point.value, state.damping
    to, new = _where(state.below & ~(new.value < state.aside[1].value), state.aside, (step.to, new))
    better = (step.decrease > 0) & (new.value <= value)
    over = ~better | (value - new.value < share * step.promised)
    over &= state.going & ~state.below & (state.judged >= after) & bool(len(problem.linear))
    settled = state.going & ~over
    gain = (value - new.value) / step.promised
    factor = jnp.where(gain > 0.75, 0.3, jnp.where(gain > 0.25, 0.5, 2.0))
    factor = jnp.where(state.judged < 0, 1.0, jnp.where(better, factor, 10.0))
    lam = jnp.where(settled, jnp.maximum(lam * factor, 1e-12), lam)
    z, point = _where(settled & better, (to, new), (state.z, state.point))
    here, there = _where(over, (to, new), (z, point))
    following = _step(problem, here, there, lam, over)
    ended = settled & (step.last | (lam > 1e10) | (state.judged + 1 >= MOST))
    return _State(
        z=z,
        point=point,
        damping=lam,
        step=_where(over, step._replace(to=following.to), following),
        aside=(to, new),
        below=over,
        judged=state.judged + settled,
        tried=state.tried + state.going,
        going=state.going & ~ended,
        converged=state.converged | (settled & step.last),
    )


def _step(problem: Problem, z: Any, point: _Point, lam: Any, over: Any) -> _Step:
    """The next step; from what is over a valley, to its floor by what the loss is linear in."""
    from jax import numpy as jnp

    low, high, identity = problem.lower, problem.upper, np.eye(z.shape[1])
    scale = jnp.diagonal(point.bound, axis1=1, axis2=2)
    effect = scale * problem.sizes**2
    moving = effect > problem.still * effect.max(1, keepdims=True)
    inner = identity[problem.linear].any(0) & (scale > 0) & jnp.isfinite(scale)
    free = jnp.where(over[:, None], inner, moving)
    free &= ~(((z <= low) & (point.gradient > 0)) | ((z >= high) & (point.gradient < 0)))
    gradient = jnp.where(free, point.gradient, 0.0)
    weights = scale[..., None] * identity
    matrix = point.hessian + lam[:, None, None] * (point.bound + 0.1 * weights)
    matrix = _where(over, point.bound + 1e-12 * weights, matrix)
    # What is not free stays put.
    matrix = jnp.where(free[..., None] & free[:, None], matrix, 0.0)
    matrix += jnp.where(free, 0.0, 1.0)[..., None] * identity
    root = 1 / jnp.sqrt(jnp.where(free, scale, 1.0))
    matrix = matrix * root[..., None] * root[:, None]
    move = jnp.linalg.solve(matrix, (-gradient * root)[..., None])[..., 0] * root
    decrease = -(gradient * move).sum(1)
    last = (jnp.abs(decrease) <= 1e-10 * (point.value + problem.floor)) & (lam <= 1e-2)
    moved = (move * (point.bound @ move[..., None])[..., 0]).sum(1)
    promised = jnp.maximum(0.5 * (decrease + lam * moved), 1e-300)
    return _Step(jnp.clip(z + move, low, high), decrease, promised, last | ~gradient.any(1))


def _where(which: Any, yes: Any, no: Any) -> Any:
    """The entries of the one where so, of the other elsewhere."""
    import jax
    from jax import numpy as jnp

    def chosen(a: Any, b: Any) -> Any:
        return jnp.where(which.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(chosen, yes, no)
