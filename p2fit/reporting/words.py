"""What the page says in words and in rows of tables, taken from the fit and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from p2fit import wording
from p2fit.errors import FRAME
from p2fit.fit import Estimate, Fit
from p2fit.laws.table import LAWS
from p2fit.pictures.style import count, label, shown
from p2fit.show.headline import known
from p2fit.show.parts import describe_control
from p2fit.wording import join

if TYPE_CHECKING:
    from p2fit.judging.comparison import Comparison, Difference
    from p2fit.judging.scores import Validation
    from p2fit.reporting.section import Section


#: Law -> its name as people say it.
NAMES = {
    "p2": "the P² law",
    "p2-no-size": "the P² law without its size factor",
    "chinchilla": "the Chinchilla law",
    "average-params": "the average-parameter law",
    "chinchilla-pruned": "the Chinchilla law in the parameters left after pruning",
    "frantar": "the law of Frantar et al. for sparse training",
    "kaplan-n": "the law of Kaplan et al. in the size",
    "kaplan-d": "the law of Kaplan et al. in the tokens",
    "custom": "a law of your own",
}


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 4) -> str:
    """A number to some digits as print has it: 0.3473, 2143, 1.27 × 10⁴."""
    if value is None:
        return "—"
    text, _, power = f"{value:.{digits}g}".partition("e")
    if power and -4 <= int(power) < 6:
        text, power = f"{float(f'{value:.{digits}g}'):.10g}", ""
    text = text.replace("-", "−")
    return f"{text} × 10{str(int(power)).translate(RAISED)}" if power else text


def humane(text: str) -> str:
    """Counts in a text as everywhere else: 8.03B for 8.03e+09."""
    return re.sub(
        r"(?<![\w.])\d(?:\.\d+)?e\+(?:0[5-9]|1[0-4])\b", lambda m: count(float(m[0])), text
    )


def law_name(fit: Fit) -> str:
    """The law as people call it."""
    return NAMES.get(fit.law.name, fit.law.name)


def upper(text: str) -> str:
    """The first letter made large, unless a sentence begins with the name of something."""
    named = re.match(r"\w*_|\w+(,| and| =| is | are | moves )", text)
    return text if named else text[:1].upper() + text[1:]


def plural(number: int, word: str) -> str:
    return f"{number} {word}" + "s" * (number != 1)


def group(fit: Fit) -> str:
    """The group in words."""
    return ", ".join(f"{k} = {v}" for k, v in fit.group.items())


def percent(share: float | None, digits: int = 3) -> str:
    return "—" if share is None else wording.percent(share, digits)


def title(fit: Fit) -> str:
    """What the page is about: the law and the file, without its folders."""
    name = fit.data["source"].replace("\\", "/").rpartition("/")[2]
    return f"{upper(law_name(fit))} on {'a table' if name == FRAME else name}"


def input_name(name: str) -> str:
    """An input in words."""
    if name in ("params", "avg_params", "active_params"):
        return label(name).removesuffix("s") + " count"
    return "loss of the unpruned model" if name == "base_loss" else label(name)


def values(fit: Fit) -> dict[str, float]:
    """The numbers to put into the formula: of the parameters that mean something by themselves."""
    return {
        n: p.estimate
        for n, p in fit.parameters.items()
        if p.estimate is not None and (p.identified or p.fixed)
    }


# ---------------------------------------------------------------- what was fitted


def facts(fit: Fit) -> Iterator[tuple[str, str]]:
    """What went into the fit."""
    data, options = fit.data, fit.options
    yield "File", data["source"]
    for column, name in data["columns"].items():
        yield "Column", f"{column} is taken from {name}"
    used = f"{data['used']} of {data['rows']}, of {plural(data['runs'], 'run')}"
    yield "Rows", used
    for reason, rows in data["excluded"].items():
        yield "Left out", f"{plural(rows, 'row')}: {reason}"
    if data.get("control"):
        yield "Control", describe_control(data["control"])
    for name, span in data["range"].items():
        low, high = (shown(name, span[end]) for end in ("min", "max"))
        ends = low if low == high else f"{low} to {high}"
        yield upper(input_name(name)), f"{ends} ({plural(span['distinct'], 'value')})"
    if fit.backend != "least-squares":
        yield "Method", f"{fit.backend}: draws from the posterior"
        return
    kind = "Huber loss" if options["loss"] == "huber" else "squared loss"
    delta = (fit.runs or {}).get("delta") or options["delta"]
    kind += f", δ = {delta:.4g}," if options["loss"] == "huber" and delta else ""
    of = "the log of the loss" if options["residual"] == "log" else "the loss in nats"
    yield "Method", f"least squares: {kind} of residuals of {of}"
    if options["weights"] == "runs":
        yield "Weights", "every run the same"
    elif options["weights"] == "stderr":
        yield "Weights", f"1/(s² + τ²), s from loss_stderr, τ = {number(options['tau'])}"
    tried, agreed = fit.starts["tried"], fit.starts["agreed"]
    yield "Search", f"{agreed} of {plural(tried, 'start')} ended at the best objective"


def why(fit: Fit) -> str:
    """Why this law."""
    if fit.law.name == "custom":
        return (
            "The formula is your own; of its names, "
            f"{join(fit.law.inputs) or 'none'} "
            f"{'are columns' if len(fit.law.inputs) > 1 else 'is a column'}, the rest parameters."
        )
    chosen = fit.data["chosen"]
    if chosen:
        return f"p2fit chose {law_name(fit)} because {chosen}."
    return f"{upper(law_name(fit))} was asked for."


def described(fit: Fit) -> str:
    """What the law says, and its source."""
    law = LAWS.get(fit.law.name)
    return law.description if law is not None else ""


# ---------------------------------------------------------------- parameters


def parameters(fit: Fit) -> Iterator[tuple[str, tuple[str, str, str, str]]]:
    """Each parameter: estimate, 95 % interval, standard error, and a note."""
    for name, p in fit.parameters.items():
        yield name, (number(p.estimate), _interval(p), number(p.stderr, 3), _note(p))


def _interval(p: Estimate) -> str:
    if p.fixed:
        return "—"
    if p.interval is None:
        return "—" if p.identified else "open"
    low, high = p.interval
    if low is None and high is None:
        return "open"
    if low is None:
        return f"up to {number(high)}"
    return f"from {number(low)}" if high is None else f"{number(low)} to {number(high)}"


def _note(p: Estimate) -> str:
    if p.fixed:
        return "given"
    if p.tied:
        return f"the same as {p.tied}"
    if not p.identified:
        return "not determined"
    return "at the end of its range" if p.at_bound else ""


def intervals(fit: Fit) -> str:
    """Where the intervals come from."""
    if fit.backend != "least-squares":
        return "Intervals hold 95 % of the posterior."
    if fit.bootstrap is not None and fit.covariance is not None:
        unit = {"wild": "wild bootstrap over", "runs": "bootstrap of"}[fit.bootstrap["resample"]]
        return (
            f"95 % intervals by a {unit} {fit.covariance['clusters']} runs, "
            f"{fit.bootstrap['count']} draws."
        )
    if fit.covariance is not None:
        unit = fit.covariance["unit"]
        if fit.runs is not None:
            return (
                f"95 % intervals from how {fit.covariance['clusters']} "
                f"{'runs' if unit == 'run' else 'values of ' + unit} lie about the law (CR2)."
            )
        return (
            f"95 % intervals by leaving out each of {fit.covariance['clusters']} "
            f"{'runs' if unit == 'run' else 'values of ' + unit} in turn."
        )
    return "There are no intervals: see below."


def unknown(fit: Fit) -> Iterator[str]:
    """What the data do not tell, one sentence each."""
    for one in fit.identification["undetermined"]:
        names, reasons = tuple(one["parameters"]), "; ".join(one["reasons"])
        told = "cannot be told by" if len(names) == 1 else "cannot be told apart by"
        yield (
            f"{join(names)} {told} these curves"
            + (f" ({reasons})" if reasons else "")
            + ". The values in the table are one choice of many that fit equally well: do not read "
            "them, and do not carry them elsewhere."
        )
    groups = {n for one in fit.identification["undetermined"] for n in one["parameters"]}
    far = [n for n in known(fit)[2] if n not in groups and _closed(fit.parameters[n])]
    for name in far:
        low, high = fit.parameters[name].interval or (None, None)
        yield f"{name} is hardly known: {number(low, 3)} to {number(high, 3)}."
    for name, p in fit.parameters.items():
        if name in groups or p.interval is None or p.fixed or p.tied:
            continue
        low, high = p.interval
        begin = f"The interval of {name} is open"
        if low is None and high is None:
            yield f"{begin} at both ends: the curves bound it nowhere."
        elif low is None:
            yield f"{begin} below: the curves do not say how small it may be."
        elif high is None:
            yield f"{begin} above: the curves do not say how large it may be."


def _closed(p: Estimate) -> bool:
    return p.interval is not None and None not in p.interval


def all_known(fit: Fit) -> str:
    """What is said where nothing is left open."""
    if all(_closed(p) for p in fit.parameters.values() if not p.fixed):
        return "Every interval has two ends."
    return "There are no intervals, so nothing is said here of how well each parameter is known."


def warned(fit: Fit) -> Iterator[str]:
    """Warnings that :func:`unknown` does not say already."""
    for line in fit.warnings:
        if "not determined" not in line and "not separately determined" not in line:
            yield humane(upper(line)) + "."


# ---------------------------------------------------------------- how well


def scores(fit: Fit) -> Iterator[tuple[str, str, str]]:
    """Each score, its value, and what it is."""
    m = fit.metrics
    rmse, mape = _float(m["rmse"]), _float(m["mape"])
    if m["r2_excess"] is not None:
        what = "share of the variance of the loss above the unpruned model's that is explained"
        yield "R²", number(_float(m["r2_excess"])), what
    elif m["r2"] is not None:
        yield "R²", number(_float(m["r2"])), "share of the variance of the loss that is explained"
    yield "RMSE", number(rmse), "root mean square miss, nats per token"
    yield "MAPE", percent(mape), "mean miss as a share of the loss"
    if m["asd"] is not None:
        what = f"mean difference of slopes along a run, {m['asd_unit']}"
        yield "ASD", number(_float(m["asd"])), what


def tests(section: Section) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Each hold-out: what, points, RMSE, MAPE, inside their interval, skill."""
    for v in section.validations:
        points = str(v.held_out)
        if v.score is None:
            yield humane(upper(v.about)), points, "—", "—", "—", "a range, and no single number"
            continue
        s = v.score
        skill = "; ".join(f"{_signed(k.skill)} against {_BASELINES[k.baseline]}" for k in s.skills)
        yield (
            humane(upper(v.about)),
            points,
            number(s.rmse),
            percent(s.mape),
            percent(s.coverage),
            (skill or "—"),
        )


