"""Width pruning: every layer loses the same number of MLP neurons, heads and hidden channels.

Importance is the mean size of activations on calibration text (Muralidharan et al. 2024, Minitron,
arXiv 2407.14679): of a neuron the input of the down projection, of a head the input of the output
projection, of a hidden channel the outputs of all norms. Under grouped-query attention a key-value
head leaves together with its query heads. One fraction shrinks all chosen dimensions alike.

Neurons and heads go from any family whose parameters are all called as Llama's, or as the fused
ones of Phi-3: the pruned model is compared with the original in which they are silent, and refused
where it computes something else. Of hidden channels nothing can be compared so, and only families
that were looked at are known.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, as_saved, count_parameters, meta_model, with_tensors
from p2fit_adapters.pruning.kept_layers import TOLERANCE, random_ids

CRITERIA = ("activation",)
DIMENSIONS = ("mlp", "heads", "hidden")
MULTIPLE = 8  # what sizes are rounded to: matrix units want it

#: Nothing in their code follows from the hidden size. (Gemma's embeddings are scaled by its root.)
HIDDEN_FAMILIES = (
    "arcee",
    "granite",
    "llama",
    "ministral",
    "mistral",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)

# Which dimension each axis of a parameter is; "" is one that is never pruned.
_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"embed_tokens\.weight|lm_head\.weight", ("", "hidden")),
    (
        r"(input|post_attention|post_self_attn|post_mlp|(pre|post)_feedforward)_layernorm\.(weight|bias)"
        r"|model\.norm\.(weight|bias)",
        ("hidden",),
    ),
    (r"q_proj\.weight", ("queries", "hidden")),
    (r"[kv]_proj\.weight", ("heads", "hidden")),
    (r"qkv_proj\.weight", ("qkv", "hidden")),
    (r"q_proj\.bias", ("queries",)),
    (r"[kv]_proj\.bias", ("heads",)),
    (r"o_proj\.weight", ("hidden", "queries")),
    (r"(gate|up)_proj\.weight", ("mlp", "hidden")),
    (r"gate_up_proj\.weight", ("gate_up", "hidden")),
    (r"(gate|up)_proj\.bias", ("mlp",)),
    (r"down_proj\.weight", ("hidden", "mlp")),
    (r"(o|down)_proj\.bias", ("hidden",)),
)


def _axes(name: str, tensor: torch.Tensor, config: Any) -> tuple[str, ...]:
    norm = re.search(r"\.([qk])_norm\.weight$", name)
    if norm and tensor.ndim == 1:  # of each head, or of all of them together (OLMo 2)
        whole = "queries" if norm[1] == "q" else "heads"
        return ("",) if len(tensor) == head_dim(config) else (whole,)
    for pattern, axes in _AXES:
        if re.search(rf"(^|\.)({pattern})$", name) and len(axes) == tensor.ndim:
            return axes
    raise RunError(
        f"{config.model_type}: width pruning does not know the parameter {name}: use depth or N:M "
        "pruning"
    )


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _sizes(config: Any) -> dict[str, int]:
    """Size of each dimension; heads are key-value heads."""
    names = {"mlp": "intermediate_size", "heads": "num_key_value_heads", "hidden": "hidden_size"}
    sizes: dict[str, Any] = {}
    for key, name in names.items():
        sizes[key] = getattr(config, name, None)
        if not isinstance(sizes[key], int):
            raise RunError(
                f"{config.model_type}: width pruning does not know its {name}: use depth or N:M "
                "pruning"
            )
    return sizes


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
    """Whether a model of these sizes can be saved and loaded."""
    try:
        as_saved(shrunk_config(config, sizes))
    except Exception:  # of many kinds: each configuration checks in its own way
        return False
    return True


def _polynomial(config: Any) -> Counter[tuple[str, ...]]:
    """The parameter count as a polynomial in the dimensions: factors → coefficient."""
    terms: Counter[tuple[str, ...]] = Counter()
    for name, parameter in meta_model(config).named_parameters():
        axes = _axes(name, parameter, config)
        fixed = (size for axis, size in zip(axes, parameter.shape, strict=True) if not axis)
        terms[tuple(axis for axis in axes if axis)] += math.prod(fixed)
    return terms


def _count(terms: Counter[tuple[str, ...]], config: Any, sizes: dict[str, int]) -> int:
    keys = sizes["heads"] * head_dim(config)
    queries = keys * (config.num_attention_heads // config.num_key_value_heads)
    width = sizes | {"heads": keys, "queries": queries, "qkv": queries + 2 * keys}
    width["gate_up"] = 2 * sizes["mlp"]
    return sum(times * math.prod(width[axis] for axis in axes) for axes, times in terms.items())


def choose_sizes(config: Any, rate: float, dimensions: Iterable[str]) -> dict[str, int]:
    """The sizes that come closest to losing this share of all parameters.

    Raises:
        RunError: the rate is out of reach, or the family is not known.
    """
    terms = _polynomial(config)
    full = _sizes(config)
    if "hidden" in dimensions and config.model_type not in HIDDEN_FAMILIES:
        raise RunError(
            f"width pruning shrinks the hidden size of {', '.join(HIDDEN_FAMILIES)}, not of "
            f"{config.model_type}: use mlp or heads"
        )
    total = _count(terms, config, full)
    candidates: dict[tuple[int, ...], float] = {}
    for step in range(1, 1000):
        sizes = dict(full)
        for name in dimensions:
            multiple = 1 if name == "heads" else MULTIPLE
            kept = round(full[name] * (1 - step / 1000) / multiple) * multiple
            sizes[name] = min(full[name], max(multiple, kept))
        if sizes != full:
            after = _count(terms, config, sizes)
            candidates[tuple(sizes.values())] = (total - after) / total
    nearest = sorted(candidates, key=lambda sizes: abs(candidates[sizes] - rate))
    best = next((one for one in nearest if _allowed(config, dict(zip(full, one)))), None)
    if best is None:
        raise RunError(
            f"{config.model_type} allows no smaller number of {' and '.join(dimensions)}: its "
            "hidden size must be a multiple of its heads; choose other dimensions"
        )
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
    shrunk = shrunk_config(config, choose_sizes(config, rate, dimensions))
    return count_parameters(meta_model(shrunk))


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
    """The pruned model, and its sizes.

    Raises:
        RunError: as :func:`choose_sizes`, or the pruned model is not the original without them.
    """
    config = model.config
    sizes = choose_sizes(config, rate, dimensions)
    seen = importance(model, windows, batch_size)
    kept = {
        name: _best(scores, sizes["mlp" if name.endswith("down_proj") else "heads"])
        for name, scores in seen.items()
        if name != "hidden"
    }
    per_key = head_dim(config)
    per_query = per_key * (config.num_attention_heads // config.num_key_value_heads)
    queries, keys = config.num_key_value_heads * per_query, config.num_key_value_heads * per_key
    hidden = _best(seen["hidden"], sizes["hidden"])

    def index(name: str, axis: str) -> torch.Tensor:
        if axis == "hidden":
            return hidden
        if axis in ("mlp", "gate_up"):
            neurons = kept[name.rpartition(".mlp.")[0] + ".mlp.down_proj"]
            parts = (neurons, neurons + config.intermediate_size)
            return neurons if axis == "mlp" else torch.cat(parts)
        heads = kept[name.rpartition(".self_attn.")[0] + ".self_attn.o_proj"]
        of_queries, of_keys = _channels(heads, per_query), _channels(heads, per_key)
        if axis == "qkv":
            return torch.cat([of_queries, of_keys + queries, of_keys + queries + keys])
        return of_queries if axis == "queries" else of_keys

    tensors = {}
    for name, tensor in model.state_dict().items():
        for dim, axis in enumerate(_axes(name, tensor, config)):
            if axis:
                tensor = tensor.index_select(dim, index(name, axis).to(tensor.device))
        tensors[name] = tensor
    shrunk = as_saved(shrunk_config(config, sizes))
    expected = {name: tensor.shape for name, tensor in meta_model(shrunk).state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.shape != expected.get(name):
            raise RunError(
                f"{config.model_type}: width pruning of {' and '.join(dimensions)}: {name} would "
                "have another shape: choose other dimensions"
            )
    new = with_tensors(model, shrunk, tensors)
    if sizes["hidden"] == config.hidden_size:
        inputs = {
            name: places if name.endswith("down_proj") else _channels(places, per_query)
            for name, places in kept.items()
        }
        _check_logits(model, new, inputs)
    return new, {"sizes": sizes, "dimensions": list(dimensions)}


@torch.no_grad()
def _check_logits(model: Any, new: Any, kept: Mapping[str, torch.Tensor]) -> None:
    """That a model computes what the original does with only these inputs of some layers.

    Raises:
        RunError: it does not.
    """

    def silenced(places: torch.Tensor) -> Any:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            left = torch.zeros_like(args[0])
            left[..., places.to(left.device)] = args[0][..., places.to(left.device)]
            return (left, *args[1:])

        return hook

    ids = random_ids(model)
    with torch.autocast(ids.device.type, enabled=False), ExitStack() as hooks:
        found = new(ids).logits
        for name, places in kept.items():
            handle = model.get_submodule(name).register_forward_pre_hook(silenced(places))
            hooks.callback(handle.remove)
        expected = model(ids).logits
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()):
        raise RunError(
            f"{model.config.model_type}: width pruning would change more than what it drops (the "
            f"logits are off by {difference:.2g}): choose other dimensions, or depth or N:M pruning"
        )


def _channels(heads: torch.Tensor, per_head: int) -> torch.Tensor:
    return (heads[:, None] * per_head + torch.arange(per_head)).flatten()


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The places of the ``count`` highest scores, in order; the earlier one where they tie."""
    return torch.sort(scores, descending=True, stable=True).indices[:count].sort().values
