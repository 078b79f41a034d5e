"""N:M pruning: of M consecutive weights of a row at most N stay, in every matrix of a block.

Which ones: the largest |W| (``magnitude``), |W|·‖X‖ with ‖X‖ the norm of the layer's input over
calibration text (``wanda``, Sun et al. 2024, arXiv 2306.11695), or W²/[H⁻¹]² with H = XXᵀ, while
the other weights of the row make up for each one lost (``sparsegpt``, Frantar & Alistarh 2023,
arXiv 2301.00774). Blocks go one after the other, each calibrated on the blocks pruned before it.
Linear layers, GPT-2's Conv1D and experts are pruned; embeddings, the LM head and routers stay
dense. An expert that no calibration token reaches is pruned by magnitude.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, count_parameters, decoder_layers, meta_model
from p2fit_adapters.pruning.calibration import Calibration, Matrix, matrices

CRITERIA = ("sparsegpt", "wanda", "magnitude")
DAMPING = 0.01  # of the mean of H's diagonal, as in the authors' code
COLUMNS = 128  # of a block of SparseGPT, as in the authors' code


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


def _check(model: Any, m: int) -> list[dict[str, Matrix]]:
    """The matrices of each block, if their rows are whole groups of m."""
    prefix, blocks = decoder_layers(model)
    found = [matrices(block) for block in blocks]
    if not any(found):
        raise RunError(f"{model.config.model_type}: no linear layers in {prefix}")
    for block in found:
        for name, matrix in block.items():
            if matrix.inputs % m:
                raise RunError(f"{name} has {matrix.inputs} inputs, no multiple of {m}")
    return found


def counts_after(config: Any, pattern: str) -> Counts:
    """Counts after pruning, from the configuration alone."""
    n, m = parse(pattern)
    model = meta_model(config)
    found = [matrix for block in _check(model, m) for matrix in block.values()]
    before = count_parameters(model)
    gone = sum(matrix.parameter.numel() for matrix in found) * (m - n) // m
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
    found = _check(model, m)
    prefix, blocks = decoder_layers(model)
    calibrated = criterion != "magnitude"
    masks = {}
    with Calibration(model, windows if calibrated else windows[:0], batch_size) as calibration:
        for i, block in enumerate(found):
            moments = calibration.moments(i, block, whole=criterion == "sparsegpt")
            for name, matrix in block.items():
                kept = torch.ones_like(matrix.rows, dtype=torch.bool)
                for j, rows in enumerate(matrix.rows):
                    moment = moments.get((name, j))
                    new, kept[j] = _pruned(rows, criterion, moment, n, m)
                    rows.copy_(new)
                masks[f"{prefix}.{i}.{name}"] = matrix.as_stored(kept)
            calibration.advance(i)
            progress(i + 1, len(blocks))
    return masks


def _pruned(
    rows: torch.Tensor, criterion: str, moment: torch.Tensor | None, n: int, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """New weights [rows, inputs] and what is kept of them."""
    if criterion == "sparsegpt" and moment is not None:
        with torch.autocast(rows.device.type, enabled=False):
            new, kept = sparsegpt(rows, moment, n, m)
        return new.to(rows.dtype) * kept, kept
    norm = 1.0 if moment is None else moment.sqrt()
    kept = top_n_of_m(rows.abs() * norm, n, m)
    return rows * kept, kept
