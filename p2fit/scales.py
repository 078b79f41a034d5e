"""The scale on which residuals are taken: the log, the value itself, or the angle of a share."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from p2fit.arrays import Array

Residual = Literal["log", "linear", "arcsine"]

#: Nearer to 0 or 1 than this the angle of a share goes on as a straight line.
EDGE = 0.01
#: Slope of the angle there.
_STEEP = float(1 / np.sqrt(EDGE * (1 - EDGE)))


class Linear:
    """The value itself.

    ``xp`` is NumPy, or another library with its functions, of which the arrays are then.
    """

    def to(self, value: Any, xp: Any = np) -> Array:
        """Values on the scale."""
        found: Array = value
        return found

    def back(self, place: Any) -> Array:
        """Values from places on the scale."""
        found: Array = place
        return found

    def slope(self, value: Any, xp: Any = np) -> Array:
        """Derivative of the scale by the value."""
        found: Array = xp.ones_like(value, float)
        return found

    def miss(self, fitted: Any, observed: Any, xp: Any = np) -> Array:
        """Residuals: fitted minus observed."""
        return self.to(fitted, xp) - self.to(observed, xp)

    def curve(self, inside: Any, psi: Any, fitted: Any, xp: Any = np) -> Array:
        """Weights of the squared slopes of the residuals in the Hessian of the objective.

        Args:
            inside: second derivative of the loss function by the residual.
            psi: its first derivative; it weighs the bend of the scale.
        """
        found: Array = inside
        return found

    def typical(self, value: Array) -> float:
        """A size of the differences that count: of the values, or 1 where there is a unit."""
        return float(np.abs(value).mean()) or 1.0


class Log(Linear):
    """The log of what is above 0."""

    def to(self, value: Any, xp: Any = np) -> Array:
        found: Array = xp.log(value)
        return found

    def back(self, place: Any) -> Array:
        found: Array = np.exp(place)
        return found

    def slope(self, value: Any, xp: Any = np) -> Array:
        found: Array = xp.divide(1.0, value)
        return found

    def miss(self, fitted: Any, observed: Any, xp: Any = np) -> Array:
        found: Array = xp.log(fitted / observed)
        return found

    def curve(self, inside: Any, psi: Any, fitted: Any, xp: Any = np) -> Array:
        found: Array = inside - psi
        return found

    def typical(self, value: Array) -> float:
        return 1.0


class Arcsine(Linear):
    """The angle 2 arcsin √p of a share p, on which the error of counting is the same everywhere.

    The variance of a share of m questions is p(1 - p)/m, that of its angle 1/m (Fisher 1922;
    Bartlett 1936). At 0 and 1 the angle is steep without end, and there counts are too small for
    that rule; so within ``EDGE`` of them it goes on as a straight line. All values have a place.
    """

    def to(self, value: Any, xp: Any = np) -> Array:
        inside = xp.clip(value, EDGE, 1 - EDGE)
        found: Array = 2 * xp.arcsin(xp.sqrt(inside)) + (value - inside) * _STEEP
        return found

    def back(self, place: Any) -> Array:
        inside = np.clip(place, *self.to(np.array([EDGE, 1 - EDGE])))
        found: Array = np.sin(inside / 2) ** 2 + (place - inside) / _STEEP
        return found

    def slope(self, value: Any, xp: Any = np) -> Array:
        inside = xp.clip(value, EDGE, 1 - EDGE)
        found: Array = 1 / xp.sqrt(inside * (1 - inside))
        return found

    def curve(self, inside: Any, psi: Any, fitted: Any, xp: Any = np) -> Array:
        bend = (0.5 - fitted) * self.slope(fitted, xp)
        bent: Array = inside - psi * xp.where((fitted > EDGE) & (fitted < 1 - EDGE), bend, 0.0)
        return bent

    def typical(self, value: Array) -> float:
        return 1.0


SCALES: dict[str, Linear] = {"log": Log(), "linear": Linear(), "arcsine": Arcsine()}
