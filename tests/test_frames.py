"""Tables in memory, and the tables of results."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.curves.reading import from_frame
from tests import simulate

DATA = pl.DataFrame(simulate.p2(seed=0))


class Capsule:
    """Nothing but the interface."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


KINDS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "lazy": lambda frame: frame.lazy(),
    "pandas": lambda frame: pd.DataFrame(frame.to_dict(as_series=False)),
    "pandas, indexed": lambda frame: pd.DataFrame(frame.to_dict(as_series=False)).set_index("run"),
    "pandas, nullable": lambda frame: frame.to_pandas().convert_dtypes(),
    "pandas, arrow": lambda frame: frame.to_pandas(use_pyarrow_extension_array=True),
    "pyarrow": lambda frame: frame.to_arrow(),
    "capsule": Capsule,
    "columns": lambda frame: frame.to_dict(as_series=False),
    "series of pandas": lambda frame: dict(frame.to_pandas()),
    "arrays": lambda frame: {n: pa.array(v.to_list()) for n, v in frame.to_dict().items()},
    "records": lambda frame: frame.to_dicts(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_any_library_gives_the_fit_of_its_file(kind: str, tmp_path: Path) -> None:
    DATA.write_csv(tmp_path / "t.csv")
    table = KINDS[kind](DATA)
    found, plain = p2fit.fit(table), p2fit.fit(tmp_path / "t.csv")
    assert found.objective == plain.objective
    assert found.parameters == plain.parameters


@pytest.mark.parametrize("kind", ["pandas", "capsule", "records"])
def test_every_function_that_takes_a_path_takes_a_table(kind: str) -> None:
    make = KINDS[kind]
    table = make(DATA)
    assert p2fit.check(table)["rows"] == DATA.height
    assert p2fit.read_curves(table).frame.equals(from_frame(DATA).frame)
    fit = p2fit.fit(table)
    assert p2fit.validate(table)[0].held_out > 0
    assert p2fit.profile(table, parameters=["gamma"])[0].parameter == "gamma"
    assert p2fit.identify_design(table)[0].rank == 7
    points = make(DATA.head(3).drop("loss"))
    assert p2fit.predict(fit, points).predicted.shape == (3,)
    assert p2fit.plan_next(fit, make(DATA.drop("loss"))).runs
    assert p2fit.plan_tokens(
        fit, {"params": 1e9, "pruning_rate": 0.3, "base_loss": 2.5}, gain=[0.01]
    )
    values = {n: p.estimate for n, p in fit.parameters.items() if p.estimate is not None}
    assert p2fit.simulate(fit.law, values, points).height == 3
    log = make(DATA.filter(pl.col("run") == DATA["run"][0]).rename({"loss": "eval_loss"}))
    assert p2fit.import_logs(log).curves.frame.height == DATA["run"].value_counts()["count"][0]


@settings(max_examples=50)
@given(
    st.lists(
        st.sampled_from([3.0, 2.5, None, math.nan, "2.75", " 3 ", "", "x"]),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_empty_or_wrong_is_so_in_every_library(losses: list[Any]) -> None:
    rows = len(losses)
    table = {
        "run": [f"r{i}" for i in range(rows)],
        "params": [1e9] * rows,
        "tokens": [1e9] * rows,
        "loss": losses,
    }

    def read(source: Any) -> Any:
        try:
            return from_frame(source, needs=("run",)).frame.to_dicts()
        except p2fit.CurvesError as error:
            return str(error)

    plain = read(table)
    frame = pd.DataFrame({**table, "loss": pd.Series(losses, dtype=object)})
    assert read(frame) == plain
    assert read([dict(zip(table, row)) for row in zip(*table.values())]) == plain


def test_what_is_no_table_is_said_in_one_line() -> None:
    twice = pd.DataFrame([[1, 2]], columns=["run", "run"])
    with pytest.raises(p2fit.CurvesError, match="not a table: run is the name of 2 columns"):
        p2fit.check(twice)
    spans = DATA.to_pandas().assign(method=pd.cut(DATA["params"].to_pandas(), 2))
    with pytest.raises(p2fit.CurvesError, match="method: neither numbers nor strings"):
        p2fit.check(spans)
    with pytest.raises(p2fit.FitError, match="curves come as a path, a table"):
        p2fit.fit([1, 2])  # type: ignore[list-item]


def test_results_give_their_tables() -> None:
    fit = p2fit.fit(DATA)
    table = fit.to_pandas().set_index("parameter")
    for name, one in fit.parameters.items():
        low, high = one.interval or (None, None)
        assert table.loc[name, ["estimate", "interval_low", "interval_high"]].tolist() == [
            one.estimate, low, high,
        ]  # fmt: skip
    predicted = p2fit.predict(fit, DATA.head(2))
    assert predicted.to_pandas()["predicted"].tolist() == predicted.predicted.tolist()
    held = p2fit.validate(DATA)[0]
    assert held.to_polars().height == held.held_out
    ranked = p2fit.compare(DATA, ["p2", "p2-no-size"])[0]
    assert ranked.to_polars()["law"].to_list() == [score.label for score in ranked.scores]
    at = {"params": 1e9, "pruning_rate": 0.3, "base_loss": 2.5}
    goals = p2fit.plan_tokens(fit, at, gain=[0.01])
    tokens = goals.goals[0].tokens
    assert goals.to_polars()["tokens_value"].to_list() == [tokens.value]
    assert goals.to_polars()["tokens_interval_low"][0] == tokens.interval[0]  # type: ignore[index]
    curve = p2fit.profile(DATA, parameters=["gamma"])[0]
    assert curve.to_polars().columns == ["gamma", "rise"]
    runs = p2fit.plan_next(fit, DATA.drop("loss"))
    assert runs.to_polars()["run"].to_list() == [one.run for one in runs.runs]
    assert p2fit.identify_design(DATA)[0].to_polars()["input"].to_list() == [*fit.law.varied]


def test_tables_of_groups_have_their_columns() -> None:
    two = pl.concat([DATA.with_columns(method=pl.lit(m)) for m in ("depth", "width")])
    two = two.with_columns(run=pl.col("run") + pl.col("method"))
    found = pl.concat([fit.to_polars() for fit in p2fit.fit_each(two)])
    assert found["method"].unique(maintain_order=True).to_list() == ["depth", "width"]


def test_without_pandas_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = p2fit.fit(DATA)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(p2fit.FitError, match="pandas, which is not installed"):
        fit.to_pandas()
