"""When draws from a posterior can be used, and when they say no more than the prior did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The usual thresholds (Vehtari et al. 2021; Betancourt 2016).
R_HAT, ESS_PER_CHAIN, E_BFMI = 1.01, 100, 0.3
#: Share of what a posterior predicts that is as odd along runs as the rows, at least.
ALONG = 0.002
#: Contraction below which a posterior says what the prior said.
UNMOVED = 0.1


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
