"""Depth pruning: whole decoder layers are dropped.

``block-influence`` drops the layers that change their input least, 1 − cos(input, output) averaged
over tokens (Men et al. 2024, ShortGPT, arXiv 2403.03853). ``span`` drops the contiguous layers
i … i + n − 1 whose input and output, n layers apart, are most alike (Chen et al. 2024,
LLM-Streamline, arXiv 2403.19135; Gromov et al. 2024, arXiv 2403.17887).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, count_parameters, decoder_layers, meta_model, with_tensors

CRITERIA = ("block-influence", "span")


def shrunk_config(config: Any, kept: list[int]) -> Any:
    """The configuration with only these layers."""
    new = copy.deepcopy(config)
    if getattr(config, "layer_types", None) is not None:
        new.layer_types = [config.layer_types[i] for i in kept]
    new.num_hidden_layers = len(kept)
    return new


def layers_to_drop(config: Any, rate: float) -> int:
    """How many layers come closest to this share of all parameters.

    Raises:
        RunError: the rate is out of reach.
    """
    model = meta_model(config)
    total = count_parameters(model).total
    blocks = decoder_layers(model)[1]
    layer = sum(p.numel() for p in blocks[0].parameters())
    highest = layer * (len(blocks) - 1) / total
    if not layer / total / 2 <= rate <= highest + layer / total / 2:
        raise RunError(
            f"depth pruning cannot reach a rate of {rate:g}: one of {len(blocks)} layers is "
            f"{layer / total:.3g} of the parameters, all but one {highest:.3g}"
        )
    return max(1, min(len(blocks) - 1, round(rate * total / layer)))


def counts_after(config: Any, rate: float) -> Counts:
    """Counts after pruning, from the configuration alone; layers are taken to be alike."""
    kept = config.num_hidden_layers - layers_to_drop(config, rate)
    return count_parameters(meta_model(shrunk_config(config, list(range(kept)))))


@torch.no_grad()
def similarity(model: Any, windows: torch.Tensor, batch_size: int) -> torch.Tensor:
    """[layers + 1, layers + 1]: mean cosine similarity of the hidden states before layer i and
    before layer j, over all tokens; the last is that after the last layer, before the norm."""
    _, blocks = decoder_layers(model)
    states: list[torch.Tensor] = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: states.append((*args, *kwargs.values())[0]), with_kwargs=True
        )
        for block in blocks
    ]
    hooks.append(
        blocks[-1].register_forward_hook(
            lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out)
        )
    )
    total = torch.zeros(len(blocks) + 1, len(blocks) + 1, dtype=torch.float64)
    try:
        for batch in windows.split(batch_size):
            states.clear()
            model(batch.to(model.device))
            for i, one in enumerate(states):
                for j, other in enumerate(states[i + 1 :], i + 1):
                    alike = cosine_similarity(one.float(), other.float(), dim=-1)
                    total[i, j] += alike.double().sum().cpu()
    finally:
        for hook in hooks:
            hook.remove()
    return total / windows.numel()


def prune(
    model: Any, rate: float, criterion: str, windows: torch.Tensor, batch_size: int
) -> tuple[Any, dict[str, Any]]:
    """The pruned model, and what was dropped and why."""
    drop = layers_to_drop(model.config, rate)
    alike = similarity(model, windows, batch_size)
    n = len(alike) - 1
    if criterion == "span":
        scores = [float(1 - alike[i, i + drop]) for i in range(n - drop + 1)]
        first = min(range(len(scores)), key=scores.__getitem__)
        dropped = set(range(first, first + drop))
    else:
        scores = [float(1 - alike[i, i + 1]) for i in range(n)]
        dropped = set(sorted(range(n), key=scores.__getitem__)[:drop])
    kept = [i for i in range(n) if i not in dropped]
    prefix, _ = decoder_layers(model)
    renumbered = {f"{prefix}.{old}.": f"{prefix}.{new}." for new, old in enumerate(kept)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{prefix}."):
            tensors[name] = tensor
            continue
        head = ".".join(name.split(".")[: prefix.count(".") + 2]) + "."
        if head in renumbered:
            tensors[renumbered[head] + name.removeprefix(head)] = tensor
    new = with_tensors(model, shrunk_config(model.config, kept), tensors)
    return new, {"layers_dropped": sorted(dropped), "scores": scores}
