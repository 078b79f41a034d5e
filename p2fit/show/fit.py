"""A fit as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from p2fit.diagnostics import UNMOVED, WIDTHS, failed_checks, most_moved
from p2fit.fit import Estimate, Fit
from p2fit.show.headline import headline, known, local_rank, predicts_within
from p2fit.show.parts import describe_control, facts, grid, labels, number
from p2fit.wording import percent

_HEADS = ("parameter", "estimate", "std. error", "95 % interval", "")
_BAYES_HEADS = (
    "parameter",
    "median",
    "post. sd",
    "95 % interval",
    "least squares",
    "contraction",
    "",
)


def renderable(fit: Fit) -> Group:
    """What rich prints."""
    head = facts(_facts(fit))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for i, title in enumerate(_heads(fit)):
        table.add_column(title, justify="right" if i in (1, 2, 4, 5) else "left", overflow="fold")
    for row in _rows(fit):
        table.add_row(*row)
    parts: list[Any] = [head, Text(), table]
    if (sensitivity := (fit.posterior or {}).get("prior_sensitivity")) is not None:
        parts += [Text(), _priors(sensitivity, (fit.posterior or {})["priors"])]
    if fit.warnings:
        parts.append(Text())
        parts += [Text.assemble(("warning: ", "yellow"), w) for w in fit.warnings]
    return Group(*parts)


def _priors(sensitivity: Mapping[str, Any], priors: Mapping[str, str]) -> Table:
    """What moves most with each prior of another width."""
    table = grid(["prior of", "", *WIDTHS.values(), ""], [])
    for name, widths in sensitivity.items():
        cells: list[str] = []
        hangs = False
        for found in widths.values():
            if found["parameters"] is None:
                cells.append("cannot be told")
                hangs = True
                continue
            moved, how, much = most_moved(found)
            cells.append(f"{moved} {how}")
            hangs = hangs or much
        table.add_row(name, priors[name], *cells, "hangs on it" if hangs else "")
    return table


def overview(fits: Sequence[Fit]) -> Group:
    """Several fits side by side: how well each does, and its parameters."""
    excess = any(fit.metrics["r2_excess"] is not None for fit in fits)
    r2 = "r2_excess" if excess else "r2"
    sloped = any(fit.metrics["asd"] is not None for fit in fits)
    heads = ["rows", "runs", "R² L−L₀" if excess else "R²", "RMSE", *(["ASD"] if sloped else [])]
    scores = grid(["group"], [*heads, "predicts within", "known"])
    names = list(fits[0].parameters)
    values = grid(["group"], names)
    for fit, label in zip(fits, labels([fit.group for fit in fits])):
        m = fit.metrics
        scores.add_row(
            label,
            str(fit.data["used"]),
            str(fit.data["runs"]),
            *(number(m[n], 3) for n in (r2, "rmse", *(["asd"] if sloped else []))),  # type: ignore[arg-type]
            predicts_within(fit),
            f"{len(known(fit)[0])} of {len(fit.law.free)}",
        )
        values.add_row(label, *(_value(fit.parameters[n]) for n in names))
    return Group(Text("all groups", style="bold"), Text(), scores, Text(), values)


def _value(p: Estimate) -> str:
    return number(p.estimate, 3) if p.identified or p.fixed else "open"


def _heads(fit: Fit) -> tuple[str, ...]:
    return _HEADS if fit.posterior is None else _BAYES_HEADS


def _rows(fit: Fit) -> Iterator[tuple[str, ...]]:
    for name, p in fit.parameters.items():
        cells = _cells(p)
        if fit.posterior is None or p.fixed:
            yield name, *cells[:3], *([""] * 2 if fit.posterior else []), cells[3]
            continue
        share = fit.posterior["contraction"][p.tied or name]
        start = number(fit.posterior["least_squares"][name])
        note = cells[3] if p.tied or share >= UNMOVED else "posterior = prior"
        yield name, *cells[:3], start, f"{100 * share:.0f} %", note


def _cells(p: Estimate) -> tuple[str, str, str, str]:
    if p.fixed:
        return number(p.estimate), "", "", "fixed"
    note = f"= {p.tied}" if p.tied else "" if p.identified else "not determined"
    if p.at_bound and p.identified:
        note = "at its bound"
    interval = "—"
    if p.interval is not None:
        low, high = ("open" if end is None else number(end) for end in p.interval)
        interval = f"{low} to {high}" if low != high else low
    elif not p.identified:
        interval = "open"
    return number(p.estimate), number(p.stderr, 3), interval, note


def _facts(fit: Fit) -> Iterator[tuple[str, str]]:
    data, options, m = fit.data, fit.options, fit.metrics
    if fit.posterior is not None and not fit.converged:
        yield (
            "NOT CONVERGED",
            f"{'; '.join(failed_checks(fit.diagnostics or {}))}: do not use these numbers",
        )
    elif not fit.converged:
        yield "NOT CONVERGED", "the objective is not at a minimum: do not use these numbers"
    if fit.group:
        yield "group", ", ".join(f"{k} = {v}" for k, v in fit.group.items())
    yield "law", f"{fit.law.name}: {fit.law.formula}"
    if fit.law.name == "custom":
        yield "", f"columns: {', '.join(fit.law.inputs) or 'none'}; all other names are parameters"
    if fit.target != "loss":
        share = "all of it in [0, 1]: taken for a share" if options["residual"] == "arcsine" else ""
        yield "target", f"{fit.target}{', ' if share else ''}{share}"
    if data["chosen"]:
        yield "", f"chosen because {data['chosen']}"
    yield from headline(fit)
    rows = f"{data['used']} of {data['rows']} rows, {data['runs']} run{'s' * (data['runs'] != 1)}"
    yield "data", f"{data['source']}: {rows}"
    for reason, count in data["excluded"].items():
        yield "", f"left out {count}: {reason}"
    if data.get("control"):
        yield "", describe_control(data["control"])
    for target, name in data["columns"].items():
        yield "", f"{target} taken from {name}"
    if fit.posterior is not None:
        yield from _posterior(fit)
    delta = (fit.runs or {}).get("delta") or options["delta"]
    delta = f" (delta {delta:.4g})" if options["loss"] == "huber" and delta else ""
    yield (
        "method" if fit.posterior is None else "started from",
        f"least squares: {options['loss']} loss{delta} of {options['residual']} residuals",
    )
    if options["weights"] == "runs":
        yield "", "every run has the same weight"
    elif options["weights"] == "stderr":
        tau = number(options["tau"])
        s = f"s from {fit.target}_stderr"
        yield "", f"weights 1/(s² + τ²), {s}, τ = {tau} of the {options['residual']}"
    if fit.runs is not None:
        yield "runs", _runs(fit.runs, options["residual"])
    elif options.get("errors") == "runs" and fit.posterior is None:
        yield "runs", "too few or too exact to tell how they differ: rows have errors of their own"
    yield "objective", f"{number(fit.objective)} (sum), {_agreement(fit)}"
    scores = []
    if m["r2_excess"] is not None:
        scores.append(f"R² {number(m['r2_excess'])} of the loss above base_loss")  # type: ignore[arg-type]
    elif m["r2"] is not None:
        scores.append(f"R² {number(m['r2'])}")  # type: ignore[arg-type]
    scores.append(f"RMSE {number(m['rmse'])}")  # type: ignore[arg-type]
    if m["mape"] is not None:
        scores.append(f"MAPE {percent(float(m['mape']))}")
    yield "fit", ", ".join(scores)
    scores = [f"mean Huber {number(m['huber'])}"]  # type: ignore[arg-type]
    if m["asd"] is not None:
        scores.append(f"ASD {number(m['asd'])} {m['asd_unit']}")  # type: ignore[arg-type]
    yield "", ", ".join(scores)
    found = fit.identification
    yield "local rank", local_rank(found)
    if fit.bootstrap is not None:
        b = fit.bootstrap
        kind = {"wild": "wild cluster bootstrap", "runs": "bootstrap of runs"}[b["resample"]]
        by = ", refitted by JAX" if "engine" in b else ""
        yield "intervals", f"{kind}, {b['count']} draws over {fit.covariance['clusters']}{by}"  # type: ignore[index]
        faults = [f"{n} at a bound in {c}" for n, c in b["at_bound"].items()]
        faults += [f"{b['failed']} not converged"] if b["failed"] else []
        faults += [f"{b['lost_level']} lost a level of an input"] if b["lost_level"] else []
        if faults:
            yield "", f"of these draws: {', '.join(faults)}"
    elif fit.covariance is not None:
        c = fit.covariance
        kind = f"leave-one-{c['unit']}-out jackknife over {c['clusters']}"
        if fit.runs is not None:
            kind = f"robust (CR2) over {c['clusters']} {c['unit']}s"
        yield "intervals", f"{kind}, Student's t"
    for i, (share, values) in enumerate(fit.sensitivity.items()):
        moved = ", ".join(f"{e} {number(v, 3)}" for e, v in values.items())
        yield "" if i else "sensitivity", f"without each run's first {share}: {moved}"


def _runs(runs: Mapping[str, Any], residual: str) -> str:
    """How runs differ, and how their points follow each other."""
    unit = "in their excess" if runs["excess"] else {"log": "of the loss"}.get(residual, residual)
    shares = runs["excess"] or residual == "log"

    def size(value: float) -> str:
        return f"{percent(value, 2)} {unit}" if shares else f"{number(value, 2)} ({unit})"

    differ = [size(runs["level"])] if runs["level"] else []
    if runs["rate"]:
        differ.append(f"{number(runs['rate'], 2)} in rate")
    said = f"they differ by {' and '.join(differ)}" if differ else "none differs"
    own = percent(runs["sigma"], 2) if residual == "log" else number(runs["sigma"], 2)
    near = f", correlation of neighbours {runs['neighbours']:.2g}" if runs["length"] else ""
    return f"{said}; points of a run by {own} more{near}"


def _agreement(fit: Fit) -> str:
    """How much of the search ended there, in words: rounding leads one start or the other astray,
    so the numbers are not the same on every processor."""
    tried, agreed = fit.starts["tried"], fit.starts["agreed"]
    if tried == 1:
        return "from one start"
    if agreed == tried:
        return "all starts agree"
    return f"{'many' if agreed > 1 and 4 * agreed >= tried else 'few'} starts agree"


def _posterior(fit: Fit) -> Iterator[tuple[str, str]]:
    posterior, d = fit.posterior or {}, fit.diagnostics or {}
    noise = {"student-t": "Student t", "normal": "normal"}[fit.options["noise"]]
    target = "the loss" if fit.target == "loss" else fit.target
    of = {"log": f"the log of {target}", "linear": target, "arcsine": f"the angle of {target}"}
    known = f", {posterior['errors']} added" if posterior["errors"] else ""
    yield "method", f"Bayes: {noise} noise of {of[fit.options['residual']]}{known}"
    if (runs := posterior["runs"]) is not None:
        differ = f"level{' and rate' if runs['width'] else ''}"
        differ += ", as shares of the loss above base_loss" if runs["excess"] else ""
        errors = f"; errors correlated along {runs['along']}" if runs["along"] else ""
        yield "", f"runs differ in {differ}{errors}"
    scatter = ", ".join(
        f"{n} {number(float(np.median(v)), 3)}" for n, v in posterior["noise"].items()
    )
    yield "", f"posterior medians of the noise: {scatter}"
    if (found := d["along_runs"]) is not None:
        shares = " and ".join(f"{k} {v:.1%}" for k, v in found.items())
        yield "along runs", f"predicted as odd as observed: {shares}"
    if fit.options["prior"]:
        yield "", f"priors of your own: {'; '.join(fit.options['prior'])}"
    if fit.backend == "laplace":
        yield (
            "draws",
            f"Laplace approximation with importance sampling, Pareto k {d['pareto_k']:.2f}, "
            f"effective size {d['ess']:.0f}",
        )
        return
    yield "draws", f"{d['chains']} chains of {d['draws']} by NUTS ({d['sampler']})"
    yield (
        "",
        f"R-hat {d['r_hat']:.3f}, effective size {d['ess_bulk']:.0f} (bulk) and "
        f"{d['ess_tail']:.0f} (tail), {d['divergences']} divergences, E-BFMI {d['e_bfmi']:.2f}",
    )
