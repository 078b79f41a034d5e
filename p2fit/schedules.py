"""Pruning schedules of sparse pre-training, and the average parameter count in closed form.

A sparsely pre-trained model of N₀ parameters has N(t) of them active after t tokens. Jin et al.
(2025, arXiv 2501.12486) put the mean over the tokens seen, N̄ = (1/D) ∫₀ᴰ N(t) dt, where the
Chinchilla law has N. Training compute is C = 6 ∫₀ᴰ N(t) dt FLOPs, hence N̄ = C / (6 D) exactly.

With u in [0, 1] the progress within the pruning span (in tokens) and S the final sparsity, the
density of the prunable weights is

    geometric  (1 − S)^u          Jin et al. 2025, as in their code
    cubic      1 − S (1 − (1 − u)³)   Zhu & Gupta 2017 (arXiv 1710.01878), equation 1
    linear     1 − S u
    one-shot   1 − S              everything at the start of the span

1 before the span and 1 − S after it. The near-optimal span of Jin et al. runs from 25 % to 75 % of
the compute, not of the tokens. For the compute that a dense model of 1.14e9 parameters would spend
on 80e9 tokens:

>>> schedule = Schedule.from_compute("geometric", 0.8, prunable=1.14e9, dense_tokens=80e9)
>>> f"{schedule.start:.4g} {schedule.end:.4g} {schedule.total:.4g}"
'2e+10 1.005e+11 2.005e+11'
>>> f"{schedule.avg_params():.4g}"
'4.549e+08'
>>> [f"{n:.3g}" for n in schedule.avg_params([20e9, 100e9, 200e9])]
['1.14e+09', '6.83e+08', '4.55e+08']
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log1p
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["geometric", "cubic", "linear", "one-shot"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """When a run prunes, how much, and how many of its parameters that leaves active.

    Tokens may be counted in any unit (steps, say) as long as it is one unit throughout. Methods
    take tokens of any shape and answer in that shape; past `total` they continue the run at its
    final density. They raise ValueError for tokens that are negative or not finite.

    Raises ValueError, naming the field and what to change, for values outside the ranges below.
    """

    kind: Kind
    """Shape of the density within the span: one of `KINDS`."""

    sparsity: float
    """S in [0, 1), the share of the prunable parameters that is gone in the end; 0 is dense."""

    start: float
    """Tokens seen when pruning starts, at least 0."""

    end: float
    """Tokens seen when pruning ends, at least `start`. Equal to it, everything goes at once,
    as it does for one-shot whatever the end."""

    total: float
    """D, the tokens of the whole run, above 0 and at least `end`."""

    prunable: float
    """Count of parameters the density applies to, above 0. Jin et al. average the linear ones:
    attention, MLP and LM head, without the input embedding."""

    fixed: float = 0.0
    """Count of parameters that are never pruned but counted in N all the same. The default, 0,
    is the authors' way of counting; give the embedding here to count every parameter."""

    events: int | None = None
    """K, the number of equally spaced pruning events: event k (from 0) comes k/K into the span
    and leaves the density of u = (k + 1)/K, as in the authors' code (density after event k;
    that event 0 comes at the very start is our reading). None is the continuous limit."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(
                f"sparsity: {self.sparsity} is not in [0, 1); give the share of the weights "
                "removed in the end as a fraction below 1 (0.8, not 80): something must remain"
            )
        if not (0 <= self.start <= self.end <= self.total and isfinite(self.total)):
            raise ValueError(
                f"start {self.start}, end {self.end}, total {self.total}: "
                "give finite tokens with 0 <= start <= end <= total"
            )
        if self.total == 0:
            raise ValueError("total: a run needs tokens; give a count above 0")
        if not (self.prunable > 0 and isfinite(self.prunable)):
            raise ValueError(f"prunable: {self.prunable} is not a finite count above 0")
        if not (self.fixed >= 0 and isfinite(self.fixed)):
            raise ValueError(f"fixed: {self.fixed} is not a finite count of at least 0")
        if self.events is not None and not (self.events >= 1 and self.events % 1 == 0):
            raise ValueError(
                f"events: {self.events} is not a whole number of at least 1; "
                "leave it out for the continuous limit"
            )

    @classmethod
    def from_compute(
        cls,
        kind: Kind,
        sparsity: float,
        prunable: float,
        fixed: float = 0.0,
        *,
        tokens: float | None = None,
        dense_tokens: float | None = None,
        start: float = 0.25,
        end: float = 0.75,
        events: int | None = None,
    ) -> Schedule:
        """The schedule that prunes from `start` to `end` of the training compute.

        The defaults are the near-optimal rule of Jin et al. (2025, abstract). Give either `tokens`,
        the tokens D of the run, or `dense_tokens`, the tokens T that the same compute would buy
        without pruning. With m and r the mean of N/N₀ within the span and its value after it,

            start tokens = start · T,   span = (end − start) · T / m,   tail = (1 − end) · T / r

        so that N̄ · D = N₀ · T. With nothing fixed, r = 1 − S and m is S / ln(1/(1 − S)) for
        geometric, 1 − 3S/4 for cubic, 1 − S/2 for linear and 1 − S for one-shot pruning.

        `start` and `end` are fractions of compute, the other arguments the fields of the class.
        Raises ValueError as the class does, for fractions not in order within [0, 1], and unless
        exactly one of the two token counts is given.
        """
        if not 0 <= start <= end <= 1:
            raise ValueError(
                f"start {start}, end {end}: give fractions of the training compute "
                "with 0 <= start <= end <= 1"
            )
        span_only = cls(kind, sparsity, 0.0, 1.0, 1.0, prunable, fixed, events)
        dense = prunable + fixed
        until_end = start + (end - start) * dense / float(span_only.avg_params())
        per_dense_token = until_end + (1 - end) * dense / float(span_only.active_params(1.0))
        if dense_tokens is not None and tokens is None:
            scale, total = dense_tokens, dense_tokens * per_dense_token
        elif tokens is not None and dense_tokens is None:
            scale, total = tokens / per_dense_token, tokens
        else:
            raise ValueError("give exactly one of tokens and dense_tokens")
        # Where nothing follows the span, rounding may put its end a hair past the total.
        last = min(scale * until_end, total)
        first = min(scale * start, last)
        return cls(kind, sparsity, first, last, total, prunable, fixed, events)

    def density(self, tokens: ArrayLike) -> FloatArray:
        """Share of the prunable parameters active after `tokens`; at an event, that after it."""
        t = _checked(tokens)
        if self._is_stepwise:
            times, densities = self._steps()
            return densities[_step_at(times, t)]
        # The span is not empty here: one that is counts as stepwise.
        span = self.end - self.start
        return _density(self.kind, self.sparsity, np.clip(t - self.start, 0, span) / span)

    def active_params(self, tokens: ArrayLike) -> FloatArray:
        """N(t), the count of parameters active after `tokens`."""
        return self.fixed + self.prunable * self.density(tokens)

    def avg_params(self, tokens: ArrayLike | None = None) -> FloatArray:
        """N̄, the mean of N over the first `tokens` tokens (by default over the whole run).

        Jin et al. (2025), the N of their modified law. At 0 tokens, its limit N(0).
        """
        t = _checked(self.total if tokens is None else tokens)
        mean = self._area(t) / np.where(t > 0, t, 1.0)
        return self.fixed + self.prunable * np.where(t > 0, mean, self.density(t))[()]

    def compute(self, tokens: ArrayLike | None = None) -> FloatArray:
        """C = 6 ∫ N dt in FLOPs, over the first `tokens` tokens (by default the whole run)."""
        t = _checked(self.total if tokens is None else tokens)
        return 6 * (self.fixed * t + self.prunable * self._area(t))

    @property
    def _is_stepwise(self) -> bool:
        return self.events is not None or self.kind == "one-shot" or self.start == self.end

    def _steps(self) -> tuple[FloatArray, FloatArray]:
        """Where each stretch of constant density begins, and that density; the first is dense."""
        count = self.events or 1
        k = np.arange(count)
        times = self.start + (self.end - self.start) * (k / count)
        densities = _density(self.kind, self.sparsity, (k + 1) / count)
        return np.r_[0.0, times], np.r_[1.0, densities]

    def _area(self, t: FloatArray) -> FloatArray:
        """The integral of the density from 0 to t, in tokens."""
        if self._is_stepwise:
            times, densities = self._steps()
            areas = np.r_[0.0, np.cumsum(densities[:-1] * np.diff(times))]
            at = _step_at(times, t)
            area: FloatArray = areas[at] + densities[at] * (t - times[at])
            return area
        span = self.end - self.start
        within = span * _area_in_span(
            self.kind, self.sparsity, np.clip(t - self.start, 0, span) / span
        )
        return (
            np.minimum(t, self.start) + within + (1 - self.sparsity) * np.maximum(t - self.end, 0)
        )


def annealing(learning_rates: ArrayLike, *, decay: float = 0.999) -> tuple[FloatArray, FloatArray]:
    """What a learning rate schedule has done by each step: its area, and how much was annealed.

    The area is S₁ = Σ η_i; the annealing is S₂, the sum over steps of a momentum that gains every
    fall of the learning rate and keeps the share ``decay`` of itself at each step (Tissue et al.
    2024, arXiv 2408.11029, equations 2 and 3). They are the columns ``lr_area`` and
    ``lr_annealing`` of the law ``annealing``.

    >>> area, annealed = annealing([1.0, 1.0, 0.5, 0.0], decay=0.5)
    >>> area.tolist(), annealed.tolist()
    ([1.0, 2.0, 2.5, 2.5], [0.0, 0.0, 0.5, 1.25])

    Args:
        learning_rates: of each step, shape (steps,); leave the warm-up out.
        decay: λ, in [0, 1).

    Returns:
        Area and annealing after each step, shape (steps,) each.

    Raises:
        ValueError: a decay outside [0, 1), or rates that are not finite numbers from 0 up.
    """
    rates = _checked(learning_rates)
    if not 0 <= decay < 1:
        raise ValueError("decay: give a number in [0, 1)")
    momentum, total, annealed = 0.0, 0.0, np.zeros(len(rates))
    for i, fall in enumerate(-np.diff(rates, prepend=rates[:1])):
        momentum = decay * momentum + float(fall)
        total += momentum
        annealed[i] = total
    return np.cumsum(rates), annealed


def _checked(tokens: ArrayLike) -> FloatArray:
    t = np.asarray(tokens, dtype=np.float64)
    if not np.all((t >= 0) & np.isfinite(t)):
        raise ValueError("tokens: give finite counts of at least 0")
    return t


def _step_at(times: FloatArray, t: FloatArray) -> NDArray[np.intp]:
    """The stretch that each of t lies in; at the very beginning of one, that one."""
    return np.asarray(np.searchsorted(times, t, side="right") - 1)


def _density(kind: Kind, sparsity: float, u: FloatArray) -> FloatArray:
    """Density at progress u of the span; for one-shot, once pruning has started."""
    if kind == "geometric":
        kept: FloatArray = np.exp(u * log1p(-sparsity))
        return kept
    if kind == "cubic":
        return 1 - sparsity + sparsity * (1 - u) ** 3
    if kind == "linear":
        return 1 - sparsity * u
    return np.full_like(u, 1 - sparsity)


def _area_in_span(kind: Kind, sparsity: float, u: FloatArray) -> FloatArray:
    """The integral of the density from 0 to u for the kinds that are not stepwise."""
    if kind == "geometric":
        x = u * log1p(-sparsity)
        # u · (eˣ − 1)/x, which is u where x is 0: nothing pruned, or nothing of the span passed.
        mean = np.where(x < 0, np.expm1(x) / np.where(x < 0, x, 1.0), 1.0)
        area: FloatArray = u * mean
        return area
    if kind == "cubic":
        return (1 - sparsity) * u + sparsity * (1 - (1 - u) ** 4) / 4
    return u - sparsity * u**2 / 2
