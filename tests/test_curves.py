"""Loss curves: what is read, what is refused, and in which words."""

import codecs
import gzip
import hashlib
import io
import math
import pickle
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from frictionless import Resource, Schema
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from p2fit.curves.checking import REQUIRED, schema
from p2fit.curves.reading import Curves, from_frame, read_curves
from p2fit.errors import CurvesError, Fault

HEADER = "run,params,tokens,loss"
GOOD = f"{HEADER}\na,1e9,1e9,3.0\na,1e9,2e9,2.9\nb,2e9,1e9,2.8\n"
HINT = "give absolute counts, not millions or billions"


def read(text: str | bytes, **options: Any) -> Curves:
    """Curves from a text, as if it were the file curves.csv."""
    stream = io.BytesIO(text.encode() if isinstance(text, str) else text)
    stream.name = "curves.csv"
    return read_curves(stream, **options)


def faults(text: str | bytes, **options: Any) -> list[str]:
    with pytest.raises(CurvesError) as caught:
        read(text, **options)
    return [str(fault) for fault in caught.value.faults]


@dataclass(frozen=True)
class Case:
    """A file, what p2fit says of it (nothing where it is good), and whether its verdict is one
    that frictionless cannot reach from the same schema."""

    name: str
    text: str | bytes
    faults: tuple[str, ...] = ()
    beyond_table_schema: bool = False

    def __str__(self) -> str:
        return self.name


def row(column: str, *cells: str) -> str:
    """A file with a further column."""
    lines = [f"a,1e9,{i + 1}e9,3.0,{cell}" for i, cell in enumerate(cells)]
    return "\n".join([f"{HEADER},{column}", *lines, ""])


def bad_cell(column: str, cell: str, message: str, beyond: bool = False) -> Case:
    """A file with one bad cell, on line 3."""
    good = {"run": "a", "params": "1e9", "tokens": "1e9", "loss": "3"}
    names = list(dict.fromkeys([*good, column]))
    lines = [",".join(good.get(name, "") for name in names)]
    lines.append(",".join(({**good, "tokens": "2e9"} | {column: cell}).get(n, "") for n in names))
    text = "\n".join([",".join(names), *lines, ""])
    return Case(f"{column}={cell}", text, (f"curves.csv:3: {column}: {message}",), beyond)


SAME_AS_GOOD = [
    Case("plain", GOOD),
    Case("no newline at the end", GOOD.rstrip()),
    Case("blank lines at the end", GOOD + "\n\n", beyond_table_schema=True),
    Case("blank line in the middle", GOOD.replace("\nb", "\n\nb"), beyond_table_schema=True),
    Case("blank line with spaces", GOOD.replace("\nb", "\n  \nb"), beyond_table_schema=True),
    Case("CRLF", GOOD.replace("\n", "\r\n")),
    Case("CR", GOOD.replace("\n", "\r")),
    Case("BOM", codecs.BOM_UTF8 + GOOD.encode()),
    Case("quotes", GOOD.replace("b,", '"b",').replace("params", '"params"')),
    Case("spaces around numbers", GOOD.replace(",2.8", ", 2.8 ").replace(",1e9", ",\t1e9")),
    Case("spaces in the header", GOOD.replace("loss", " loss ")),
]
GOOD_FILES = [
    *SAME_AS_GOOD,
    Case("quote within a cell", GOOD.replace("b,", 'b 6" disk,')),
    Case("comma and newline in a quoted cell", GOOD.replace("b,", '"b,\nc",')),
    Case("tokens from zero", GOOD.replace("2e9", "1e6").replace("a,1e9,1e9", "a,1e9,0")),
    Case("non-ASCII", GOOD.replace("b,", "é→,")),
    Case("empty optional cells", row("pruning_rate", "", "0.5")),
    Case("optional columns", row("loss_stderr,final,seed,family", "0,1,7,x", "0.1,0,s2,", ",,,")),
    Case("extra columns", row("note,steps", "x,1", "nan,", ",2")),
    Case("base_loss differs between runs", row("base_loss", "2.5", "2.5") + "b,1e9,1e9,3,2.6\n"),
]

