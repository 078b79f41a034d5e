"""Results as LaTeX: tables for ``booktabs``, and of a fit also its formula."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from p2fit.fit import Estimate, Fit
from p2fit.laws.typesetting import law_symbols, symbol
from p2fit.results import Result
from p2fit.show.pieces import Facts, Grid, Piece, Remarks, line, pieces, without_empty
from p2fit.show.rounding import between, number, plus_minus

#: What a formula with rounded numbers may miss of the loss.
_MISSED = 1e-4

_NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?)(?:e([-+]\d+))?(?![\w.])")
_LETTERS = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∝": r"$\propto$",
    "²": "$^2$",
    "₀": "$_0$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
}


def latex(layout: Any) -> str:
    """The tables of a layout for ``booktabs``, and as comments what else it says."""
    return "\n".join("".join(f"{one}\n" for one in _lines(part)) for part in pieces(layout))


def _lines(piece: Piece) -> Iterator[str]:
    match piece:
        case Grid():
            shown = without_empty(piece)
            rows = [list(map(words, row)) for row in shown.rows]
            yield from tabular(map(words, shown.heads), rows, shown.right)
        case Facts(pairs):
            yield from (f"% {name}: {said}" if name else f"%   {said}" for name, said in pairs)
        case Remarks(heading, lines):
            yield from (f"% {heading.lower()}: {remark}" for remark in lines)
        case _:
            yield f"% {piece}"


def tabular(
    heads: Iterable[str], rows: Iterable[Iterable[str]], right: Iterable[bool], end: str = r"\\"
) -> Iterator[str]:
    """A table of cells that are LaTeX, for ``booktabs``."""
    columns = "".join("r" if one else "l" for one in right)
    yield rf"\begin{{tabular}}{{{columns}}}"
    yield r"  \toprule"
    yield f"  {' & '.join(heads)} \\\\"
    yield r"  \midrule"
    for row in rows:
        # In braces: a bracket after the row before would be taken for its height.
        cells = (f"{{{cell}}}" if cell.startswith(("[", "*")) else cell for cell in row)
        yield f"  {' & '.join(cells)} {end}"
    yield r"  \bottomrule"
    yield r"\end{tabular}"


def words(text: str) -> str:
    """Text that LaTeX shows as it is, with numbers set as mathematics where they need it."""
    parts, end = [], 0
    for found in _NUMBER.finditer(text):
        digits, power = found.groups()
        parts.append("".join(_LETTERS.get(c, c) for c in text[end : found.start()]))
        end = found.end()
        signed = digits[0] in "+-"
        times = rf" \times 10^{{{int(power)}}}" if power else ""
        parts.append(f"${digits}{times}$" if signed or power else digits)
    parts.append("".join(_LETTERS.get(c, c) for c in text[end:]))
    return "".join(parts)


# ---------------------------------------------------------------- a fit


def of_result(result: Result) -> str:
    """A result in LaTeX."""
    return of_fit(result) if isinstance(result, Fit) else latex(result.__rich__())


def of_fit(fit: Fit) -> str:
    """A fit for a paper: where it comes from as comments, the formula with letters and with
    numbers, and a table of its parameters."""
    return "\n".join("".join(f"{one}\n" for one in part) for part in _parts(fit))


def _parts(fit: Fit) -> Iterator[Iterable[str]]:
    yield _origin(fit)
    if fit.doubts:
        yield [rf"\textbf{{{words(doubt)}}}" for doubt in fit.doubts]
    yield [rf"\[ {fit.law.latex(fit.target)} \]"]
    values = _rounded(fit)
    if values is not None:
        right = fit.law.latex(fit.target, values)
        yield [rf"\[ {right} \]"]
    error = "std.\\ error" if fit.posterior is None else "posterior s.d."
    middle = "Estimate" if fit.posterior is None else "Median"
    heads = ["Parameter", rf"{middle} $\pm$ {error}", r"95\,\% interval", ""]
    rows = [_row(fit, name, p) for name, p in fit.parameters.items()]
    shown = without_empty(Grid(heads, rows, [False] * len(heads)))
    # What stands above and below an estimate needs room.
    yield tabular(shown.heads, shown.rows, shown.right, end=r"\\[3pt]")


def _origin(fit: Fit) -> Iterator[str]:
    group = "".join(f", {k} = {v}" for k, v in fit.group.items())
    data = fit.data
    yield _comment(f"p2fit {fit.version}: law {fit.law.name}{group}")
    yield _comment(f"{data['used']} rows of {data['runs']} runs, {data['source']}")
    yield _comment(r"needs \usepackage{booktabs}")
    yield from (_comment(f"warning: {warning}") for warning in fit.warnings)


def _comment(text: str) -> str:
    return f"% {line(text)}"


def _row(fit: Fit, name: str, p: Estimate) -> list[str]:
    known = law_symbols(fit.law.inputs)
    own, note = f"${symbol(name, known)}$", ""
    if p.fixed:
        note = "fixed"
    elif p.tied:
        note = f"$= {symbol(p.tied, known)}$"
    elif not p.identified:
        note = "not determined"
    elif p.at_bound:
        note = "at its bound"
    if p.estimate is None:
        return [own, "---", "---", note]
    value = number(p.estimate) if p.stderr is None else plus_minus(p.estimate, p.stderr)
    return [own, f"${value}$", _interval(p), note]


def _interval(p: Estimate) -> str:
    if p.fixed or p.estimate is None:
        return "---"
    if p.interval is None:
        return "---" if p.identified else "open"
    return "open" if p.interval == (None, None) else f"${between(p.estimate, *p.interval)}$"


def _rounded(fit: Fit) -> Mapping[str, float] | None:
    """The parameters with as few digits as tell the same losses at the ends of the data; None
    where one has no value."""
    if any(p.estimate is None for p in fit.parameters.values()):
        return None
    ends = fit.data["range"]
    corners = product(*((ends[x]["min"], ends[x]["max"]) for x in fit.law.inputs))
    at = dict(zip(fit.law.inputs, np.array(list(corners)).T))
    values = fit.estimates()
    told = fit.law.predict(values, at)
    for digits in range(3, 17):
        rounded = {n: float(f"{v:.{digits}g}") for n, v in values.items()}
        if np.allclose(fit.law.predict(rounded, at), told, rtol=_MISSED, atol=0):
            return rounded
    return values
