"""The command that makes a report again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from p2fit.curves.options import DELTAS, Options
from p2fit.fit import Fit

# ---------------------------------------------------------------- how to reproduce


def command(fit: Fit, plan: Sequence[Mapping[str, float]] = ()) -> str:
    """The command that makes this page; empty where the rows came from no file."""
    source = fit.data["source"]
    if source.startswith("<") or fit.backend != "least-squares":
        return ""
    asked: list[str] = ["p2fit", "report", source]
    custom = fit.law.name == "custom"
    if custom or not fit.data["chosen"]:
        asked += ["--law", fit.law.formula if custom else fit.law.name]
    pairs: Mapping[str, Mapping[str, Any]] = {
        "--column": fit.data["columns"],
        "--fix": fit.law.fixed,
        "--tie": fit.law.tied,
        "--range": {n: "..".join(map(_text, ends)) for n, ends in fit.options["ranges"].items()},
        "--start": fit.options["start"],
    }
    for flag, found in pairs.items():
        for name, value in found.items():
            asked += [flag, f"{name}={_text(value)}"]
    if fit.group:
        asked += ["--by", ",".join(fit.group)]
    plain = {f.name: f.default for f in fields(Options)}
    plain |= {"residual": "log", "delta": DELTAS[fit.options["residual"]]}
    skip = {"columns", "run_by", "by", "pool", "fix", "tie", "ranges", "start"}
    for name, usual in plain.items():
        value = fit.options.get(name, usual)
        if name in skip or value in (usual, None) or (name == "weights" and value == "rows"):
            continue
        flag = "--" + name.replace("_", "-")
        asked += [flag] if value is True else [flag, _text(value)]
    for at in plan:
        asked += ["--plan", ",".join(f"{x}={_text(v)}" for x, v in at.items())]
    return shlex.join([*asked, "-o", "report.html"])


def _text(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)
