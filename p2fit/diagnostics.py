"""When draws from a posterior can be used, and when they say no more than the prior did."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

#: The usual thresholds (Vehtari et al. 2021; Betancourt 2016).
R_HAT, ESS_PER_CHAIN, E_BFMI = 1.01, 100, 0.3
#: Share of what a posterior predicts that is as odd along runs as the rows, at least.
ALONG = 0.002
#: Contraction below which a posterior says what the prior said.
UNMOVED = 0.1
#: The widths that priors are given in place of their own.
WIDTHS = {"halved": "half as wide", "doubled": "twice as wide"}
#: Standard deviations that a median moves, and factor of a standard deviation, with a prior half or
#: twice as wide, from which on a parameter hangs on that prior.
MOVED, SPREAD = 0.5, 1.5


def failed_checks(diagnostics: Mapping[str, Any]) -> list[str]:
    """What is beyond the usual thresholds, in words."""
    found = []
    for kind, share in (diagnostics.get("along_runs") or {}).items():
        if not share >= ALONG:
            what = {
                "correlation": "neighbours in a run are correlated",
                "shape": "runs go off the law together along the way",
            }[kind]
            found.append(f"{what} as in {share:.1%} of what the posterior predicts")
    if "pareto_k" in diagnostics:
        return found
    least = ESS_PER_CHAIN * diagnostics["chains"]
    if not diagnostics["r_hat"] <= R_HAT:
        found.append(f"R-hat {diagnostics['r_hat']:.3f}, above {R_HAT}")
    for kind in ("bulk", "tail"):
        if not diagnostics[f"ess_{kind}"] >= least:
            size = diagnostics[f"ess_{kind}"]
            found.append(f"{kind} effective sample size {size:.0f}, below {least}")
    if diagnostics["divergences"]:
        found.append(f"{diagnostics['divergences']} divergences")
    if not diagnostics["e_bfmi"] >= E_BFMI:
        found.append(f"E-BFMI {diagnostics['e_bfmi']:.2f}, below {E_BFMI}")
    return found


def most_moved(found: Mapping[str, Any]) -> tuple[str, str, bool]:
    """What a prior of another width changes most: which parameter, how, and whether it is much.

    Args:
        found: of one prior and one width, where the weights can tell; see
            :func:`p2fit.bayes.prior_sensitivity.prior_sensitivity`.
    """

    def size(name: str) -> float:
        own = found["parameters"][name]
        if own["shift"] is None or not own["spread"]:
            return math.inf
        return float(
            max(abs(own["shift"]) / MOVED, abs(math.log(own["spread"])) / math.log(SPREAD))
        )

    name = max(found["parameters"], key=size)
    if not size(name) < math.inf:
        return name, "without bounds", True
    own = found["parameters"][name]
    return name, f"{own['shift']:+.2f} sd, sd × {own['spread']:.2f}", size(name) >= 1


def hanging(sensitivity: Mapping[str, Any], unmoved: Collection[str]) -> list[str]:
    """Which conclusions hang on a prior, in words.

    Args:
        unmoved: parameters whose posterior is their prior, which is said already.
    """
    lines = []
    for prior, widths in sensitivity.items():
        for kind, found in widths.items():
            if found["parameters"] is None:
                if prior not in unmoved:
                    lines.append(
                        f"what the prior of {prior} {WIDTHS[kind]} would change cannot be told "
                        "from these draws: fit again with it"
                    )
                continue
            name, how, much = most_moved(found)
            if much and not (name == prior and name in unmoved):
                lines.append(f"{name} hangs on the prior of {prior}: {WIDTHS[kind]}, {how}")
    return lines
