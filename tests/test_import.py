"""Logs become curves. The files under tests/logs were written by the tools themselves."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "tests" / "logs"
TRAINER = ROOT / "examples" / "trainer_logs"
FACTS: dict[str, Any] = {"params": 58608, "tokens_per_step": 512}


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    words = ["import", *map(str, arguments)]
    return CliRunner().invoke(main, words, input=stdin, catch_exceptions=False)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def state(path: Path, history: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"global_step": 3, "log_history": history}), encoding="utf-8")
    return path


def rows(found: p2fit.Imported) -> list[tuple[float, float]]:
    return list(found.curves.frame.select("tokens", "loss").iter_rows())


# ---------------------------------------------------------------- what the tools wrote


def test_a_trainer_state_gives_its_evaluations() -> None:
    found = p2fit.import_logs(
        TRAINER / "w24" / "trainer_state.json", params=17784, tokens_per_step=512
    )
    history = json.loads((TRAINER / "w24" / "trainer_state.json").read_text(encoding="utf-8"))[
        "log_history"
    ]
    wanted = [(e["step"] * 512, e["eval_loss"]) for e in history if "eval_loss" in e]
    assert rows(found) == wanted
    (one,) = found.runs
    assert (one.run, one.loss, one.kind, one.tokens) == (
        "w24",
        "eval_loss",
        "held-out",
        "step × 512",
    )
    assert one.dropped == {"without eval_loss": len(history) - len(wanted)}
    assert not found.warnings


def test_three_tools_tell_the_same_of_one_resumed_run() -> None:
    """The run stopped at step 135 and went on from step 120, each tool logging both parts."""
    found = {
        name: p2fit.import_logs(LOGS / name, params=58608)
        for name in ("resumed", "tensorboard", "wandb_history.jsonl")
    }
    (state,), (board,), (wandb,) = (one.runs for one in found.values())
    curves = [rows(one) for one in found.values()]
    assert curves[0] == curves[1] == curves[2]
    assert [tokens for tokens, _ in curves[0]] == [5120 * i for i in range(17)]
    # The Trainer goes back to its checkpoint's history: only the evaluation on resuming is double.
    again = "at a step that comes again (the later wins)"
    assert (state.dropped[again], board.dropped[again], wandb.dropped[again]) == (1, 2, 2)
    assert state.tokens == "num_input_tokens_seen"
    assert board.tokens == wandb.tokens == "train/num_input_tokens_seen"
    for one in (state, board, wandb):
        assert one.kind == "held-out"
        assert one.records == one.rows + sum(one.dropped.values())


def test_steps_and_counted_tokens_agree() -> None:
    counted = p2fit.import_logs(LOGS / "wandb_history.jsonl", params=58608)
    stepped = p2fit.import_logs(LOGS / "wandb_history.jsonl", **FACTS)
    assert rows(counted) == rows(stepped)
    assert stepped.runs[0].tokens == "train/global_step × 512"  # not _step, which counts calls


def test_several_evaluation_sets_are_not_chosen_between() -> None:
    found = run(LOGS / "several", "--params", 17784, "--tokens-per-step", 512)
    assert found.exit_code == 2
    assert "several held-out losses: eval_first_loss, eval_second_loss; choose" in found.stderr
    chosen = p2fit.import_logs(LOGS / "several", columns={"loss": "eval_first_loss"}, **FACTS)
    other = p2fit.import_logs(LOGS / "several", columns={"loss": "eval_second_loss"}, **FACTS)
    assert chosen.runs[0].kind == "held-out"
    assert len(rows(chosen)) == len(rows(other)) == 5
    assert rows(chosen) != rows(other)


def test_training_loss_is_taken_with_a_warning() -> None:
    found = p2fit.import_logs(LOGS / "train_only", **FACTS)
    (one,) = found.runs
    assert (one.loss, one.kind, one.rows) == ("loss", "training", 8)
    assert "loss is a training loss by its name" in found.warnings[0]


def test_the_mean_over_a_run_is_no_curve(tmp_path: Path) -> None:
    state(tmp_path / "trainer_state.json", [{"step": 30, "train_loss": 3.0}])
    found = run(tmp_path, "--params", "1M", "--tokens-per-step", 512)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "no loss: name it with --column loss=NAME; the log has step, train_loss" in found.stderr


def test_what_diverged_is_left_out_and_counted() -> None:
    found = p2fit.import_logs(LOGS / "diverged", **FACTS)
    assert found.runs[0].dropped["with eval_loss NaN or infinite"] == 6
    assert [tokens for tokens, _ in rows(found)] == [0]


def test_a_chart_of_wandb_has_a_curve_per_run() -> None:
    found = p2fit.import_logs(LOGS / "wandb_chart.csv", params=124e6, tokens_per_step=491520)
    frame = found.curves.frame
    assert frame["run"].n_unique() == len(found.runs) == 8
    gpt2 = frame.filter(run="gpt2")
    assert gpt2["loss"][:2].to_list() == [10.95404052734375, 6.684843063354492]
    assert gpt2["tokens"][1] == 491520
    assert {one.kind for one in found.runs} == {"training"}
    assert any("Step counts calls of wandb.log" in warning for warning in found.warnings)
    assert not any("__MIN" in warning for warning in found.warnings)


CHART = (
    '"train/global_step","a - b - _step","a - b - _step__MIN","a - b - _step__MAX",'
    '"a - b - eval/loss","a - b - eval/loss__MIN","a - b - eval/loss__MAX"\n'
    '"100","3","3","3","2.5","2.4","2.6"\n'
    '"200","7","7","7","2.25","2.25","2.25"\n'
    '"300","","","","","",""\n'
)


def test_a_chart_over_another_axis(tmp_path: Path) -> None:
    chart = tmp_path / "chart.csv"
    chart.write_text(CHART, encoding="utf-8")
    found = p2fit.import_logs(chart, params=1e8, tokens_per_step=1e5)
    assert rows(found) == [(1e7, 2.5), (2e7, 2.25)]
    assert found.runs[0].run == "a - b"
    assert found.runs[0].tokens == "train/global_step × 100000"
    assert "1 of the points of run a - b are means of several" in found.warnings[0]
    chart.write_text(CHART.replace("train/global_step", "Relative Time (Process)"))
    later = p2fit.import_logs(chart, params=1e8, tokens_per_step=1e5)
    assert [tokens for tokens, _ in rows(later)] == [3e5, 7e5]
    assert any("_step counts calls" in warning for warning in later.warnings)


def test_the_table_of_runs_of_wandb(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text(
        '"Name","State","n_params","iter","val/loss"\n'
        '"A1, wide","finished","10745088","5000","1.4786"\n'
        '"A2","finished","10646784","5000","1.5233"\n'
    )
    columns = {"run": "Name", "params": "n_params", "step": "iter"}
    found = p2fit.import_logs(table, columns=columns, tokens_per_step=16384)
    frame = found.curves.frame
    assert frame["run"].to_list() == ["A1, wide", "A2"]
    assert frame["params"].to_list() == [10745088, 10646784]
    assert frame["tokens"].to_list() == [81920000, 81920000]
    assert found.runs[0].kind == "held-out"


def test_any_csv_and_jsonl(tmp_path: Path) -> None:
    """As Lightning's CSVLogger and pandas write them: an index, holes, steps from 0."""
    sparse = tmp_path / "metrics.csv"
    sparse.write_text(
        ",step,train_loss,val_loss\n0,9,3.5,\n1,9,,3.25\n2,19,3.0,\n3,19,,2.75\n", encoding="utf-8"
    )
    found = p2fit.import_logs(sparse, params=1e8, tokens_per_step=1e6)
    assert rows(found) == [(9e6, 3.25), (19e6, 2.75)]
    assert found.runs[0].loss == "val_loss"
    log = write(
        tmp_path / "log.jsonl",
        [
            {"run": run, "seen": 1e6 * i, "lm": 3 - i / 10, "params": 1e8, "lr": 1 / i}
            for i in (1, 2)
            for run in ("a", "b")
        ],
    )
    columns = {"loss": "lm", "tokens": "seen", "rate": "lr"}
    found = p2fit.import_logs(log, columns=columns)
    assert found.runs[0].kind == "named by you"
    assert found.curves.frame.select("run", "tokens", "loss", "rate").rows() == [
        *[("a", 1e6, 2.9, 1.0), ("a", 2e6, 2.8, 0.5)],
        *[("b", 1e6, 2.9, 1.0), ("b", 2e6, 2.8, 0.5)],
    ]


