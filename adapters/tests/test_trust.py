"""Runs can be killed, their files damaged and their disks filled: the curves stay right."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import polars as pl
import pytest
import torch
from accelerate.state import AcceleratorState
from p2fit_adapters import PostTraining, Pruning, RunError, TextSource, Training, post_train
from p2fit_adapters import checkpoints as checkpoints_module
from p2fit_adapters import curves as curves_module
from p2fit_adapters import training as training_module
from p2fit_adapters.progress import Report
from p2fit_adapters.training import Trainer

from p2fit import read_curves

TRAINING = Training(
    tokens=20_480,
    evals=6,
    batch_tokens=512,
    batch_size=4,
    lr=3e-3,
    device="cpu",
    checkpoint_minutes=0,
)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def settings(models: dict[str, str], words: Path) -> Callable[..., PostTraining]:
    def make(family: str = "llama", pruning: Pruning | None = None, **training: Any) -> Any:
        source = TextSource(str(words), seq_len=32, eval_tokens=640)
        pruning = pruning or Pruning("2:4", calibration_windows=16)
        return PostTraining(models[family], source, pruning, replace(TRAINING, **training))

    return make


class Heard(Report):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _child(settings: PostTraining, out: str, steps: int | None, delay: float) -> None:
    """A run that, some steps and then some seconds after it is begun, is killed as by the kernel;
    after 0 steps means that the seconds count from the very start."""
    torch.set_num_threads(1)
    kill = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    advance, done = Trainer.advance, []

    def counted(self: Trainer) -> float:
        done.append(1)
        if len(done) == steps:
            kill.start()
        return advance(self)

    Trainer.advance = counted
    if steps == 0:
        kill.start()
    post_train(settings, out)
    kill.cancel()


def _run(settings: PostTraining, out: Path, steps: int | None = None, delay: float = 0) -> int:
    """Exit code of a run in a process of its own."""
    process = children.start(_child, settings, str(out), steps, delay)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize(
    ("family", "pruning"),
    [
        ("llama", Pruning("2:4", calibration_windows=16)),
        ("qwen2", Pruning("depth", 0.2, calibration_windows=16)),
        ("qwen3", Pruning("width", 0.2, calibration_windows=16)),
    ],
    ids=lambda value: value.method if isinstance(value, Pruning) else value,
)
def test_killed_at_random_and_resumed_a_run_ends_with_the_same_files(
    settings: Callable[..., PostTraining], tmp_path: Path, family: str, pruning: Pruning
) -> None:
    run = settings(family, pruning)
    assert _run(run, tmp_path / "whole") == 0
    chance = random.Random(family)
    endings = [_run(run, tmp_path / "killed", 1, 0)]
    while 0 not in endings:
        steps = chance.choice([0, 2, 5, 9]) if len(endings) < 6 else None
        delay = chance.uniform(0, 0.05 if steps else 1)
        endings.append(_run(run, tmp_path / "killed", steps, delay))
        for file in (tmp_path / "killed").rglob("curves.csv"):  # no half rows, at any moment
            table = file.read_text()
            assert table.endswith("\n")
            assert {line.count(",") for line in table.splitlines()} == {18}
    assert endings[0] == -signal.SIGKILL
    assert set(endings) == {0, -signal.SIGKILL}
    for name in ("curves.csv", "curves.meta.json"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == expected
    assert read_curves(tmp_path / "killed" / "curves.csv", needs=("base_loss",)).frame.height == 7


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End a run as a kill would, after this step."""
    advance = Trainer.advance

    def until(self: Trainer) -> float:
        if self.step >= step:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", until)


