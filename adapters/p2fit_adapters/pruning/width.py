"""Width pruning: every layer loses the same number of MLP neurons, heads and hidden channels.

Importance is the mean size of activations on calibration text (Muralidharan et al. 2024, Minitron,
arXiv 2407.14679): of a neuron the input of the down projection, of a head the input of the output
projection, of a hidden channel the outputs of all norms. Under grouped-query attention a key-value
head leaves together with its query heads. One fraction shrinks all chosen dimensions alike.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, count_parameters, meta_model, with_tensors

CRITERIA = ("activation",)
DIMENSIONS = ("mlp", "heads", "hidden")
FAMILIES = ("llama", "qwen2", "qwen3")
MULTIPLE = 8  # what sizes are rounded to: matrix units want it

# Which dimension each axis of a parameter is; "" is one that is never pruned.
_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"embed_tokens\.weight|lm_head\.weight", ("", "hidden")),
    (r"(input_layernorm|post_attention_layernorm|model\.norm)\.weight", ("hidden",)),
    (r"q_proj\.weight", ("queries", "hidden")),
    (r"[kv]_proj\.weight", ("heads", "hidden")),
    (r"q_proj\.bias", ("queries",)),
    (r"[kv]_proj\.bias", ("heads",)),
    (r"o_proj\.weight", ("hidden", "queries")),
    (r"[qk]_norm\.weight", ("",)),
    (r"(gate|up)_proj\.weight", ("mlp", "hidden")),
    (r"(gate|up)_proj\.bias", ("mlp",)),
    (r"down_proj\.weight", ("hidden", "mlp")),
    (r"(o|down)_proj\.bias", ("hidden",)),
)


def _axes(name: str) -> tuple[str, ...]:
    for pattern, axes in _AXES:
        if re.search(rf"({pattern})$", name):
            return axes
    raise RunError(f"width pruning does not know the parameter {name}: use depth or N:M pruning")


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _sizes(config: Any) -> dict[str, int]:
    """Size of each dimension; heads are key-value heads."""
    return {
        "mlp": config.intermediate_size,
        "heads": config.num_key_value_heads,
        "hidden": config.hidden_size,
    }


def shrunk_config(config: Any, sizes: dict[str, int]) -> Any:
    """The configuration with these sizes (see :data:`DIMENSIONS`)."""
    new = copy.deepcopy(config)
    new.head_dim = head_dim(config)  # else it would follow the hidden size
    new.num_attention_heads = (
        config.num_attention_heads // config.num_key_value_heads * sizes["heads"]
    )
    new.num_key_value_heads = sizes["heads"]
    new.intermediate_size, new.hidden_size = sizes["mlp"], sizes["hidden"]
    return new


def _allowed(config: Any, sizes: dict[str, int]) -> bool:
    """LlamaConfig insists on it, when it is saved."""
    queries = config.num_attention_heads // config.num_key_value_heads * sizes["heads"]
    return config.model_type != "llama" or sizes["hidden"] % queries == 0


def _polynomial(config: Any) -> Counter[tuple[str, ...]]:
    """The parameter count as a polynomial in the dimensions: factors → coefficient."""
    terms: Counter[tuple[str, ...]] = Counter()
    for name, parameter in meta_model(config).named_parameters():
        axes = _axes(name)
        fixed = (size for axis, size in zip(axes, parameter.shape, strict=True) if not axis)
        terms[tuple(axis for axis in axes if axis)] += math.prod(fixed)
    return terms


def _count(terms: Counter[tuple[str, ...]], config: Any, sizes: dict[str, int]) -> int:
    keys = sizes["heads"] * head_dim(config)
    queries = keys * (config.num_attention_heads // config.num_key_value_heads)
    width = sizes | {"heads": keys, "queries": queries}
    return sum(times * math.prod(width[axis] for axis in axes) for axes, times in terms.items())


def choose_sizes(config: Any, rate: float, dimensions: Iterable[str]) -> dict[str, int]:
    """The sizes that come closest to losing this share of all parameters.

    Raises:
        RunError: the rate is out of reach, or the family is not known.
    """
    if config.model_type not in FAMILIES:
        raise RunError(
            f"width pruning knows {', '.join(FAMILIES)}, not {config.model_type}: use depth or "
            "N:M pruning"
        )
    full = _sizes(config)
    terms = _polynomial(config)
    total = _count(terms, config, full)
    candidates: dict[tuple[int, ...], float] = {}
    for step in range(1, 1000):
        sizes = dict(full)
        for name in dimensions:
            multiple = 1 if name == "heads" else MULTIPLE
            kept = round(full[name] * (1 - step / 1000) / multiple) * multiple
            sizes[name] = min(full[name], max(multiple, kept))
        if sizes != full and _allowed(config, sizes):
            after = _count(terms, config, sizes)
            candidates[tuple(sizes.values())] = (total - after) / total
    if not candidates:
        raise RunError(
            f"{config.model_type} allows no smaller number of {' and '.join(dimensions)}: its "
            "hidden size must be a multiple of its heads; choose other dimensions"
        )
    best = min(candidates, key=lambda sizes: abs(candidates[sizes] - rate))
    reached = candidates[best]
    if abs(reached - rate) > 0.25 * rate:
        raise RunError(
            f"width pruning of {' and '.join(dimensions)} cannot come near a rate of {rate:g}: "
            f"the closest is {reached:.3g} (from {min(candidates.values()):.3g} to "
            f"{max(candidates.values()):.3g})"
        )
    return dict(zip(full, best))


def counts_after(config: Any, rate: float, dimensions: Iterable[str]) -> Counts:
    """Counts after pruning, from the configuration alone."""
    return count_parameters(
        meta_model(shrunk_config(config, choose_sizes(config, rate, dimensions)))
    )


@torch.no_grad()
def importance(model: Any, windows: torch.Tensor, batch_size: int) -> dict[str, torch.Tensor]:
    """Per layer and neuron or key-value head, and per hidden channel: larger matters more."""
    config = model.config
    seen: dict[str, torch.Tensor] = {}

    def add(key: str, values: torch.Tensor) -> None:
        values = values.detach().flatten(0, -2).float().abs().sum(0).double().cpu()
        seen[key] = seen[key] + values if key in seen else values

    hooks = []
    for name, module in model.named_modules():
        if name.endswith(("mlp.down_proj", "self_attn.o_proj")):
            hooks.append(
                module.register_forward_pre_hook(lambda _, args, key=name: add(key, args[0]))
            )
        elif re.search(r"(layernorm|model\.norm)$", name):
            hooks.append(module.register_forward_hook(lambda _, __, out: add("hidden", out)))
    try:
        for batch in windows.split(batch_size):
            model(batch.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    for name in seen:
        if name.endswith("o_proj"):
            seen[name] = seen[name].reshape(config.num_key_value_heads, -1).sum(1)
    return seen


def prune(
    model: Any, rate: float, windows: torch.Tensor, batch_size: int, dimensions: Iterable[str]
) -> tuple[Any, dict[str, Any]]:
    """The pruned model, and its sizes."""
    config = model.config
    sizes = choose_sizes(config, rate, dimensions)
    seen = importance(model, windows, batch_size)
    hidden = _best(seen["hidden"], sizes["hidden"])

    def index(name: str, axis: str) -> torch.Tensor | None:
        if axis == "hidden":
            return hidden
        layer = name.rpartition(".self_attn." if axis != "mlp" else ".mlp.")[0]
        if axis == "mlp":
            return _best(seen[f"{layer}.mlp.down_proj"], sizes["mlp"])
        if axis in ("heads", "queries"):
            heads = _best(seen[f"{layer}.self_attn.o_proj"], sizes["heads"])
            per_head = head_dim(config)
            if axis == "queries":
                per_head *= config.num_attention_heads // config.num_key_value_heads
            return (heads[:, None] * per_head + torch.arange(per_head)).flatten()
        return None

    tensors = {}
    for name, tensor in model.state_dict().items():
        for dim, axis in enumerate(_axes(name)):
            keep = index(name, axis)
            if keep is not None and len(keep) < tensor.shape[dim]:
                tensor = tensor.index_select(dim, keep.to(tensor.device))
        tensors[name] = tensor
    new = with_tensors(model, shrunk_config(config, sizes), tensors)
    return new, {"sizes": sizes, "dimensions": list(dimensions)}


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The places of the ``count`` highest scores, in order; the earlier one where they tie."""
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values
