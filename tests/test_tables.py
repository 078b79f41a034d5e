"""Tables as people have them: other names, other units, no column for the run."""

from __future__ import annotations

import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from p2fit.curves.proposing import SYNONYMS
from tests import simulate

TABLES = Path(__file__).parent / "tables"
SWEEP = TABLES / "percent-and-billions.csv"
SWEEP_OPTIONS = [
    *("--run-by", "model,sparsity_pct", "--column", "params=num_params"),
    *("--column", "pruning_rate=sparsity_pct/100", "--column", "tokens=tokens_B*1e9"),
    *("--column", "loss=eval_loss", "--column", "base_loss=dense_loss"),
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_percent_and_billions_are_fitted_by_options_alone(tmp_path: Path) -> None:
    saved = tmp_path / "fit.json"
    found = run("fit", SWEEP, *SWEEP_OPTIONS, "-o", saved)
    assert found.exit_code == 0, found.stderr
    fit = p2fit.load(saved)
    assert isinstance(fit, p2fit.Fit)
    assert fit.parameters["gamma"].estimate == pytest.approx(-1.3, abs=0.02)
    assert fit.parameters["beta"].estimate == pytest.approx(0.35, abs=0.01)
    assert fit.data["runs"] == 9
    assert fit.data["columns"]["pruning_rate"] == "sparsity_pct/100"
    assert fit.data["columns"]["run"] == "model + '-' + sparsity_pct"
    planned = run(
        *("plan", "tokens", saved, "--params", "8B", "--pruning-rate", "30%"),
        *("--base-loss", "2.05", "--gain", "0.01"),
    )
    assert planned.exit_code == 0
    assert "a doubling gains < 0.01 nats" in planned.stdout
    # What follows reads the same file as the fit did.
    assert run("plan", "tokens", saved, "--curves", SWEEP, "--recover", "10%").exit_code == 0
    assert run("plot", saved, "-o", tmp_path / "p.svg").exit_code == 0


def test_a_perplexity_is_fitted_as_its_log() -> None:
    twin = p2fit.fit(SWEEP, **api(SWEEP_OPTIONS))
    found = p2fit.fit(
        TABLES / "perplexity.csv",
        columns={"loss": "log(eval_ppl)", "base_loss": "log(dense_ppl)"},
    )
    # The perplexities are those losses, rounded.
    assert found.parameters["gamma"].estimate == pytest.approx(
        twin.parameters["gamma"].estimate, abs=0.01
    )
    assert found.parameters["beta"].estimate == pytest.approx(
        twin.parameters["beta"].estimate, abs=0.01
    )


def api(options: list[str]) -> dict[str, Any]:
    """Options of the command line as those of the API."""
    pairs = list(zip(options[::2], options[1::2], strict=True))
    columns = dict(v.split("=", 1) for k, v in pairs if k == "--column")
    return {"columns": columns, "run_by": dict(pairs)["--run-by"].split(",")}


def test_the_report_says_how_to_make_it_again(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run("report", SWEEP, *SWEEP_OPTIONS, "-o", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "--column pruning_rate=sparsity_pct/100" in text


def test_check_import_and_points_take_expressions(tmp_path: Path) -> None:
    assert "9 runs, no faults" in run("check", SWEEP, *SWEEP_OPTIONS).stdout
    curves = tmp_path / "curves.csv"
    assert run("import", SWEEP, *SWEEP_OPTIONS, "-o", curves).exit_code == 0
    own, imported = p2fit.fit(SWEEP, **api(SWEEP_OPTIONS)), p2fit.fit(curves)
    assert imported.parameters["beta"].estimate == pytest.approx(
        own.parameters["beta"].estimate, rel=1e-9
    )
    saved = tmp_path / "fit.json"
    assert run("fit", curves, "-o", saved).exit_code == 0
    points = write(tmp_path / "p.csv", "N,pct,D,L0\n8B,30,1,2\n")
    columns = ["params=N", "pruning_rate=pct/100", "tokens=D*1e9", "base_loss=L0"]
    options = [word for column in columns for word in ("--column", column)]
    found = json.loads(run("predict", saved, "--at", points, *options, "--json").stdout)
    assert found["points"][0]["inputs"] == found["points"][0]["inputs"] | {
        "params": 8e9,
        "pruning_rate": 0.3,
        "tokens": 1e9,
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"loss": "log(eval)"}, "no column eval to take it from in 'log(eval)'"),
        ({"loss": "eval_loss +"}, "cannot read the formula 'eval_loss +'"),
        ({"loss": "sqrt(eval_loss)"}, "has sqrt: write eval_loss^0.5"),
        ({"loss": "sin(eval_loss)"}, "only numbers, names"),
        ({"run": "model + '-"}, "cannot read"),
        ({"loss": "log(zero)"}, ":2: log(zero): has no value at zero = 0"),
        ({"loss": "word*1"}, ":2: word: a is not a number"),
        ({"pruning_rate": "percent/100"}, ":2: percent: 30% is read as it stands"),
        ({"run": "model + '' + seed"}, ":2: model + '' + seed: 'a11' stands for several"),
    ],
)
def test_an_expression_that_cannot_be_read_is_one_line(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    path = write(
        tmp_path / "t.csv",
        "word,model,seed,eval_loss,zero,percent,run,params,tokens,loss\n"
        "a,a,11,3.0,0,30%,r,1e9,1e9,3\n1,a1,1,3.1,1,0.4,r,1e9,2e9,3\n",
    )
    with pytest.raises((p2fit.CurvesError, p2fit.FitError)) as caught:
        p2fit.check(path, columns=columns)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_counts_and_shares_are_read_as_people_write_them(tmp_path: Path) -> None:
    plain = "run,params,tokens,loss,pruning_rate\na,8e9,1.5e9,3,0.3\na,8e9,2e12,2.5,0.3\n"
    written = "run,params,tokens,loss,pruning_rate\na,8B,1.5 B,3,30%\na,8000M,2T,2.5,0.3\n"
    frames = [
        p2fit.read_curves(io.BytesIO(text.encode())).frame.drop("run") for text in (plain, written)
    ]
    assert frames[0].equals(frames[1])


names = st.lists(
    st.text("abcxyz_/ .%", min_size=1, max_size=6).map(lambda s: f"c{s}".strip()),
    min_size=4, max_size=4, unique_by=str.lower,
)  # fmt: skip


@settings(max_examples=30)
@given(
    names=names,
    order=st.permutations(range(4)),
    counts=st.sampled_from([1.0, 1e3, 1e6, 1e9]),
    perplexity=st.booleans(),
    suffix=st.booleans(),
)
def test_any_name_unit_or_order_that_options_undo_gives_the_same_fit(
    names: list[str], order: list[int], counts: float, perplexity: bool, suffix: bool
) -> None:
    data = pl.DataFrame(simulate.chinchilla(20, seed=3)).with_columns(
        pl.col("params", "tokens").round_sig_figs(4)
    )
    mine = {
        "run": data["run"],
        "params": data["params"].map_elements(lambda v: f"{v / 1e9:.9f}B", pl.String)
        if suffix
        else data["params"],
        "tokens": data["tokens"] / counts,
        "loss": data["loss"].exp() if perplexity else data["loss"],
    }
    header = dict(zip(mine, names, strict=True))
    quoted = {column: f'"{name}"' for column, name in header.items()}
    columns = {
        "run": header["run"],
        "params": header["params"],
        "tokens": f"{quoted['tokens']}*{counts:g}",
        "loss": f"log({quoted['loss']})" if perplexity else header["loss"],
    }
    table = pl.DataFrame({header[c]: mine[c] for c in [list(mine)[i] for i in order]})
    stream = io.BytesIO(table.write_csv().encode())
    found, plain = p2fit.fit(stream, columns=columns), p2fit.fit(data)
    assert math.isclose(found.objective, plain.objective, rel_tol=1e-6)
    for name, estimate in plain.parameters.items():
        assert found.parameters[name].estimate == pytest.approx(estimate.estimate, rel=1e-4)


# ---------------------------------------------------------------- one row a run


def test_a_table_of_results_is_a_run_a_row(tmp_path: Path) -> None:
    found = p2fit.fit(TABLES / "results-table.csv", run_by=["params", "tokens"])
    truth = {"E": 1.8, "A": 480, "alpha": 0.35, "B": 2100, "beta": 0.37}
    assert found.data["runs"] == 24
    for name, value in truth.items():
        assert found.parameters[name].estimate == pytest.approx(value, rel=1e-3)
    # Without a column for the run it is seen, and said.
    bare = pl.read_csv(TABLES / "results-table.csv").drop("run")
    bare.write_csv(tmp_path / "bare.csv")
    again = p2fit.fit(tmp_path / "bare.csv")
    assert again.objective == pytest.approx(found.objective)
    assert again.data["runs"] == 24
    assert any("each row is taken for a run" in warning for warning in again.warnings)
    assert "each row is taken for a run" in run("check", tmp_path / "bare.csv").stdout


@pytest.mark.parametrize(
    ("name", "options", "runs"),
    [
        ("results-table-min.csv", ["--column", "params=size"], 6),
        (
            "results-table-same-tokens.csv",
            [
                *("--column", "params=num_scaling_params", "--column", "tokens=tokens_trained"),
                *("--column", "loss=val_bpb"),
                *("--loss-unit", "bits-per-byte", "--bytes-per-token", "4.5"),
            ],
            24,
        ),
    ],
)
def test_import_keeps_every_row_of_a_table_of_results(
    name: str, options: list[str], runs: int
) -> None:
    found = json.loads(run("import", TABLES / name, *options, "--json").stdout)
    assert (found["rows"], len(found["runs"])) == (runs, runs)
    assert any("each row is taken for a run" in warning for warning in found["warnings"])


def test_rates_are_not_taken_for_resumes() -> None:
    path = TABLES / "rates-taken-for-resumes.csv"
    columns = {"params": "num_params", "tokens": "tok", "loss": "eval_loss"}
    options = [word for pair in columns.items() for word in ("--column", "=".join(pair))]
    refused = run("import", path, "--column", "run=model", *options)
    assert refused.exit_code == 2
    assert "--run-by model,sparsity keeps them apart" in refused.stderr
    found = p2fit.import_logs(path, columns=columns, run_by=["model", "sparsity"])
    assert (found.curves.frame.height, found.curves.frame["run"].n_unique()) == (90, 9)
    assert not any(one.dropped for one in found.runs)


@given(
    runs=st.integers(1, 3),
    rates=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5]), min_size=2, max_size=4, unique=True),
    tokens=st.integers(2, 6),
    melted=st.booleans(),
)
def test_import_never_drops_what_another_setting_tells_apart(
    tmp_path_factory: pytest.TempPathFactory,
    runs: int,
    rates: list[float],
    tokens: int,
    melted: bool,
) -> None:
    rows = [
        f"m{m},{rate},{t}e9,{3 - rate / t},{m + rate * t:.4f}"
        for m in range(runs)
        for rate in rates
        for t in range(1, tokens + 1)
    ]
    if melted:
        rows.sort(key=lambda row: (row.split(",")[0], row.split(",")[2]))
    path = tmp_path_factory.mktemp("sweep") / "sweep.csv"
    write(path, "\n".join(["model,sparsity,tokens,eval_loss,seconds", *rows, ""]))
    with pytest.raises(p2fit.CurvesError, match="--run-by model,sparsity keeps them apart"):
        p2fit.import_logs(path, columns={"run": "model"}, params=1e9)
    found = p2fit.import_logs(path, run_by=["model", "sparsity"], params=1e9)
    assert found.curves.frame.height == len(rows)


