"""Results of lm-evaluation-harness: each task's metrics with their standard errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from p2fit.logs.log import Log, Records, broken

#: The format of such a log: what it holds is no loss, unless one is named.
RESULTS = "lm-evaluation-harness"


def is_results(document: Any) -> bool:
    """Whether a parsed JSON is a file of the harness."""
    found = document.get("results") if isinstance(document, dict) else None
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(task, dict) for task in found.values())
        and not document.keys().isdisjoint(("config", "configs", "versions", "n-shot"))
    )


def results_log(source: str, document: Mapping[str, Any]) -> Log:
    """One record: ``<task>_<metric>``, ``<task>_<metric>_stderr``, and ``params`` if it is there.

    Of a metric with several filters, such as exact_match, the filter stands in its name.
    """
    record: dict[str, float] = {}
    for task, metrics in document["results"].items():
        plain = [re.sub("_stderr$", "", name.partition(",")[0]) for name in metrics]
        for name, value in metrics.items():
            metric, _, kept = name.partition(",")
            error = metric.endswith("_stderr")
            metric = metric.removesuffix("_stderr")
            if not isinstance(value, int | float) or isinstance(value, bool):  # N/A, the alias
                continue
            several = sum(p == metric for p in plain) > 2
            parts = [task, metric, *([kept] if several else []), *(["stderr"] if error else [])]
            record[re.sub(r"\W+", "_", "_".join(parts))] = value
    if not record:
        raise broken(source, "results of lm-evaluation-harness without a number")
    config = document.get("config")
    config = config if isinstance(config, dict) else {}
    params = config.get("model_num_parameters")
    if isinstance(params, int) and params > 0:
        record["params"] = params
    records = Records()
    records.add(record)
    return Log(source, RESULTS, records.columns(), 1, run=_model(document, config))


def _model(document: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The model's name, where the harness was given one."""
    found = re.search(r"\b(?:pretrained|model)=([^,]+)", str(config.get("model_args", "")))
    name = document.get("model_name") or (found[1] if found else None)
    return name if isinstance(name, str) and name.strip() else None