BAD_FILES = [
    Case("empty", "", ("curves.csv: the file is empty",)),
    Case("blank", " \n\n", ("curves.csv: the file is empty",)),
    Case(
        "header only",
        HEADER + "\n",
        ("curves.csv:1: no rows: there is only a header",),
        beyond_table_schema=True,
    ),
    Case(
        "not UTF-8",
        GOOD.encode() + b"\xe9,1e9,1e9,3\n",
        ("curves.csv:5: not UTF-8: save it as UTF-8",),
    ),
    Case(
        "semicolons",
        GOOD.replace(",", ";"),
        ("curves.csv:1: looks semicolon-separated: save it with commas",),
        beyond_table_schema=True,
    ),
    Case(
        "tabs",
        GOOD.replace(",", "\t"),
        ("curves.csv:1: looks tab-separated: save it with commas",),
        beyond_table_schema=True,
    ),
    Case(
        "semicolons and quotes",
        '"run";"params"\n"a";7\n',
        ("curves.csv:1: looks semicolon-separated: save it with commas",),
    ),
    Case(
        "missing column",
        GOOD.replace("tokens", "token"),
        (
            (
                "curves.csv:1: tokens: no such column; did you mean token? "
                "the columns are run, params, token, loss"
            ),
        ),
    ),
    Case(
        "duplicate name",
        row("loss", "3", "3"),
        ("curves.csv:1: loss: columns 4 and 5 have the same name",),
    ),
    Case(
        "empty name",
        row("", "3", "3"),
        ("curves.csv:1: column 5 has no name: name it, or leave it out",),
        beyond_table_schema=True,
    ),
    Case("short row", GOOD + "c,1e9,1e9\n", ("curves.csv:5: 3 cells, header has 4",)),
    Case("one cell", GOOD + "c\n", ("curves.csv:5: 1 cell, header has 4",)),
    Case("long row", GOOD + "c,1e9,1e9,3,4\n", ("curves.csv:5: 5 cells, header has 4",)),
    Case(
        "short and long row",
        GOOD + "c,1e9,1e9\nd,1e9,1e9,3,4\n",
        ("curves.csv:5: 3 cells, header has 4", "curves.csv:6: 5 cells, header has 4"),
    ),
    Case(
        "short and long row the other way",
        GOOD + "c,1e9,1e9,3,4\nd,1e9,1e9\n",
        ("curves.csv:5: 5 cells, header has 4", "curves.csv:6: 3 cells, header has 4"),
    ),
    Case(
        "open quote",
        GOOD.replace("\nb", '\n"b') + "c,1e9,1e9,-3\n",
        (
            "curves.csv:4: a quote is not closed, or has text after it",
            "curves.csv:5: loss: -3 is not above 0",
        ),
    ),
    Case(
        "text after a quote",
        GOOD.replace("\nb", '\n"b"x'),
        ("curves.csv:4: a quote is not closed, or has text after it",),
        beyond_table_schema=True,
    ),
    Case(
        "open quote in the header",
        GOOD.replace("params", '"params'),
        ("curves.csv:1: a quote is not closed, or has text after it",),
    ),
    Case(
        "gzip",
        gzip.compress(GOOD.encode()),
        ("curves.csv: not a text file: gzip; unpack it first",),
    ),
    Case(
        "UTF-16",
        GOOD.encode("utf-16"),
        ("curves.csv: not a text file: UTF-16; save it as UTF-8",),
    ),
    Case(
        "zero bytes",
        b"run,params\n\0\1\2",
        ("curves.csv: not a text file: it has zero bytes",),
    ),
    Case(
        "duplicate key",
        GOOD + "a,1e9,1000000000,3\n",
        ('curves.csv:5: tokens: run "a" has 1e9 tokens on line 2 already',),
    ),
    Case(
        "key three times",
        GOOD + "a,1e9,1e9,3\n\na,1e9,1e9,3\n",
        (
            'curves.csv:5: tokens: run "a" has 1e9 tokens on line 2 already',
            'curves.csv:7: tokens: run "a" has 1e9 tokens on line 2 already',
        ),
    ),
    Case(
        "base_loss varies",
        row("base_loss", "", "2.5", "2.5", "2.51"),
        (
            (
                "curves.csv:5: base_loss: 2.51 differs from 2.5 on line 3: "
                "it must be one per run; --run-by run,base_loss makes runs of both"
            ),
        ),
        beyond_table_schema=True,
    ),
    Case(
        "faults of every kind, in line order",
        f"{HEADER},pruning_rate\n,1e9,1e9,3,0\na,5.0,1e9,3,1.3\na,1e9,1e9\nb,1e9,1e9,nan,\n",
        (
            "curves.csv:2: run: empty cell",
            f"curves.csv:3: params: 5.0 is below 1e4: {HINT} (use 7e9, not 7)",
            "curves.csv:3: pruning_rate: 1.3 is not in [0, 1)",
            "curves.csv:4: 3 cells, header has 5",
            "curves.csv:5: loss: nan is not a number",
        ),
    ),
    Case(
        "lines after a cell of two lines",
        GOOD.replace("b,", '"b\nc",') + "d,1e9,1e9,-1\n",
        ("curves.csv:6: loss: -1 is not above 0",),
        beyond_table_schema=True,
    ),
    bad_cell("run", "", "empty cell"),
    bad_cell("run", "  ", "empty cell", beyond=True),
    bad_cell("params", "7", f"7 is below 1e4: {HINT} (use 7e9, not 7)"),
    bad_cell("params", "-7e9", "-7e9 is below 1e4"),
    bad_cell("params", "7X", "7X is not a number"),
    bad_cell("params", "1e400", "1e400 is not a number", beyond=True),
    bad_cell("params", "1_000_000", "1_000_000 is not a number", beyond=True),
    bad_cell("tokens", "20", f"20 is between 0 and 1e3: {HINT} (use 2e9, not 2)", beyond=True),
    bad_cell("tokens", "-1", "-1 is below 0"),
    bad_cell("tokens", "", "empty cell"),
    bad_cell("loss", "0", "0 is not above 0", beyond=True),
    bad_cell("loss", "-0.5", "-0.5 is not above 0", beyond=True),
    bad_cell("loss", "inf", "inf is not a number", beyond=True),
    bad_cell("loss", "NaN", "NaN is not a number", beyond=True),
    bad_cell("loss", '"2,5"', "2,5 is not a number"),
    bad_cell("loss", "2.5 nats", "2.5 nats is not a number"),
    bad_cell("loss", '"2\n5"', r"'2\n5' is not a number"),
    bad_cell("loss", "x" * 60, "x" * 39 + "… is not a number"),
    bad_cell("pruning_rate", "1", "1 is not in [0, 1)", beyond=True),
    bad_cell("pruning_rate", "-0.1", "-0.1 is not in [0, 1)"),
    bad_cell("base_loss", "0", "0 is not above 0", beyond=True),
    bad_cell("avg_params", "1.2", f"1.2 is below 1e4: {HINT} (use 7e9, not 7)"),
    bad_cell("active_params", "0", "0 is below 1e4"),
    bad_cell("loss_stderr", "-0.1", "-0.1 is below 0"),
    bad_cell("final", "2", "2 is not 0 or 1"),
    bad_cell("final", "yes", "yes is not a number"),
]


