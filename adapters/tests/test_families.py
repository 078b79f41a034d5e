"""Pruning gives exactly what it says, or refuses, in each of many families.

``python tests/test_families.py --rewrite`` writes what it finds into FAMILIES.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from p2fit_adapters import Pruning, RunError, count_parameters, counts_after, prune
from p2fit_adapters.models import decoder_layers
from p2fit_adapters.pruning import depth, nm
from p2fit_adapters.pruning.calibration import Calibration, matrices
from p2fit_adapters.pruning.kept_layers import kept_logits
from transformers import AutoModelForCausalLM
from transformers.utils import logging

PAGE = Path(__file__).parents[1] / "FAMILIES.md"
IDS = torch.randint(3, families.VOCABULARY, (8, 40), generator=torch.Generator().manual_seed(3))
HEAD = ("family", "depth", "2:4", "width")


def reloaded(model: Any) -> Any:
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder).eval()


def assert_equal_when_loaded(model: Any) -> None:
    torch.testing.assert_close(reloaded(model)(IDS).logits, model(IDS).logits, rtol=0, atol=0)


def droppable(config: Any) -> list[int]:
    return [i for i, size in enumerate(depth.layer_sizes(config)) if size is not None]


def middle_dropped(name: str) -> str:
    """Without the two layers in the middle a model computes what its other layers compute."""
    model = families.model(name)
    possible = droppable(model.config)
    gone = possible[len(possible) // 2 - 1 : len(possible) // 2 + 1]
    kept = [i for i in range(families.LAYERS) if i not in gone]
    whole, expected = model(IDS).logits, kept_logits(model, kept, IDS)
    assert (whole - expected).abs().max() > 0.1 * whole.abs().max()  # the layers matter
    pruned = depth.without(model, gone)
    found = reloaded(pruned)
    torch.testing.assert_close(found(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert found.config.num_hidden_layers == len(kept)
    return "exact"


def two_of_four(name: str) -> str:
    """Of four weights in a row two stay, and the counts were known before."""
    model = families.model(name)
    expected = counts_after(model.config, Pruning("2:4"))
    pruned = prune(model, Pruning("2:4"), IDS)
    assert pruned.after == expected
    prefix, blocks = decoder_layers(pruned.model)
    weights = {
        f"{prefix}.{i}.{name}": matrix
        for i, block in enumerate(blocks)
        for name, matrix in matrices(block).items()
    }
    assert weights.keys() == pruned.masks.kept.keys()
    for name, matrix in weights.items():
        kept = pruned.masks.kept[name]
        rows = kept.mT if matrix.transposed else kept
        assert (rows.reshape(-1, 4).sum(1) == 2).all()
        assert (matrix.parameter[~kept] == 0).all()
    assert_equal_when_loaded(pruned.model)
    return f"{pruned.before.non_embedding_rate(pruned.after):.0%}"


def narrower(name: str, dimension: str, rate: float) -> str:
    model = families.model(name)
    pruning = Pruning("width", rate, dimensions=(dimension,))
    expected = counts_after(model.config, pruning)
    pruned = prune(model, pruning, IDS)  # compares neurons and heads with the silenced original
    assert count_parameters(pruned.model) == pruned.after == expected
    assert_equal_when_loaded(pruned.model)
    return "yes"


def outcome(find: Callable[[], str]) -> str:
    """What is found, or why it is refused."""
    try:
        return find()
    except RunError as refused:
        said = str(refused)
        assert "\n" not in said
        why, advice = said.split(": ")[-2:]  # after the family and what is done
        assert advice.startswith(("use ", "choose "))
        return f"no: {why.removeprefix('width pruning ')}"


def row(name: str) -> str:
    widths = {
        dimension: outcome(lambda d=dimension, r=rate: narrower(name, d, r))
        for dimension, rate in (("mlp", 0.2), ("heads", 0.15), ("hidden", 0.17))
    }
    narrows = ", ".join(dimension for dimension, found in widths.items() if found == "yes")
    cells = (
        f"`{name}`",
        outcome(lambda: middle_dropped(name)),
        outcome(lambda: two_of_four(name)),
        narrows or widths["mlp"],
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_family_is_pruned_as_the_page_says(name: str) -> None:
    assert row(name) in PAGE.read_text().splitlines()


def test_the_page_names_these_families_alone() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in rows] == sorted(families.FAMILIES)
    assert sum("| exact |" in line for line in rows) >= 50


@pytest.mark.parametrize("criterion", depth.CRITERIA)
@pytest.mark.parametrize(
    "name",
    ["deepseek_v2", "deepseek_v3", "llama4_text", "qwen3_next", "qwen3_moe", "lfm2", "olmoe"],
)
def test_the_rate_is_that_of_the_layers_that_go(name: str, criterion: str) -> None:
    """Also where dense layers come before those with experts, which have several times as many
    parameters; and it is known before."""
    config = families.config(name)
    total = count_parameters(families.model(name)).total
    sizes = depth.layer_sizes(config)
    largest = max(size for size in sizes if size is not None)
    for share in (0.2, 0.4, 0.6):
        rate = share * sum(size or 0 for size in sizes) / total
        pruning = Pruning("depth", rate, criterion)
        found = prune(families.model(name), pruning, IDS)
        assert found.after == counts_after(config, pruning)
        assert found.after == count_parameters(reloaded(found.model))
        gone = [sizes[i] for i in found.details["layers_dropped"]]
        assert found.before.total - found.after.total == sum(size or 0 for size in gone)
        assert abs(found.before.rate(found.after) - rate) <= largest / total / 2


def test_layers_that_others_need_stay() -> None:
    """Gemma 3n's last layers use keys and values of the two before them."""
    config = families.config("gemma3n_text")
    assert droppable(config) == [0, 1, 4, 5]
    for rate in (0.1, 0.3):
        found = prune(families.model("gemma3n_text"), Pruning("depth", rate), IDS)
        assert not {2, 3} & set(found.details["layers_dropped"])
    with pytest.raises(RunError, match="cannot drop layers 2, 3"):
        depth.without(families.model("gemma3n_text"), [2, 3])


