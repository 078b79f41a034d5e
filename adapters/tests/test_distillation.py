"""Teachers: the divergence and its gradient, what is kept on disk, runs and sweeps with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import children
import polars as pl
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from p2fit_adapters import (
    Distillation,
    PostTraining,
    Pruning,
    RunError,
    TextSource,
    Training,
    distillations,
    loss,
    post_train,
    read_sweep,
)
from p2fit_adapters import distillation as distillation_module
from p2fit_adapters.loss import Objective, TopK
from p2fit_adapters.training import Trainer

from p2fit import fit_each
from p2fit.cli import main


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def plain(
    logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor, weight: float
) -> torch.Tensor:
    """(1 − w) CE + w KL as torch has them."""
    mine = logits[:, :-1].flatten(0, 1).log_softmax(-1)
    theirs = teacher[:, :-1].flatten(0, 1).log_softmax(-1)
    truth = torch.nn.functional.nll_loss(mine, labels[:, 1:].flatten())
    apart = torch.nn.functional.kl_div(mine, theirs, log_target=True, reduction="batchmean")
    return (1 - weight) * truth + weight * apart


def top(teacher: torch.Tensor, k: int) -> TopK:
    chances, ids = teacher.log_softmax(-1).topk(k)
    return TopK(ids.int(), chances)


@given(
    seed=st.integers(0, 10**6),
    weight=st.floats(0.01, 1),
    chunk=st.sampled_from([1, 30, 1 << 20]),
    sharp=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_the_divergence_and_its_gradient_are_those_of_torch(
    seed: int, weight: float, chunk: int, sharp: float
) -> None:
    """Of whole distributions, and of the k most probable tokens with the rest as one more."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(2, 5, 11, generator=generator)).requires_grad_()
    teacher = sharp * torch.randn(2, 5, 11, generator=generator)
    labels = torch.randint(0, 11, (2, 5), generator=generator)
    objective = Objective(weight)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loss, "CHUNK", chunk)
        objective.guide = teacher
        expected, found = plain(logits, labels, teacher, weight), objective(logits, labels)
        whole = found
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(2 * x, logits)[0] for x in (found, expected)]
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
        # k outcomes and the rest, made of the model's own logits in double precision
        kept = top(teacher, 4)
        objective.guide = kept
        exact = logits.detach().double().requires_grad_()
        at = torch.zeros_like(exact, dtype=torch.bool).scatter(2, kept.ids.long(), True)
        mine = exact.log_softmax(-1)
        rest = mine.masked_fill(at, -torch.inf).logsumexp(-1, keepdim=True)
        grouped = torch.cat([mine.gather(2, kept.ids.long()), rest], -1)
        chances = kept.chances.double().exp()
        theirs = torch.cat([chances, 1 - chances.sum(-1, keepdim=True)], -1).clamp(min=1e-300)
        apart = (theirs * (theirs.log() - grouped))[:, :-1].sum(-1).mean()
        truth = -mine[:, :-1].gather(2, labels[:, 1:, None]).mean()
        expected = (1 - weight) * truth + weight * apart
        found = objective(logits, labels)
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)
        gradients = [
            torch.autograd.grad(found, logits)[0],
            torch.autograd.grad(expected, exact)[0].float(),
        ]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)
    assert found.detach() <= whole.detach() + 1e-5


