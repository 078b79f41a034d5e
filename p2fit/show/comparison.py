"""A comparison of laws as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from p2fit.judging.comparison import Comparison, Difference, logged
from p2fit.show.parts import (
    describe_control,
    facts,
    number,
)
from p2fit.wording import percent

_HEADS = {
    "falls_with_tokens": "falls with\ntokens",
    "rises_with_pruning_rate": "rises with\nrate",
    "tends_to_base_loss": "tends\nto L₀",
}


def renderable(comparison: Comparison) -> Any:
    """What rich prints."""

    def table(*heads: str) -> Table:
        made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
        made.add_column("law", overflow="fold")
        for head in heads:
            made.add_column(head, justify="right")
        return made

    def against(d: Difference | None) -> str:
        return f"{number(d.value, 3)} ± {number(d.stderr, 2)}" if d else "—"

    head = facts(_facts(comparison))
    loss = "Huber" if comparison.options["loss"] == "huber" else "loss"
    error = "log" if logged(comparison.options) else comparison.options["residual"]
    left_out = table(loss, "worse by ± s.e.", f"RMSE {error}", "squares worse by", "MAPE")
    likelihood = any(s.aicc is not None for s in comparison.scores)
    used = [c for c in _HEADS if any(s.conditions[c] is not None for s in comparison.scores)]
    inside = table(
        *("free", "rank", "objective", "R²", "RMSE", *(("AICc", "BIC") if likelihood else ())),
        *(_HEADS[c] for c in used),
    )
    for s in comparison.scores:
        best = s is comparison.scores[0] and s.loss is not None
        left_out.add_row(
            Text(s.label),
            number(s.loss, 3),
            "best" if best else against(s.difference),
            number(s.rmse_log, 3),
            against(s.difference_squares),
            "—" if s.mape is None else percent(s.mape),
        )
        inside.add_row(
            Text(s.label),
            str(len(s.law.free)),
            str(s.fit.identification["rank"]),
            *(number(v) for v in (s.fit.objective, s.r2)),
            number(float(s.fit.metrics["rmse"] or 0), 3),
            *((number(s.aicc), number(s.bic)) if likelihood else ()),
            *({True: "yes", False: "no", None: "—"}[s.conditions[c]] for c in used),
        )
    parts: list[Any] = [head, Text(), Text("fitted without them"), left_out]
    if comparison.scores[0].elpd is not None:
        density = table("log density", "from best", "refitted")
        for s in comparison.scores:
            gap = "best" if s.difference_elpd is None else against(s.difference_elpd)
            density.add_row(Text(s.label), number(s.elpd), gap, str(s.refitted))
        parts += [Text(), Text("predictive density of left-out runs, by Bayes"), density]
    parts += [Text(), Text("fitted to all rows"), inside]
    return Group(*parts, *([Text()] if comparison.notes else []), *map(Text, comparison.notes))


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """The lines above the tables."""
    if comparison.group:
        yield "group", ", ".join(f"{k} = {v}" for k, v in comparison.group.items())
    o = comparison.options
    unit = "runs" if o["cluster"] == "run" else f"values of {o['cluster']}"
    counts = f"{comparison.rows} rows, {comparison.runs} {unit}"
    yield "data", f"{comparison.source}: {counts}, the same for every law"
    for reason, count in comparison.excluded.items():
        yield "", f"left out {count}: {reason}"
    control = comparison.scores[0].fit.data["control"]
    if control:
        yield "", describe_control(control)
    laws = [score.law for score in comparison.scores]
    held = {f"{n} = {v:g}": None for law in laws for n, v in law.fixed.items()}
    held |= {f"{n} = {v}": None for law in laws for n, v in law.tied.items()}
    if held:
        yield "held", f"{', '.join(held)}, in the laws that have them"
    delta = f" (delta {o['delta']:g})" if o["loss"] == "huber" and o["delta"] else ""
    of = "" if o["target"] == "loss" else f" of {o['target']}"
    yield "method", f"least squares: {o['loss']} loss{delta} of {o['residual']} residuals{of}"
    if comparison.folds == comparison.runs:
        yield "left out", f"one of the {unit} at a time"
    else:
        yield "left out", f"{comparison.folds} parts of the {unit}, drawn with seed {o['seed']}"
