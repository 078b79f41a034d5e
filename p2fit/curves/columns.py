"""What a column is taken from: another column, or an expression over columns.

``tokens_B*1e9`` is a number, in the language of the laws: numbers, names, + - * / ^, exp and log.
``model + '-' + rate`` is a text: names and texts in single quotes, joined by +. A name with other
characters than letters, digits and _ is written in double quotes, as ``--where`` has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from p2fit.arguments import hold
from p2fit.errors import FitError, LawError
from p2fit.laws.expression import evaluate, names_in, parse
from p2fit.numerals import read_count, read_share
from p2fit.wording import suggest

_PIECE = re.compile(r"""\s*(?:'(?P<text>[^']*)'|"(?P<quoted>[^"]+)"|(?P<name>[^'"+]*))\s*""")

#: A row of a column that has no value, and why.
Refusal = tuple[int, str, str]


@dataclass(frozen=True)
class Expression:
    """A column that is worked out from others. Made by :func:`read_expression`."""

    text: str
    names: tuple[str, ...]
    """The columns that it reads."""
    numbers: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None
    """What makes the column of those, where it is one of numbers."""
    pieces: tuple[tuple[str, bool], ...] = ()
    """Where it is a text: names (True) and texts (False), in their order."""

    def values(
        self, columns: Callable[[str], pl.Series], height: int
    ) -> tuple[pl.Series, list[Refusal]]:
        """The column, and the rows that it cannot be worked out of: row, column and reason.

        Args:
            columns: name -> its cells, numbers or text.
            height: how many rows.
        """
        if self.numbers is None:
            return self._joined({n: _spelled(columns(n)) for n in self.names}, height)
        found: list[Refusal] = []
        cells = {n: _trimmed(columns(n)) for n in self.names}
        arrays = {}
        empty = np.zeros(height, bool)
        for name, cell in cells.items():
            number = cell.cast(pl.Float64, strict=False)
            wrong = number.is_null() & cell.is_not_null()
            found += [(i, name, f"{cell[i]} {_no_number(cell[i])}") for i in wrong.arg_true()]
            arrays[name] = number.fill_null(np.nan).to_numpy()
            empty |= np.isnan(arrays[name])
        values = np.broadcast_to(self.numbers(arrays), height).astype(float)
        for i in np.flatnonzero(~np.isfinite(values) & ~empty):
            at = ", ".join(f"{n} = {c[int(i)]}" for n, c in cells.items())
            found.append((int(i), self.text, f"has no value{' at ' if at else ''}{at}"))
        return pl.Series(values).fill_nan(None), found

    def _joined(
        self, cells: Mapping[str, pl.Series], height: int
    ) -> tuple[pl.Series, list[Refusal]]:
        if not self.names:
            return pl.Series(["".join(p for p, _ in self.pieces)], dtype=pl.String).new_from_index(
                0, height
            ), []
        frame = pl.DataFrame([series.alias(name) for name, series in cells.items()])
        parts = [pl.col(p) if is_name else pl.lit(p) for p, is_name in self.pieces]
        joined = frame.select(pl.concat_str(parts).alias("text"))["text"]
        # Two settings that read alike would become one run.
        both = frame.with_columns(text=joined).unique()
        alike = both.filter(pl.col("text").is_duplicated() & pl.col("text").is_not_null())
        found: list[Refusal] = []
        if alike.height:
            text = alike["text"][0]
            row = int((joined == text).arg_true()[0])
            found = [(row, self.text, f"{text!r} stands for several: put other text between")]
        return joined, found


def read_expression(text: str, header: Collection[str]) -> Expression:
    """The expression that a column is to be taken from.

    Raises:
        FitError: it cannot be read, or names what is no column.
    """
    if re.search(r"'[^']*'", text):
        return _text(text, header)
    quoted: dict[str, str] = {}

    def stand_in(found: re.Match[str]) -> str:
        name = f"quoted_{len(quoted)}_"
        quoted[name] = found[1]
        return name

    plain = re.sub(r'"([^"]+)"', stand_in, text)
    constant = read_share(plain) if plain.strip().endswith("%") else read_count(plain)
    try:
        tree = parse(str(constant) if constant is not None else plain)
    except LawError as error:
        raise FitError(str(error)) from None
    inner = {node.id: quoted.get(node.id, node.id) for node in names_in(tree)}
    _known(tuple(inner.values()), header, text)

    def numbers(columns: Mapping[str, np.ndarray]) -> np.ndarray:
        return evaluate(tree, {own: columns[name] for own, name in inner.items()})

    return Expression(text, tuple(dict.fromkeys(inner.values())), numbers)


