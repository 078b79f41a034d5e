"""One run shared by several processes gives the curve that one process gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import families
import polars as pl
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from p2fit_adapters import (
    PostTraining,
    Pretraining,
    Pruning,
    RunError,
    Sparsity,
    TextSource,
    Training,
    load_model,
    post_train,
    prepare,
    pretrain,
)
from p2fit_adapters.post_training import _PostTraining
from p2fit_adapters.pruning.masks import Masks
from p2fit_adapters.training import Trainer, make_accelerator
from torch.profiler import ProfilerActivity, profile

KINDS = ("post-train", "pretrain")


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def settings(kind: str, model: str, words: Path) -> Any:
    """A masked run; 17 windows to evaluate are three passes of one process, two of the other."""
    text = TextSource(str(words), seq_len=32, eval_tokens=17 * 32)
    training = Training(
        tokens=10_240,
        evals=4,
        batch_tokens=512,
        batch_size=4,
        lr=3e-3,
        dtype="fp32",
        checkpoint_minutes=0,
    )
    if kind == "post-train":
        pruning = Pruning("2:4", calibration_windows=16)
        return PostTraining(model, text, pruning, training, save_model=True)
    sparsity = Sparsity(0.5, start=0.1, end=0.8, events=6)
    return Pretraining(model, text, sparsity=sparsity, training=training, save_model=True)


def go(run: Any, out: str, killed: int | None = None) -> None:
    """A run; the second process is killed before this step, counted from 1, if any."""
    advance, done = Trainer.advance, []

    def counted(self: Trainer) -> float:
        done.append(1)
        if len(done) == killed and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "advance", counted)
        (post_train if isinstance(run, PostTraining) else pretrain)(run, out)


@pytest.fixture(scope="module")
def alone(
    models: dict[str, str], words: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Kind → folder of a run of one process."""
    folders = {}
    for kind in KINDS:
        AcceleratorState._reset_state(reset_partial_state=True)
        run = settings(kind, models["qwen2" if kind == "pretrain" else "llama"], words)
        folders[kind] = tmp_path_factory.mktemp(kind)
        go(run, str(folders[kind]))
    return folders


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")  # from 5.23 on
@pytest.mark.parametrize("launcher", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_curve_of_one_killed_or_not(
    models: dict[str, str],
    words: Path,
    tmp_path: Path,
    alone: dict[str, Path],
    kind: str,
    launcher: str,
) -> None:
    """With 2:4 masks, and with masks that grow; in fp32 on a CPU. Activations are kept before the
    kill, and computed twice after it."""
    run = settings(kind, models["qwen2" if kind == "pretrain" else "llama"], words)
    assert -signal.SIGKILL in children.launch(launcher, go, run, str(tmp_path), 12)
    if launcher == "fsdp":
        with pytest.raises(RunError, match="was written with FSDP: launch the run as it was"):
            go(run, str(tmp_path))
    run = replace(run, training=replace(run.training, gradient_checkpointing=True))
    if (kind, launcher) == ("post-train", "ddp"):
        go(run, str(tmp_path))  # with fewer processes than it was begun
    else:
        assert children.launch(launcher, go, run, str(tmp_path)) == {0}
    expected, found = (pl.read_csv(f / "curves.csv") for f in (alone[kind], tmp_path))
    assert found["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-5)
    assert found.drop("loss").equals(expected.drop("loss"))
    (meta,) = json.loads((tmp_path / "curves.meta.json").read_text())["runs"].values()
    assert (meta["status"], meta["processes"]) == ("done", 2)
    assert not (tmp_path / run.name / "checkpoints").exists()

    from transformers import AutoModelForCausalLM

    whole, shared = (
        dict(AutoModelForCausalLM.from_pretrained(f / run.name / "model").named_parameters())
        for f in (alone[kind], tmp_path)
    )
    assert whole.keys() == shared.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-3, atol=1e-4)
    zeros = [(name, shared[name] == 0) for name in shared if name.endswith("_proj.weight")]
    assert all(torch.equal(zero, whole[name] == 0) for name, zero in zeros)
    share = sum(int(zero.sum()) for _, zero in zeros) / sum(zero.numel() for _, zero in zeros)
    assert share == pytest.approx(0.5, abs=0.05)


def one_step_in_bf16(run: Any, out: str) -> None:
    """Of a run, seen from inside: matrix products alone are in bf16."""
    text = prepare(run.text, run.model, 384, 1024, Path(out))
    trainer = Trainer(
        make_accelerator(run.training, Path(out)),
        load_model(run.model),
        Masks({}),
        text,
        run.training,
    )
    seen = {}
    for name, module in trainer.plain_model.model.layers[0].named_modules():
        if name in ("mlp.up_proj", "input_layernorm"):
            module.register_forward_hook(
                lambda module, _, given, name=name: seen.update(
                    {name: given.dtype, f"{name}.weight": module.weight.dtype}
                )
            )
    trainer.advance()
    assert seen == {
        "mlp.up_proj": torch.bfloat16,
        "mlp.up_proj.weight": torch.float32,
        "input_layernorm": torch.float32,
        "input_layernorm.weight": torch.float32,
    }


def test_under_fsdp_the_number_formats_are_those_of_one_process(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    run = settings("post-train", models["llama"], words)
    run = replace(run, training=replace(run.training, dtype="bf16"))
    one_step_in_bf16(run, str(tmp_path))
    assert children.launch("fsdp", one_step_in_bf16, run, str(tmp_path)) == {0}


def held_at_the_start(run: Any, out: str) -> None:
    """Bytes of tensors that each process holds at most until its pieces are there, and a run."""
    begin, init = _PostTraining.begin, Trainer.__init__
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def begun(self: _PostTraining) -> Any:
        profiler.start()
        return begin(self)

    def sharded(self: Trainer, accelerator: Any, *rest: Any) -> None:
        init(self, accelerator, *rest)
        profiler.stop()
        Path(out, f"held-{accelerator.process_index}").write_text(str(children.most(profiler)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_PostTraining, "begin", begun)
        patched.setattr(Trainer, "__init__", sharded)
        post_train(run, out)


@pytest.mark.parametrize("pruning", [Pruning(), Pruning("depth", 0.2, calibration_windows=8)])
def test_under_fsdp_the_first_process_alone_has_the_whole_model(
    words: Path, tmp_path: Path, pruning: Pruning
) -> None:
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 12}
    model = tiny.save("llama", tmp_path / "model", **shape)
    whole = sum(p.nbytes for p in load_model(str(model)).parameters())
    text = TextSource(str(words), seq_len=32, eval_tokens=320)
    training = Training(tokens=2048, evals=1, batch_tokens=256, batch_size=4, dtype="fp32")
    run = PostTraining(str(model), text, pruning, training)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    post_train(run, alone)
    assert children.launch("fsdp", held_at_the_start, run, str(shared)) == {0}
    expected, found = (pl.read_csv(folder / "curves.csv") for folder in (alone, shared))
    assert found["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-5)
    assert found.drop("loss").equals(expected.drop("loss"))
    first, second = (int((shared / f"held-{i}").read_text()) for i in range(2))
    assert first > whole
    assert second < 0.75 * whole  # a half, and what is on its way


def test_what_is_saved_and_no_parameter_is_the_same_in_pieces(words: Path, tmp_path: Path) -> None:
    """DeepSeek's routers have a bias that is a buffer."""
    model = families.model("deepseek_v3")
    biases = {name: torch.randn_like(b) for name, b in model.named_buffers() if "bias" in name}
    assert biases.keys() <= model.state_dict().keys()
    model.load_state_dict(biases, strict=False)
    model.save_pretrained(tmp_path / "model")
    run = settings("post-train", str(tmp_path / "model"), words)
    run = replace(run, pruning=Pruning("depth", 0.2, calibration_windows=8))
    go(run, str(tmp_path / "alone"))
    assert children.launch("fsdp", go, run, str(tmp_path / "shared")) == {0}
    expected, found = (pl.read_csv(tmp_path / f / "curves.csv") for f in ("alone", "shared"))
    # Routing is discontinuous: what is trained differs more than in a dense model.
    assert found["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-3)
    assert found["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-5)
    saved, shared = (
        load_model(str(tmp_path / f / run.name / "model")).state_dict() for f in ("alone", "shared")
    )
    kept = [name for name in saved if name.endswith("correction_bias")]
    assert kept
    assert all(torch.equal(saved[name], shared[name]) and saved[name].any() for name in kept)


def command(words: Path, model: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """``torchrun`` as a user types it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    p2fit = str(Path(sys.executable).parent / "p2fit")
    fixed = ["--model", model, "--text", str(words), "--out", str(out), "--seq-len", "32"]
    fixed += ["--eval-tokens", "320", "--tokens", "4K", "--batch-tokens", "512", "--evals", "2"]
    return subprocess.run(
        [*torchrun, "--nproc_per_node", "2", p2fit, "run", "pretrain", *fixed, *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_under_a_launcher_speaks_once_and_is_ended_by_one_that_fails(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    done = command(words, models["llama"], tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["status"] == "done"
    assert done.stderr.count("4.1K tokens") == 1
    (tmp_path / result["run"].replace("s0", "s1") / ".lock").mkdir(parents=True)
    failed = command(words, models["llama"], tmp_path, "--seed", "1")
    assert failed.returncode == 1
    assert failed.stderr.count("Is a directory") == 1  # the first alone takes the lock
    assert "another process of this run has ended" in failed.stderr
    assert "gloo" not in failed.stderr


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "--fsdp_version 2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED cannot keep masks"),
    ],
)
def test_launchers_that_cannot_keep_masks_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: dict[str, str], what: str
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=what):
        make_accelerator(Training(), tmp_path)
