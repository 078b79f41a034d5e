"""Pre-training from nothing: schedules, counts, trunks and branches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from p2fit_adapters import Pretraining, RunError, Sparsity, TextSource, Training, pretrain
from p2fit_adapters.pretraining import _Pretraining, weights_left
from p2fit_adapters.pruning import Masks
from p2fit_adapters.training import Trainer

from p2fit.cli import main
from p2fit.schedules import KINDS, Schedule

CONFIG = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TRAINING = Training(
    tokens=10_240,
    evals=5,
    spacing="linear",
    batch_tokens=256,
    batch_size=8,
    lr=3e-3,
    decay=0.25,
    device="cpu",
    checkpoint_minutes=0,
)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def run_of(words: Path) -> Callable[..., Pretraining]:
    def make(sparsity: Sparsity | None = None, **training: Any) -> Pretraining:
        source = TextSource(str(words), seq_len=32, eval_tokens=640)
        return Pretraining(
            "llama", source, CONFIG, sparsity or Sparsity(), replace(TRAINING, **training)
        )

    return make


class Watched:
    """What is in the model after each step of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.zeros: list[dict[str, torch.Tensor]] = []
        self.active: list[int] = []
        after_step = _Pretraining.after_step

        def look(run: _Pretraining, trainer: Trainer, meta: Any) -> None:
            after_step(run, trainer, meta)
            parameters = dict(trainer.plain_model.named_parameters())
            assert all((parameters[n][~kept] == 0).all() for n, kept in trainer.masks.kept.items())
            self.zeros.append({n: ~kept.clone() for n, kept in trainer.masks.kept.items()})
            gone = sum(int((~kept).sum()) for kept in trainer.masks.kept.values())
            self.active.append(sum(p.numel() for p in parameters.values()) - gone)

        monkeypatch.setattr(_Pretraining, "after_step", look)


@pytest.mark.parametrize("schedule", KINDS)
def test_the_mean_of_active_parameters_is_the_compute_over_6d_and_masks_only_grow(
    run_of: Callable[..., Pretraining],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: Any,
) -> None:
    watched = Watched(monkeypatch)
    asked = run_of(Sparsity(0.7, schedule))
    result = pretrain(asked, tmp_path)
    assert result.status == "done"
    assert result.sparsity == pytest.approx(0.7, abs=1e-4)  # to whole weights
    for before, after in zip(watched.zeros, watched.zeros[1:], strict=False):
        assert all(bool((after[name] | ~before[name]).all()) for name in before)
    table = pl.read_csv(tmp_path / "curves.csv")
    assert table.height == 5
    tokens_of_a_step = 256
    for row in table.iter_rows(named=True):
        compute = 6 * tokens_of_a_step * sum(watched.active[: row["step"]])  # of each step
        assert row["flops"] == pytest.approx(compute, rel=1e-9)
        assert row["avg_params"] == pytest.approx(compute / (6 * row["tokens"]), rel=1e-6)
        assert row["active_params"] == watched.active[row["step"]]
    # And the closed form, for as many parameters, steps and events.
    meta = json.loads((tmp_path / "curves.meta.json").read_text())["runs"][result.run]
    prunable, fixed = meta["linear"]["prunable"], meta["before"]["total"]
    plan = asked.sparsity.in_steps(40, prunable, fixed - prunable)
    closed = plan.avg_params(table["step"].to_numpy())
    np.testing.assert_allclose(table["avg_params"], closed, rtol=0, atol=0.5)  # whole weights
    assert meta["schedule"]["start_of_compute"] == pytest.approx(0.25, abs=0.03)
    if schedule != "one-shot":
        assert meta["schedule"]["end_of_compute"] == pytest.approx(0.75, abs=0.05)


@given(
    kind=st.sampled_from(KINDS),
    final=st.floats(0.05, 0.95),
    steps=st.integers(200, 20_000),
    events=st.integers(1, 300),
)
def test_a_schedule_in_steps_is_the_one_in_tokens(
    kind: Any, final: float, steps: int, events: int
) -> None:
    """Its start to half a step, its mean to the counts of weights and the length of a step."""
    prunable, fixed = 2_000_000, 300_000
    plan = Sparsity(final, kind, events=events).in_steps(steps, prunable, fixed)
    wished = Schedule.from_compute(kind, final, prunable, fixed, tokens=steps)
    assert abs(plan.start - wished.start) <= 0.5
    assert plan.end <= steps
    spaces = (plan.end - plan.start) / plan.events
    assert kind == "one-shot" or spaces == int(spaces)  # every so many steps
    kept = weights_left(plan, np.arange(steps + 1))
    assert (np.diff(kept) <= 0).all()
    assert kept[-1] == round((1 - final) * prunable)
    # C / (6 D) of the steps as they are made, and the closed form of as many events.
    assert fixed + kept[:-1].mean() == pytest.approx(float(plan.avg_params()), rel=1e-6)