def _text(text: str, header: Collection[str]) -> Expression:
    pieces: list[tuple[str, bool]] = []
    at = 0
    while True:
        found = _PIECE.match(text, at)
        assert found is not None  # it matches nothing, too
        name = found["quoted"] or (found["name"] or "").strip()
        if found["text"] is None and not name:
            raise FitError(f"cannot read {text!r}: names and texts in quotes are joined by +")
        pieces.append((found["text"], False) if found["text"] is not None else (name, True))
        at = found.end()
        if at == len(text):
            break
        if text[at] != "+":
            raise FitError(f"cannot read {text!r}: names and texts in quotes are joined by +")
        at += 1
    names = tuple(dict.fromkeys(piece for piece, is_name in pieces if is_name))
    _known(names, header, text)
    return Expression(text, names, None, tuple(pieces))


def _known(names: Sequence[str], header: Collection[str], text: str) -> None:
    for name in names:
        if name not in header:
            where = "" if name == text.strip() else f" in {text!r}"
            raise FitError(f"no column {name} to take it from{where}{suggest(name, header)}")


def _no_number(cell: object) -> str:
    if read_share(str(cell)) is not None or read_count(str(cell)) is not None:
        return "is read as it stands where its column is taken as it is: here write a plain number"
    return "is not a number"


def _trimmed(cells: pl.Series) -> pl.Series:
    """Without the spaces around text; what is empty is null."""
    if cells.dtype.is_float():
        return cells.fill_nan(None)
    if cells.dtype == pl.String:
        cells = cells.str.strip_chars()
        return cells.set(cells == "", None)
    return cells


def _spelled(cells: pl.Series) -> pl.Series:
    """Cells as text, a number in one spelling: 0.30 and 0.3 are one setting."""
    cells = _trimmed(cells)
    numbers = cells.cast(pl.Float64, strict=False)
    if not cells.dtype.is_float():
        cells = cells.cast(pl.String)
        # What has more digits than a number keeps is a name.
        if numbers.null_count() > cells.null_count() or (cells.str.len_chars() > 15).any():
            return cells
    unique = numbers.unique().drop_nulls()
    return numbers.replace_strict(
        unique, [f"{v:.15g}" for v in unique], default=None, return_dtype=pl.String
    )


def with_run_by(columns: Mapping[str, str] | None, run_by: Sequence[str] | None) -> dict[str, str]:
    """The mapping with a run for each combination of some columns.

    Raises:
        FitError: the run is mapped already, or one is no mapping and the other no list of names.
    """
    hold("columns", columns, Mapping[str, str] | None)
    hold("run_by", run_by, Sequence[str] | None)
    found = dict(columns or {})
    if run_by is None:
        return found
    if not run_by:
        raise FitError(f"run_by is {run_by!r}: name at least one column")
    if "run" in found:
        raise FitError("run is mapped and run_by is given: give one of them")
    several = " + '-' + ".join(map(quote, run_by))
    found["run"] = several if len(run_by) > 1 else run_by[0]
    return found


def quote(name: str) -> str:
    """A name as an expression has it."""
    return name if name.isidentifier() and name.isascii() else f'"{name}"'


def average_params(run: str, tokens: str) -> pl.Expr:
    """Mean of ``active_params`` over the tokens so far, for rows sorted by run and tokens."""
    now, upto = pl.col("active_params"), pl.col(tokens)
    # Before the first row the count is that of the first row, from tokens = 0 on.
    before, since = now.shift().fill_null(now), upto.shift().fill_null(0.0)
    area = ((now + before) / 2 * (upto - since)).cum_sum()
    return pl.when(upto > 0).then(area / upto).otherwise(now).over(run)