def test_names_of_runs_are_taken_as_they_are_written(tmp_path: Path) -> None:
    names = [2**60, 2**60 + 1, 1e308, 'a, "b"', "Ü/🦊"]
    log = write(
        tmp_path / "a.jsonl", [{"run": name, "step": 1000, "val_loss": 2.0} for name in names]
    )
    found = run(log, "--params", "1M", "--tokens-per-step", 512)
    (tmp_path / "c.csv").write_text(found.stdout, encoding="utf-8")
    assert set(p2fit.read_curves(tmp_path / "c.csv").frame["run"]) == set(map(str, names))


# ---------------------------------------------------------------- resumed runs


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.integers(2, 30), min_size=1, max_size=8, unique=True).map(sorted),
        min_size=1,
        max_size=4,
    )
)
def test_a_resumed_run_keeps_what_was_not_thrown_away(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[list[int]]
) -> None:
    kept: dict[int, float] = {}
    history = []
    for i, steps in enumerate(attempts):
        for step in steps:
            loss = 1 + i + step / 100
            history.append({"step": step, "eval_loss": loss})
            kept = {s: v for s, v in kept.items() if s < step} | {step: loss}
    path = state(tmp_path_factory.mktemp("resumed") / "trainer_state.json", history)
    found = p2fit.import_logs(path, **FACTS)
    assert rows(found) == [(512 * s, v) for s, v in sorted(kept.items())]
    assert found.runs[0].records == len(history)
    assert sum(found.runs[0].dropped.values()) == len(history) - len(kept)


