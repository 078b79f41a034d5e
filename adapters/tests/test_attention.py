"""Attention by products, where it is faster: as near the gradient as the fused kernel, and gone
afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from p2fit_adapters import Training, attention, load_model
from p2fit_adapters.training import make_accelerator


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def _gradient(
    model: Any, ids: torch.Tensor, around: Callable[[], AbstractContextManager[Any]]
) -> Any:
    model.zero_grad()
    with around():
        model(input_ids=ids, labels=ids).loss.backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters()])


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_gradient_is_as_near_that_of_fp32_as_with_the_fused_kernel(
    models: dict[str, str], family: str, tmp_path: Path
) -> None:
    model = load_model(models[family]).train()
    held = make_accelerator(Training(device="cpu", dtype="bf16"), tmp_path)
    ids = torch.randint(0, 384, (4, 32), generator=torch.Generator().manual_seed(0))
    half = torch.autocast("cpu", torch.bfloat16)

    exact = _gradient(model, ids, nullcontext)
    fused = _gradient(model, ids, lambda: half)
    with attention.for_training(held, model.config, 4, 32):
        products = _gradient(model, ids, lambda: half)
    assert not torch.equal(products, fused)
    assert (products - exact).norm() < 2 * (fused - exact).norm()
    assert torch.equal(_gradient(model, ids, lambda: half), fused)


def test_only_bf16_of_few_scores_is_by_products(models: dict[str, str], tmp_path: Path) -> None:
    config = load_model(models["llama"]).config
    half = make_accelerator(Training(device="cpu", dtype="bf16"), tmp_path)
    assert attention.by_products(half, config, 8, 256)
    assert not attention.by_products(half, config, 8, 65_536)
    AcceleratorState._reset_state(reset_partial_state=True)
    full = make_accelerator(Training(device="cpu", dtype="fp32"), tmp_path)
    assert not attention.by_products(full, config, 8, 256)


def test_an_error_leaves_the_settings_as_they_were(models: dict[str, str], tmp_path: Path) -> None:
    config = load_model(models["llama"]).config
    held = make_accelerator(Training(device="cpu", dtype="bf16"), tmp_path)
    allowed: Any = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    before = allowed()
    with suppress(ZeroDivisionError), attention.for_training(held, config, 8, 256):
        assert allowed()
        raise ZeroDivisionError
    assert allowed() == before
