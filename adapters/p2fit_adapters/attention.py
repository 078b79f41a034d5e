"""Attention in training: on a CPU by products in bf16, which are faster than torch's fused kernel
where their scores fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_MOST = 1 << 30  # bytes of all layers' scores; some three times as many are kept for the gradient


@contextmanager
def for_training(accelerator: Any, config: Any, windows: int, seq_len: int) -> Iterator[None]:
    """The kernel for forward and backward passes of so many windows."""
    cuda: Any = torch.backends.cuda
    before = cuda.fp16_bf16_reduction_math_sdp_allowed()
    if by_products(accelerator, config, windows, seq_len):
        cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of CPUs too
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            cuda.allow_fp16_bf16_reduction_math_sdp(before)
    else:
        yield


def by_products(accelerator: Any, config: Any, windows: int, seq_len: int) -> bool:
    """Whether attention is by products: in bf16 on a CPU, of scores that are few enough."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        return False
    text = config.get_text_config()
    layers, heads = (getattr(text, n, 1) for n in ("num_hidden_layers", "num_attention_heads"))
    return bool(2 * layers * heads * windows * seq_len**2 <= _MOST)
