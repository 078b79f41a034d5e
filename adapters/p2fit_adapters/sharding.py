"""What Accelerate's launcher says of models cut in pieces."""

from __future__ import annotations

import os
from typing import Any

from p2fit_adapters.errors import RunError

_LAUNCHED = ("DEEPSPEED", "FSDP", "MEGATRON_LM")


def plugin() -> Any:
    """What the launcher says of FSDP, with the numbers of one process; None without FSDP."""
    asked = {n for n in _LAUNCHED if os.environ.get(f"ACCELERATE_USE_{n}", "").lower() == "true"}
    if asked - {"FSDP"}:
        raise RunError(f"{asked.pop()} cannot keep masks: launch with DDP, or FSDP of version 2")
    if not asked:
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise RunError("FSDP of version 1 cannot keep masks: launch with --fsdp_version 2")
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # Parameters keep their names, and autocast decides what is computed in bf16.
    found = FullyShardedDataParallelPlugin(
        cpu_ram_efficient_loading=False,
        activation_checkpointing=False,
        mixed_precision_policy=MixedPrecisionPolicy(),
    )
    # The first process sends the weights, piece by piece. Said here, or transformers would load
    # no model whole in the others, and a teacher is.
    found.cpu_ram_efficient_loading = True
    return found