def test_rows_in_any_order_lose_only_what_comes_again(tmp_path: Path) -> None:
    table = tmp_path / "log.csv"
    table.write_text("step,val_loss\n30,2.5\n20,2.75\n10,3.0\n20,2.625\n", encoding="utf-8")
    found = p2fit.import_logs(table, params=1e8, tokens_per_step=1e6)
    assert rows(found) == [(1e7, 3.0), (2e7, 2.625), (3e7, 2.5)]


def test_of_two_logs_of_a_run_the_later_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "1.jsonl", [{"run": "a", "step": s, "val_loss": 3.0} for s in (1, 2)])
    second = write(tmp_path / "2.jsonl", [{"run": "a", "step": s, "val_loss": 2.5} for s in (2, 3)])
    found = p2fit.import_logs([first, second], params=1e8, tokens_per_step=1e6)
    assert rows(found) == [(1e6, 3.0), (2e6, 2.5), (3e6, 2.5)]
    assert [one.rows for one in found.runs] == [1, 2]
    assert found.runs[0].dropped == {"at a step that comes again (the later wins)": 1}
    assert rows(p2fit.import_logs([first, first], params=1e8, tokens_per_step=1e6)) == [
        (1e6, 3.0),
        (2e6, 3.0),
    ]


# ---------------------------------------------------------------- names and facts


