"""Tiny models with random weights of many families, with what each settles by layer."""

from __future__ import annotations

from typing import Any

import torch

LAYERS = 6
VOCABULARY = 384

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DEEPSEEK = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 3,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_MIXED = ["sliding_attention", "sliding_attention", "full_attention"] * 2
_LINEAR = ["linear_attention", "linear_attention", "full_attention"] * 2
_QWEN_NEXT = {
    "layer_types": _LINEAR,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 16,
}

#: Name → type of model and fields of its configuration.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "ministral": ("ministral", {"layer_types": _MIXED, "sliding_window": 8, "head_dim": 16}),
    "qwen2": ("qwen2", {"layer_types": _MIXED, "use_sliding_window": True, "sliding_window": 8}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen2_moe": (
        "qwen2_moe",
        _EXPERTS | {"decoder_sparse_step": 2, "shared_expert_intermediate_size": 32},
    ),
    "qwen3_moe": ("qwen3_moe", _EXPERTS | {"mlp_only_layers": [0, 3], "head_dim": 16}),
    "qwen3_next": ("qwen3_next", _EXPERTS | _QWEN_NEXT | {"shared_expert_intermediate_size": 32}),
    "qwen3_5_text": ("qwen3_5_text", _QWEN_NEXT),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 8}),
    "gemma3_text": ("gemma3_text", {"head_dim": 16, "layer_types": _MIXED, "sliding_window": 8}),
    "gemma3n_text": (
        "gemma3n_text",
        {
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "sliding_window": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0, 0.0, 0.0],
            "intermediate_size": [96, 96, 96, 96, 80, 80],
            "laurel_rank": 8,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "layer_types": _MIXED,
            "sliding_window": 8,
        },
    ),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": 8}),
    "phimoe": ("phimoe", {"num_local_experts": 4}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"layer_types": _MIXED, "sliding_window": 8}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granite", {}),
    "granitemoe": ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4}),
    "llama4_text": (
        "llama4_text",
        {
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 32,
            "intermediate_size_mlp": 96,
            "attention_chunk_size": 16,
            "head_dim": 16,
        },
    ),
    "gpt2": ("gpt2", {"n_inner": 96}),
    "gpt2 by inverse layer index": (
        "gpt2",
        {"n_inner": 96, "scale_attn_by_inverse_layer_idx": True},
    ),
    "gpt_neo": (
        "gpt_neo",
        {"attention_types": [[["global", "local"], 3]], "window_size": 8, "intermediate_size": 96},
    ),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_bigcode": ("gpt_bigcode", {"n_inner": 96}),
    "gptj": ("gptj", {"rotary_dim": 4, "n_inner": 96}),
    "codegen": ("codegen", {"rotary_dim": 4, "n_inner": 96}),
    "opt": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 48}),
    "bloom": ("bloom", {}),
    "falcon": ("falcon", {}),
    "mpt": ("mpt", {}),
    "starcoder2": ("starcoder2", {"sliding_window": 8}),
    "stablelm": ("stablelm", {"partial_rotary_factor": 0.5}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", {"layer_types": _MIXED, "sliding_window": 8}),
    "deepseek_v2": ("deepseek_v2", _DEEPSEEK),
    "deepseek_v3": ("deepseek_v3", _DEEPSEEK),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "lfm2": ("lfm2", {"full_attn_idxs": [1, 4]}),
    "mamba": ("mamba", {"state_size": 8, "time_step_rank": 8, "intermediate_size": 96}),
    "mamba2": (
        "mamba2",
        {"state_size": 8, "num_heads": 12, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    ),
    "jamba": (
        "jamba",
        {
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
    ),
    "jamba out of step": (
        "jamba",
        {
            "num_experts": 4,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
    ),
    "glm": ("glm", {"head_dim": 16}),
    "glm4": ("glm4", {"head_dim": 16}),
    "glm4_moe": (
        "glm4_moe",
        {
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "head_dim": 16,
        },
    ),
    "exaone4": ("exaone4", {"layer_types": _MIXED, "sliding_window": 8}),
    "ernie4_5": ("ernie4_5", {"head_dim": 16}),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_layer_start_index": 1,
            "moe_layer_interval": 1,
            "moe_layer_end_index": 5,
        },
    ),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"head_dim": 16}),
    "nemotron": ("nemotron", {"head_dim": 16}),
    "persimmon": ("persimmon", {}),
    "diffllama": ("diffllama", {}),
    "helium": ("helium", {"head_dim": 12}),
    "arcee": ("arcee", {}),
    "seed_oss": ("seed_oss", {"head_dim": 16}),
}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def config(name: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    kind, own = FAMILIES[name]
    known = AutoConfig.for_model(kind)
    common = {key: value for key, value in _COMMON.items() if hasattr(known, key)}
    return AutoConfig.for_model(kind, **(common | own | changes))


def model(name: str, **changes: Any) -> Any:
    """With weights so large that what a layer does is seen in the logits."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config(name, **changes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn_like(parameter)
            parameter.add_(
                noise * (0.1 if parameter.ndim == 1 else 0.5 / parameter.shape[-1] ** 0.5)
            )
    made.config.use_cache = False
    return made.eval()