@pytest.mark.parametrize("column", ["params", "pruning_rate", "base_loss", "method"])
def test_what_a_run_has_one_of_does_not_vary_in_it(column: str) -> None:
    rows: dict[str, list[Any]] = {
        "run": ["a"] * 3,
        "params": [1e9] * 3,
        "tokens": [1e9, 2e9, 3e9],
        "loss": [3.0, 2.9, 2.8],
        "pruning_rate": [0.5] * 3,
        "base_loss": [2.0] * 3,
        "method": ["depth"] * 3,
    }
    other = {"params": 2e9, "pruning_rate": 0.25, "base_loss": 2.1, "method": "width"}
    rows[column][1] = other[column]
    with pytest.raises(p2fit.CurvesError, match="it must be one per run") as caught:
        p2fit.check(rows)
    assert caught.value.faults[0].column == column


def test_points_of_curves_without_a_run_are_not_taken_for_runs() -> None:
    with pytest.raises(p2fit.CurvesError, match="--run-by model,sparsity_pct names") as caught:
        p2fit.check(
            SWEEP,
            columns={"params": "num_params", "tokens": "tokens_B*1e9", "loss": "eval_loss"},
        )
    assert len(caught.value.faults) == 1


# ---------------------------------------------------------------- what a header may mean


def proposed(text: str) -> list[str]:
    """The command that the last line of p2fit check says to type, without the program."""
    line = text.rstrip().splitlines()[-1]
    assert line.startswith("fit it: p2fit ")
    return shlex.split(line.removeprefix("fit it: p2fit "))


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (
            "percent-and-billions.csv",
            {
                "pruning_rate": "sparsity_pct/100",
                "tokens": "tokens_B*1e9",
                "base_loss": "dense_loss",
            },
        ),
        ("perplexity.csv", {"loss": "log(eval_ppl)", "base_loss": "log(dense_ppl)"}),
        (
            "rates-taken-for-resumes.csv",
            {"run": "model + '-' + sparsity", "tokens": "tok", "pruning_rate": "sparsity"},
        ),
        ("results-table-min.csv", {"params": "size"}),
    ],
)
def test_check_ends_with_the_command_that_fits(
    name: str, columns: dict[str, str], tmp_path: Path
) -> None:
    found = run("check", TABLES / name)
    assert found.exit_code == 2
    assert len(found.stderr.splitlines()) == 2  # all columns in one message, and the command
    saved = tmp_path / "fit.json"
    assert run(*proposed(found.stderr), "-o", saved).exit_code == 0, found.stderr
    fit = p2fit.load(saved)
    assert isinstance(fit, p2fit.Fit)
    assert fit.data["columns"].items() >= columns.items()
    if "base_loss" in columns:
        assert fit.parameters["gamma"].estimate == pytest.approx(-1.3, abs=0.02)
    # Fit itself says the same options, and so does a check that finds nothing wrong.
    options = proposed(found.stderr)[2:]
    refused = run("fit", TABLES / name).stderr
    assert shlex.join(options) in refused
    assert proposed(run("check", TABLES / name, *options).stdout) == proposed(found.stderr)