@pytest.mark.parametrize("case", GOOD_FILES, ids=str)
def test_good_file(case: Case) -> None:
    assert read(case.text).frame.height >= 2


@pytest.mark.parametrize("case", BAD_FILES, ids=str)
def test_bad_file(case: Case) -> None:
    assert faults(case.text) == list(case.faults)


@pytest.mark.parametrize("case", [*GOOD_FILES, *BAD_FILES], ids=str)
def test_same_verdict_as_frictionless(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_bytes(case.text.encode() if isinstance(case.text, str) else case.text)
    resource = Resource(
        path=path.name,
        basepath=str(tmp_path),
        format="csv",
        encoding="utf-8",
        schema=Schema.from_descriptor(schema()),
    )
    differs = resource.validate().valid != (not case.faults)
    assert differs == case.beyond_table_schema


def test_schema_is_a_table_schema() -> None:
    assert Schema.validate_descriptor(schema()).valid
    assert REQUIRED == ("run", "params", "tokens", "loss")
    for rule in schema()["fields"]:
        assert rule["title"]
        assert rule["description"].endswith(".")


def test_plain_file() -> None:
    curves = read(GOOD)
    assert curves.frame.rows() == [
        ("a", 1e9, 1e9, 3.0),
        ("a", 1e9, 2e9, 2.9),
        ("b", 2e9, 1e9, 2.8),
    ]
    assert curves.source == "curves.csv"
    assert curves.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert curves.renamed == {}


@pytest.mark.parametrize("case", SAME_AS_GOOD, ids=str)
def test_dress_does_not_matter(case: Case) -> None:
    assert_frame_equal(read(case.text).frame, read(GOOD).frame)


def test_types() -> None:
    text = row("note,steps,blank,seed,family", "x,1,,1,7", "nan,,,2,8")
    frame = read(text).frame
    assert frame["note"].to_list() == ["x", "nan"]
    assert frame["steps"].to_list() == [1.0, None]
    assert frame["blank"].to_list() == [None, None]
    assert frame["seed"].to_list() == [1.0, 2.0]
    assert frame["family"].to_list() == ["7", "8"]
    assert set(frame.dtypes) == {pl.String, pl.Float64}


def test_needs_and_numeric() -> None:
    text = row("bits,family", "4,x", ",", "q,y")
    assert read(text).frame["bits"].to_list() == ["4", None, "q"]
    wanted = ["curves.csv:3: bits: empty cell", "curves.csv:4: bits: q is not a number"]
    assert faults(text, numeric=["bits"]) == wanted
    assert faults(text, needs=[*REQUIRED, "bits"]) == wanted
    assert faults(text, needs=["family"]) == ["curves.csv:3: family: empty cell"]
    assert faults(text, numeric=["family"])[0] == "curves.csv:2: family: x is not a number"
    assert "width: no such column" in faults(text, numeric=["width"])[0]


def test_less_can_be_needed() -> None:
    frame = read("loss,tokens\n2,\n3,1e9\n", needs=["loss"]).frame
    assert frame.rows() == [(2.0, None), (3.0, 1e9)]  # rows of no run have no order of their own


def test_columns() -> None:
    text = "run,size,tokens,loss,loss_pile\na,1e9,1e9,9,2\na,1e9,2e9,8,1\n"
    mapping = {"loss": "loss_pile", "params": "size", "avg_params": "size"}
    curves = read(text, columns=mapping, needs=[*REQUIRED, "avg_params"])
    assert curves.renamed == mapping
    assert curves.frame["loss"].to_list() == curves.frame["loss_pile"].to_list() == [2, 1]
    assert curves.frame["params"].to_list() == curves.frame["avg_params"].to_list() == [1e9, 1e9]
    assert set(curves.frame.columns) == {"run", "tokens", "loss_pile", "size", *mapping}


def test_columns_swap() -> None:
    frame = read(row("other", "2", "1"), columns={"loss": "other", "other": "loss"}).frame
    assert frame["loss"].to_list() == [2, 1]
    assert frame["other"].to_list() == [3, 3]


def test_faults_name_the_column_of_the_file() -> None:
    text = "run,size,tokens,loss\na,7,1e9,3\n"
    mapping = {"params": "size", "avg_params": "size"}
    assert faults(text, columns=mapping) == [
        f"curves.csv:2: size: 7 is below 1e4: {HINT} (use 7e9, not 7)"
    ]


def test_columns_that_the_file_lacks() -> None:
    assert faults(row("loss_pile", "2"), columns={"loss": "pile"}) == [
        (
            "curves.csv:1: loss: no column pile to take it from; did you mean loss_pile? "
            "the columns are run, params, tokens, loss, loss_pile"
        )
    ]


def test_average_of_active_params() -> None:
    text = (
        "run,params,tokens,loss,active_params\n"
        "late,1e9,3e9,3,4e8\n"
        "late,1e9,1e9,3,8e8\n"
        "late,1e9,2e9,3,6e8\n"
        "zero,1e9,0,3,8e8\n"
        "zero,1e9,2e9,3,4e8\n"
    )
    frame = read(text, needs=[*REQUIRED, "avg_params"]).frame
    # late: 8e8 up to 1e9, then 1e9 · 7e8, then 1e9 · 5e8.
    wanted = [8e8, (8e8 + 7e8) / 2, (8e8 + 7e8 + 5e8) / 3, 8e8, 6e8]
    assert frame["avg_params"].to_list() == pytest.approx(wanted, rel=1e-14)
    assert "avg_params" not in read(text).frame.columns
    assert faults(text.replace("6e8", ""), needs=["avg_params"]) == [
        "curves.csv:4: active_params: empty cell"
    ]
    assert (
        "run: no such column" in faults("tokens,active_params\n1e9,1e9\n", needs=["avg_params"])[0]
    )


def test_avg_params_as_given() -> None:
    text = row("active_params,avg_params", "1e9,2e9")
    assert read(text, needs=["avg_params"]).frame["avg_params"].item() == 2e9


def test_faults_of_one_kind_are_one_line() -> None:
    lines = [f"r{i},1e9,1e9,{-i}" for i in range(1, 2501)]
    with pytest.raises(CurvesError) as caught:
        read("\n".join([HEADER, *lines]))
    assert str(caught.value) == (
        "curves.csv:2: loss: -1 is not above 0; and 2499 more like it, on lines 3, 4, 5, 6, 7 …"
    )
    assert caught.value.count == 2500
    assert len(caught.value.faults) == 1000
    assert caught.value.faults[-1] == Fault("curves.csv", 1001, "loss", "-1000 is not above 0")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@given(st.lists(st.sampled_from(["3", "-1", "-2", "x", "y", "", "1e400"]), max_size=40))
def test_every_fault_is_counted_in_the_line_of_its_kind(losses: list[str]) -> None:
    kinds = {"3": None, "-1": "value", "-2": "value", "": "empty"}
    wrong = [kind for loss in losses if (kind := kinds.get(loss, "word"))]
    if not wrong:
        return
    with pytest.raises(CurvesError) as caught:
        read("\n".join([HEADER, *(f"r{i},1e9,1e9,{loss}" for i, loss in enumerate(losses))]))
    said = str(caught.value).splitlines()
    assert len(said) == len(set(wrong))
    more = [re.search(r"; and (\d+) more like it", line) for line in said]
    assert sum(1 + int(found[1]) if found else 1 for found in more) == len(wrong)


def test_error_text_is_short() -> None:
    names = [f"c{i}" for i in range(30)]
    with pytest.raises(CurvesError) as caught:
        read(f"{HEADER}\na,1e9,1e9,3\n", needs=[*REQUIRED, *names])
    text = str(caught.value).splitlines()
    assert len(text) == 21
    assert text[-1] == "… and 10 more faults"


def test_line_17_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("curves.csv").write_text(row("pruning_rate", *["0.5"] * 15, "1.3"), encoding="utf-8")
    for path in ("curves.csv", Path("curves.csv")):
        with pytest.raises(CurvesError) as caught:
            read_curves(path)
        assert str(caught.value) == "curves.csv:17: pruning_rate: 1.3 is not in [0, 1)"


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CurvesError, match=r"^curves\.csv: no such file$"):
        read_curves("curves.csv")
    with pytest.raises(CurvesError, match=r"a directory, not a file$"):
        read_curves(tmp_path)
    for error, why in (
        (PermissionError(13, "x"), "no permission to read it"),
        (OSError(5, "broken"), "broken"),
    ):

        def refuse(_: Path, error: OSError = error) -> bytes:
            raise error

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(CurvesError, match=why):
            read_curves("curves.csv")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode()), encoding="utf-8"))
    curves = read_curves("-")
    assert curves.source == "<stdin>"
    assert_frame_equal(curves.frame, read(GOOD).frame)
    assert read_curves(io.BytesIO(GOOD.encode())).source == "<stream>"