def test_runs_are_named_by_what_tells_their_paths_apart(tmp_path: Path) -> None:
    history = [{"step": 10, "eval_loss": 2.5}]
    for size in ("70m", "160m"):
        for seed in ("s0", "s1"):
            state(tmp_path / size / seed / "trainer_state.json", history)
            state(tmp_path / size / seed / "checkpoint-5" / "trainer_state.json", [])
    found = p2fit.import_logs(tmp_path, run_from_path=True, params=1e8, tokens_per_step=1e6)
    assert {one.run for one in found.runs} == {"70m/s0", "70m/s1", "160m/s0", "160m/s1"}
    one = p2fit.import_logs(tmp_path / "70m", run_from_path=True, params=1e8, tokens_per_step=1e6)
    assert {each.run for each in one.runs} == {"s0", "s1"}
    with pytest.raises(p2fit.FitError, match="4 logs do not name their run: --run-from-path"):
        p2fit.import_logs(tmp_path, params=1e8, tokens_per_step=1e6)


def test_the_last_checkpoint_speaks_for_a_run_that_was_killed(tmp_path: Path) -> None:
    for step in (1000, 200):
        history = [{"step": s, "eval_loss": 2.5} for s in range(200, step + 1, 200)]
        state(tmp_path / "mine" / f"checkpoint-{step}" / "trainer_state.json", history)
    found = p2fit.import_logs(tmp_path, params=1e8, tokens_per_step=1e6)
    assert (found.runs[0].run, found.runs[0].rows) == ("mine", 5)
    both = sorted(tmp_path.glob("mine/checkpoint-*/trainer_state.json"))
    assert rows(p2fit.import_logs(both, params=1e8, tokens_per_step=1e6)) == rows(found)


def test_a_table_of_runs_comes_before_the_options(tmp_path: Path) -> None:
    table = tmp_path / "runs.toml"
    table.write_text(
        '[w24]\nparams = 17784\n[w64]\nparams = 98624\nmethod = "width"\nseed = "x"\n'
        "pruning_rate = 0.25\nbase_loss = 2.0\ntokens_per_step = 2048\n",
    )
    found = p2fit.import_logs(
        [TRAINER / "w24", TRAINER / "w64"],
        run_from_path=True,
        runs=table,
        tokens_per_step=512,
        method="depth",
        seed=7,
        family="tiny",
    )
    frame = found.curves.frame.group_by("run", maintain_order=True).last()
    facts = frame.select("run", "params", "pruning_rate", "base_loss", "method", "family", "seed")
    assert facts.rows() == [
        ("w24", 17784, None, None, "depth", "tiny", "7"),
        ("w64", 98624, 0.25, 2.0, "width", "tiny", "x"),
    ]
    assert frame["tokens"].to_list() == [512 * 1600, 2048 * 1600]
    same = p2fit.import_logs(TRAINER / "w24", runs={"w24": {"params": 17784}}, tokens_per_step=512)
    assert same.curves.frame["params"][0] == 17784


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[w25]\nparams = 1e6\n", "runs.toml: no run w25; did you mean w24? the runs are w24"),
        (
            '[w24]\nparams = "1M"\n',
            "runs.toml: w24: params is '1M': it must be a number, such as 1.2e9",
        ),
        ("[w24]\nparms = 1e6\n", "runs.toml: w24: no setting parms; did you mean params?"),
        ("[w24]\nparams = true\n", "params is True"),
        ("[w24]\nparams = 7\n", "runs.toml: w24: params: 7 is below 1e4"),
        ("[w24]\npruning_rate = 1.3\n", "runs.toml: w24: pruning_rate: 1.3 is not in [0, 1)"),
        ("[w24.5]\nparams = 1e6\n", 'a name with a dot needs quotes: ["a.5"]'),
        ("params = 1e6\n", "runs.toml: params: not in the table of a run"),
        ("[w24\n", "runs.toml: not TOML: "),
        ('[w24]\nloss_unit = "nat"\n', "loss_unit is 'nat': use nats or bits or"),
        ('[w24]\nloss_unit = "bits-per-byte"\n', "bits per byte need --bytes-per-token"),
        ("[w24]\ntokens_per_step = 0\n", "tokens_per_step is 0: it must be a number above 0"),
        ("[w24]\nmethod = 3\n", "method is 3: it must be a text"),
        ("[w24]\nseed = 1.5\n", "seed is 1.5: it must be a whole number or text"),
    ],
)
def test_faults_of_the_table_of_runs(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs.toml").write_text(text, encoding="utf-8")
    found = run(
        *(TRAINER / "w24", "--runs", "runs.toml", "--tokens-per-step", 512, "-o", "c.csv"),
        *("--params", "1M"),
    )
    assert found.exit_code == 2
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert not Path("c.csv").exists()


# ---------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("nats", 1.0), ("bits", math.log(2)), ("bits-per-byte", 4.5 * math.log(2))],
)
def test_losses_are_converted(unit: Any, factor: float, tmp_path: Path) -> None:
    log = write(tmp_path / "a.jsonl", [{"step": 1, "val_loss": 0.75, "loss_stderr": 0.01}])
    found = p2fit.import_logs(
        log, params=1e8, tokens_per_step=1e6, loss_unit=unit, bytes_per_token=4.5, base_loss=0.5
    )
    values = found.curves.frame.select("loss", "base_loss", "loss_stderr").row(0)
    assert values == pytest.approx((0.75 * factor, 0.5 * factor, 0.01 * factor))
    assert found.runs[0].unit == unit


