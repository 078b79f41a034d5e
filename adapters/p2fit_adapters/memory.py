"""What a run needs of each GPU, and how to launch it, without the model's memory.

Weights, gradients and moments are counted; activations are those that a forward pass of the model
keeps for the backward pass, recorded with tensors that have shapes and formats but no content.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils

from p2fit_adapters import adam, lora
from p2fit_adapters.distillation import SELF, Distillation
from p2fit_adapters.errors import RunError
from p2fit_adapters.loss import CHUNK
from p2fit_adapters.models import (
    count_parameters,
    decoder_layers,
    load_config,
    meta_model,
)
from p2fit_adapters.post_training import PostTraining
from p2fit_adapters.running import check_length
from p2fit_adapters.training import Training

HEADROOM = 0.1  # of a GPU, for its runtime, for communication and for gaps between tensors
_ONE, _DDP, _FSDP = "one GPU", "DDP", "FSDP"
_LAUNCHERS = {
    _ONE: "p2fit",
    _DDP: "accelerate launch --multi_gpu --num_processes {gpus} $(which p2fit)",
    _FSDP: "accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy "
    "TRANSFORMER_BASED_WRAP --num_processes {gpus} $(which p2fit)",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int
    casts: int
    """bf16 copies of the weights, kept within a step."""
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    masks: int
    """Of N:M: whole in each process."""
    exchange: int
    """DDP's second copy of the gradients. FSDP's weights and gradients that are whole for a
    while: those outside the layers, and those of two layers."""
    activations: int
    logits: int
    """And their gradient, and a chunk of both in fp32."""
    teacher: int
    """Its weights and logits."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Launch:
    """One way to make a run."""

    how: str
    """``one GPU``, ``DDP`` or ``FSDP``."""
    batch_size: int
    gradient_checkpointing: bool
    memory: Memory
    loading: int
    """Bytes before the first step, of the process that needs most: of one that has the whole model,
    to prune it (each, or under FSDP the first), or that gets its pieces of a model which is not
    pruned."""
    host: int
    """Bytes of the machine's own memory for the weights that are loaded, of each process, or under
    FSDP of the first alone."""
    fits: bool
    command: str
    seconds: float
    """Of training, all tokens, at the share of the peak that was said."""


def activations(config: Any, batch_size: int, seq_len: int, training: Training) -> int:
    """Bytes that the forward pass of ``batch_size`` windows keeps, the logits not counted."""
    # Without contents transformers cannot see that windows are no packed sequences, and would make
    # a mask, for which keys and values are repeated.
    no_packing = patch.object(masking_utils, "find_packed_sequence_indices", lambda *_, **__: None)
    model = _trained(config, training).train()
    with FakeTensorMode(), no_packing:
        _without_content(model)
        ids = torch.zeros((batch_size, seq_len), dtype=torch.int64)
        kept = saved_bytes(model, ids, training.chosen_dtype == "bf16")
    if not training.gradient_checkpointing:
        return kept
    # The input of each layer, in fp32, and one layer at a time in full.
    layers = config.num_hidden_layers
    return 4 * layers * batch_size * seq_len * config.hidden_size + kept // layers


def _trained(config: Any, training: Training) -> Any:
    model = meta_model(config)
    return lora.add(model, training.lora_rank) if training.lora_rank else model