def test_from_frame() -> None:
    wanted = read(GOOD).frame
    curves = from_frame(wanted)
    assert_frame_equal(curves.frame, wanted)
    assert curves.source == "<frame>"
    assert curves.sha256 == from_frame(wanted[::-1]).sha256
    columns = {"run": ["a"] * 2, "params": [10**9] * 2, "tokens": [2e9, 0], "loss": np.ones(2)}
    frame = from_frame(columns | {"final": [True, False], "note": [math.nan, 1]}).frame
    assert frame["tokens"].to_list() == [0, 2e9]
    assert frame["final"].to_list() == [0, 1]
    assert frame["note"].to_list() == [1, None]
    assert from_frame(columns | {"run": [1, 2]}).frame["run"].to_list() == ["1", "2"]


def test_faults_of_a_frame() -> None:
    columns = {
        "run": ["a", "a", "b", None],
        "params": ["1e9", "7X", "1e9", "1e9"],
        "tokens": [1e9, 1e9, 1e9, 1e9],
        "loss": [3.0, 3.0, -1.0, math.nan],
    }
    with pytest.raises(CurvesError) as caught:
        from_frame(columns)
    assert str(caught.value).splitlines() == [
        "<frame>: row 2: params: 7X is not a number",
        '<frame>: row 2: tokens: run "a" has 1000000000 tokens on row 1 already',
        "<frame>: row 3: loss: -1 is not above 0",
        "<frame>: row 4: run: empty cell",
        "<frame>: row 4: loss: empty cell",
    ]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({}, "<frame>: loss: no such column"),
        ({"run": ["a"], "loss": [1, 2]}, "<frame>: not a table"),
        ({"run": [["a"]]}, "<frame>: run: neither numbers nor strings but List"),
        ({name: [] for name in REQUIRED}, "<frame>: no rows"),
        ({"run": ["a"], "params": [True], "tokens": [0], "loss": [1]}, "row 1: params: 1 is below"),
        ({"run": ["a"], "params": [1e9], "tokens": [math.inf], "loss": [1]}, "is not a number"),
    ],
)
def test_frames_that_are_refused(frame: dict[str, Any], message: str) -> None:
    with pytest.raises(CurvesError) as caught:
        from_frame(frame)
    assert message in str(caught.value)


names = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\0")).map(
    lambda name: name.strip() or "x"
)
counts = st.floats(1e4, 1e15)
tables = st.lists(
    st.tuples(names, counts, counts, st.floats(1e-3, 13), st.none() | names),
    min_size=1,
    max_size=12,
    unique_by=lambda r: (r[0], r[2]),
)


@settings(max_examples=60)
@given(tables, st.randoms(use_true_random=False))
def test_order_of_rows_is_free_and_writing_loses_nothing(
    rows: list[tuple[Any, ...]], shuffler: random.Random
) -> None:
    columns = ["run", "params", "tokens", "loss", "family"]
    params = {r[0]: r[1] for r in rows}  # one per run
    rows = [(r[0], params[r[0]], *r[2:]) for r in rows]
    frame = pl.DataFrame(rows, schema=columns, orient="row", schema_overrides={"family": pl.String})
    curves = read(frame.write_csv())
    assert curves.frame.rows() == sorted(rows, key=lambda r: (r[0].encode(), r[2]))
    shuffler.shuffle(rows)
    shuffled = pl.DataFrame(rows, schema=frame.schema, orient="row")
    assert_frame_equal(read(shuffled.write_csv()).frame, curves.frame)
    assert_frame_equal(from_frame(shuffled).frame, curves.frame)
    assert_frame_equal(read(curves.frame.write_csv()).frame, curves.frame)


