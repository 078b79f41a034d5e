"""The loop: evaluation, schedules, batches, learning rates."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from p2fit_adapters import RunError, Text, TextSource, Trainer, Training, load_model, loss, prepare
from p2fit_adapters import training as training_module
from p2fit_adapters.pruning import Masks
from p2fit_adapters.training import make_accelerator, window_losses


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def text(models: dict[str, str], words: Path, tmp_path_factory: pytest.TempPathFactory) -> Text:
    source = TextSource(str(words), seq_len=32, eval_tokens=3200)
    return prepare(source, models["llama"], 384, 20_000, tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_evaluation_is_identical_for_batch_sizes_1_to_64(
    models: dict[str, str], text: Text, family: str, tmp_path: Path
) -> None:
    model = load_model(models[family])
    held = make_accelerator(Training(device="cpu"), tmp_path)
    found = [
        window_losses(held, model, text.evaluation, size) for size in (1, 2, 3, 7, 8, 16, 32, 64)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_evaluation_is_the_mean_over_tokens(
    models: dict[str, str], text: Text, tmp_path: Path
) -> None:
    model = load_model(models["qwen3"]).eval()
    held = make_accelerator(Training(device="cpu", dtype="fp32"), tmp_path)
    ids = torch.from_numpy(text.evaluation.astype(np.int64))
    with torch.no_grad():
        chances = model(ids).logits.double().log_softmax(-1)
    expected = -chances[:, :-1].gather(2, ids[:, 1:, None]).mean()
    found = window_losses(held, model, text.evaluation, 8).mean()
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert model.training is False


def test_the_size_of_a_batch_changes_only_rounding(
    models: dict[str, str], text: Text, tmp_path: Path
) -> None:
    def losses(size: int) -> list[float]:
        training = Training(
            tokens=3072, batch_tokens=256, batch_size=size, lr=1e-3, device="cpu", dtype="fp32"
        )
        held = make_accelerator(training, tmp_path)
        trainer = Trainer(held, load_model(models["llama"]), Masks({}), text, training)
        found = [trainer.advance() for _ in range(trainer.steps)]
        return [*found, trainer.evaluate()]

    whole = losses(8)
    assert losses(3) == pytest.approx(whole, rel=1e-5)
    assert losses(1) == pytest.approx(whole, rel=1e-5)
    assert whole[-1] < whole[0]


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_the_loss_and_its_gradient_are_those_of_torch(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 7, 11, generator=generator)).requires_grad_()
    labels = torch.randint(0, 11, (2, 7), generator=generator)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    (gradient,) = torch.autograd.grad(2 * expected, logits)
    found = loss.Objective()(logits, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(2 * found, logits)[0], gradient)
    rounded = loss.Objective()(logits.bfloat16(), labels)
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(expected.detach()), rel=0.01)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_has_the_loss_of_the_model_before_it(
    models: dict[str, str], text: Text, tmp_path: Path, family: str
) -> None:
    training = Training(tokens=2048, batch_tokens=256, batch_size=3, device="cpu", dtype="fp32")
    trainer = Trainer(
        make_accelerator(training, tmp_path), load_model(models[family]), Masks({}), text, training
    )
    batch = text.batch(0, 8, 0)
    expected = load_model(models[family])(input_ids=batch, labels=batch).loss.detach()
    assert trainer.advance() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("spacing", ["log", "linear"])
def test_evaluations_are_spaced_as_asked(spacing: str) -> None:
    training = Training(tokens=1_000_000, evals=10, spacing=spacing, batch_tokens=1024)
    steps = training.evaluate_at(64)
    assert steps[-1] == training.steps(64) == 977
    assert len(steps) == 10
    if spacing == "linear":
        assert np.ptp(np.diff(steps)) <= 1
    else:
        assert steps[0] == 10
        assert np.ptp(np.diff(np.log(steps))) < 0.1


def test_no_evaluation_falls_where_the_data_format_sees_a_slip_of_the_unit() -> None:
    training = Training(tokens=5000, evals=100, batch_tokens=64)
    assert min(training.evaluate_at(64)) * 64 >= 1000


def test_the_learning_rate_warms_up_and_stays_or_decays() -> None:
    constant = [Training(lr=1.0, warmup=0.1).lr_at(step, 100) for step in range(100)]
    assert constant[:3] == [0.1, 0.2, pytest.approx(0.3)]
    assert set(constant[9:]) == {1.0}
    decaying = [Training(lr=1.0, warmup=0.1, decay=0.2).lr_at(step, 100) for step in range(100)]
    assert decaying[:81] == constant[:81]
    assert decaying[-1] == pytest.approx(1 / 20)
    assert all(a > b for a, b in itertools.pairwise(decaying[80:]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", 10), ("lr", 0), ("lr", math.inf), ("evals", 0), ("decay", 1.0), ("dtype", "fp8")],
)
def test_values_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(RunError, match=f"{name} is {value}"):
        Training(**{name: value})  # type: ignore[arg-type]


def test_auto_is_bf16_where_the_cpu_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(training_module, "_cpu_has_bf16", lambda has=has: has)
        assert Training(device="cpu").chosen_dtype == expected
        precision = make_accelerator(Training(device="cpu"), tmp_path).mixed_precision
        assert precision == {"bf16": "bf16", "fp32": "no"}[expected]
        assert Training(device="cpu", dtype="fp32").chosen_dtype == "fp32"


def test_a_gpu_that_is_not_there_and_a_tracker_that_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="no GPU"):
        make_accelerator(Training(device="cuda"), tmp_path)
    with pytest.raises(RunError, match="nonesuch"):
        make_accelerator(Training(track="nonesuch"), tmp_path)
