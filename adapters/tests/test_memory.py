"""What a run is said to need of each process, against what torch allocates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from p2fit_adapters import Distillation, PostTraining, Pruning, TextSource, Training, attention
from p2fit_adapters.memory import Launch, launches
from p2fit_adapters.models import from_config
from p2fit_adapters.pruning.masks import Masks
from p2fit_adapters.text import Text
from p2fit_adapters.training import Trainer, make_accelerator
from torch.profiler import ProfilerActivity, profile

from p2fit.cli import main

SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "vocab_size": 1024}
GIGA = 10**9


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def planned(model: Path, gpus: int = 1, seq_len: int = 256, **changes: Any) -> list[Launch]:
    more = {name: changes.pop(name) for name in ("pruning", "distillation") if name in changes}
    training = Training(tokens=10**6, batch_tokens=4096, batch_size=4)
    run = PostTraining(str(model), TextSource("", seq_len=seq_len), training=training, **more)
    run = replace(run, training=replace(training, **changes))
    return launches(run, gpus, 80 * GIGA, 1e12, 0.5)


def trainer_of(config: Any, model: Any, training: Training, tmp_path: Path) -> Trainer:
    ids = torch.randint(0, config.vocab_size, (16, 256)).int().numpy()
    text = Text(ids, ids[:4], {}, "")
    return Trainer(make_accelerator(training, tmp_path), model, Masks({}), text, training)


def most(work: Any) -> int:
    """Bytes that are held at most, beside those held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    return children.most(profiler)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize(
    ("family", "lora_rank", "dtype"),
    [
        ("llama", None, "fp32"),
        ("llama", 4, "bf16"),
        ("qwen2", None, "bf16"),
        ("qwen3", 4, "fp32"),
    ],
)
def test_weights_gradients_and_moments_are_counted_and_a_step_holds_what_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    lora_rank: int | None,
    dtype: str,
) -> None:
    monkeypatch.setattr(attention, "_MOST", 0)  # the plan is of GPUs, whose kernel keeps no scores
    model = tiny.save(family, tmp_path / "model", **SHAPE)
    found = planned(model, dtype=dtype, lora_rank=lora_rank)
    config = tiny.config(family, **SHAPE)
    for again in (False, True):
        (said,) = (x for x in found if (x.gradient_checkpointing, x.batch_size) == (again, 4))
        training = Training(
            tokens=10**6,
            batch_tokens=4096,
            batch_size=4,
            dtype=dtype,  # type: ignore[arg-type]
            device="cpu",
            lora_rank=lora_rank,
            gradient_checkpointing=again,
        )
        trainer = trainer_of(config, from_config(config), training, tmp_path)
        trainer.advance()  # the moments are made in the first step
        parameters = list(trainer.model.parameters())
        learning = [p for p in parameters if p.requires_grad]
        need = said.memory
        assert need.weights == sum(p.nbytes for p in parameters)
        assert need.gradients == sum(p.nbytes for p in learning)
        state = [v for s in trainer.optimizer.state.values() for v in s.values()]
        assert need.optimizer == sum(v.nbytes for v in state if v.ndim)
        for_a_while = need.total - need.weights - need.optimizer
        held = most(trainer.advance)
        assert 0.9 * held < for_a_while < (1.7 if again else 1.1) * held
    assert found[0].memory.activations > 2 * found[-1].memory.activations