@pytest.mark.parametrize("name", ["percent-and-billions.csv", "perplexity.csv"])
def test_two_commands_lead_from_a_table_to_tokens(name: str, tmp_path: Path) -> None:
    saved = tmp_path / "fit.json"
    options = proposed(run("check", TABLES / name).stderr)
    assert run(*options, "-o", saved).exit_code == 0
    model = ("--params", "8B", "--pruning-rate", "30%", "--base-loss", "2.05", "--gain", "0.01")
    plan = json.loads(run("plan", "tokens", saved, *model, "--json").stdout)
    low, high = plan["goals"][0]["tokens"]["interval"]
    # From the parameters that made the tables: gamma, delta, D_C and beta.
    scale = 0.3**1.3 * 8e9**-0.05 * 3600
    truth = (scale * (1 - 2**-0.35) / 0.01) ** (1 / 0.35)
    assert low < truth < high


HEADERS = {
    "params": ["num_params", "n_params", "model_size", "N", "Params (B)", "params_M"],
    "tokens": ["num_tokens", "D", "train_tokens", "tokens_B", "tokens (millions)"],
    "loss": ["eval_loss", "val_loss", "validation/loss", "eval_ppl", "perplexity"],
    "pruning_rate": ["sparsity", "prune_ratio", "sparsity_pct", "Sparsity (%)"],
    "base_loss": ["dense_loss", "base_ppl", "dense_ppl"],
}


