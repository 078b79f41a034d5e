"""Compiled training: the same losses, and a line where there is no compiler."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from p2fit_adapters import RunError, Text, Trainer, Training, load_model
from p2fit_adapters.pruning import Masks
from p2fit_adapters.training import make_accelerator

SHORT = Training(tokens=1000, batch_tokens=256, batch_size=4, device="cpu", dtype="fp32", lr=1e-3)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def _trainer(model: str, folder: Path, compile: bool) -> Trainer:
    ids = np.random.default_rng(0).integers(0, 384, (64, 32), dtype=np.int32)
    training = Training(**{**vars(SHORT), "compile": compile})
    held = make_accelerator(training, folder)
    return Trainer(held, load_model(model), Masks({}), Text(ids, ids[:8], {}, ""), training)


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it compiles
def test_losses_are_those_of_training_that_is_not_compiled(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("g++"):  # the same passes, traced and cut in the same way, without C++
        monkeypatch.setattr(shutil, "which", lambda _: "g++")
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, fast = (_trainer(models["llama"], tmp_path, c) for c in (False, True))
    for _ in range(3):
        assert fast.advance() == pytest.approx(plain.advance(), rel=1e-5)
    assert fast.evaluate() == pytest.approx(plain.evaluate(), rel=1e-5)
    assert set(fast.to_save()[1]) == set(plain.to_save()[1])


def test_without_a_compiler_it_is_refused(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RunError, match=r"compile needs a C\+\+ compiler on a CPU"):
        _trainer(models["llama"], tmp_path, True)