def test_a_window_that_short_texts_do_not_reach_is_carried() -> None:
    """Logits of short texts are alike with and without a sliding window of 4096."""
    model = families.model("gemma3_text", sliding_window=4096)
    pruned = depth.without(model, [0, 2])
    kinds = [block.self_attn.is_sliding for block in decoder_layers(pruned)[1]]
    assert kinds == [True, True, True, False]
    assert pruned.config.layer_types == [model.config.layer_types[i] for i in (1, 3, 4, 5)]


@pytest.mark.parametrize("criterion", ["sparsegpt", "wanda"])
@pytest.mark.parametrize(
    "name",
    ["llama", "bloom", "gpt2", "qwen3_next", "gemma3n_text", "gpt_oss", "llama4_text", "mamba"],
)
def test_calibration_block_by_block_gives_what_whole_passes_give(
    name: str, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter, taken = Calibration.__enter__, []

    def noted(self: Calibration) -> Calibration:
        taken.append(bool(enter(self).calls))
        return self

    def by_whole_passes(self: Calibration) -> Calibration:
        enter(self).calls = []
        return self

    pruning = Pruning("2:4", criterion=criterion)
    monkeypatch.setattr(Calibration, "__enter__", noted)
    model = families.model(name)
    model.config.use_cache = True  # as from_pretrained leaves it
    found = prune(model, pruning, IDS, batch_size=3)
    assert taken == [True]
    assert model.config.use_cache
    monkeypatch.setattr(Calibration, "__enter__", by_whole_passes)
    expected = prune(families.model(name), pruning, IDS, batch_size=3)
    for a, b in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_blocks_are_told_of_the_states_before_them_is_not_kept() -> None:
    """A family whose layers are told more of what came before than the hidden states."""
    model = families.model("llama")

    def tell(_: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "told": args[0].mean()}

    for block in decoder_layers(model)[1]:
        block.register_forward_pre_hook(tell, with_kwargs=True)
    with torch.no_grad(), Calibration(model, IDS, 3) as calibration:
        assert calibration.calls == []
        moments = calibration.moments(2, matrices(decoder_layers(model)[1][2]), whole=False)
    assert len(moments) == 7


def test_calibration_in_bf16_sees_the_blocks_as_they_are_pruned() -> None:
    """Autocast keeps weights as they were when they were first cast."""
    masks = []
    for cached in (True, False):
        model = families.model("llama")
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            masks.append(prune(model, Pruning("2:4", criterion="wanda"), IDS).masks.kept)
    for name, kept in masks[0].items():
        assert torch.equal(kept, masks[1][name])


def test_an_expert_that_no_token_reaches_is_pruned_by_magnitude() -> None:
    model = families.model("mixtral")
    with torch.no_grad():
        for block in decoder_layers(model)[1]:
            block.mlp.gate.weight.zero_()
            block.mlp.gate.weight[:2] += 1e-6  # of equal ones the same are always chosen
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    logits = model(IDS[:1, :4]).logits
    found = prune(model, Pruning("2:4"), IDS[:1, :4])
    assert logits.isfinite().all()
    magnitudes = 0
    for name, kept in found.masks.kept.items():
        if "experts" not in name:
            continue
        for place, rows in enumerate(before[name]):
            by_size = nm.top_n_of_m(rows.abs(), 2, 4)
            weight = dict(found.model.named_parameters())[name][place]
            magnitudes += torch.equal(kept[place], by_size) and torch.equal(weight, rows * by_size)
    assert magnitudes >= 2 * families.LAYERS  # both matrices of at least one expert of each layer


def rewrite() -> None:
    rows = [row(name) for name in sorted(families.FAMILIES)]
    PAGE.write_text(
        f"""# Families

What pruning does to a small model with random weights of each of these families, found by
`python tests/test_families.py --rewrite` and checked by every run of the tests.

- **depth**: two layers in the middle are dropped, the model is saved and loaded, and its logits are
  those of running the other layers of the original (`exact`), or it is refused.
- **2:4**: of four weights in a row two stay, in linear layers, GPT-2's Conv1D and experts; how much
  of the parameters outside the embeddings is then gone. Routers, convolutions and norms stay dense.
- **width**: what can be made narrower. Neurons and heads go only where the pruned model equals the
  original in which they are silent (OLMo 2 has norms over all heads); the hidden size only of
  families that were looked at (Gemma's embeddings are scaled by its root).

The same comparisons are made each time that a model is pruned, so a family that is not in this
table is pruned exactly as well, or refused.

| {" | ".join(HEAD)} |
|{"---|" * len(HEAD)}
"""
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    assert sys.argv[1:] == ["--rewrite"], "use --rewrite"
    torch.set_num_threads(1)
    rewrite()