@settings(max_examples=25)
@given(
    header=st.fixed_dictionaries({c: st.sampled_from(n) for c, n in HEADERS.items()}),
    order=st.permutations(range(6)),
)
def test_any_known_header_is_fitted_by_the_command_of_check(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, str], order: list[int]
) -> None:
    data = pl.DataFrame(simulate.p2(seed=0))
    plain = p2fit.fit(data)
    table = {"run": data["run"]}
    for column, name in header.items():
        value = data[column]
        if "B" in name:
            value = value / 1e9
        if "_M" in name or "millions" in name:
            value = value / 1e6
        if "%" in name or "pct" in name:
            value = value * 100
        if "ppl" in name or "perplexity" in name:
            value = value.exp()
        table[name] = value
    folder = tmp_path_factory.mktemp("any")
    pl.DataFrame({n: table[n] for n in [list(table)[i] for i in order]}).write_csv(folder / "t.csv")
    said = run("check", folder / "t.csv")
    assert run(*proposed(said.stderr), "-o", folder / "fit.json").exit_code == 0, said.stderr
    fit = p2fit.load(folder / "fit.json")
    assert isinstance(fit, p2fit.Fit)
    assert fit.law.name == "p2"
    assert fit.objective == pytest.approx(plain.objective, rel=1e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"loss": "eval_ppl"},
            "eval_ppl is a perplexity by its name: --column 'loss=log(eval_ppl)'",
        ),
        (
            {"loss": "val_bpb"},
            "val_bpb is in bits by its name: --column 'loss=val_bpb*log(2)*BYTES'",
        ),
        ({"loss": "odd"}, "is it a perplexity? --column 'loss=log(odd)'"),
        ({"pruning_rate": "pct"}, "so are all of 2 rows: --column pruning_rate=pct/100"),
        ({"tokens": "tokens_B"}, "so are all of 2 rows: --column 'tokens=tokens_B*1e9'"),
        ({"params": "size"}, "--column 'params=size*1e9' (*1e6 for millions)"),
    ],
)
def test_another_unit_is_refused_in_one_line_with_its_remedy(
    columns: dict[str, str], message: str
) -> None:
    table = {
        "run": ["a", "a"],
        "params": [1e9, 1e9],
        "tokens": [1e9, 2e9],
        "loss": [3.0, 2.9],
        "eval_ppl": [9.0, 8.0],
        "val_bpb": [1.0, 0.9],
        "odd": [20.0, 19.0],
        "pct": [15, 15],
        "tokens_B": [1, 2],
        "size": [7, 7],
    }
    with pytest.raises(p2fit.CurvesError) as caught:
        p2fit.check(table, columns=columns)
    assert len(caught.value.faults) == 1
    assert message in str(caught.value)