@settings(max_examples=50)
@given(st.floats(1.01, 1e6), st.floats(1e-6, 1e-2))
def test_perplexity_is_the_exponential_of_the_loss(
    tmp_path_factory: pytest.TempPathFactory, perplexity: float, relative: float
) -> None:
    record = {"step": 1, "val_ppl": perplexity, "loss_stderr": perplexity * relative}
    log = write(tmp_path_factory.mktemp("ppl") / "a.jsonl", [record])
    asked: Mapping[str, Any] = {"columns": {"loss": "val_ppl"}, **FACTS, "tokens_per_step": 1e6}
    with pytest.raises(p2fit.CurvesError, match="val_ppl may not be in nats per token"):
        p2fit.import_logs(log, **asked)
    found = p2fit.import_logs(log, **asked, loss_unit="perplexity", base_loss=math.e)
    loss, base, error = found.curves.frame.select("loss", "base_loss", "loss_stderr").row(0)
    assert math.exp(loss) == pytest.approx(perplexity)
    assert base == pytest.approx(1)
    assert error == pytest.approx(relative)


def test_each_run_may_have_its_unit(tmp_path: Path) -> None:
    for name, loss in (("nats", 2.0), ("bits", 3.0), ("ppl", 20.0)):
        write(tmp_path / f"{name}.jsonl", [{"step": 1, "val_loss": loss}])
    found = p2fit.import_logs(
        sorted(tmp_path.glob("*.jsonl")),
        run_from_path=True,
        runs={"bits": {"loss_unit": "bits"}, "ppl": {"loss_unit": "perplexity"}},
        params=1e8,
        tokens_per_step=1e6,
    )
    expected = {"bits": 3 * math.log(2), "nats": 2.0, "ppl": math.log(20)}
    assert dict(found.curves.frame.select("run", "loss").iter_rows()) == pytest.approx(expected)


# ---------------------------------------------------------------- what is broken

EVAL = {"step": 1000, "eval_loss": 2.5}