@settings(max_examples=150)
@given(st.lists(st.sampled_from([*'a1,.-\n\r" \t;', "1e9", "é", HEADER, "\nb,1e9,1e9,3"])))
def test_no_text_is_a_traceback(parts: list[str]) -> None:
    for start in ("", HEADER + "\n", GOOD):
        try:
            frame = read(start + "".join(parts)).frame
        except CurvesError:
            continue
        assert frame.select(REQUIRED).null_count().sum_horizontal().item() == 0


@settings(max_examples=50)
@given(st.binary())
def test_no_bytes_are_a_traceback(data: bytes) -> None:
    with pytest.raises(CurvesError):
        read(data)


def test_a_million_rows(tmp_path: Path) -> None:
    rows, each = 1_000_000, 200
    position = np.arange(rows)[::-1]
    path = tmp_path / "curves.csv"
    pl.DataFrame(
        {
            "run": (position // each).astype(str),
            "params": 1e9 + position // each,
            "tokens": (position % each) * 1e7,
            "loss": 2 + 1 / (1 + position % each),
            "pruning_rate": np.full(rows, 0.5),
            "base_loss": np.full(rows, 2.0),
            "family": np.full(rows, "llama"),
        }
    ).write_csv(path)
    frame = read_curves(path).frame
    assert frame.height == rows
    assert frame.row(each) == ("1", 1e9 + 1, 0, 3, 0.5, 2, "llama")
    with path.open("a", encoding="utf-8") as file:
        file.write("0,1e9,0,3,1.3,2,llama\n")
    with pytest.raises(CurvesError) as caught:
        read_curves(path)
    assert [fault.line for fault in caught.value.faults] == [rows + 2, rows + 2]
