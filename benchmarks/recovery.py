"""Does a fit find a known P² law again, and do its intervals cover it?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from common import TARGETS, TRUTH, Array, Row, percent, setting, simulate, table, target

import p2fit

SEEDS = 200
LOSSES: tuple[Literal["huber", "squared"], ...] = ("huber", "squared")
#: Tokens at the 20 checkpoints of each run.
CHECKPOINTS = {
    "even": np.linspace(0.05, 1, 20) * 1e9,
    "geometric": np.geomspace(0.05, 1, 20) * 1e9,
}
#: Largest error of the fitted surface, as a share of the loss and of the excess over L₀.
OF_LOSS, OF_EXCESS = 0.0025, 0.015


@dataclass
class Surface:
    """Largest errors of one way of fitting over the design, one entry per seed."""

    of_loss: list[float] = field(default_factory=list)
    of_excess: list[float] = field(default_factory=list)

    def add(self, frame: pl.DataFrame, error: Array) -> None:
        exact, base = frame["exact"].to_numpy(), frame["base_loss"].to_numpy()
        self.of_loss.append(float(np.max(np.abs(error) / exact)))
        self.of_excess.append(float(np.max(np.abs(error) / (exact - base))))

    @property
    def within(self) -> float:
        """Share of the seeds within both limits."""
        pairs = zip(self.of_loss, self.of_excess)
        return sum(a <= OF_LOSS and b <= OF_EXCESS for a, b in pairs) / len(self.of_loss)

    def cells(self) -> list[str]:
        numbers = [
            f"{100 * np.quantile(errors, q):.2f} %"
            for errors in (self.of_loss, self.of_excess)
            for q in (0.5, 0.95)
        ]
        return [*numbers, percent(self.within)]


def measure() -> str:
    """Both losses on both spacings of the checkpoints, beside the limit of least squares."""
    surfaces, parameters, near, covered = [], [], [], []
    for spacing, tokens in CHECKPOINTS.items():
        frames = [simulate(tokens, seed=seed) for seed in range(SEEDS)]
        limit = least_squares_limit(frames)
        for loss in LOSSES:
            print(f"  {SEEDS} seeds, {spacing} checkpoints, {loss} loss", flush=True)
            fits = [p2fit.fit(frame, "p2", loss=loss) for frame in frames]
            surface = Surface()
            for frame, fit in zip(frames, fits):
                surface.add(frame, fit.predict(frame.to_dict()) - frame["exact"].to_numpy())
            agreed = np.mean([fit.starts["agreed"] == fit.starts["tried"] for fit in fits])
            case = f"{spacing} checkpoints, {loss}"
            surfaces.append((case, *surface.cells(), percent(float(agreed))))
            near.append(target(f"{case}: seeds within both limits", surface.within, 0.95,
                               percent, most=False))  # fmt: skip
            rows, least = coverage(fits)
            parameters += [(case, *row) for row in rows]
            covered.append(target(f"{case}: least coverage of a parameter", least, 0.9,
                                  percent, most=False))  # fmt: skip
        surfaces.append((f"{spacing} checkpoints, limit of least squares", *limit.cells(), "—"))
    surface_header = ("", "of the loss: median", "95th percentile", "of the excess: median",
                      "95th percentile", "seeds within both", "all starts agree")  # fmt: skip
    parameter_header = ("", "parameter", "truth", "median estimate", "intervals", "cover the truth",
                        "with an open end", "median width")  # fmt: skip
    return "\n\n".join(
        [
            table(TARGETS, near + covered),
            table(surface_header, surfaces),
            table(parameter_header, parameters),
            setting("p2fit", "numpy"),
        ]
    )


def least_squares_limit(frames: list[pl.DataFrame]) -> Surface:
    """Errors of least squares with the law linearised at the truth, on the same noise.

    With normal noise no unbiased way of fitting has a smaller variance at any point.
    """
    frame = frames[0]
    columns = frame.to_dict()
    exact = frame["exact"].to_numpy()
    predict: Callable[..., Array] = p2fit.LAWS["p2"].predict
    step = 1e-6
    moved = [
        [predict({**TRUTH, name: value * (1 + sign * step)}, columns) for sign in (1, -1)]
        for name, value in TRUTH.items()
    ]
    jacobian = np.array([np.log(up / down) for up, down in moved]).T
    basis, _ = np.linalg.qr(jacobian)
    limit = Surface()
    for frame in frames:
        noise = np.log(frame["loss"].to_numpy() / exact)
        limit.add(frame, exact * (basis @ (basis.T @ noise)))
    return limit


def coverage(fits: list[p2fit.Fit]) -> tuple[list[Row], float]:
    """A row for each parameter's intervals, and the least share that covers the truth."""
    rows: list[Row] = []
    least = 1.0
    for name, truth in TRUTH.items():
        found = [fit.parameters[name] for fit in fits]
        ends = [
            (-math.inf if low is None else low, math.inf if high is None else high)
            for low, high in (p.interval for p in found if p.interval is not None)
        ]
        share = float(np.mean([low <= truth <= high for low, high in ends])) if ends else 0.0
        least = min(least, share)
        width = statistics.median(high - low for low, high in ends) if ends else math.inf
        estimates = [math.inf if p.estimate is None else p.estimate for p in found]
        rows.append(
            (
                name,
                f"{truth:g}",
                f"{statistics.median(estimates):.4g}",
                f"{len(ends)} of {len(fits)}",
                percent(share),
                str(sum(math.isinf(high - low) for low, high in ends)),
                "open" if math.isinf(width) else f"{width:.3g}",
            )
        )
    return rows, least