def _without_content(model: Any) -> None:
    """Make its tensors those of a CPU, which autocast knows; ties hold."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    if isinstance(old, torch.nn.Parameter):
                        new = torch.nn.Parameter(new, old.requires_grad)
                    made[id(old)] = new
                tensors[name] = None if old is None else made[id(old)]


def saved_bytes(model: Any, ids: torch.Tensor, bf16: bool) -> int:
    """Bytes that autograd keeps of a forward pass, without parameters and what is made of them."""
    known = {id(p.untyped_storage()) for p in model.parameters()}
    weights = {tuple(p.shape) for p in model.parameters()}
    weights |= {shape[::-1] for shape in weights}
    found: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known and tuple(tensor.shape) not in weights:
            found.setdefault(storage._cdata, storage)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model(input_ids=ids).logits  # noqa: B018
    return sum(storage.nbytes() for storage in found.values())


def memory(settings: PostTraining, config: Any, how: str, gpus: int, kept: int) -> Memory:
    """Bytes of one process of a run that does not make its model smaller.

    Args:
        config: of the model.
        how: as :attr:`Launch.how`.
        gpus: processes, one to a GPU.
        kept: what :func:`activations` says.

    Raises:
        RunError: the teacher cannot be had, or the model has no list of layers to shard.
    """
    training, seq_len = settings.training, settings.text.seq_len
    model = meta_model(config)
    sharded = how == _FSDP
    exchange = 0
    if sharded:
        layers = [_size(layer) for layer in decoder_layers(model)[1]]
        exchange = 8 * (_size(model) - sum(layers) + 2 * max(layers))
    model = _trained(config, training)
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    trained = sum(sizes)
    if how == _DDP:
        exchange = 4 * trained
    bf16, shards = training.chosen_dtype == "bf16", gpus if sharded else 1
    size = 2 if bf16 else 4
    scores = training.batch_size * seq_len * config.vocab_size
    asked, teacher = settings.distillation, 0
    if asked and asked.top_k is None:
        teacher = size * (_teacher_params(asked, config) + scores)
    masked = not settings.pruning.is_structured and settings.pruning.method != "none"
    return Memory(
        weights=4 * _size(model) // shards,
        casts=2 * trained if bf16 else 0,
        gradients=4 * trained // shards,
        optimizer=sum(adam.moments(size // shards, training.moment_bits) for size in sizes),
        masks=count_parameters(model).non_embedding if masked else 0,
        exchange=exchange,
        activations=kept,
        logits=2 * (size * scores + 4 * min(CHUNK, scores)),
        teacher=teacher,
    )


def _size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _teacher_params(asked: Distillation, config: Any) -> int:
    own = config if asked.teacher == SELF else load_config(asked.teacher)
    return count_parameters(meta_model(own)).total


def launches(
    settings: PostTraining, gpus: int, gpu_memory: float, peak: float, share: float
) -> list[Launch]:
    """The ways to make a run, best first, as large as one of the unpruned model.

    What it prunes says only what is held before the first step, and masks.

    As few copies and as little computed twice as can be: DDP before FSDP, all activations kept
    before checkpoints, large batches before small ones.

    Args:
        settings: ``auto`` as the format of the matrix products is bf16, whatever this machine has.
        gpus: processes, one to a GPU.
        gpu_memory: bytes of each.
        peak: FLOP/s of each in the format of the matrix products.
        share: of the peak, that training reaches.

    Raises:
        RunError: the model cannot be loaded or takes no such windows, a step cannot be shared by
            so many processes, or the numbers make no sense.
    """
    for name, value in (("gpus", gpus), ("gpu memory", gpu_memory), ("peak", peak)):
        if not 0 < value < math.inf:
            raise RunError(f"{name} is {value}: use a number above 0")
    if not 0 < share <= 1:
        raise RunError(f"share of the peak is {share}: use a share above 0")
    config, seq_len = load_config(settings.model, settings.revision), settings.text.seq_len
    check_length(settings.model, config, seq_len)
    training, taught = settings.training, settings.distillation
    if training.dtype == "auto":
        training = replace(training, dtype="bf16")
    most = min(training.batch_size, training.windows_of_process(seq_len, gpus))
    sizes = [2**i for i in range(most.bit_length() - 1, -1, -1)]
    ways = [_ONE] if gpus == 1 else [_DDP] if training.lora_rank else [_DDP, _FSDP]
    # Windows are alike: what one keeps, each of several keeps.
    kept = {
        again: activations(config, 1, seq_len, replace(training, gradient_checkpointing=again))
        for again in (False, True)
    }
    model = meta_model(config)
    params = count_parameters(model).total
    largest = max(p.numel() for p in model.parameters())
    taught_flops = 2 * _teacher_params(taught, config) if taught else 0
    found = []
    for how, again, size in itertools.product(ways, (False, True), sizes):
        asked = replace(training, batch_size=size, gradient_checkpointing=again)
        need = memory(replace(settings, training=asked), config, how, gpus, size * kept[again])
        loading = 4 * params + need.masks + need.teacher
        if how == _FSDP and settings.pruning.method == "none":
            loading = need.weights + 4 * largest + need.teacher
        flops = (4 if training.lora_rank else 6) * params + (2 * params if again else 0)
        command = f"{_LAUNCHERS[how].format(gpus=gpus)} run post-train --batch-size {size}"
        found.append(
            Launch(
                how,
                size,
                again,
                need,
                loading,
                4 * params,
                max(need.total, loading) <= (1 - HEADROOM) * gpu_memory,
                command + (" --gradient-checkpointing" if again else ""),
                (flops + taught_flops) * training.tokens / (gpus * peak * share),
            )
        )
    return found