@settings(max_examples=50)
@given(data=st.data())
def test_the_smallest_weights_of_all_tensors_go_and_as_many_as_asked(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    levels = data.draw(st.sampled_from([3, 10**6]))  # with and without ties
    model = torch.nn.ParameterDict(
        {
            str(i): torch.tensor(rng.integers(-levels, levels, (size, 2)), dtype=torch.float32)
            for i, size in enumerate(sizes)
        }
    )
    masks = Masks({name: torch.ones_like(p).bool() for name, p in model.items()})
    left = masks.count
    while left:
        before = {name: kept.clone() for name, kept in masks.kept.items()}
        left = data.draw(st.integers(0, left - 1))
        masks.shrink(model, left)
        assert masks.count == left
        gone = [model[n].detach()[before[n] & ~kept].abs() for n, kept in masks.kept.items()]
        assert all((part == 0).all() for part in gone)
        assert all(bool((before[n] | ~kept).all()) for n, kept in masks.kept.items())


def test_what_stays_is_larger_than_what_goes() -> None:
    model = torch.nn.ParameterDict(
        {"a": torch.tensor([[4.0, -1.0], [3.0, 0.5]]), "b": torch.tensor([[-2.0, 5.0]])}
    )
    masks = Masks({name: torch.ones_like(p).bool() for name, p in model.items()})
    masks.shrink(model, 3)
    assert masks.kept["a"].tolist() == [[True, False], [True, False]]
    assert masks.kept["b"].tolist() == [[False, True]]
    assert model["b"].tolist() == [[0.0, 5.0]]


@pytest.mark.parametrize("final", [0.0, 0.6])
def test_stopped_and_resumed_a_run_ends_with_the_same_files(
    run_of: Callable[..., Pretraining],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    final: float,
) -> None:
    run = run_of(Sparsity(final))
    pretrain(run, tmp_path / "whole")
    advance = Trainer.advance
    for until in (1, 17, 25):

        def stopped(self: Trainer, until: int = until) -> float:
            if self.step >= until:
                raise KeyboardInterrupt
            return advance(self)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "advance", stopped)
            with pytest.raises(KeyboardInterrupt):
                pretrain(run, tmp_path / "stopped")
    assert pretrain(run, tmp_path / "stopped").status == "done"
    for name in ("curves.csv", "curves.meta.json"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "stopped" / name).read_bytes() == expected
    table = pl.read_csv(tmp_path / "whole" / "curves.csv")
    assert table["final"].to_list() == [0, 0, 0, 0, 1]
    assert table["lr"][-1] < table["lr"][0]


def test_a_branch_of_a_trunk_is_the_run_that_trains_all_of_it(
    run_of: Callable[..., Pretraining], tmp_path: Path
) -> None:
    """Without a warm-up, which is a share of each run's own length."""
    straight = run_of(warmup=0.0)
    pretrain(straight, tmp_path / "straight")
    decays_from = straight.training.decays_from(32)
    assert decays_from == 30
    trunk = replace(
        straight,
        training=replace(straight.training, tokens=decays_from * 256 + 2560, decay=0.0),
        text=replace(straight.text, train_tokens=20_000),
        keep_states=(decays_from * 256,),
    )
    pretrain(trunk, tmp_path / "trunk")
    states = tmp_path / "trunk" / trunk.name / "states"
    assert [path.name for path in states.iterdir()] == ["step-0000000030"]
    branch = replace(straight, text=trunk.text, trunk=str(states.parent))
    # The straight run on the same windows.
    pretrain(replace(straight, text=trunk.text), tmp_path / "same")
    assert pretrain(branch, tmp_path / "branch").status == "done"
    whole = pl.read_csv(tmp_path / "same" / "curves.csv").filter(pl.col("step") > 30)
    assert whole.height == 2
    assert pl.read_csv(tmp_path / "branch" / "curves.csv").equals(whole)


def test_a_branch_wants_the_state_and_the_settings_of_its_trunk(
    run_of: Callable[..., Pretraining], tmp_path: Path
) -> None:
    trunk = replace(run_of(decay=0.0), keep_states=(7680,))
    pretrain(trunk, tmp_path)
    folder = str(tmp_path / trunk.name)
    for other, words in (
        (run_of(tokens=20_000), "was to go on from there"),
        (run_of(lr=1e-2), "another way .*training.lr: 0.003, now 0.01"),
        (replace(run_of(), config=CONFIG | {"hidden_size": 40}), "config.hidden_size: 32, now 40"),
        (replace(run_of(), text=replace(trunk.text, eval_tokens=320)), "another text"),
    ):
        with pytest.raises(RunError, match=words):
            pretrain(replace(other, trunk=folder, label="other"), tmp_path)
    with pytest.raises(RunError, match="sparse run"):
        replace(run_of(Sparsity(0.5)), trunk=folder)
    with pytest.raises(RunError, match="needs a decay"):
        replace(run_of(decay=0.0), trunk=folder)