_BASELINES = {
    "last value": "the run's last value",
    "power law": "a power law of the run",
    "nearest curve": "the nearest curve",
    "two nearest": "the two nearest curves",
}


def _signed(value: float | None) -> str:
    return "—" if value is None else f"{value:+.2f}".replace("-", "−")


def test_notes(validations: list[Validation]) -> list[str]:
    """Their warnings, each once."""
    return list(dict.fromkeys(humane(f"{upper(w)}.") for v in validations for w in v.warnings))


def compared(comparison: Comparison) -> Iterator[tuple[str, str, str, str, str]]:
    """Each law: error on left-out runs, how much worse than the best, in-sample, its formula."""
    for i, s in enumerate(comparison.scores):
        worse = "best" if i == 0 and s.loss is not None else _against(s.difference, s.loss)
        yield s.label, percent(s.mape), worse, number(s.fit.metrics["rmse"]), s.law.formula  # type: ignore[arg-type]


def _against(difference: Difference | None, loss: float | None) -> str:
    if difference is None or loss is None:
        return "not everywhere defined"
    if difference.stderr == 0:
        return "the same" if difference.value == 0 else "worse"
    times = difference.value / difference.stderr
    return f"worse by {times:.1f} standard errors" if times > 0 else "about the same"


def _float(value: float | str | None) -> float | None:
    return None if value is None or isinstance(value, str) or math.isnan(value) else value