def interrupted(run: PostTraining, out: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> Path:
    """A run stopped after a step; its checkpoints."""
    with monkeypatch.context() as patched:
        stop_after(patched, step)
        with pytest.raises(KeyboardInterrupt):
            post_train(run, out)
    return out / run.name / "checkpoints"


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings()
    post_train(run, tmp_path / "whole")
    expected = (tmp_path / "whole" / "curves.csv").read_bytes()
    saved = interrupted(run, tmp_path / "damaged", monkeypatch, step=25)
    older, newer = sorted(saved.glob("step-*"))
    assert (older.name, newer.name) == ("step-0000000024", "step-0000000025")

    def cut(name: str) -> None:
        data = (newer / name).read_bytes()
        (newer / name).write_bytes(data[: len(data) // 2])

    def flip(name: str) -> None:
        data = bytearray((newer / name).read_bytes())
        data[len(data) // 2] ^= 1
        (newer / name).write_bytes(data)

    for i, damage in enumerate(
        (
            lambda: cut("optimizer.bin"),
            lambda: flip("pytorch_model.bin"),
            lambda: (newer / "masks.safetensors").unlink(),
            lambda: (newer / "files.json").unlink(),
        )
    ):
        kept = tmp_path / "kept"
        if i == 0:
            shutil.copytree(tmp_path / "damaged", kept)
        else:
            shutil.rmtree(tmp_path / "damaged")
            shutil.copytree(kept, tmp_path / "damaged")
        damage()
        heard = Heard()
        post_train(run, tmp_path / "damaged", heard)
        assert str(newer) in heard.warnings[0]
        assert "using the one before it" in heard.warnings[0]
        assert (tmp_path / "damaged" / "curves.csv").read_bytes() == expected


def test_with_no_checkpoint_that_can_be_read_a_run_starts_over(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings()
    post_train(run, tmp_path / "whole")
    saved = interrupted(run, tmp_path / "lost", monkeypatch, step=25)
    for checkpoint in saved.glob("step-*"):
        (checkpoint / "step").unlink()
    interrupted(run, tmp_path / "lost", monkeypatch, step=3)  # what it saves now is not lost
    assert [path.name for path in sorted(saved.glob("step-*"))] == [
        "step-0000000002",
        "step-0000000003",
    ]
    for checkpoint in saved.glob("step-*"):
        (checkpoint / "step").unlink()
    heard = Heard()
    post_train(run, tmp_path / "lost", heard)
    named = [warning for warning in heard.warnings if "using the one before it" in warning]
    assert len(named) == 2
    expected = (tmp_path / "whole" / "curves.csv").read_bytes()
    assert (tmp_path / "lost" / "curves.csv").read_bytes() == expected


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_taken_up_again_ends_with_the_same_rows(
    settings: Callable[..., PostTraining],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
) -> None:
    run = settings(dtype=dtype, batch_size=3)
    post_train(run, tmp_path / "whole")
    interrupted(run, tmp_path / "twice", monkeypatch, step=7)
    post_train(run, tmp_path / "twice")
    expected = (tmp_path / "whole" / "curves.csv").read_bytes()
    assert (tmp_path / "twice" / "curves.csv").read_bytes() == expected


def test_a_run_does_not_go_on_in_another_number_format(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That auto is on another CPU."""
    monkeypatch.setattr(training_module, "_cpu_has_bf16", lambda: False)
    run = settings()
    interrupted(run, tmp_path, monkeypatch, step=3)
    monkeypatch.setattr(training_module, "_cpu_has_bf16", lambda: True)
    with pytest.raises(RunError, match=r"training\.dtype: fp32, now bf16"):
        post_train(run, tmp_path)
    post_train(settings(dtype="fp32"), tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_and_marks_it(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Trainer.advance

    def poisoned(self: Trainer) -> float:
        if self.step == 20:
            with torch.no_grad():
                next(self.plain_model.parameters()).fill_(float("nan"))
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", poisoned)
        heard = Heard()
        result = post_train(settings(), tmp_path, heard)
    assert result.status == "diverged"
    assert "the loss is nan after" in heard.warnings[-1]
    assert "lower --lr" in heard.warnings[-1]
    meta = json.loads((tmp_path / "curves.meta.json").read_text())["runs"][result.run]
    assert (meta["status"], meta["diverged_at"]) == ("diverged", 21)
    table = read_curves(tmp_path / "curves.csv").frame  # finite rows alone
    assert table["step"].max() < 21
    assert post_train(settings(), tmp_path) == result  # and it is not taken up again


def test_a_loss_below_the_base_model_warns_once(
    settings: Callable[..., PostTraining], tmp_path: Path
) -> None:
    """These base models know nothing yet: any training takes them below L₀."""
    heard = Heard()
    result = post_train(settings(), tmp_path, heard)
    assert result.loss < result.base_loss
    below = [warning for warning in heard.warnings if "below the base model's" in warning]
    assert len(below) == 1
    assert list(result.warnings) == below


@pytest.mark.parametrize(("size", "advice"), [(8, "--batch-size 4"), (1, "--seq-len")])
def test_out_of_memory_gives_the_batch_size_to_try(
    settings: Callable[..., PostTraining],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    advice: str,
) -> None:
    """The smaller batch then goes on from the checkpoint, with the rows that there are."""
    advance = Trainer.advance

    def full(self: Trainer) -> float:
        if self.step == 10 and self.training.batch_size == size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", full)
    with pytest.raises(RunError, match=f"out of memory with --batch-size {size}: try .*{advice}"):
        post_train(settings(batch_size=size), tmp_path)
    before = pl.read_csv(tmp_path / "curves.csv")
    assert post_train(settings(batch_size=4), tmp_path).rows == 7
    assert pl.read_csv(tmp_path / "curves.csv").head(before.height).equals(before)


def test_a_full_disk_loses_no_finished_row(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings()
    post_train(run, tmp_path / "whole")
    expected = (tmp_path / "whole" / "curves.csv").read_bytes()

    def fails_after(calls: int, inner: Callable[..., Any], error: Exception) -> Any:
        made = []

        def call(*arguments: Any, **named: Any) -> Any:
            made.append(1)
            if len(made) > calls:
                raise error
            return inner(*arguments, **named)

        return call

    no_space = OSError(errno.ENOSPC, "No space left on device")
    torch_says = RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/1")
    out = tmp_path / "full"
    for module, name, calls, error in (
        (checkpoints_module.os, "rename", 12, no_space),
        (Trainer, "save", 9, torch_says),
        (curves_module, "write_text", 5, RunError("curves.csv: No space left on device")),
    ):
        rows = len((out / "curves.csv").read_text().splitlines()) if out.exists() else 0
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fails_after(calls, getattr(module, name), error))
            with pytest.raises(RunError, match=r"No space left|failed writing"):
                post_train(run, out)
        kept = (out / "curves.csv").read_text()
        assert len(kept.splitlines()) >= rows
        assert expected.decode().startswith(kept)
    post_train(run, out)
    assert (out / "curves.csv").read_bytes() == expected


def test_other_settings_are_not_mixed_into_a_run(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings()
    interrupted(run, tmp_path, monkeypatch, step=3)
    with pytest.raises(RunError, match=r"training\.lr: 0\.003, now 0\.01") as told:
        post_train(settings(lr=0.01), tmp_path)
    assert "another --out" in str(told.value)
    post_train(settings(batch_size=2, checkpoint_minutes=5.0), tmp_path)  # these may change


def test_two_processes_do_not_work_on_one_run(
    settings: Callable[..., PostTraining], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves_module, "PATIENCE", 0.2)
    run = settings()
    with (
        curves_module.locked(tmp_path / run.name),
        pytest.raises(RunError, match="another process"),
    ):
        post_train(run, tmp_path)


def test_the_control_starts_at_the_base_loss_on_the_same_tokens(
    settings: Callable[..., PostTraining], tmp_path: Path
) -> None:
    control = post_train(settings(pruning=Pruning()), tmp_path)
    pruned = post_train(settings(), tmp_path)
    assert control.base_loss == pruned.base_loss
    table = read_curves(tmp_path / "curves.csv", needs=("base_loss", "pruning_rate")).frame
    first = table.filter((pl.col("run") == control.run) & (pl.col("tokens") == 0))
    assert first["loss"].item() == control.base_loss
    runs = json.loads((tmp_path / "curves.meta.json").read_text())["runs"]
    assert runs[control.run]["text"] == runs[pruned.run]["text"]


def test_a_saved_model_loads_with_its_tokenizer_and_its_zeros(
    settings: Callable[..., PostTraining], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = post_train(replace(settings(), save_model=True), tmp_path)
    folder = tmp_path / result.run / "model"
    assert AutoTokenizer.from_pretrained(folder)("the cat")["input_ids"]
    weight = AutoModelForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj.weight
    assert ((weight.reshape(-1, 4) == 0).sum(1) >= 2).all()
    assert not (tmp_path / result.run / "checkpoints").exists()


def test_a_tracker_is_told_what_the_curve_is(
    settings: Callable[..., PostTraining], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = post_train(settings(track="tensorboard"), tmp_path)
    events = next((tmp_path / result.run).rglob("events.*"))
    told = EventAccumulator(str(events.parent)).Reload().Scalars("loss")
    rows = pl.read_csv(tmp_path / "curves.csv").filter(pl.col("step") > 0)
    assert [event.step for event in told] == rows["step"].to_list()
    assert [event.value for event in told] == pytest.approx(rows["loss"].to_list())
