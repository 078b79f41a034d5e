"""Masks that hold: a pruned weight is zero after every step of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class Masks:
    """Keep weights at zero while a model trains, and prune more of them by magnitude.

    The parameters may be sharded over processes (as DTensors, by FSDP 2); masks are whole.
    """

    def __init__(self, kept: Mapping[str, torch.Tensor]) -> None:
        self.kept = dict(kept)
        """Parameter name → True where a weight stays."""

    @torch.no_grad()
    def drop_gradients(self, model: torch.nn.Module) -> None:
        """Set the gradients of masked weights to zero, so that no norm is clipped for them."""
        parameters = dict(model.named_parameters())
        for name in self.kept:
            gradient = parameters[name].grad
            if gradient is not None:
                gradient.mul_(self._on(name, gradient))

    @torch.no_grad()
    def apply(self, model: torch.nn.Module) -> None:
        """Set the masked weights to zero, which weight decay and momentum would move."""
        parameters = dict(model.named_parameters())
        for name in self.kept:
            parameters[name].mul_(self._on(name, parameters[name]))

    def _on(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The mask where the tensor is; sharded as it is."""
        if self.kept[name].device != tensor.device:
            self.kept[name] = self.kept[name].to(tensor.device)
        if hasattr(tensor, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            # Every process has the whole mask: nothing needs to be sent.
            return distribute_tensor(
                self.kept[name], tensor.device_mesh, tensor.placements, src_data_rank=None
            )
        return self.kept[name]

    @torch.no_grad()
    def shrink(self, model: torch.nn.Module, count: int) -> None:
        """Mask the smallest weights of all tensors together until ``count`` stay (global
        magnitude pruning, as Jin et al. 2025); of equal ones, the first of them go."""
        gone = self.count - count
        if gone <= 0:
            return
        parameters = dict(model.named_parameters())
        size, whole = [], []
        for name, kept in self.kept.items():
            weights = parameters[name]
            full = weights.full_tensor() if hasattr(weights, "full_tensor") else weights
            self.kept[name] = kept.to(full.device)
            size.append(full.detach().abs().flatten())
            whole.append(self.kept[name].flatten())
        sizes, stays = torch.cat(size), torch.cat(whole)
        left = stays.nonzero().flatten()
        limit = sizes[left].kthvalue(gone).values
        below = left[sizes[left] < limit]
        equal = left[sizes[left] == limit][: gone - len(below)]
        stays[below] = False
        stays[equal] = False
        for name, part in zip(self.kept, stays.split([len(s) for s in size]), strict=True):
            self.kept[name] = part.reshape(self.kept[name].shape)
        self.apply(model)

    @property
    def count(self) -> int:
        """Weights that stay."""
        return sum(int(kept.sum()) for kept in self.kept.values())

    def save(self, path: Path) -> None:
        save_file({name: kept.cpu().contiguous() for name, kept in self.kept.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Masks:
        return cls(load_file(path))
