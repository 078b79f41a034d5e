"""Moments in 8 bits: the curve of those in 32, from a quarter of the bytes, and as many as said."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import polars as pl
import pytest
import tiny
from accelerate.state import AcceleratorState
from p2fit_adapters import PostTraining, Pruning, RunError, TextSource, Training, post_train
from p2fit_adapters.memory import launches
from p2fit_adapters.training import Trainer


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def run(words: Path, tmp_path: Path) -> PostTraining:
    model = tiny.save("llama", tmp_path / "model", hidden_size=128, intermediate_size=384)
    training = Training(
        tokens=10_240,
        evals=4,
        batch_tokens=512,
        batch_size=16,
        lr=3e-3,
        dtype="fp32",
        checkpoint_minutes=0,
        moment_bits=8,
    )
    text = TextSource(str(words), seq_len=32, eval_tokens=640)
    return PostTraining(str(model), text, Pruning("2:4", calibration_windows=8), training)


def losses(folder: Path) -> list[float]:
    return pl.read_csv(folder / "curves.csv")["loss"].to_list()


def test_the_curve_is_that_of_whole_moments_killed_or_not_and_in_pieces(
    run: PostTraining, tmp_path: Path
) -> None:
    in_full = replace(run, training=replace(run.training, moment_bits=32))
    post_train(in_full, tmp_path / "full")
    post_train(run, tmp_path / "eight")
    full, eight = losses(tmp_path / "full"), losses(tmp_path / "eight")
    assert full != eight
    assert max(abs(a - b) for a, b in zip(full, eight, strict=True)) < 0.005 * (full[0] - full[-1])

    advance, calls = Trainer.advance, []

    def stopped(self: Trainer) -> float:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return advance(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "advance", stopped)
        with pytest.raises(KeyboardInterrupt):
            post_train(run, tmp_path / "stopped")
    post_train(run, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == eight

    assert children.launch("fsdp", post_train, run, str(tmp_path / "shared")) == {0}
    assert losses(tmp_path / "shared") == pytest.approx(eight, rel=1e-3)


def test_they_take_a_quarter_and_the_plan_says_how_much(run: PostTraining, tmp_path: Path) -> None:
    run = replace(run, pruning=Pruning())
    held: list[Any] = []
    advance = Trainer.advance

    def seen(self: Trainer) -> float:
        loss = advance(self)
        held[:] = [
            getattr(moment, part).nbytes
            for state in self.optimizer.state.values()
            for moment in (state["exp_avg"], state["exp_avg_sq"])
            for part in (("codes", "scale", "qmap") if hasattr(moment, "codes") else ("data",))
        ]
        return loss

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "advance", seen)
        post_train(run, tmp_path)
    plans = [
        launches(replace(run, training=replace(run.training, moment_bits=bits)), 1, 1e9, 1e12, 0.5)
        for bits in (8, 32)
    ]
    eight, full = (plan[0].memory.optimizer for plan in plans)
    assert eight == sum(held)
    assert 0.25 < eight / full < 0.28


def test_without_torchao_one_line_says_what_installs_it(
    run: PostTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(RunError, match=r"8-bit moments need torchao: .*adapters\[adam8\]"):
        post_train(run, tmp_path)
    with pytest.raises(RunError, match="moment_bits is 4: use 8 or 32"):
        Training(moment_bits=4)  # type: ignore[arg-type]
