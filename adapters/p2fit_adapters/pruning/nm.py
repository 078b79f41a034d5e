"""N:M pruning: of M consecutive weights of a row at most N stay, in every linear layer of a block.

Which ones: the largest |W| (``magnitude``), |W|·‖X‖ with ‖X‖ the norm of the layer's input over
calibration text (``wanda``, Sun et al. 2024, arXiv 2306.11695), or W²/[H⁻¹]² with H = XXᵀ, while
the other weights of the row make up for each one lost (``sparsegpt``, Frantar & Alistarh 2023,
arXiv 2301.00774). Blocks go one after the other, each calibrated on the blocks pruned before it.
Embeddings and the LM head stay dense.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, count_parameters, decoder_layers, meta_model

CRITERIA = ("sparsegpt", "wanda", "magnitude")
DAMPING = 0.01  # of the mean of H's diagonal, as in the authors' code
COLUMNS = 128  # of a block of SparseGPT, as in the authors' code


class _StopForward(Exception):  # noqa: N818
    """What comes after this block is not needed."""


def parse(pattern: str) -> tuple[int, int]:
    """``"2:4"`` → (2, 4).

    Raises:
        RunError: not N:M with 0 < N < M.
    """
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < n < m:
        raise RunError(f"{pattern}: give N:M, N weights kept of M, with 0 < N < M (2:4)")
    return n, m


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}


def _check(model: nn.Module, m: int) -> None:
    prefix, blocks = decoder_layers(model)
    found = [(name, module) for block in blocks for name, module in linear_layers(block).items()]
    if not found:
        raise RunError(f"{model.config.model_type}: no linear layers in {prefix}")
    for name, module in found:
        if module.in_features % m:
            raise RunError(f"{name} has {module.in_features} inputs, no multiple of {m}")


def counts_after(config: Any, pattern: str) -> Counts:
    """Counts after pruning, from the configuration alone."""
    n, m = parse(pattern)
    model = meta_model(config)
    _check(model, m)
    before = count_parameters(model)
    modules = [
        module for block in decoder_layers(model)[1] for module in linear_layers(block).values()
    ]
    gone = sum(module.weight.numel() for module in modules) * (m - n) // m
    return Counts(before.total - gone, before.non_embedding - gone)


def top_n_of_m(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """[rows, columns] → True at the n highest scores of each m in a row; ties: the first."""
    grouped = scores.reshape(len(scores), -1, m)
    order = grouped.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return kept.reshape(scores.shape)


def sparsegpt(
    weight: torch.Tensor, hessian: torch.Tensor, n: int, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """New weights and what is kept, from W [rows, columns] and H = Σ x xᵀ [columns, columns]."""
    weight, hessian = weight.clone().float(), hessian.clone().float()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    kept = torch.ones_like(weight, dtype=torch.bool)
    step = max(m, COLUMNS // m * m)
    for start in range(0, weight.shape[1], step):
        end = min(start + step, weight.shape[1])
        errors = torch.zeros_like(weight[:, start:end])
        for column in range(start, end):
            if (column - start) % m == 0:
                group = slice(column, column + m)
                scores = weight[:, group] ** 2 / factor.diagonal()[group] ** 2
                kept[:, group] = top_n_of_m(scores, n, m)
            pruned = weight[:, column] * kept[:, column]
            error = (weight[:, column] - pruned) / factor[column, column]
            weight[:, column] = pruned
            later = slice(column + 1, end)
            weight[:, later] -= error[:, None] * factor[column, later]
            errors[:, column - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight, kept


@torch.no_grad()
def prune(
    model: Any,
    pattern: str,
    criterion: str,
    windows: torch.Tensor,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, torch.Tensor]:
    """Prune the model in place; the masks are True where a weight stays, by parameter name."""
    n, m = parse(pattern)
    _check(model, m)
    prefix, blocks = decoder_layers(model)
    masks = {}
    for i, block in enumerate(blocks):
        modules = linear_layers(block)
        inputs = (
            {}
            if criterion == "magnitude"
            else _input_moments(model, block, modules, windows, batch_size, criterion)
        )
        for name, module in modules.items():
            weight = module.weight
            if criterion == "sparsegpt":
                with torch.autocast(weight.device.type, enabled=False):
                    new, kept = sparsegpt(weight, inputs[name], n, m)
                weight.copy_(new)
            else:
                norm = inputs[name].sqrt() if criterion == "wanda" else 1.0
                kept = top_n_of_m(weight.abs() * norm, n, m)
            weight.mul_(kept)
            masks[f"{prefix}.{i}.{name}.weight"] = kept
        progress(i + 1, len(blocks))
    return masks


def _input_moments(
    model: Any,
    block: nn.Module,
    modules: dict[str, nn.Linear],
    windows: torch.Tensor,
    batch_size: int,
    criterion: str,
) -> dict[str, torch.Tensor]:
    """Per linear layer Σ x xᵀ over tokens, or for Wanda only its diagonal."""
    moments: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor) -> None:
        x = x.detach().flatten(0, -2).float()
        with torch.autocast(x.device.type, enabled=False):
            moment = x.T @ x if criterion == "sparsegpt" else (x * x).sum(0)
        moments[name] = moments[name] + moment if name in moments else moment

    def stop(*_: Any) -> None:
        raise _StopForward

    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
        for name, module in modules.items()
    ]
    hooks.append(block.register_forward_hook(stop))
    try:
        for batch in windows.split(batch_size):
            try:
                model(batch.to(model.device))
            except _StopForward:
                continue
    finally:
        for hook in hooks:
            hook.remove()
    return moments
