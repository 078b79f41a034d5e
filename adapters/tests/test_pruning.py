"""Pruning: counts, shapes, criteria, and models that save and load with plain from_pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from p2fit_adapters import (
    Counts,
    Pruning,
    RunError,
    combinations,
    count_parameters,
    counts_after,
    load_model,
    prune,
)
from p2fit_adapters.models import decoder_layers, meta_model
from p2fit_adapters.pruning import depth, nm, width
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

WAYS = [
    Pruning("depth", 0.2),
    Pruning("depth", 0.3, "span"),
    Pruning("width", 0.2),
    Pruning("width", 0.2, dimensions=("mlp", "hidden")),
    Pruning("width", 0.3, dimensions=("heads", "mlp")),
    Pruning("2:4"),
    Pruning("3:4", criterion="wanda"),
    Pruning("1:4", criterion="magnitude"),
    Pruning("4:8", criterion="sparsegpt"),
]


def described(pruning: Pruning) -> str:
    parts = [pruning.method, pruning.chosen_criterion]
    return "-".join(parts + (list(pruning.dimensions) if pruning.method == "width" else []))


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.randint(0, tiny.VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(1))


def pruned(folder: str, pruning: Pruning, windows: torch.Tensor) -> Any:
    return prune(load_model(folder).eval(), pruning, windows)


@pytest.mark.parametrize("pruning", WAYS, ids=described)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_pruned_model_saves_and_loads_with_equal_logits(
    models: dict[str, str], family: str, pruning: Pruning, windows: torch.Tensor, tmp_path: Path
) -> None:
    if family == "llama" and "heads" in pruning.dimensions and pruning.method == "width":
        pruning = Pruning("width", 0.3, dimensions=("heads", "mlp", "hidden"))
    found = pruned(models[family], pruning, windows)
    found.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(windows).logits, found.model(windows).logits)
    # The counts from the configuration alone are those of the pruned model.
    assert counts_after(load_model(models[family]).config, pruning) == found.after
    if not pruning.method.count(":"):
        assert count_parameters(again) == found.after
    if pruning.rate is not None:  # to half a layer
        assert found.before.rate(found.after) == pytest.approx(pruning.rate, abs=0.11)


# Counts of the six models of the P² paper, worked out by hand from their published shapes:
# vocabulary, hidden, layers, MLP, query heads, key-value heads, head size, tied, biases, total.
SIX = {
    "Llama-3.2-1B": (128256, 2048, 16, 8192, 32, 8, 64, True, False, 1_235_814_400),
    "Llama-3.2-3B": (128256, 3072, 28, 8192, 24, 8, 128, True, False, 3_212_749_824),
    "Llama-3.1-8B": (128256, 4096, 32, 14336, 32, 8, 128, False, False, 8_030_261_248),
    "Qwen2.5-0.5B": (151936, 896, 24, 4864, 14, 2, 64, True, True, 494_032_768),
    "Qwen2.5-1.5B": (151936, 1536, 28, 8960, 12, 2, 128, True, True, 1_543_714_304),
    "Qwen2.5-3B": (151936, 2048, 36, 11008, 16, 2, 128, True, True, 3_085_938_688),
}


@pytest.mark.parametrize("name", SIX)
def test_counts_of_the_six_models_equal_those_worked_out_by_hand(name: str) -> None:
    vocabulary, hidden, depth_, mlp, queries, keys, head, tied, biases, total = SIX[name]
    kind = LlamaConfig if name.startswith("Llama") else Qwen2Config
    config = kind(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=depth_,
        intermediate_size=mlp,
        num_attention_heads=queries,
        num_key_value_heads=keys,
        tie_word_embeddings=tied,
        **({"head_dim": head} if kind is LlamaConfig else {}),
    )
    attention = 2 * hidden * queries * head + 2 * hidden * keys * head
    linear = attention + 3 * hidden * mlp
    bias = (queries + 2 * keys) * head if biases else 0
    layer = linear + bias + 2 * hidden
    embedding = vocabulary * hidden * (1 if tied else 2)
    before = Counts(total, total - embedding)
    assert total == embedding + depth_ * layer + hidden
    assert count_parameters(meta_model(config)) == before

    halved = counts_after(config, Pruning("2:4"))
    assert halved == Counts(total - depth_ * linear // 2, total - embedding - depth_ * linear // 2)
    assert 0.35 < before.rate(halved) < 0.46
    assert before.non_embedding_rate(halved) == pytest.approx(0.5, abs=1e-3)

    for rate in (0.15, 0.25, 0.35):
        dropped = round(rate * total / layer)
        after = counts_after(config, Pruning("depth", rate))
        assert after.total == total - dropped * layer
        assert before.rate(after) == pytest.approx(dropped * layer / total, rel=1e-12)

        sizes = width.choose_sizes(config, rate, ("mlp",))
        after = counts_after(config, Pruning("width", rate))
        assert after.total == total - depth_ * 3 * hidden * (mlp - sizes["mlp"])
        assert before.rate(after) == pytest.approx(rate, abs=0.005)


def test_six_of_the_32_layers_of_llama_3_1_8b_are_16_percent() -> None:
    total, layer = 8_030_261_248, 218_112_000
    assert 6 * layer / total == pytest.approx(0.163, abs=5e-4)


def test_the_layer_that_does_nothing_goes_first(models: dict[str, str], windows: Any) -> None:
    for family in tiny.FAMILIES:
        model = load_model(models[family]).eval()
        idle = decoder_layers(model)[1][2]
        with torch.no_grad():
            idle.self_attn.o_proj.weight.zero_()
            idle.mlp.down_proj.weight.zero_()
        before = model(windows).logits
        found = prune(model, Pruning("depth", 0.2), windows)
        assert found.details["layers_dropped"] == [2]
        torch.testing.assert_close(found.model(windows).logits, before)


def test_a_span_is_contiguous_and_the_most_alike(models: dict[str, str], windows: Any) -> None:
    model = load_model(models["qwen3"]).eval()
    alike = depth.similarity(model, windows, 8, 2)
    states = model(windows, output_hidden_states=True).hidden_states
    cosine = torch.nn.functional.cosine_similarity(states[1], states[3], dim=-1).mean().detach()
    assert alike[1] == pytest.approx(float(cosine), abs=1e-6)
    found = prune(model, Pruning("depth", 0.36, "span"), windows)
    first, second = found.details["layers_dropped"]
    assert second == first + 1
    assert found.details["scores"] == [1 - one for one in alike]
    assert first == alike.index(max(alike))


@pytest.mark.parametrize("dimension", width.DIMENSIONS)
def test_width_pruning_drops_what_does_nothing(
    windows: Any, tmp_path: Path, dimension: str
) -> None:
    """Neurons, heads and channels that are silent go, and the model computes the same."""
    folder = tiny.save("qwen2", tmp_path, hidden_size=48, num_key_value_heads=4)
    model = load_model(str(folder)).eval()
    with torch.no_grad():
        for block in decoder_layers(model)[1]:
            attention, mlp = block.self_attn, block.mlp
            if dimension == "mlp":
                mlp.up_proj.weight[:24] = 0
            elif dimension == "heads":
                attention.v_proj.weight[12:24] = 0
                attention.v_proj.bias[12:24] = 0
    if dimension == "hidden":
        _silence(model, slice(8, 16))
    before = model(windows).logits
    sizes = {"mlp": 72, "heads": 3, "hidden": 40}[dimension]
    rate = _rate(model.config, dimension, sizes)
    found = prune(model, Pruning("width", rate, dimensions=(dimension,)), windows)
    assert found.details["sizes"][dimension] == sizes
    after = found.model(windows).logits
    if dimension == "hidden":  # the norms now divide by fewer channels; the order is the same
        assert torch.corrcoef(torch.stack([after.flatten(), before.flatten()]))[0, 1] > 0.99
    else:
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def _silence(model: Any, channels: slice) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter[channels] = 0


def _rate(config: Any, dimension: str, size: int) -> float:
    before = count_parameters(meta_model(config))
    sizes = width._sizes(config) | {dimension: size}
    return before.rate(count_parameters(meta_model(width.shrunk_config(config, sizes))))


def test_llama_keeps_a_number_of_heads_that_its_configuration_takes(
    models: dict[str, str],
) -> None:
    """LlamaConfig wants the hidden size to be a multiple of the heads, when it is saved."""
    config = load_model(models["llama"]).config
    config.num_attention_heads = config.num_key_value_heads = 16
    # 15, 14 and 13 heads would come closer to this rate than 12.
    assert width.choose_sizes(config, 0.13, ("heads",))["heads"] == 12
    config.num_attention_heads = config.num_key_value_heads = 1
    with pytest.raises(RunError, match="multiple of its heads"):
        width.choose_sizes(config, 0.13, ("heads",))


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("criterion", nm.CRITERIA)
def test_every_group_of_m_weights_keeps_n(
    models: dict[str, str], windows: torch.Tensor, pattern: str, criterion: str
) -> None:
    n, m = nm.parse(pattern)
    found = pruned(models["llama"], Pruning(pattern, criterion=criterion), windows)
    parameters = dict(found.model.named_parameters())
    assert len(found.masks.kept) == 4 * 7
    for name, kept in found.masks.kept.items():
        assert (kept.reshape(-1, m).sum(1) == n).all()
        assert (parameters[name][~kept] == 0).all()
    assert not any("embed" in name or "lm_head" in name for name in found.masks.kept)


def test_wanda_weighs_by_the_size_of_the_inputs(models: dict[str, str], windows: Any) -> None:
    model = load_model(models["llama"]).eval()
    first = decoder_layers(model)[1][0].self_attn.q_proj
    inputs: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    model(windows)
    hook.remove()
    norm = inputs[0].flatten(0, 1).norm(dim=0)
    expected = (first.weight.detach().abs() * norm).reshape(-1, 4)
    lowest = expected.argsort(dim=1)[:, :2]
    masks = prune(model, Pruning("2:4", criterion="wanda"), windows).masks.kept
    kept = masks["model.layers.0.self_attn.q_proj.weight"].reshape(-1, 4)
    assert not kept.gather(1, lowest).any()


def test_sparsegpt_leaves_a_smaller_error_than_magnitude_and_wanda() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(256, 256, generator=generator)
    x = torch.randn(4096, 256, generator=generator) @ mixing
    weight = torch.randn(32, 256, generator=generator)
    new, kept = nm.sparsegpt(weight, x.T @ x, 2, 4)
    assert (new[~kept] == 0).all()

    def error(other: torch.Tensor) -> float:
        return float(((weight - other) @ x.T).square().mean())

    magnitude = weight * nm.top_n_of_m(weight.abs(), 2, 4)
    wanda = weight * nm.top_n_of_m(weight.abs() * x.norm(dim=0), 2, 4)
    assert error(new) < 0.7 * min(error(magnitude), error(wanda))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("depht", 0.1), "use none, depth, width or N:M"),
        (("depth",), "needs a rate"),
        (("depth", 1.2), "between 0 and 1"),
        (("2:4", 0.5), "leave the rate out"),
        (("4:2",), "0 < N < M"),
        (("depth", 0.1, "wanda"), "block-influence, span"),
        (("width", 0.1, None, ("layers",)), "mlp, heads, hidden"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: Any, words: str) -> None:
    with pytest.raises(RunError, match=words):
        Pruning(*arguments)


@pytest.mark.parametrize(
    ("pruning", "words"),
    [
        (Pruning("depth", 0.9), "cannot reach a rate of 0.9"),
        (Pruning("depth", 0.01), "cannot reach a rate of 0.01"),
        (Pruning("width", 0.9), "cannot come near a rate of 0.9"),
        (Pruning("3:7"), "no multiple of 7"),
    ],
)
def test_what_is_out_of_reach_is_said(
    models: dict[str, str], windows: Any, pruning: Pruning, words: str
) -> None:
    with pytest.raises(RunError, match=words):
        pruned(models["llama"], pruning, windows)
    with pytest.raises(RunError, match=words):
        counts_after(load_model(models["llama"]).config, pruning)


def test_another_family_is_pruned_in_depth_and_refused_in_width(
    windows: torch.Tensor, tmp_path: Path
) -> None:
    """GPT-2 has its layers elsewhere, and buffers in each of them."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=48, n_layer=4, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    found = pruned(str(tmp_path), Pruning("depth", 0.2), windows)
    found.model.save_pretrained(tmp_path / "pruned")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").eval()
    assert torch.equal(again(windows).logits, found.model(windows).logits)
    with pytest.raises(RunError, match=r"gpt2: width pruning does not know .*wte\.weight"):
        counts_after(config, Pruning("width", 0.2))


def test_combinations() -> None:
    found = combinations(["depth", "2:4"], [0.1, 0.2], ["span", "wanda", "magnitude"])
    assert [(p.method, p.rate, p.chosen_criterion) for p in found] == [
        ("none", None, ""),
        ("depth", 0.1, "span"),
        ("depth", 0.2, "span"),
        ("2:4", None, "wanda"),
        ("2:4", None, "magnitude"),
    ]
    assert [p.method for p in combinations([])] == ["none"]
    for bad in (
        lambda: combinations(["2:4"], [0.1]),
        lambda: combinations(["2:4"], [], ["span"]),
        lambda: combinations([], control=False),
    ):
        with pytest.raises(RunError):
            bad()
