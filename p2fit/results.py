"""What all results share: they hold numbers, and :mod:`p2fit.show` says them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from importlib import import_module
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from p2fit.errors import FitError
from p2fit.wording import printable

if TYPE_CHECKING:
    import polars as pl

R = TypeVar("R", bound="Result")

_PAIRS = ("interval", "fitted", "new_run", "range")  # two ends each


class Result:
    """A result of p2fit, which can be printed, shown in a notebook and taken as a table."""

    #: Its table: a key of its ``to_dict``, and of entries by name what the names are of.
    table: ClassVar[tuple[str, str]]
    #: What tells its table from others of its kind: attributes whose values come before each row.
    told: ClassVar[tuple[str, ...]] = ("group",)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # In the class's own dict, or a dataclass would write one that spells out every number.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        said = [type(self).__name__]
        said += [str(one) for name in ("law", "parameter") if (one := _name_of(self, name))]
        said += [f"{name}={value}" for name, value in self._before().items()]
        key = getattr(self, "table", ("", ""))[0]
        entries = getattr(self, key, None)
        count = f": {len(entries)} {key}" if isinstance(entries, Sized) else ""
        return f"<{printable(shorten(' '.join(said), 160, placeholder='…'))}{count}>"

    def _before(self) -> dict[str, Any]:
        """What tells its table from others of its kind."""
        found: dict[str, Any] = {}
        for name in self.told:
            value = getattr(self, name, {})
            found |= value if isinstance(value, Mapping) else {name: value}
        return found

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def to_polars(self) -> pl.DataFrame:
        """The table in it, a row for each parameter, point, law, goal, budget, candidate or run,
        after the columns of its group; what is nested has names such as ``interval_low``."""
        key, of = self.table
        entries = self.to_dict()[key]
        if isinstance(entries, Mapping):
            entries = [{of: name, **entry} for name, entry in entries.items()]
        return frame_of([{**self._before(), **entry} for entry in entries])

    def to_pandas(self) -> Any:
        """:meth:`to_polars` as a frame of pandas.

        Raises:
            FitError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise FitError(
                "to_pandas needs pandas, which is not installed; to_polars does not"
            ) from None
        return pandas.DataFrame(self.to_polars().to_dict(as_series=False))

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The result as plain text, 100 columns wide."""
        text: str = _show().text(self)
        return text

    def __rich__(self) -> Any:
        return _show().renderable(self)

    def _repr_html_(self) -> str:
        html: str = _show().html(_show().renderable(self))
        return html

    def to_markdown(self) -> str:
        """The result in GitHub's Markdown."""
        markdown: str = _show().to_markdown(_show().renderable(self))
        return markdown

    def to_latex(self) -> str:
        """The result in LaTeX: its tables for ``booktabs``, the rest as comments. Of a fit: the
        formula with letters and with numbers, and its parameters, each rounded to two digits of its
        error. It needs no other package."""
        latex: str = _show().to_latex(self)
        return latex


class Drawable(Result):
    """A result that can be drawn."""

    def plot(self, kind: str = "curves", **options: Any) -> Any:
        """:func:`p2fit.plot` of it: a figure, which a notebook shows."""
        return import_module("p2fit.pictures.plot").plot(self, kind, **options)


class Results(list[R]):
    """Results of several groups, hold-outs or parameters: a list, shown as what is in it."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def _repr_html_(self) -> str:
        return "<hr>".join(one._repr_html_() for one in self)


def frame_of(entries: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Entries of results as a table, a row each; what is nested has names such as
    ``interval_low``, and lists are left out."""
    import polars as pl

    frame = pl.DataFrame([dict(_flat(entry)) for entry in entries], infer_schema_length=None)
    # Where only some rows have what is nested, the others have it as null.
    parents = {c for c in frame.columns if any(d.startswith(f"{c}_") for d in frame.columns)}
    return frame.drop(c for c in parents if frame[c].null_count() == frame.height)


def _name_of(result: Result, attribute: str) -> str | None:
    """The law's or the parameter's, where it has one."""
    found = getattr(result, attribute, None)
    return getattr(found, "name", found)


def _flat(entry: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entry.items():
        key = before + name
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}_")
        elif name in _PAIRS:
            low, high = value or (None, None)
            yield f"{key}_low", low
            yield f"{key}_high", high
        elif not isinstance(value, list | tuple):
            yield key, value


def _show() -> Any:
    # By its name, and late: what is shown does not know how.
    return import_module("p2fit.show")
