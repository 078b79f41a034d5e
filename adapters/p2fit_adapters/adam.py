"""AdamW, with moments in fp32 or, by torchao, in 8 bits (Dettmers
et al. 2021, arXiv 2110.02861)."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from p2fit.extras import command
from p2fit_adapters.errors import RunError

BETAS = (0.9, 0.95)
_BLOCK = 256  # moments that share a scale
_LEAST = 4096  # numbers of a tensor whose moments torchao makes smaller


def optimizer(groups: list[dict[str, Any]], bits: int) -> torch.optim.Optimizer:
    """AdamW of groups of parameters; :func:`set_rate` says its learning rate.

    Raises:
        RunError: torchao is not installed.
    """
    if bits == 32:
        return torch.optim.AdamW(groups, betas=BETAS, fused=True)
    logging.disable(logging.WARNING)  # it tells of kernels that it cannot load and does not need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.optim import AdamW8bit
    except ImportError:
        how = command("adam8", "p2fit-adapters")
        raise RunError(f"8-bit moments need torchao: {how}") from None
    finally:
        logging.disable(logging.NOTSET)

    class Eager(AdamW8bit):  # type: ignore[misc, unused-ignore]
        """torchao compiles its step, which on a CPU takes minutes, and a compiler of C++."""

        def step(self, closure: Any = None) -> Any:
            on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
            with torch.compiler.set_stance("force_eager" if on_cpu else "default"):
                return super().step(closure)

    found: torch.optim.Optimizer = Eager(groups, betas=BETAS, block_size=_BLOCK)
    return found


def moments(count: int, bits: int) -> int:
    """Bytes of both moments of a tensor of so many numbers, or of a process's piece of one."""
    if bits == 32 or count < _LEAST or count % _BLOCK:
        return 8 * count
    return 2 * (count + 4 * count // _BLOCK + 4 * 256)  # codes, scales, and what a code means


def set_rate(of: Any, lr: float) -> None:
    """Set the learning rate, which torchao wants in the tensor that it made."""
    for group in of.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
