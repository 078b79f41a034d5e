"""Logs of other people's tools, known by what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import p2fit
from p2fit.cli import main
from tests import simulate

NANOGPT = """\
tokens per iteration will be: 12,288
breaks down as: 1 grad accum steps * 1 processes * 12 batch size * 1024 block size
found vocab_size = 65 (inside data/x/meta.pkl)
number of parameters: 10.65M
num decayed parameter tensors: 26, with 10,740,096 parameters
step 0: train loss 4.2874, val loss 4.2823
iter 0: loss 4.2654, time 5400.12ms, mfu -100.00%
iter 10: loss 3.2145, time 41.20ms, mfu 8.90%
step 250: train loss 1.9654, val loss 2.0581
saving checkpoint to out
iter 250: loss 2.0411, time 3301.00ms, mfu 8.72%
step 500: train loss 1.5302, val loss 1.7334
"""
MODDED = """\
import os
print0(f"step:{step}/{train_steps} val_loss:{val_loss:.4f}")
====================================================================================================
step:0/1750 val_loss:10.8258 train_time:0ms step_avg:0.03ms
step:1/1750 train_time:132ms step_avg:131.70ms
step:125/1750 val_loss:4.7312 train_time:12001ms step_avg:96.01ms
step:250/1750 val_loss:4.2201 train_time:24060ms step_avg:96.24ms
"""
MEGATRON = """\
  seq_length ...................................... 2048
[default7]: [2024-03-01 10:00:00] iteration      100/    1000 | consumed samples:        25600 | \
elapsed time per iteration (ms): 301.4 | learning rate: 2.000E-04 | global batch size:   256 | \
lm loss: 6.512340E+00 | loss scale: 1.0 | grad norm: 0.812 | number of skipped iterations:   0 |
---------------------------------------------------------------------------------------------
 validation loss at iteration 100 on validation set | lm loss value: 6.401210E+00 | \
lm loss PPL: 6.025E+02 |
---------------------------------------------------------------------------------------------
[default7]: iteration      200/    1000 | consumed samples:        51200 | elapsed time per \
iteration (ms): 300.9 | learning rate: 1.000E-04 | global batch size:   256 | lm loss: \
5.912340E+00 | loss scale: 1.0 | grad norm: 0.512 | number of skipped iterations:   0 |
 validation loss at iteration 200 on validation set | lm loss value: 5.801210E+00 | lm loss PPL: \
3.306E+02 |
 validation loss at iteration 200 on test set | lm loss value: 5.830000E+00 | lm loss PPL: \