def test_the_names_that_are_known_are_on_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "tables.md").read_text(encoding="utf-8")
    for column, names in SYNONYMS.items():
        assert f"| `{column}` | {', '.join(names)} |" in page


# ---------------------------------------------------------------- columns against each other


def test_a_base_loss_that_the_dense_row_contradicts_is_a_fault() -> None:
    with pytest.raises(p2fit.CurvesError) as caught:
        p2fit.fit(TABLES / "base-loss-contradicted.csv")
    assert "csv:2: base_loss: 1.63315, but the unpruned model has loss 2.04381" in str(caught.value)
    found = p2fit.fit(TABLES / "base-loss-right.csv")
    assert found.parameters["gamma"].estimate == pytest.approx(-1.3, abs=0.05)


def test_a_rate_and_what_is_left_of_the_parameters_are_held_together() -> None:
    notes = p2fit.check(TABLES / "rate-contradicted.csv")["notes"]
    assert len(notes) == 1
    assert "pruning_rate is 0.25 in 3 rows" in notes[0]
    assert "0.195 in the first" in notes[0]


@given(st.sampled_from([0.01, 0.1, 0.31, 1.0, 2.9, 10.0, 1e3]), st.sampled_from([0.0, 0.5]))
def test_flops_are_held_against_size_and_tokens(factor: float, rate: float) -> None:
    sizes, tokens = [1e9, 2e9, 4e9], [1e10, 2e10, 3e10]
    flops = [factor * 6 * n * (1 - rate) * d for n, d in zip(sizes, tokens)]
    table = {"run": ["a", "b", "c"], "params": sizes, "tokens": tokens, "loss": [3.0, 2.9, 2.8]}
    notes = p2fit.check({**table, "pruning_rate": [rate] * 3, "flops": flops})["notes"]
    assert len(notes) == (not 0.3 <= factor <= 3)
    assert all(f"flops is {factor:.3g} times" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokens-stay-zero", "0 in all of run tokens-stay-zero, while its step rises"),
        ("tokens-restart", "10000 at step 30 of run tokens-restart, after 20000"),
    ],
)
def test_a_count_of_tokens_that_does_not_go_with_the_steps_is_refused(
    name: str, message: str
) -> None:
    refused = run("import", TABLES / f"{name}.json", "--params", "1M")
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert "give --tokens-per-step" in refused.stderr
    options = ("--params", "1M", "--tokens-per-step", "1000", "--json")
    found = json.loads(run("import", TABLES / f"{name}.json", *options).stdout)
    records = json.loads((TABLES / f"{name}.json").read_text(encoding="utf-8"))["log_history"]
    assert found["rows"] == len(records)