def test_a_model_that_says_what_its_teacher_says_has_nothing_to_learn_from_it() -> None:
    logits = torch.randn(2, 5, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for guide in (logits.detach(), top(logits.detach(), 7)):
        objective = Objective(1.0)
        objective.guide = guide
        found = objective(logits, torch.zeros(2, 5, dtype=torch.int64))
        assert float(found.detach()) == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(
            torch.autograd.grad(found, logits)[0], torch.zeros_like(logits), atol=1e-7, rtol=0
        )


def settings(model: str, words: Path, distillation: Distillation | None, **changes: Any) -> Any:
    training = Training(
        tokens=6144,
        evals=3,
        batch_tokens=512,
        batch_size=4,
        lr=3e-3,
        dtype="fp32",
        device="cpu",
        checkpoint_minutes=0,
    )
    return PostTraining(
        model,
        TextSource(str(words), seq_len=32, eval_tokens=640),
        Pruning("depth", 0.2, calibration_windows=8),
        replace(training, **changes),
        distillation=distillation,
    )


def rows(out: Path) -> pl.DataFrame:
    return pl.read_csv(out / "curves.csv")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("top_k", [None, 8])
def test_a_run_with_a_teacher_stopped_and_taken_up_ends_with_the_same_files(
    models: dict[str, str],
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    top_k: int | None,
    dtype: str,
) -> None:
    run = settings(models["llama"], words, Distillation(top_k=top_k), dtype=dtype)
    post_train(run, tmp_path / "whole")
    advance = Trainer.advance

    def until(self: Trainer) -> float:
        if self.step == 5:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", until)
        with pytest.raises(KeyboardInterrupt):
            post_train(run, tmp_path / "twice")
    post_train(run, tmp_path / "twice")
    for name in ("curves.csv", "curves.meta.json"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_curve_says_who_taught_and_what_that_cost(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    teacher = tiny.save("llama", tmp_path / "big", hidden_size=64)
    tokenizer_of = _with_tokenizer(models["llama"], words, tmp_path / "small")
    _with_tokenizer(str(teacher), words, teacher, like=tokenizer_of)
    for distillation in (None, Distillation(), Distillation(str(teacher), 0.5, top_k=8)):
        post_train(settings(str(tokenizer_of), words, distillation), tmp_path / "out")
    table = rows(tmp_path / "out")
    last = {r["teacher"]: r for r in table.filter(pl.col("tokens") == 6144).to_dicts()}
    assert {name: r["method"] for name, r in last.items()} == {
        "none": "depth",
        "self": "depth+kd",
        "big": "depth+kd-big",
    }
    assert len({r["loss"] for r in last.values()}) == 3
    first = table.filter(pl.col("tokens") == 0)
    assert first["loss"].n_unique() == 1  # evaluations are plain cross-entropy
    n, after = last["none"]["params"], last["none"]["params_after"]
    assert last["none"]["flops"] == 6 * after * 6144
    assert last["self"]["flops"] == (6 * after + 2 * n) * 6144
    meta = json.loads((tmp_path / "out" / "curves.meta.json").read_text())["runs"]
    params = meta[last["big"]["run"]]["teacher"]["params"]
    assert params > n
    assert last["big"]["flops"] == (6 * after + 2 * params) * 6144


def _with_tokenizer(model: str, words: Path, folder: Path, like: Path | None = None) -> Path:
    from p2fit_adapters import load_model
    from p2fit_adapters.tokenizer import load_tokenizer, train_bpe

    load_model(model).save_pretrained(folder)
    texts = [path.read_text() for path in sorted(words.iterdir())[:3]]
    tokenizer = load_tokenizer(str(like)) if like else train_bpe(texts, tiny.VOCABULARY)
    assert tokenizer is not None
    tokenizer.save_pretrained(folder)
    return folder


def test_what_a_teacher_said_is_asked_once_and_damage_is_told(
    models: dict[str, str], words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    write = distillation_module.Teacher._write

    def counted(self: Any, file: int, at: list[int]) -> None:
        asked.extend(at)
        write(self, file, at)

    monkeypatch.setattr(distillation_module.Teacher, "_write", counted)
    run = settings(models["llama"], words, Distillation(top_k=8))
    post_train(run, tmp_path)
    assert len(asked) == len(set(asked)) == 6144 // 32
    other = replace(run, pruning=Pruning("none"))
    post_train(other, tmp_path)
    assert len(asked) == 6144 // 32
    # A window that was not finished is asked for again, one that changed is told of.
    (store,) = (tmp_path / ".teacher").iterdir()
    size = 4 + 8 * 32 * 8
    data = bytearray(store.read_bytes())
    number = asked[0]
    data[number * size : number * size + 4] = bytes(4)
    store.write_bytes(data)
    post_train(replace(run, pruning=Pruning("width", 0.1, calibration_windows=8)), tmp_path)
    assert asked[6144 // 32 :] == [number]
    data = bytearray(store.read_bytes())
    data[number * size + 9] ^= 1
    store.write_bytes(data)
    with pytest.raises(RunError, match="damaged: delete it to ask the teacher again"):
        post_train(replace(run, pruning=Pruning("2:4", calibration_windows=8)), tmp_path)


def go(run: PostTraining, out: str) -> None:
    post_train(run, out)


@pytest.mark.parametrize(("launcher", "top_k"), [("ddp", 8), ("fsdp", None)])
def test_two_processes_with_a_teacher_give_the_curve_of_one(
    models: dict[str, str], words: Path, tmp_path: Path, launcher: str, top_k: int | None
) -> None:
    run = settings(models["llama"], words, Distillation(top_k=top_k), device="auto")
    post_train(run, tmp_path / "alone")
    assert children.launch(launcher, go, run, str(tmp_path / "both")) == {0}
    expected, found = rows(tmp_path / "alone"), rows(tmp_path / "both")
    assert found["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-5)
    assert found.drop("loss").equals(expected.drop("loss"))


SWEEP = """
[text]
spec = "{words}"
seq_len = 32
eval_tokens = 640

[models.a]
path = "{model}"

[[post-train]]
methods = ["depth"]
rates = [0.2, 0.4]
teachers = ["none", "self"]
distil_weight = 0.8
tokens = [4096]
batch_tokens = 512
evals = 6
device = "cpu"
calibration_windows = 8
"""


def test_a_sweep_makes_curves_of_both_kinds_and_fits_keep_them_apart(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.format(words=words, model=models["llama"]))
    jobs = {job.settings.name: job for job in read_sweep(path, tmp_path / "out").jobs}
    assert len(jobs) == 6
    alone, taught = (
        jobs[f"a_{method}_block-influence_0.2_4.096K_s0"] for method in ("depth", "depth+kd")
    )
    assert taught.settings.distillation == Distillation("self", 0.8)
    assert taught.flops == alone.flops + 2 * jobs["a_none_4.096K_s0"].params * 4096
    arguments = ["run", "sweep", str(path), "--out", str(tmp_path / "out")]
    planned = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"], prog_name="p2fit")
    seconds = {run["label"]: run["seconds"] for run in json.loads(planned.stdout)["sweep"]}
    assert seconds[taught.label] > seconds[alone.label]
    made = CliRunner().invoke(main, arguments, prog_name="p2fit")
    assert made.exit_code == 0, made.stderr
    curves = tmp_path / "out" / "post-train" / "curves.csv"
    law = "base_loss + pruning_rate^-gamma * (D_C/tokens^beta + E)"
    fits = fit_each(curves, law)
    assert [dict(fit.group)["method"] for fit in fits] == ["depth", "depth+kd"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Distillation(weight=0), "weight is 0"),
        (lambda: Distillation(weight=1.5), "weight is 1.5"),
        (lambda: Distillation(top_k=0), "top_k is 0"),
        (lambda: distillations([], 0.5), "name one"),
        (lambda: distillations(["none"], None, 8), "name one"),
    ],
)
def test_what_no_teacher_can_do_is_refused(make: Any, said: str) -> None:
    with pytest.raises(RunError, match=said):
        make()


@pytest.mark.parametrize(
    ("family", "changes", "distillation", "said"),
    [
        ("llama", {}, {"top_k": 384}, "of 384 tokens in all"),
        ("llama", {"vocab_size": 300}, {}, "must know all the tokens"),
        ("llama", {"max_position_embeddings": 16}, {}, "takes 16 tokens at once"),
        ("llama", {}, {}, "has another tokenizer"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(
    models: dict[str, str],
    words: Path,
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
    distillation: dict[str, Any],
    said: str,
) -> None:
    teacher = tiny.save(family, tmp_path / "teacher", **changes)
    asked = Distillation("self" if distillation else str(teacher), **distillation)
    with pytest.raises(RunError, match=said):
        post_train(settings(models["llama"], words, asked), tmp_path / "out")
    assert not (tmp_path / "out" / "curves.csv").exists()


def test_distilled_control_and_plain_control_are_named_apart(
    models: dict[str, str], words: Path, tmp_path: Path
) -> None:
    control = replace(settings(models["llama"], words, Distillation()), pruning=Pruning())
    assert control.method == "none+kd"
    assert control.name.startswith("llama_none+kd_")