3.403E+02 |
"""
TORCHTUNE = """\
Step 1 | loss:2.4321 lr:2e-06 tokens_per_second_per_gpu:812.3 peak_memory_active:14.2
Step 2 | loss:2.2109 lr:4e-06 tokens_per_second_per_gpu:843.1 peak_memory_active:14.2
"""
LITGPT = """\
loss,iter,step,epoch,iter_time,remaining_time,tokens,total_tokens,learning_rate,val_loss,val_ppl
7.1,8,7,0,0.4,90,16384,32768,0.0001,,
,,7,,,,,,,7.0,1096.6
6.2,16,15,0,0.4,80,32768,65536,0.0002,,
,,15,,,,,,,6.1,445.9
"""
LIGHTNING = """\
epoch,lr-AdamW,step,train_loss,val_loss
,0.001,49,,
0,,49,5.1,
0,,99,,4.9
,0.0005,99,,
1,,199,,4.2
"""
OLMO = """\
_step,eval/c4_en-validation/CrossEntropyLoss,eval/pile-validation/CrossEntropyLoss,\
throughput/total_tokens,optim/learning_rate_group0,batch_size_in_tokens
200,6.1,6.4,104857600,0.0005,524288
400,5.2,5.1,209715200,0.00097,524288
"""
MLFLOW = """\
run_id,key,value,step,timestamp
a1,val_loss,3.5,100,1700000000000
a1,train_loss,3.4,100,1700000000001
a1,val_loss,3.1,200,1700000000002
b2,val_loss,3.3,100,1700000000003
"""
AIM = """\
run.name,metric.name,context,step,epoch,value
small,loss,"{""subset"":""train""}",10,0,4.0
small,loss,"{""subset"":""val""}",10,0,4.1
small,loss,"{""subset"":""val""}",20,0,3.9
large,loss,"{""subset"":""val""}",20,0,3.6
"""
GROUPED = """\
"Step","size: 1B - eval/loss","size: 1B - eval/loss__MIN","size: 1B - eval/loss__MAX",\
"size: 3B - eval/loss","size: 3B - eval/loss__MIN","size: 3B - eval/loss__MAX"
"100","3.5","3.4","3.6","3.1","3.1","3.1"
"200","3.2","3.2","3.2","2.9","2.9","2.9"
"""
FACTORY = """\
{"current_steps": 10, "total_steps": 100, "loss": 1.9, "lr": 5e-05, "epoch": 0.1}
{"current_steps": 20, "total_steps": 100, "eval_loss": 1.8, "epoch": 0.2}
{"current_steps": 40, "total_steps": 100, "eval_loss": 1.7, "epoch": 0.4}
"""

# Text, format, options, and (tokens, loss, learning rate) of each row.
LOGS: dict[str, tuple[str, str, dict[str, Any], list[tuple[float, float, float | None]]]] = {
    "nanogpt.txt": (
        NANOGPT, "nanoGPT console", {"params": None},
        [(0, 4.2823, None), (250 * 12288, 2.0581, None), (500 * 12288, 1.7334, None)],
    ),
    "modded.log": (
        MODDED, "modded-nanogpt console", {"tokens_per_step": 393216},
        [(0, 10.8258, None), (125 * 393216, 4.7312, None), (250 * 393216, 4.2201, None)],
    ),
    "megatron.csv": (
        MEGATRON, "Megatron-LM console", {},
        [(25600 * 2048, 6.40121, 2e-4), (51200 * 2048, 5.80121, 1e-4)],
    ),
    "torchtune.txt": (
        TORCHTUNE, "torchtune log", {"tokens_per_step": 4096},
        [(4096, 2.4321, 2e-6), (8192, 2.2109, 4e-6)],
    ),
    "litgpt.csv": (LITGPT, "litgpt", {}, [(32768, 7.0, 1e-4), (65536, 6.1, 2e-4)]),
    "lightning.csv": (
        LIGHTNING, "CSV", {"tokens_per_step": 1000},
        [(99_000, 4.9, 1e-3), (199_000, 4.2, 5e-4)],
    ),
    "olmo.csv": (
        OLMO, "CSV", {"columns": {"loss": "eval/pile-validation/CrossEntropyLoss"}},
        [(104857600, 6.4, 5e-4), (209715200, 5.1, 9.7e-4)],
    ),
    "trainer_log.json": (
        FACTORY, "JSONL", {"tokens_per_step": 1e5}, [(2e6, 1.8, 5e-5), (4e6, 1.7, 5e-5)],
    ),
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)], catch_exceptions=False)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_known_by_what_it_holds(name: str, tmp_path: Path) -> None:
    text, form, options, rows = LOGS[name]
    found = p2fit.import_logs(write(tmp_path / name, text), **{"params": 1e9, **options})
    assert found.runs[0].format == form
    frame = found.curves.frame
    rate = frame["learning_rate"] if "learning_rate" in frame.columns else [None] * frame.height
    assert [*zip(frame["tokens"], frame["loss"], rate, strict=True)] == rows
    assert found.runs[0].rows + sum(found.runs[0].dropped.values()) == found.runs[0].records


def test_what_a_console_says_of_the_model_is_taken_and_said(tmp_path: Path) -> None:
    found = p2fit.import_logs(write(tmp_path / "a.log", NANOGPT))
    assert found.curves.frame["params"].unique().to_list() == [10.65e6]
    assert any("params are 10.65M, as the log prints them" in w for w in found.warnings)
    other = p2fit.import_logs(tmp_path / "a.log", params=1e9, tokens_per_step=100)
    assert other.curves.frame["params"].unique().to_list() == [1e9]


def test_a_broken_line_of_a_console_is_named(tmp_path: Path) -> None:
    text = NANOGPT.replace("val loss 2.0581", "val loss nan")
    found = p2fit.import_logs(write(tmp_path / "a.log", text))
    assert found.runs[0].dropped == {"without val loss": 3, "with val loss NaN or infinite": 1}
    refused = run(write(tmp_path / "b.log", MODDED.replace("4.7312", "0.0000")), "--params", "1B",
                  "--tokens-per-step", "1000")  # fmt: skip
    assert refused.exit_code == 2
    assert "b.log:6: loss from val_loss: 0 is not above 0" in refused.stderr


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (MLFLOW, {"a1": [(1e5, 3.5), (2e5, 3.1)], "b2": [(1e5, 3.3)]}),
        (AIM, {"small": [(1e4, 4.1), (2e4, 3.9)], "large": [(2e4, 3.6)]}),
        (GROUPED, {"size: 1B": [(1e5, 3.5), (2e5, 3.2)], "size: 3B": [(1e5, 3.1), (2e5, 2.9)]}),
    ],
)
def test_exports_of_several_runs(
    text: str, runs: dict[str, list[tuple[float, float]]], tmp_path: Path
) -> None:
    found = p2fit.import_logs(
        write(tmp_path / "export.csv", text), params=1e9, tokens_per_step=1000
    )
    frame = found.curves.frame
    assert {
        name: [*zip(part["tokens"], part["loss"], strict=True)]
        for (name,), part in frame.group_by("run", maintain_order=True)
    } == runs


def test_rows_of_metrics_are_neither_merged_nor_lost(tmp_path: Path) -> None:
    again = MLFLOW + "a1,val_loss,3.4,100,1700000000009\n"
    found = p2fit.import_logs(write(tmp_path / "m.csv", again), params=1e9, tokens_per_step=1000)
    dropped = {one.run: one.dropped for one in found.runs}
    assert dropped["a1"] == {"at a step that comes again (the later wins)": 1}
    header, *rows = MLFLOW.splitlines()
    both = [f"{header},sparsity", *(f"{row},{rate}" for rate in (0.1, 0.3) for row in rows), ""]
    refused = run(write(tmp_path / "r.csv", "\n".join(both)), "--params", "1B",
                  "--tokens-per-step", "1000")  # fmt: skip
    assert "sparsity keeps them apart" in refused.stderr
    nameless = MLFLOW.replace("b2,", ",")
    refused = run(write(tmp_path / "n.csv", nameless), "--params", "1B")
    assert "n.csv:5: run: empty: which run?" in refused.stderr


def test_several_held_out_losses_are_named_to_choose_from(tmp_path: Path) -> None:
    refused = run(write(tmp_path / "olmo.csv", OLMO), "--params", "190M")
    assert refused.exit_code == 2
    assert "choose one with --column loss=eval/c4_en-validation/CrossEntropyLoss" in refused.stderr


def test_text_that_is_no_log_is_one_line(tmp_path: Path) -> None:
    refused = run(write(tmp_path / "x.log", "Epoch 1 of 3: all is well\nEpoch 2 of 3\n"))
    assert refused.exit_code == 2
    assert "read are the consoles of nanoGPT" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    printed = "{'loss': 2.1, 'learning_rate': 1e-05, 'epoch': 0.1}\n"
    refused = run(write(tmp_path / "y.log", printed))
    assert "import the trainer_state.json it saves" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.floats(0.01, 13)), min_size=1, max_size=20,
        unique_by=lambda row: row[0],
    ),
    st.sampled_from(["nanogpt", "modded", "megatron", "torchtune"]),
    st.text("abc {}[],:|\n", max_size=60),
)  # fmt: skip
def test_every_line_of_a_console_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, float]],
    kind: str,
    noise: str,
) -> None:
    lines = {
        "nanogpt": "step {}: train loss 9.9, val loss {:.4f}",
        "modded": "step:{}/1000000 val_loss:{:.4f} train_time:1ms step_avg:1.00ms",
        "megatron": " validation loss at iteration {} | lm loss value: {:.6E} | lm loss PPL: 1.0 |",
        "torchtune": "Step {} | loss:{:.4f} lr:1e-5",
    }
    rows = sorted(rows)
    text = noise + "\n" + "".join(lines[kind].format(*row) + f"\n{noise}\n" for row in rows)
    path = tmp_path_factory.mktemp("console") / "run.txt"
    found = p2fit.import_logs(write(path, text), params=1e9, tokens_per_step=1000)
    assert found.curves.frame["tokens"].to_list() == [step * 1000 for step, _ in rows]
    assert found.curves.frame["loss"].to_list() == pytest.approx(
        [loss for _, loss in rows], abs=1e-4
    )


# ---------------------------------------------------------------- results of evaluations


def harness(path: Path, model: str, params: int, tasks: dict[str, dict[str, Any]]) -> Path:
    document = {
        "results": {task: {"alias": task, **metrics} for task, metrics in tasks.items()},
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 0),
        "config": {
            "model": "hf",
            "model_args": f"pretrained={model},dtype=float32",
            "model_num_parameters": params,
        },
    }
    return write(path, json.dumps(document))


def test_accuracies_come_with_their_errors_and_are_fitted(tmp_path: Path) -> None:
    sizes = [int(v) for v in simulate.chinchilla(12, seed=1)["params"]]
    paths = []
    for i, size in enumerate(sizes):
        accuracy = 1 - 30 * size**-0.2
        tasks = {
            "hellaswag": {
                "acc,none": 0.3, "acc_stderr,none": 0.01,
                "acc_norm,none": accuracy, "acc_norm_stderr,none": 0.004,
            },
            "gsm8k": {
                "exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": 0.02,
                "exact_match,flexible-extract": 0.2, "exact_match_stderr,flexible-extract": 0.03,
            },
            "wikitext": {"word_perplexity,none": 15.0, "word_perplexity_stderr,none": "N/A"},
        }  # fmt: skip
        paths.append(harness(tmp_path / f"{i}.json", f"org/m{i}", size, tasks))
    found = p2fit.import_logs(paths)
    frame = found.curves.frame
    assert frame.height == 12
    assert set(frame.columns) == {
        "run", "params", "hellaswag_acc", "hellaswag_acc_stderr", "hellaswag_acc_norm",
        "hellaswag_acc_norm_stderr", "gsm8k_exact_match_strict_match",
        "gsm8k_exact_match_strict_match_stderr", "gsm8k_exact_match_flexible_extract",
        "gsm8k_exact_match_flexible_extract_stderr", "wikitext_word_perplexity",
    }  # fmt: skip
    assert "fit one with --target: hellaswag_acc" in found.summary()
    curves = tmp_path / "accuracy.csv"
    curves.write_text(found.csv(), encoding="utf-8")
    fit = p2fit.fit(curves, "1 - A/params^alpha", target="hellaswag_acc_norm")
    assert fit.options["weights"] == "stderr"
    assert fit.parameters["alpha"].estimate == pytest.approx(0.2, rel=1e-3)


def test_a_perplexity_of_the_harness_may_be_the_loss(tmp_path: Path) -> None:
    tasks = {"wikitext": {"bits_per_byte,none": 0.75, "bits_per_byte_stderr,none": "N/A"}}
    path = harness(tmp_path / "r.json", "m", 10**9, tasks)
    found = p2fit.import_logs(
        path,
        columns={"loss": "wikitext_bits_per_byte", "tokens": "1e11"},
        loss_unit="bits-per-byte",
        bytes_per_token=4,
    )
    assert found.curves.frame["loss"].item() == pytest.approx(0.75 * 4 * 0.6931471805599453)


def test_import_proposes_what_to_type(tmp_path: Path) -> None:
    frame = pl.DataFrame({"size": [1e9, 2e9], "D": [1e10, 2e10], "eval_loss": [3.0, 2.9]})
    frame.write_csv(tmp_path / "t.csv")
    refused = run(tmp_path / "t.csv")
    assert refused.exit_code == 2
    assert refused.stderr.rstrip().endswith("add --column params=size --column tokens=D")
    good = run(tmp_path / "t.csv", "--column", "params=size", "--column", "tokens=D", "--json")
    assert json.loads(good.stdout)["rows"] == 2
