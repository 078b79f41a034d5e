"""p2fit: fit scaling laws to loss curves, and know what the data can tell.

>>> import p2fit
>>> sorted(p2fit.LAWS)[:3]
['annealing', 'average-params', 'bounded-rational']
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING

from p2fit.curves.choosing import check
from p2fit.curves.options import Options
from p2fit.curves.reading import Curves, read_curves
from p2fit.errors import CurvesError, FitError, LawError
from p2fit.fit import Estimate, Fit, load
from p2fit.fitting import fit, fit_each
from p2fit.laws.law import Law
from p2fit.laws.table import LAWS, get_law

if TYPE_CHECKING:
    from p2fit import schedules
    from p2fit.bayes.fitting import BayesOptions
    from p2fit.curves.simulation import simulate
    from p2fit.glossary import explain
    from p2fit.judging.comparison import Comparison, compare
    from p2fit.judging.design import DesignReport, identify_design
    from p2fit.judging.scores import Validation
    from p2fit.judging.validation import validate
    from p2fit.logs.importing import Imported, import_logs
    from p2fit.logs.rows import ImportedRun
    from p2fit.pictures.plot import plot
    from p2fit.plan.choose import Choice, plan_choose
    from p2fit.plan.compute import ComputePlan, plan_compute
    from p2fit.plan.continuing import Continuation, RunsAhead, plan_continue, predict_runs
    from p2fit.plan.prediction import Prediction, predict
    from p2fit.plan.quantities import Quantity
    from p2fit.plan.runs import NextRuns, plan_next
    from p2fit.plan.tokens import TokensPlan, plan_tokens
    from p2fit.reporting.report import report
    from p2fit.uncertainty.profiles import Profile, profile

__all__ = [
    "LAWS",
    "BayesOptions",
    "Choice",
    "Comparison",
    "ComputePlan",
    "Continuation",
    "Curves",
    "CurvesError",
    "DesignReport",
    "Estimate",
    "Fit",
    "FitError",
    "Imported",
    "ImportedRun",
    "Law",
    "LawError",
    "NextRuns",
    "Options",
    "Prediction",
    "Profile",
    "Quantity",
    "RunsAhead",
    "TokensPlan",
    "Validation",
    "check",
    "compare",
    "explain",
    "fit",
    "fit_each",
    "get_law",
    "identify_design",
    "import_logs",
    "load",
    "plan_choose",
    "plan_compute",
    "plan_continue",
    "plan_next",
    "plan_tokens",
    "plot",
    "predict",
    "predict_runs",
    "profile",
    "read_curves",
    "report",
    "schedules",
    "simulate",
    "validate",
]

# What a fit does not need is imported when it is asked for.
_LATER = {
    "BayesOptions": "bayes.fitting",
    "Comparison": "judging.comparison",
    "compare": "judging.comparison",
    "DesignReport": "judging.design",
    "identify_design": "judging.design",
    "explain": "glossary",
    "Imported": "logs.importing",
    "ImportedRun": "logs.rows",
    "import_logs": "logs.importing",
    "Choice": "plan.choose",
    "plan_choose": "plan.choose",
    "ComputePlan": "plan.compute",
    "plan_compute": "plan.compute",
    "Continuation": "plan.continuing",
    "RunsAhead": "plan.continuing",
    "plan_continue": "plan.continuing",
    "predict_runs": "plan.continuing",
    "NextRuns": "plan.runs",
    "plan_next": "plan.runs",
    "TokensPlan": "plan.tokens",
    "plan_tokens": "plan.tokens",
    "Prediction": "plan.prediction",
    "predict": "plan.prediction",
    "plot": "pictures.plot",
    "Profile": "uncertainty.profiles",
    "profile": "uncertainty.profiles",
    "Quantity": "plan.quantities",
    "report": "reporting.report",
    "schedules": "schedules",
    "simulate": "curves.simulation",
    "Validation": "judging.validation",
    "validate": "judging.validation",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'p2fit' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"p2fit.{_LATER[name]}")
    return module if name == "schedules" else getattr(module, name)