def test_each_of_several_processes_has_its_share_and_what_it_sends(tmp_path: Path) -> None:
    model = tiny.save("llama", tmp_path / "model", **SHAPE)
    (one,) = (x for x in planned(model) if x.batch_size == 4 and not x.gradient_checkpointing)
    several = planned(model, gpus=4)
    assert [x.how for x in several] == ["DDP"] * 6 + ["FSDP"] * 6
    ddp, fsdp = several[0].memory, several[6].memory
    assert ddp.exchange == ddp.gradients == one.memory.gradients
    assert replace(ddp, exchange=0) == one.memory
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(fsdp, name) == getattr(one.memory, name) // 4
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384 + 2 * 128
    assert fsdp.exchange == 8 * (2 * 1024 * 128 + 128 + 2 * layer)
    whole = one.memory.weights
    # A model that is not pruned comes in pieces, from the first process.
    assert {x.loading for x in several if x.how == "DDP"} == {whole}
    largest = 4 * 1024 * 128
    assert {x.loading for x in several if x.how == "FSDP"} == {whole // 4 + largest}
    assert {x.loading for x in planned(model, gpus=4, pruning=Pruning("depth", 0.2))} == {whole}
    assert {x.host for x in several} == {whole}
    assert {x.how for x in planned(model, gpus=4, lora_rank=4)} == {"DDP"}


def test_a_teacher_and_masks_are_counted(tmp_path: Path) -> None:
    model = tiny.save("llama", tmp_path / "model", **SHAPE)
    params = planned(model)[0].memory.weights // 4
    (plain, *_), (taught, *_), (stored, *_), (masked, *_) = (
        planned(model, **changes)
        for changes in (
            {},
            {"distillation": Distillation()},
            {"distillation": Distillation(top_k=8)},
            {"pruning": Pruning("2:4")},
        )
    )
    # bf16, with its logits of 4 windows
    assert taught.memory == replace(plain.memory, teacher=2 * (params + 4 * 256 * 1024))
    assert stored.memory == plain.memory
    assert taught.loading == plain.loading + taught.memory.teacher
    assert masked.memory == replace(plain.memory, masks=params - 2 * 1024 * 128)
    assert plain.seconds == pytest.approx(6 * params * 10**6 / (1e12 * 0.5))
    assert taught.seconds == pytest.approx(8 * params * 10**6 / (1e12 * 0.5))


@given(gpus=st.sampled_from([1, 2, 4, 8]), seq_len=st.sampled_from([32, 64, 128, 256]))
def test_what_fits_with_less_fits_with_more(
    models: dict[str, str], gpus: int, seq_len: int
) -> None:
    run = PostTraining(
        models["llama"],
        TextSource("", seq_len=seq_len),
        training=Training(tokens=10**6, batch_tokens=4096, batch_size=4),
    )
    found = launches(run, gpus, 10**7, 1e12, 0.5)
    for one in found:
        assert one.fits == (max(one.memory.total, one.loading) <= 0.9 * 10**7)
        assert one.batch_size * gpus * seq_len <= 4096
        assert one.command.endswith("--gradient-checkpointing") == one.gradient_checkpointing
    for one, other in zip(found, launches(run, gpus, 10**9, 1e12, 0.5), strict=True):
        assert other.fits >= one.fits
        assert replace(other, fits=one.fits) == one


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


PLAN = ("--plan", "--gpu-peak", "1T", "--seq-len", 64, "--batch-tokens", 1024, "--tokens", "8K")


def test_the_command_that_is_shown_makes_the_run(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    shown = call("run", "post-train", "--model", models["llama"], *PLAN, "--gpu-memory", "1G")
    assert shown.exit_code == 0, shown.stderr
    command = shown.stdout.splitlines()[-1]
    assert command.startswith("p2fit run post-train --batch-size 8 --model ")
    small = ("--device", "cpu", "--calibration", 8, "--eval-tokens", 640, "--out", tmp_path)
    rest = (*PLAN[3:], "--text", words, *small)
    made = call(*command.removesuffix(" …").split()[1:], *rest)
    assert made.exit_code == 0, made.stderr


def test_where_nothing_fits_that_is_said_and_the_least_that_is_needed(
    models: dict[str, str],
) -> None:
    arguments = ("run", "post-train", "--model", models["llama"], *PLAN, "--gpu-memory", "1M")
    shown = call(*arguments, "--gpus", 2)
    assert shown.exit_code == 2
    assert shown.stderr.startswith("nothing fits 90% of 1M bytes")
    assert "FSDP, --batch-size 1" in shown.stdout
    document = json.loads(call(*arguments, "--json").stdout)
    assert not any(one["fits"] for one in document)
    assert all(one["total"] == sum(one["memory"].values()) for one in document)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gpu-memory", "1G", "--gpus", 3], "16 windows cannot be shared by 3 processes"),
        (["--gpu-memory", "1G", "--seq-len", 512], "takes 256 tokens at once"),
        (["--gpu-memory", "0"], "gpu memory is 0"),
        (["--gpu-memory", "nan"], "gpu memory is nan"),
        (["--gpu-memory", "1G", "--peak-share", "0"], "share of the peak is 0"),
        (["--gpu-memory", "1G", "--teacher", "self", "--teacher", "x"], "one --teacher"),
        (["--gpu-memory", "1G", "--method", "depht"], "use none, depth, width or N:M"),
        ([], "Missing option '--gpu-memory'"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(
    models: dict[str, str], more: list[object], said: str
) -> None:
    shown = call("run", "post-train", "--model", models["llama"], *PLAN, *more)
    assert shown.exit_code == 2
    assert said in shown.stderr.splitlines()[-1]


def test_without_a_plan_a_text_is_needed(models: dict[str, str]) -> None:
    shown = call("run", "post-train", "--model", models["llama"])
    assert shown.exit_code == 2
    assert "Missing option '--text'" in shown.stderr