def test_linear_layers_are_counted_as_the_authors_do(
    run_of: Callable[..., Pretraining], tmp_path: Path
) -> None:
    """Attention, MLP and LM head; one that is the input embedding counts, but is not pruned."""
    hidden, mlp, vocabulary, layers = 32, 64, 300, 2
    blocks = layers * (2 * hidden * hidden + 2 * hidden * hidden // 2 + 3 * hidden * mlp)
    for tied in (False, True):
        run = replace(run_of(Sparsity(0.5)), config=CONFIG | {"tie_word_embeddings": tied})
        result = pretrain(run, tmp_path / str(tied))
        meta = json.loads((tmp_path / str(tied) / "curves.meta.json").read_text())
        head = vocabulary * hidden
        expected = (blocks, head) if tied else (blocks + head, 0)
        linear = meta["runs"][result.run]["linear"]
        assert (linear["prunable"], linear["fixed"]) == expected
        last = pl.read_csv(tmp_path / str(tied) / "curves.csv")[-1]
        assert last["linear_params"].item() == blocks + head
        assert last["linear_active_params"].item() == sum(expected) - expected[0] // 2
        norms = hidden * (2 * layers + 1)
        assert last["params"].item() == blocks + norms + head * (1 if tied else 2)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="p2fit")


def by_hand(words: Path, out: Path, *more: object) -> Result:
    fields = [part for name, value in CONFIG.items() for part in ("--set", f"{name}={value}")]
    fixed = ["--text", words, "--out", out, "--device", "cpu", "--tokens", "8K", "--evals", 3]
    fixed += ["--eval-tokens", 640, "--seq-len", 32, "--batch-tokens", 512]
    return call("run", "pretrain", "--model", "llama", *fields, *fixed, *more)


def test_the_command_writes_curves_for_the_law_of_the_average_count(
    words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pretrained"
    result = by_hand(words, out, "--sparsity", 0, "--sparsity", "60%", "--save-models", "--json")
    assert result.exit_code == 0, result.stderr
    dense, sparse = json.loads(result.stdout)
    assert (dense["run"], sparse["run"]) == ("llama_dense_8K_s0", "llama_geometric0.6_8K_s0")
    assert dense["avg_params"] == dense["params"] > sparse["avg_params"]
    for law in ("average-params", "chinchilla"):
        checked = call("check", out / "curves.csv", "--law", law, "--json")
        assert checked.exit_code == 0, checked.stderr
        assert json.loads(checked.stdout)["runs"] == 2
    # A model that was saved can be pruned and trained on, as any other.
    more = ("--text", words, "--device", "cpu", "--tokens", "2K", "--evals", 2, "--seq-len", 32)
    more += ("--eval-tokens", 640, "--batch-tokens", 512, "--method", "depth", "--rate", "20%")
    model = out / sparse["run"] / "model"
    made = call("run", "post-train", "--model", model, *more, "--out", tmp_path / "pruned")
    assert made.exit_code == 0, made.stderr
    assert "llama_geometric0.6_8K_s0_depth_block-influence_0.2_2K_s0: done" in made.stdout
    # But not into the same table.
    mixed = call("run", "post-train", "--model", model, *more, "--out", out)
    assert mixed.exit_code == 2
    assert "holds curves of another kind: use another --out" in mixed.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "hidden_sise=8"], "no hidden_sise; is it hidden_size?"),
        (["--set", "num_attention_heads=5"], "no such configuration"),
        (["--start", 0.8], "start is 0.8: use shares in order"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--seq-len", 128], "lower --seq-len"),
        (["--decay", "99.5%"], "leaves the warm-up its"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    words: Path, tmp_path: Path, more: list[Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = by_hand(words, tmp_path, *more)
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "curves.csv").exists()


def test_a_run_without_a_decay_is_nowhere_final(
    run_of: Callable[..., Pretraining], tmp_path: Path
) -> None:
    result = pretrain(run_of(decay=0.0), tmp_path)
    assert result.run == "llama_dense_10.24K_constant_s0"
    table = pl.read_csv(tmp_path / "curves.csv")
    assert table["final"].sum() == 0
    assert table["lr"].n_unique() == 1
    assert math.isfinite(table["loss"][-1])
