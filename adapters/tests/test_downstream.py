"""What saved models answer, by tasks of local files, and the chain from tokens to accuracy."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from p2fit_adapters import downstream, load_model
from transformers import AutoTokenizer

from p2fit.cli import main

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{start}}}}"
doc_to_choice: "{{{{ends}}}}"
doc_to_target: "{{{{right}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
SWEEP = """
[text]
spec = "{words}"
seq_len = 32
eval_tokens = 640

[models.a]
type = "llama"
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
max_position_embeddings = 64

[[pretrain]]
tokens = [1024, 2048, 4096, 8192, 16384]
batch_tokens = 256
evals = 1
lr = 3e-4
device = "cpu"
dtype = "fp32"
save_model = true
"""


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


def questions(count: int) -> list[dict[str, Any]]:
    """Who is seen or eaten in the words, and who sees and eats alone."""
    chance = random.Random(1)
    found = []
    for _ in range(count):
        who, does = chance.choice(["the cat", "my aunt"]), chance.choice(["sees", "eats"])
        ends = [chance.choice([" a mouse.", " the rain.", " itself."]), " a dog.", " the cat."]
        right = chance.randrange(3)
        ends[0], ends[right] = ends[right], ends[0]
        found.append({"start": f"{who} {does}", "ends": ends, "right": right})
    return found


def write_task(folder: Path, name: str, asked: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, path=path))


@torch.no_grad()
def answered_rightly(folder: Path, asked: list[dict[str, Any]]) -> list[bool]:
    model, tokenizer = load_model(str(folder)).eval(), AutoTokenizer.from_pretrained(folder)

    def score(start: str, end: str) -> float:
        ids, known = tokenizer(start + end).input_ids, len(tokenizer(start).input_ids)
        chances = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(chances[i - 1, ids[i]]) for i in range(known, len(ids)))

    scores = [[score(one["start"], end) for end in one["ends"]] for one in asked]
    return [s.index(max(s)) == one["right"] for s, one in zip(scores, asked, strict=True)]


@pytest.fixture(scope="module")
def runs(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("runs")
    (folder / "sweep.toml").write_text(SWEEP.format(words=words))
    made = call("run", "sweep", folder / "sweep.toml", "--out", folder)
    assert made.exit_code == 0, made.stderr
    return folder / "pretrain"


def test_answers_are_in_the_table_with_their_errors_and_a_chain_ends_at_them(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    asked = questions(60)
    write_task(tmp_path / "tasks", "who-is-seen", asked)
    arguments = ("run", "evaluate", runs, "--tasks-from", tmp_path / "tasks", "--dtype", "fp32")
    shown = call(*arguments, "--task", "who-is-seen", "--device", "cpu")
    assert shown.exit_code == 0, shown.stderr
    before = (runs / "curves.csv").read_bytes()
    table, curves = pl.read_csv(runs / "answers.csv"), pl.read_csv(runs / "curves.csv")
    assert table.drop("who_is_seen", "who_is_seen_stderr").equals(curves)
    last = table.filter(pl.col("step") == pl.col("step").max().over("run"))
    assert last["who_is_seen"].null_count() == 0
    assert len(table) - table["who_is_seen"].null_count() == 5
    for row in last.to_dicts():
        right = answered_rightly(runs / row["run"] / "model", asked)
        share = sum(right) / 60
        assert row["who_is_seen"] == pytest.approx(share)
        if 0 < share < 1:
            error = math.sqrt(share * (1 - share) / 59)
            assert row["who_is_seen_stderr"] == pytest.approx(error)
            assert f"{row['run']}: who-is-seen {share:.4f} ± {error:.4f}\n" in shown.stdout
        else:
            assert row["who_is_seen_stderr"] is None
    assert last["who_is_seen"].n_unique() > 1
    # Again: nobody is asked; another task is asked, and the first stays.
    with monkeypatch.context() as patched:
        patched.setattr(downstream._Harness, "ask", None)
        again = call(*arguments, "--task", "who-is-seen", "--json")
    assert len(json.loads(again.stdout)) == 5
    write_task(tmp_path / "tasks", "few", asked[:5])
    assert call(*arguments, "--task", "few").exit_code == 0
    both = pl.read_csv(runs / "answers.csv")
    assert both.drop("few", "few_stderr").equals(table)
    assert (runs / "curves.csv").read_bytes() == before
    # From tokens to the loss to the answers.
    first, second = tmp_path / "loss.json", tmp_path / "right.json"
    law = "E + B/tokens^beta"
    assert call("fit", runs / "curves.csv", "--law", law, "-o", first).exit_code == 0
    target = ("--target", "who_is_seen", "--law", "top - slope*loss")
    fitted = call("fit", runs / "answers.csv", *target, "-o", second)
    assert fitted.exit_code == 0, fitted.stdout + fitted.stderr
    chained = call("predict", second, "--through", first, "--tokens", "20K")
    assert chained.exit_code == 0, chained.stderr
    assert "who_is_seen" in chained.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--task", "wordorder"], "no task wordorder: is it word"),
        (["--task", "word", "--metric", "f1"], "word: has no f1: known are acc"),
        (["--task", "away"], "away: Unable to find"),
        (["--task", "loss"], "two columns would have one name"),
        (["--task", "word", "--tasks-from", "no/such"], "no/such: no such folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_code_2(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    write_task(tmp_path / "tasks", "word", questions(2))
    write_task(tmp_path / "tasks", "away", questions(2))
    (tmp_path / "tasks" / "away.jsonl").unlink()
    shown = call("run", "evaluate", runs, "--tasks-from", tmp_path / "tasks", *more)
    assert shown.exit_code == 2
    assert said in shown.stderr.splitlines()[-1]
    assert "Traceback" not in shown.stderr


def test_a_folder_without_runs_or_without_models_is_told(runs: Path, tmp_path: Path) -> None:
    empty = call("run", "evaluate", tmp_path, "--task", "word")
    assert (empty.exit_code, "holds no curves.csv" in empty.stderr) == (2, True)
    for source in runs.rglob("curves.*"):
        copy = tmp_path / source.relative_to(runs)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(source.read_bytes())
    bare = call("run", "evaluate", tmp_path, "--task", "word")
    assert bare.exit_code == 2
    assert "make them with --save-models" in bare.stderr
