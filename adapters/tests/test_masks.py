"""Zeros stay zeros, in every step of the optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from p2fit_adapters import Pruning, TextSource, Trainer, Training, load_model, prepare, prune


@pytest.fixture
def precision(request: pytest.FixtureRequest) -> str:
    AcceleratorState._reset_state(reset_partial_state=True)
    return str(request.param)


@pytest.mark.parametrize("precision", ["no", "bf16"], indirect=True)
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_zeros_stay_zeros_through_every_step_of_the_optimizer(
    models: dict[str, str], words: Path, tmp_path: Path, family: str, criterion: str, precision: str
) -> None:
    """Under Accelerate, with gradients of two forward passes in each step, and weight decay."""
    text = prepare(
        TextSource(str(words), seq_len=32, eval_tokens=320), models[family], 384, 8000, tmp_path
    )
    model = load_model(models[family])
    found = prune(model, Pruning("2:4", criterion=criterion), text.calibration(16, 0))
    training = Training(
        tokens=1536, batch_tokens=128, batch_size=2, lr=1e-2, weight_decay=0.5, warmup=0
    )
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    trainer = Trainer(accelerator, found.model, found.masks, text, training)
    parameters = dict(trainer.plain_model.named_parameters())
    zeros = {name: ~kept for name, kept in found.masks.kept.items()}
    start = {name: parameters[name].detach().clone() for name in zeros}
    seen = []
    while trainer.step < trainer.steps:
        trainer.advance()
        seen.append(all(bool((parameters[name][zeros[name]] == 0).all()) for name in zeros))
    assert seen == [True] * 12
    for name, kept in found.masks.kept.items():  # and the others learn
        assert not torch.equal(parameters[name][kept], start[name][kept])
        state = trainer.optimizer.state[parameters[name]]
        assert (state["exp_avg"][~kept] == 0).all()


def test_without_masks_the_zeros_would_go(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    """The test above can fail: one step without the masks leaves no zero."""
    model = load_model(models["llama"])
    windows = torch.randint(0, tiny.VOCABULARY, (4, 32))
    found = prune(model, Pruning("2:4"), windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(input_ids=windows, labels=windows).loss.backward()
    optimizer.step()
    name, kept = next(iter(found.masks.kept.items()))
    assert (dict(model.named_parameters())[name][~kept] != 0).all()
