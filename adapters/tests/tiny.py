"""Tiny models with random weights, on disk, as ``from_pretrained`` wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FAMILIES = ("llama", "qwen2", "qwen3")
VOCABULARY = 384


def config(family: str, **changes: Any) -> Any:
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": family == "qwen2",
    }
    if family == "qwen3":
        common["head_dim"] = 16  # not hidden_size / heads
    kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    return kinds[family](**(common | changes))


def save(family: str, folder: Path, **changes: Any) -> Path:
    """A model with the biases and norms away from their start, so that none goes unnoticed."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(family, **changes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder
