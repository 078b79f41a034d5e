"""Low-rank additions to linear layers (Hu et al. 2021, arXiv 2106.09685), by peft."""

from __future__ import annotations

import warnings
from typing import Any

from p2fit.extras import command
from p2fit_adapters.errors import RunError

SCALE = 2.0  # alpha / rank, a usual choice


def add(model: Any, rank: int) -> Any:
    """The model with all its weights frozen, and trainable additions to every linear layer but the
    LM head, which begin at zero. No dropout: what is trained is what is merged.

    Raises:
        RunError: peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise RunError(f"LoRA needs peft: {command('lora', 'p2fit-adapters')}") from None
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=round(SCALE * rank),
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft calls transformers by names that it is to lose
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, settings)
