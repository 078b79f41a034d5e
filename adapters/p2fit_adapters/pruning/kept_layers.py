"""A configuration that says "these layers of that model", and the proof that it does.

Families say by the index of a layer what kind it is: in lists with an entry for each layer, in
lists of indices, in counts of first or last layers, in periods, or in code. Lists and counts are
carried over; whether all of it is, is then seen by comparing the pruned model with the kept layers
of the original. A model that would be another one is refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from p2fit_adapters.errors import RunError
from p2fit_adapters.models import as_saved, decoder_layers, meta_model

#: Counts of layers at the start, and at the end.
FIRST = ("first_k_dense_replace", "num_dense_layers")
LAST = ("num_kv_shared_layers",)

_ABOUT_LAYERS = re.compile(r"layer|idx|index|indices|block")  # a list of indices is called so
_PLACE = re.compile(r"(layer|block)_?(idx|id|index|number|num)?$")  # of a layer among all
WINDOWS, LENGTH = 2, 48  # random tokens that the models are compared on
TOLERANCE = 1e-4  # of the largest logit: rounding on a GPU; a wrong layer moves them by far more


def kept_config(config: Any, kept: Sequence[int]) -> Any:
    """The configuration of these layers alone, as it is after saving and loading.

    Raises:
        RunError: the family has none.
    """
    new, layers = copy.deepcopy(config), config.num_hidden_layers
    for name, value in vars(config).items():
        carried = _carried(name, value, layers, kept)
        if carried is not None:
            setattr(new, name, carried)
    for name in FIRST:
        if getattr(config, name, None) is not None:
            setattr(new, name, sum(i < getattr(config, name) for i in kept))
    for name in LAST:
        if getattr(config, name, None) is not None:
            setattr(new, name, sum(i >= layers - getattr(config, name) for i in kept))
    if getattr(config, "decoder_sparse_step", None) is not None:  # Qwen's experts
        step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
        new.mlp_only_layers = [j for j, i in enumerate(kept) if i in dense or (i + 1) % step != 0]
        new.decoder_sparse_step = 1
    if hasattr(config, "attention_layers") and hasattr(config, "attention_types"):  # GPT-Neo
        new.attention_types = [[[config.attention_layers[i]], 1] for i in kept]
    new.num_hidden_layers = len(kept)
    try:
        saved = as_saved(new)
        meta_model(saved)
    except Exception as error:  # of many kinds: each configuration checks in its own way
        why = str(error).strip().splitlines()[-1].strip()
        raise _refusal(config, kept, why) from None
    return saved


def _carried(name: str, value: Any, layers: int, kept: Sequence[int]) -> list[Any] | None:
    """What a list that is about layers is for those kept; None for any other value."""
    if not isinstance(value, list | tuple) or not value or name.startswith("_"):
        return None
    whole = all(type(entry) is int for entry in value)
    if whole and "token" in name:
        return None
    places = whole and len(set(value)) == len(value) and all(0 <= i < layers for i in value)
    if places and _ABOUT_LAYERS.search(name):  # also where all layers are in it
        return [j for j, i in enumerate(kept) if i in set(value)]
    if len(value) == layers:
        return [value[i] for i in kept]
    return None


def _refusal(config: Any, kept: Sequence[int], why: str) -> RunError:
    gone = ", ".join(str(i) for i in range(config.num_hidden_layers) if i not in set(kept))
    return RunError(
        f"{config.model_type}: depth pruning cannot drop layers {gone}: {why}: use another rate or "
        "criterion, or width or N:M pruning"
    )


def check_modules(
    model: Any, new: Any, tensors: Mapping[str, torch.Tensor], kept: Sequence[int]
) -> None:
    """That a model of the new configuration has these tensors, and layers that are told the same.

    What matters on long texts alone (sliding windows, chunks) shows here and not in the logits of
    short ones.

    Raises:
        RunError: it does not.
    """
    old_config, config = model.config, new.config
    for name in _derived_lists(old_config):
        wanted = [getattr(old_config, name)[i] for i in kept]
        if list(getattr(config, name)) != wanted:
            raise _refusal(old_config, kept, f"{name} goes by a rule that cannot say this")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    expected = {name: tensor.shape for name, tensor in new.state_dict().items()}
    if shapes != expected:
        wrong = next(n for n in sorted({**shapes, **expected}) if shapes.get(n) != expected.get(n))
        raise _refusal(old_config, kept, f"{wrong} would have another shape or place")
    old_blocks, blocks = decoder_layers(model)[1], decoder_layers(new)[1]
    for j, i in enumerate(kept):
        before, after = _told(old_blocks[i]), _told(blocks[j])
        for name in sorted(before.keys() | after.keys()):
            old, now = before.get(name), after.get(name)
            carried = isinstance(old, tuple) and _carried(name, old, len(old_blocks), kept)
            if now != old and not (carried and now == tuple(carried)):
                shown = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in (now, old))
                raise _refusal(
                    old_config, kept, f"{name} of layer {i} would be {', not '.join(shown)}"
                )


def _derived_lists(config: Any) -> Iterator[str]:
    """Names of what a configuration derives for each layer."""
    for name in dir(type(config)):
        if isinstance(getattr(type(config), name), property):
            value = getattr(config, name, None)
            if isinstance(value, list | tuple) and len(value) == config.num_hidden_layers:
                yield name


def _told(layer: nn.Module) -> dict[str, Any]:
    """The plain values that a layer and its parts hold, without its place."""
    return {
        f"{path}.{name}".lstrip("."): tuple(value) if isinstance(value, list) else value
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | tuple | list | None)
        and not name.startswith("_")
        and name != "training"
        and not _PLACE.search(name)
    }


@torch.no_grad()
def check_logits(model: Any, new: Any, kept: Sequence[int]) -> None:
    """That a pruned model computes what the kept layers of the original compute.

    Raises:
        RunError: it does not.
    """
    ids = random_ids(model)
    with torch.autocast(ids.device.type, enabled=False):
        expected = kept_logits(model, kept, ids)
        try:
            found = new(ids).logits
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _refusal(model.config, kept, why) from None
    difference = float((found.float() - expected.float()).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()):
        raise _refusal(
            model.config,
            kept,
            f"the others depend on their index, the logits are off by {difference:.2g}",
        )


def random_ids(model: Any) -> torch.Tensor:
    """Token ids [windows, length] that a model is compared on."""
    generator = torch.Generator().manual_seed(0)
    longest = getattr(model.config, "max_position_embeddings", None) or LENGTH
    shape = (WINDOWS, min(LENGTH, longest))
    return torch.randint(0, model.config.vocab_size, shape, generator=generator).to(model.device)


def kept_logits(model: Any, kept: Sequence[int], ids: torch.Tensor) -> torch.Tensor:
    """The logits of a model in which hidden states pass unchanged through all other layers."""
    _, blocks = decoder_layers(model)
    with _passed_by([block for i, block in enumerate(blocks) if i not in set(kept)]):
        logits: torch.Tensor = model(ids).logits
    return logits


@contextmanager
def _passed_by(blocks: Sequence[nn.Module]) -> Iterator[None]:
    came: dict[nn.Module, torch.Tensor] = {}

    def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        came[block] = (*args, *kwargs.values())[0].clone()

    def after(block: nn.Module, _: Any, out: Any) -> Any:
        return (came[block], *out[1:]) if isinstance(out, tuple) else came[block]

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(after) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
