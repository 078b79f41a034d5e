"""Depth pruning: whole decoder layers are dropped.

``block-influence`` drops the layers that change their input least, 1 − cos(input, output) averaged
over tokens (Men et al. 2024, ShortGPT, arXiv 2403.03853). ``span`` drops the contiguous layers
i … i + n − 1 whose input and output, n layers apart, are most alike (Chen et al. 2024,
LLM-Streamline, arXiv 2403.19135; Gromov et al. 2024, arXiv 2403.17887).

Where layers differ in size (dense ones before those with experts, attention between convolutions),
how many of each size go is fixed by the rate: in proportion, or as a span of them has. So the rate
does not hang on the text, and is known before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import (
    Counts,
    count_parameters,
    decoder_layers,
    meta_model,
    with_tensors,
)
from p2fit_adapters.pruning.kept_layers import check_logits, check_modules, kept_config

CRITERIA = ("block-influence", "span")

#: Size of a layer → how many of that size go.
Composition = Counter[int]


def layer_sizes(config: Any) -> list[int | None]:
    """The parameters that leave the model with each layer; None for one that others need."""
    model = meta_model(config)
    _, blocks = decoder_layers(model)
    uses = Counter(id(p) for block in blocks for p in block.parameters())
    # What is outside of the layers may have a part for each of them (Gemma 3n's embeddings).
    shorter = meta_model(kept_config(config, list(range(len(blocks) - 1))))
    outside = (_outside(model) - _outside(shorter)) if len(blocks) > 1 else 0
    modes = getattr(config, "kv_sharing_modes", ())
    needed = {i for i, mode in enumerate(modes) if mode == "store"}
    return [
        None
        if i in needed
        else outside + sum(p.numel() for p in block.parameters() if uses[id(p)] == 1)
        for i, block in enumerate(blocks)
    ]


def _outside(model: nn.Module) -> int:
    inside = sum(p.numel() for block in decoder_layers(model)[1] for p in block.parameters())
    return sum(p.numel() for p in model.parameters()) - inside


def choose_composition(config: Any, rate: float, criterion: str) -> Composition:
    """How many layers of each size come closest to this share of all parameters.

    Raises:
        RunError: the rate is out of reach.
    """
    total = count_parameters(meta_model(config)).total
    sizes = layer_sizes(config)
    candidates = list(_spans(sizes) if criterion == "span" else _proportional(sizes))
    if not candidates:
        raise RunError(f"{config.model_type}: no layer can be dropped")
    rates = [_parameters(one) / total for one in candidates]
    nearest = min(range(len(rates)), key=lambda i: (abs(rates[i] - rate), rates[i]))
    largest = max(size for size in sizes if size is not None) / total
    if abs(rates[nearest] - rate) > largest / 2:
        raise RunError(
            f"depth pruning cannot reach a rate of {rate:g}: one of {len(sizes)} layers is "
            f"{largest:.3g} of the parameters, all that can go {max(rates):.3g}"
        )
    return candidates[nearest]


def _parameters(composition: Composition) -> int:
    return sum(size * times for size, times in composition.items())


def _proportional(sizes: list[int | None]) -> Iterator[Composition]:
    """For each number of layers as many of each size as is their share (largest remainders)."""
    there = Counter(size for size in sizes if size is not None)
    for drop in range(1, min(there.total(), len(sizes) - 1) + 1):
        shares = {size: drop * times / there.total() for size, times in there.items()}
        found = Counter({size: int(share) for size, share in shares.items()})
        by_rest = sorted(shares, key=lambda size: (found[size] - shares[size], -size))
        found.update(by_rest[: drop - found.total()])
        yield +found


def _spans(sizes: list[int | None]) -> Iterator[Composition]:
    """What contiguous layers are made of."""
    seen = set()
    for drop in range(1, len(sizes)):
        for start in range(len(sizes) - drop + 1):
            span = sizes[start : start + drop]
            if None not in span and (key := frozenset(Counter(span).items())) not in seen:
                seen.add(key)
                yield Counter(size for size in span if size is not None)


def counts_after(config: Any, rate: float, criterion: str) -> Counts:
    """Counts after pruning, from the configuration alone."""
    before = count_parameters(meta_model(config))
    gone = _parameters(choose_composition(config, rate, criterion))
    return Counts(before.total - gone, before.non_embedding - gone)


@torch.no_grad()
def similarity(model: Any, windows: torch.Tensor, batch_size: int, apart: int) -> list[float]:
    """Mean cosine similarity of the hidden states before layer i and before layer i + ``apart``,
    over all tokens, for every i; the last are those after the last layer, before the norm."""
    _, blocks = decoder_layers(model)
    totals = [0.0] * (len(blocks) + 1 - apart)
    recent: dict[int, torch.Tensor] = {}

    def reached(i: int, state: torch.Tensor) -> None:
        if i >= apart:
            alike = cosine_similarity(recent.pop(i - apart), state.float(), dim=-1)
            # Where a layer has several streams, each token has that many states.
            totals[i - apart] += float(alike.double().mean()) * state.shape[-3] * state.shape[-2]
        recent[i] = state.detach().float()

    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs, i=i: reached(i, _first(args, kwargs)), with_kwargs=True
        )
        for i, block in enumerate(blocks)
    ]
    hooks.append(
        blocks[-1].register_forward_hook(
            lambda _, __, out: reached(len(blocks), out[0] if isinstance(out, tuple) else out)
        )
    )
    try:
        for batch in windows.split(batch_size):
            recent.clear()
            model(batch.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return [total / windows.numel() for total in totals]


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states that a layer is called with."""
    found: torch.Tensor = (*args, *kwargs.values())[0]
    return found


def _choose(
    model: Any, composition: Composition, criterion: str, windows: torch.Tensor, batch_size: int
) -> tuple[list[int], list[float]]:
    """The layers to drop, and the scores of all layers or spans."""
    sizes = layer_sizes(model.config)
    drop = composition.total()
    if criterion == "span":
        scores = [1 - alike for alike in similarity(model, windows, batch_size, drop)]
        possible = [i for i in range(len(scores)) if Counter(sizes[i : i + drop]) == composition]
        first = min(possible, key=scores.__getitem__)
        return list(range(first, first + drop)), scores
    scores = [1 - alike for alike in similarity(model, windows, batch_size, 1)]
    left, dropped = composition.copy(), []
    for i in sorted(range(len(scores)), key=scores.__getitem__):
        size = sizes[i]
        if size is not None and left[size]:
            left[size] -= 1
            dropped.append(i)
    return sorted(dropped), scores


def prune(
    model: Any, rate: float, criterion: str, windows: torch.Tensor, batch_size: int
) -> tuple[Any, dict[str, Any]]:
    """The pruned model, and what was dropped and why.

    Raises:
        RunError: the rate is out of reach, or the family cannot do without these layers.
    """
    composition = choose_composition(model.config, rate, criterion)
    dropped, scores = _choose(model, composition, criterion, windows, batch_size)
    return without(model, dropped), {"layers_dropped": dropped, "scores": scores}


@torch.no_grad()
def without(model: Any, dropped: Iterable[int]) -> Any:
    """A model without these layers, which computes what the others of ``model`` compute.

    Its weights are those of ``model``, not copied, its settings those that a saved model keeps.

    Raises:
        RunError: the family's configuration cannot say this; nothing has changed then.
    """
    gone = set(dropped)
    prefix, blocks = decoder_layers(model)
    kept = [i for i in range(len(blocks)) if i not in gone]
    config = kept_config(model.config, kept)
    places = {f"{prefix}.{old}.": f"{prefix}.{new}." for new, old in enumerate(kept)}
    depth = prefix.count(".") + 2
    wanted = meta_model(config).state_dict()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{prefix}."):
            shape = wanted[name].shape if name in wanted else tensor.shape
            tensors[name] = _parts(tensor, shape, len(blocks), kept)
            continue
        head = ".".join(name.split(".")[:depth]) + "."
        if head in places:
            tensors[places[head] + name.removeprefix(head)] = tensor
    check_modules(model, meta_model(config), tensors, kept)
    new = with_tensors(model, config, tensors)
    check_logits(model, new, kept)
    return new


def _parts(tensor: torch.Tensor, shape: torch.Size, layers: int, kept: list[int]) -> torch.Tensor:
    """Of a tensor that has a part for each layer those of the layers kept."""
    for dim, (have, want) in enumerate(zip(tensor.shape, shape)):
        if have != want and have % layers == 0 and have // layers * len(kept) == want:
            index = torch.tensor(kept, device=tensor.device)
            parts = tensor.unflatten(dim, (layers, have // layers)).index_select(dim, index)
            tensor = parts.flatten(dim, dim + 1)
    return tensor