def _truncate(path: Path, share: float) -> bytes:
    data = path.read_bytes()
    return data[: int(len(data) * share)]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "truncated state": (
        "trainer_state.json",
        _truncate(LOGS / "resumed" / "trainer_state.json", 0.5),
        "trainer_state.json:",
    ),
    "truncated jsonl": (
        "a.jsonl",
        _truncate(LOGS / "wandb_history.jsonl", 0.501),
        "a.jsonl:27: not JSON, character ",
    ),
    "no history": ("trainer_state.json", b'{"epoch": 1}', "no log_history"),
    "history no list": ("a.json", b'{"log_history": 3}', "log_history is not a list of objects"),
    "history of numbers": ("a.json", b'{"log_history": [3]}', "not a list of objects"),
    "empty history": ("a.json", b'{"log_history": []}', "a.json: no records"),
    "empty": ("a.json", b"", "a.json: the file is empty"),
    "blank": ("a.jsonl", b"\xef\xbb\xbf \n\n", "a.jsonl: the file is empty"),
    "long number": ("a.jsonl", b'{"step": 1%s}' % (b"0" * 5000), "a number of more than 4300"),
    "list": ("a.json", b'[{"step": 1}]', "a.json: neither a trainer_state.json"),
    "number in jsonl": ("a.jsonl", b'{"step": 1, "val_loss": 2}\n3\n', "a.jsonl:2: not a JSON obj"),
    "text for loss": (
        "trainer_state.json",
        json.dumps({"log_history": [EVAL, {"step": 2000, "eval_loss": "low"}]}).encode(),
        "trainer_state.json: log_history[1].eval_loss: 'low' is not a number",
    ),
    "list for loss": (
        "a.jsonl",
        b'{"step": 1000, "eval_loss": 2}\n{"step": 2000, "eval_loss": [1]}\n',
        "a.jsonl:2: eval_loss: '[1]' is not a number",
    ),
    "true for step": ("a.jsonl", b'{"step": true, "eval_loss": 2}\n', "step: 'true' is not a"),
    "negative loss": (
        "a.jsonl",
        b'\n{"step": 1000, "eval_loss": 2}\n{"step": 2000, "eval_loss": -2}\n',
        "a.jsonl:3: loss from eval_loss: -2 is not above 0",
    ),
    "negative step": (
        "a.csv",
        b"step,eval_loss\n-5,2\n",
        "a.csv:2: tokens from step × 200: -1000 is",
    ),
    "deep": ("a.jsonl", b'{"a":' * 100000, "a.jsonl:1: not a log: JSON nested too deep"),
    "all NaN": ("a.jsonl", b'{"step": 1, "eval_loss": NaN}\n', "no row is left: 1 with eval_loss"),
    "latin 1": ("a.jsonl", '{"é": 1}'.encode("latin-1"), "a.jsonl:1: not UTF-8"),
    "utf-16": ("a.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16; save it as UTF-8"),
    "packed": ("a.jsonl.gz", gzip.compress(b'{"a": 1}'), "gzip; unpack it first"),
    "ragged csv": ("a.csv", b"step,eval_loss\n5,2\n6\n", "a.csv:3: 1 cell, header has 2"),
    "text in csv": ("a.csv", b"step,eval_loss\n5,2\n6,x\n", "a.csv:3: eval_loss: 'x' is not a num"),
    "twice in csv": ("a.csv", b"step,loss,loss\n5,2,2\n", "a.csv:1: loss is the name of 2 columns"),
    "only a header": ("a.csv", b"step,eval_loss\n", "a.csv: no records"),
    "semicolons": ("a.csv", b"step;eval_loss\n1;2\n", "looks semicolon-separated"),
    "no step": ("a.csv", b"time,eval_loss\n5,2\n", "no steps: name them with --column step=NAME"),
    "no loss": ("a.csv", b"step,accuracy\n5,2\n", "no loss: name it with --column loss=NAME"),
    "wandb's own": ("run-a.wandb", b":W&B\xbc\xbe\x00", "W&B's own binary file"),
    "no events": ("events.out.tfevents.1", b"", "the file is empty"),
    "other events": ("events.out.tfevents.1", b"x" * 100, "not a TensorBoard event file"),
    "text for events": ("events.out.tfevents.1", b"step,loss\n", "no scalars"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_log_is_one_line_and_exit_2(case: str, tmp_path: Path) -> None:
    name, data, message = BROKEN[case]
    path, output = tmp_path / name, tmp_path / "curves.csv"
    path.write_bytes(data)
    output.write_text("mine\n", encoding="utf-8")
    for log in (path, tmp_path) if "tfevents" in name else (path,):
        found = run(log, "--params", "1M", "--tokens-per-step", 200, "-o", output)
        assert found.exit_code == 2
        assert message in found.stderr
        assert found.stderr.count("\n") == 1
        assert str(tmp_path) in found.stderr
        assert found.stdout == ""
    assert output.read_text(encoding="utf-8") == "mine\n"


def test_a_good_log_beside_a_broken_one_saves_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"step": 1, ', encoding="utf-8")
    found = run(
        *(LOGS / "resumed", bad, "--run-from-path", "--params", "1M", "-o", tmp_path / "c.csv"),
    )
    assert found.exit_code == 2
    assert f"{bad}:1: not JSON" in found.stderr
    assert not (tmp_path / "c.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--params", "1M", "--column", "tokens=epoch", "--tokens-per-step", "9"], "give one of"),
        (["--column", "params=epoch", "--params", "1M"], "params is taken from epoch, and params"),
        (["--tokens-per-step", "512"], "w24: no params: give --params"),
        (["--params", "1M"], "w24: no token counts: give --tokens-per-step, or --column tokens"),
        (
            ["--params", "1M", "--column", "loss=evl_loss"],
            "loss: no column evl_loss to take it from; did you",
        ),
        (
            ["--params", "1M", "--tokens-per-step", "1K", "--loss-unit", "bits-per-byte"],
            "bits per byte need --bytes-per-token",
        ),
        (["--params", "12", "--tokens-per-step", "512"], "given: params: 12 is below 1e4"),
        (["--pruning-rate", "2"], "is not a share below 100%"),
        (["--params", "1M", "--tokens-per-step", "0"], "it must be a number above 0"),
        (["--params", "1M", "--tokens-per-step", "0.5"], "is between 0 and 1e3"),
    ],
)
def test_what_the_user_can_mend_is_said_and_exits_2(arguments: list[str], message: str) -> None:
    found = run(TRAINER / "w24", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert found.stdout == ""


def test_folders_without_logs(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found.exit_code == 2
    assert "no trainer_state.json and no TensorBoard event files in this folder" in found.stderr
    missing = run(tmp_path / "gone.jsonl")
    assert (missing.exit_code, missing.stderr) == (2, f"{tmp_path / 'gone.jsonl'}: no such file\n")
    with pytest.raises(p2fit.FitError, match="no log is named"):
        p2fit.import_logs([])


def test_base_loss_must_be_one_number_per_run(tmp_path: Path) -> None:
    log = write(
        tmp_path / "a.jsonl",
        [{"step": 1000 * s, "eval_loss": 2.5, "base_loss": 2 + s} for s in (1, 2)],
    )
    found = run(log, "--params", "1M", "--tokens-per-step", 512)
    assert found.exit_code == 2
    assert found.stderr.startswith(f"{log}:2: base_loss: 4 differs from 3 in another record")


# ---------------------------------------------------------------- TensorBoard


def test_event_files_that_were_cut_off_or_damaged(tmp_path: Path) -> None:
    first, _ = sorted((LOGS / "tensorboard").iterdir())
    data = first.read_bytes()
    (tmp_path / first.name).write_bytes(data[:-5])
    whole = p2fit.import_logs(first, **FACTS)
    cut = p2fit.import_logs(tmp_path, **FACTS)
    assert "ends in the middle of a record" in cut.warnings[0]
    assert rows(cut) == rows(whole)[: len(rows(cut))]
    (tmp_path / first.name).write_bytes(data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
    with pytest.raises(p2fit.CurvesError, match="not a TensorBoard event file, or damaged"):
        p2fit.import_logs(tmp_path, **FACTS)


def test_event_files_of_tensorflow(tmp_path: Path) -> None:
    """TensorFlow 2 writes scalars as tensors, through the same classes of tensorboard."""
    import numpy as np
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = EventFileWriter(str(tmp_path))
    for step in (1, 2):
        loss = make_tensor_proto(np.float32(3 - step / 4))
        note = make_tensor_proto("text")
        values = [
            Summary.Value(tag="validation/loss", tensor=loss),
            Summary.Value(tag="note", tensor=note),
        ]
        event = Event(step=step, wall_time=step, summary=Summary(value=values))
        writer.add_event(event)
    writer.close()
    found = p2fit.import_logs(tmp_path, params=1e8, tokens_per_step=1e6)
    assert rows(found) == [(1e6, 2.75), (2e6, 2.5)]


# ---------------------------------------------------------------- the command


def test_the_curves_go_to_stdout_and_the_report_to_stderr(tmp_path: Path) -> None:
    arguments = (TRAINER, "--run-from-path", "--params", "1M", "--tokens-per-step", "512")
    found = run(*arguments, "--pruning-rate", "25%", "--base-loss", 1.5, "--method", "depth")
    assert found.exit_code == 0
    (tmp_path / "c.csv").write_text(found.stdout, encoding="utf-8")
    curves = p2fit.read_curves(tmp_path / "c.csv")
    assert curves.frame["run"].n_unique() == 6
    assert "laws they can serve: p2, " in found.stderr
    assert "loss from eval_loss (held-out), tokens from step × 512" in found.stderr
    assert found.stdout.splitlines()[1].split(",")[1:3] == ["1000000", "0"]

    saved = run(*arguments, "-o", tmp_path / "saved.csv")
    assert saved.stdout == ""
    assert p2fit.check(tmp_path / "saved.csv")["rows"] == curves.frame.height
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["rows"] == curves.frame.height
    assert [one["run"] for one in document["runs"]] == sorted(curves.frame["run"].unique())


def test_the_python_function_and_the_command_agree() -> None:
    found = p2fit.import_logs(LOGS / "resumed", params=58608)
    result = run(LOGS / "resumed", "--params", 58608)
    assert result.stdout == found.csv()
    assert result.stderr == found.summary()


def test_of_many_runs_the_report_shows_some_and_counts_all(tmp_path: Path) -> None:
    for i in range(25):
        history = [{"step": s, "loss": 2.5, "grad_norm": 1.0} for s in (1000, 2000, 2000)]
        state(tmp_path / f"r{i}" / "trainer_state.json", history)
    found = run(tmp_path, "--run-from-path", "--params", "1M", "--tokens-per-step", 512)
    assert found.stderr.count(" (Hugging Face Trainer): run r") == 20
    assert "... and 5 more runs (--json has all)" in found.stderr
    assert "... and 5 more warnings (--json has all)" in found.stderr
    assert "50 rows, 25 runs; 25 records left out; laws they can serve: " in found.stderr


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    log = write(tmp_path / "a.jsonl", [EVAL])
    before = log.read_bytes()
    found = run(log, "--params", "1M", "--tokens-per-step", "512", "-o", log)
    assert found.exit_code == 2
    assert "this file is read, and would be replaced" in found.stderr
    assert log.read_bytes() == before


def test_standard_input_bom_and_windows_lines() -> None:
    found = run(
        *("-", "--params", "1M", "--tokens-per-step", "512"),
        stdin=b'\xef\xbb\xbf{"step": 10, "val/loss": 2.5}\r\n\r\n{"step": 20, "val/loss": 2}\r\n',
    )
    assert found.exit_code == 0
    assert pl.read_csv(found.stdout.encode())["loss"].to_list() == [2.5, 2]


def test_held_out_and_training_losses_side_by_side_are_warned_about() -> None:
    found = p2fit.import_logs([LOGS / "train_only", LOGS / "resumed"], run_from_path=True, **FACTS)
    assert "do not mix them" in found.warnings[-1]


def test_importing_reads_no_tensorboard_unless_asked(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys, p2fit\n"
        f"p2fit.import_logs({str(LOGS / 'resumed')!r}, params=1e6)\n"
        "print(sorted({'tensorboard', 'torch', 'google'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