@given(st.integers(2, 5), st.integers(1, 4))
def test_tokens_that_fall_while_steps_rise_are_a_fault(height: int, at: int) -> None:
    tokens = [1e9 * (i + 1) for i in range(height + at)]
    table = {
        "run": ["a"] * len(tokens),
        "params": [1e9] * len(tokens),
        "step": list(range(len(tokens))),
        "loss": [3 - 0.1 * i for i in range(len(tokens))],
    }
    assert not p2fit.check({**table, "tokens": tokens})["notes"]
    again = tokens[:at] + [t + 5e8 for t in tokens[:height]]
    if again == sorted(again):
        return
    with pytest.raises(p2fit.CurvesError, match="the count started again"):
        p2fit.check({**table, "tokens": again})


# ---------------------------------------------------------------- faults that a filter leaves


def test_what_a_filter_leaves_out_may_have_faults() -> None:
    path = TABLES / "two-subsets.csv"
    with pytest.raises(p2fit.CurvesError, match="tokens on line 2 already; and 6 more like it"):
        p2fit.fit(path)
    found = p2fit.fit(path, where="subset = 'a'")
    assert (found.data["rows"], found.data["used"]) == (14, 7)
    assert found.data["excluded"] == {"subset = 'a' does not hold": 7}
    half = pl.read_csv(path).filter(pl.col("subset") == "a")
    assert found.objective == p2fit.fit(half).objective
    assert p2fit.compare(path, ["chinchilla", "kaplan-d"], where="subset = 'a'")


@given(
    bad=st.lists(st.booleans(), min_size=30, max_size=30),
    cells=st.sampled_from([("loss", "x"), ("loss", ""), ("tokens", "-1"), ("params", "7")]),
)
def test_the_faults_of_left_out_rows_change_nothing(
    bad: list[bool], cells: tuple[str, str]
) -> None:
    if not any(bad) or sum(not b for b in bad) < 8:
        return
    data = pl.DataFrame(simulate.chinchilla(30, seed=2)).cast(pl.String)
    keep = pl.Series("keep", [int(not b) for b in bad])
    column, cell = cells
    table = data.with_columns(
        keep, pl.when(keep == 1).then(pl.col(column)).otherwise(pl.lit(cell)).alias(column)
    )
    found = p2fit.fit(table, where="keep == 1")
    plain = p2fit.fit(data.with_columns(keep), where="keep == 1")
    assert found.objective == plain.objective
    assert found.data["excluded"] == plain.data["excluded"]
    assert found.data["rows"] == plain.data["rows"] == 30
    with pytest.raises(p2fit.CurvesError):
        p2fit.fit(table, where="keep < 2")
