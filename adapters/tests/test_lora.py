"""Low-rank additions: what is trained, what is saved, what is refused; and swept learning rates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import polars as pl
import pytest
from accelerate.state import AcceleratorState
from p2fit_adapters import (
    PostTraining,
    Pretraining,
    Pruning,
    RunError,
    TextSource,
    Training,
    load_model,
    post_train,
    prepare,
    read_sweep,
)
from p2fit_adapters.training import Trainer, make_accelerator, window_losses


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def settings(model: str, words: Path, **changes: Any) -> PostTraining:
    training = Training(
        tokens=6144,
        evals=3,
        batch_tokens=512,
        batch_size=4,
        lr=1e-2,
        dtype="fp32",
        lora_rank=4,
        checkpoint_minutes=0,
    )
    text = TextSource(str(words), seq_len=32, eval_tokens=640)
    pruning = Pruning("depth", 0.2, calibration_windows=8)
    return PostTraining(model, text, pruning, replace(training, **changes), save_model=True)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")  # from 5.23 on
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_merged_model_has_the_last_loss_of_the_curve_also_when_taken_up_again(
    models: dict[str, str],
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    run = settings(models[family], words)
    post_train(run, tmp_path / "whole")
    advance = Trainer.advance

    def until(self: Trainer) -> float:
        if self.step == 5:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", until)
        with pytest.raises(KeyboardInterrupt):
            post_train(run, tmp_path / "twice")
    # Activations computed twice change nothing.
    again = replace(run, training=replace(run.training, gradient_checkpointing=True))
    post_train(again, tmp_path / "twice")
    expected = (tmp_path / "whole" / "curves.csv").read_bytes()
    assert (tmp_path / "twice" / "curves.csv").read_bytes() == expected
    table = pl.read_csv(tmp_path / "whole" / "curves.csv")
    assert set(table["method"]) == {"depth+lora4"}
    assert table["loss"][-1] < table["loss"][0]
    saved = load_model(str(tmp_path / "whole" / run.name / "model"))
    assert not any("lora" in name for name, _ in saved.named_parameters())
    text = prepare(run.text, models[family], 384, 6144, tmp_path / "text")
    held = make_accelerator(run.training, tmp_path)
    found = window_losses(held, saved, text.evaluation, 4).mean()
    assert found == pytest.approx(table["loss"][-1], rel=1e-5)
    (meta,) = json.loads((tmp_path / "whole" / "curves.meta.json").read_text())["runs"].values()
    assert 0 < meta["trainable"] < meta["after"]["total"] / 2
    per_token = 4 * meta["after"]["total"] + 6 * meta["trainable"]
    assert table["flops"][-1] == per_token * 6144


def go(run: PostTraining, out: str) -> None:
    post_train(run, out)


def refused(run: PostTraining, out: str) -> None:
    with pytest.raises(RunError, match="launch with DDP"):
        post_train(run, out)


def test_two_processes_give_the_curve_of_one_and_shards_are_refused(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    run = settings(models["llama"], words)
    post_train(run, tmp_path / "alone")
    assert children.launch("ddp", go, run, str(tmp_path / "both")) == {0}
    both, alone = (pl.read_csv(tmp_path / name / "curves.csv") for name in ("both", "alone"))
    assert both["loss"].to_list() == pytest.approx(alone["loss"].to_list(), rel=1e-5)
    assert children.launch("fsdp", refused, run, str(tmp_path / "shards")) == {0}


def test_what_cannot_be_merged_is_refused(models: dict[str, str], words: Path) -> None:
    run = settings(models["llama"], words)
    with pytest.raises(RunError, match="2:4 with LoRA"):
        replace(run, pruning=Pruning("2:4"))
    with pytest.raises(RunError, match="for post-training"):
        Pretraining("llama", run.text, training=run.training)
    with pytest.raises(RunError, match="lora_rank is 0"):
        Training(lora_rank=0)


SWEEP = """
[text]
spec = "{words}"
seq_len = 32
eval_tokens = 640

[models.a]
path = "{model}"

[[post-train]]
methods = ["depth"]
rates = [0.2]
lr = {lr}
tokens = [4096]
batch_tokens = 512
evals = 2
device = "cpu"
calibration_windows = 8
"""


@pytest.mark.parametrize("lr", ["[1e-3, 3e-3]", "{ a = [1e-3, 3e-3] }"])
def test_learning_rates_are_swept_and_said_in_the_rows(
    models: dict[str, str], words: Path, tmp_path: Path, lr: str
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.format(words=words, model=models["llama"], lr=lr))
    jobs = read_sweep(path, tmp_path).jobs
    assert [job.settings.name for job in jobs] == [
        "a_none_lr0.001_4.096K_s0",
        "a_depth_block-influence_0.2_lr0.001_4.096K_s0",
        "a_none_lr0.003_4.096K_s0",
        "a_depth_block-influence_0.2_lr0.003_4.096K_s0",
    ]
    for job in jobs[1::2]:
        job.run()
    table = pl.read_csv(tmp_path / "post-train" / "curves.csv")
    said = dict(zip(table["run"], table["learning_rate"], strict=True))
    assert said == {job.settings.name: job.settings.training.lr for job in jobs[1::2]}
    assert table.filter(pl.col("tokens") == 4096)["loss"].n_unique() == 2


@pytest.mark.parametrize("where", ["[]", "pretrain"])
def test_a_list_of_learning_rates_is_for_post_training_and_not_empty(
    models: dict[str, str], words: Path, tmp_path: Path, where: str
) -> None:
    text = SWEEP.format(words=words, model=models["llama"], lr="[]")
    if where == "pretrain":
        model = 'type = "llama"\nvocab_size = 300\nhidden_size = 32\n'
        model += "intermediate_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4"
        text = text.split("[[post-train]]")[0].replace(f'path = "{models["llama"]}"', model)
        text += "[[pretrain]]\nlr = [1e-3, 3e-3]\ntokens = [4096]\n"
    (tmp_path / "sweep.toml").write_text(text)
    with pytest.raises(RunError, match="is for post-train"):
        read_sweep(tmp_path / "sweep.toml", tmp_path)
