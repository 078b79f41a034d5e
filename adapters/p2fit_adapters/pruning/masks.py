"""Masks that hold: a pruned weight is zero after every step of the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class Masks:
    """Keep weights at zero while a model trains.

    Hooks drop their gradients as they arrive, so that no norm is clipped on their account, and
    set them to zero again after each step, which weight decay and momentum would undo.
    """

    def __init__(self, kept: Mapping[str, torch.Tensor]) -> None:
        self.kept = dict(kept)
        """Parameter name → True where a weight stays."""

    def hold(self, model: torch.nn.Module, optimizer: Any) -> None:
        """Register the hooks: after ``accelerator.prepare``, on the model without its wrapper."""
        if not self.kept:
            return
        parameters = dict(model.named_parameters())
        for name in self.kept:
            parameters[name].register_post_accumulate_grad_hook(self._mask_gradient(name))
        inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps it
        inner.register_step_post_hook(lambda *_: self.apply(model))

    def _mask_gradient(self, name: str) -> Any:
        def hook(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                parameter.grad.mul_(self._on(name, parameter))

        return hook

    def _on(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        if self.kept[name].device != parameter.device:
            self.kept[name] = self.kept[name].to(parameter.device)
        return self.kept[name]

    @torch.no_grad()
    def apply(self, model: torch.nn.Module) -> None:
        """Set the masked weights to zero now."""
        parameters = dict(model.named_parameters())
        for name in self.kept:
            parameters[name].mul_(self._on(name, parameters[name]))

    def save(self, path: Path) -> None:
        save_file({name: kept.cpu().contiguous() for name, kept in self.kept.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Masks:
        return cls(load_file(path))
