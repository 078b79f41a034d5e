"""p2fit: fit scaling laws to loss curves, and know what the data can tell.

>>> import p2fit
>>> sorted(p2fit.LAWS)[:3]
['average-params', 'chinchilla', 'chinchilla-pruned']
"""

__version__ = "0.1.0"

from p2fit.curves import Curves, CurvesError, read_curves
from p2fit.fit import Estimate, Fit, fit, fit_each, load
from p2fit.laws import LAWS, Law, LawError, get_law
from p2fit.rows import FitError, Options, check

__all__ = [
    "LAWS",
    "Curves",
    "CurvesError",
    "Estimate",
    "Fit",
    "FitError",
    "Law",
    "LawError",
    "Options",
    "check",
    "fit",
    "fit_each",
    "get_law",
    "load",
    "read_curves",
]


def __getattr__(name: str) -> object:
    if name == "schedules":  # not needed by a fit, so imported when asked for
        import importlib

        return importlib.import_module("p2fit.schedules")
    raise AttributeError(f"module 'p2fit' has no attribute {name!r}")
