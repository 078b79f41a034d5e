"""Hugging Face causal language models: load them, look into them, count their parameters."""

from __future__ import annotations

import copy
import difflib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from p2fit_adapters.errors import RunError


@dataclass(frozen=True)
class Counts:
    """Parameter counts; a tensor that is tied to another counts once."""

    total: int
    non_embedding: int
    """Without the input embedding and the output layer (LM head)."""

    def rate(self, after: Counts) -> float:
        """ρ: the share of all parameters that is gone."""
        return (self.total - after.total) / self.total

    def non_embedding_rate(self, after: Counts) -> float:
        """The share of the parameters outside the embeddings that is gone."""
        return (self.non_embedding - after.non_embedding) / self.non_embedding


def load_config(model: str, revision: str | None = None) -> Any:
    """The configuration of a folder or hub id.

    Raises:
        RunError: it cannot be loaded.
    """
    from transformers import AutoConfig

    return _loaded(AutoConfig, model, revision=revision)


def load_model(model: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model of a folder or hub id, its weights in fp32 or another format.

    Raises:
        RunError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    return _prepared(_loaded(AutoModelForCausalLM, model, revision=revision, dtype=dtype))


def is_type(model: str) -> bool:
    """Whether this is a type of model, such as ``llama``, and no folder."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model in CONFIG_MAPPING and not os.path.isdir(model)


def new_config(model: str, fields: Mapping[str, Any], revision: str | None = None) -> Any:
    """The configuration of a type, folder or hub id, with some of its fields set.

    Raises:
        RunError: there is none, it has no such field, or the values do not go together.
    """
    from transformers import AutoConfig

    named = is_type(model)
    known = AutoConfig.for_model(model) if named else load_config(model, revision)
    for name in fields:
        if not hasattr(known, name):
            near = difflib.get_close_matches(name, vars(known), 1)
            hint = f"; is it {near[0]}?" if near else ""
            raise RunError(f"{model}: its configuration has no {name}{hint}")
    kept = {} if named else known.to_dict()
    if "num_hidden_layers" in fields:
        kept.pop("layer_types", None)  # as many as layers: made anew
    try:
        return type(known).from_dict(kept | dict(fields))
    except Exception as error:  # of many kinds: each configuration checks in its own way
        why = str(error).strip().splitlines()[-1].strip()
        raise RunError(f"{model}: no such configuration: {why}") from None


def as_saved(config: Any) -> Any:
    """A configuration as saving and loading leave it.

    Raises:
        Exception: of many kinds, as each configuration checks in its own way.
    """
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        again = type(config).from_pretrained(folder)
    again._attn_implementation = config._attn_implementation
    again.use_cache = getattr(config, "use_cache", False)
    return again


def _loaded(kind: Any, model: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(model, **options)
    except (OSError, ValueError) as error:
        raise RunError(f"{model}: cannot be loaded: {str(error).splitlines()[0]}") from None


def from_config(config: Any) -> Any:
    """A model of a configuration, in fp32; its weights are random."""
    from transformers import AutoModelForCausalLM

    return _prepared(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def meta_model(config: Any) -> Any:
    """The same without memory for the weights, to look at shapes."""
    with torch.device("meta"):
        return from_config(config)


def empty_model(config: Any) -> Any:
    """The same without memory for the parameters, to be given them: buffers that are not saved
    (rotary frequencies) are there."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = from_config(config)
    model.tie_weights()  # which the way there has undone
    return model


def _prepared(model: Any) -> Any:
    model.config.use_cache = False
    return model


def count_parameters(model: nn.Module, masks: Mapping[str, torch.Tensor] | None = None) -> Counts:
    """Parameters of a model, without those that ``masks`` (name → kept) hold at zero."""
    sizes = {}
    for name, parameter in model.named_parameters():  # tied tensors come once
        gone = int((~masks[name]).sum()) if masks and name in masks else 0
        sizes[id(parameter)] = parameter.numel() - gone
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    embedding = {id(end.weight) for end in ends if end is not None}
    total = sum(sizes.values())
    return Counts(total, total - sum(sizes[key] for key in embedding))


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The decoder layers and the name of the list that holds them.

    Raises:
        RunError: the model has no such list.
    """
    wanted = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return name, module
    raise RunError(f"{model.config.model_type}: no list of {wanted or 'its'} decoder layers found")


def with_tensors(model: Any, config: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A model of another configuration with these tensors, which are not copied.

    What is not saved (rotary frequencies) is made from the configuration, as loading would.
    """
    new = empty_model(config)
    new.load_state_dict(dict(tensors), assign=True)
    new.tie_weights()
    new.generation_config = copy.deepcopy(model.generation_config)
    return new.to(model.device).train(model.training)
