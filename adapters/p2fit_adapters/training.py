"""The loop: AdamW on packed windows, with masks that hold and a state that can be kept."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from p2fit_adapters import adam, attention, lora, sharding
from p2fit_adapters.compiling import compiled
from p2fit_adapters.distillation import Teacher
from p2fit_adapters.errors import RunError
from p2fit_adapters.loss import Objective
from p2fit_adapters.models import empty_model, from_config
from p2fit_adapters.pruning.masks import Masks
from p2fit_adapters.text import Text

SMALLEST_TOKENS = 1000  # the data format takes counts between 0 and this for a slip of the unit


@dataclass(frozen=True)
class Training:
    """How a model is trained and when it is evaluated.

    Raises:
        RunError: a value out of its range.
    """

    tokens: int = 100_000_000
    """Training tokens of the run, rounded up to whole steps."""
    evals: int = 20
    """Evaluations after the one at 0 tokens; fewer where two fall on one step."""
    spacing: Literal["log", "linear"] = "log"
    """Of the token counts of the evaluations; ``log`` starts at 1 % of the run."""
    batch_tokens: int = 65_536
    """Tokens of an optimizer step, rounded to whole windows."""
    batch_size: int = 8
    """Windows in one forward pass, of training and evaluation: only speed and memory."""
    lr: float = 1e-4
    """Learning rate after the warm-up."""
    warmup: float = 0.01
    """Share of the steps over which it rises from 0."""
    decay: float = 0.0
    """Share of the steps, at the end, over which it falls to 0. Points before the end of a run
    that decays are not comparable with its end, so curves along one run want 0."""
    weight_decay: float = 0.1
    """Of AdamW, on matrices only."""
    moment_bits: Literal[32, 8] = 32
    """Of AdamW's moments: 8 takes a quarter of the memory (extra ``adam8``)."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    lora_rank: int | None = None
    """Train low-rank additions to the linear layers alone, of this rank (extra ``lora``)."""
    seed: int = 0
    """Of the order of the training windows and of the calibration."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Of matrix products; ``auto`` is bf16 on a GPU, and on a CPU that has it in hardware. Weights
    and optimizer are always fp32."""
    gradient_checkpointing: bool = False
    """Compute activations twice, to save their memory."""
    compile: bool = False
    """Compile forward and backward passes by ``torch.compile``: faster after a minute or more."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; it changes nothing in the curves."""
    track: str | None = None
    """A tracker of Accelerate, e.g. ``tensorboard`` or ``wandb``."""

    def __post_init__(self) -> None:
        for name, good, what in (
            ("tokens", self.tokens >= SMALLEST_TOKENS, f"at least {SMALLEST_TOKENS}"),
            ("evals", self.evals >= 1, "at least 1"),
            ("spacing", self.spacing in ("log", "linear"), "log or linear"),
            ("batch_tokens", self.batch_tokens >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "above 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share from 0 to 1"),
            ("decay", 0 <= self.decay <= 1 - self.warmup, "a share that leaves the warm-up its"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("moment_bits", self.moment_bits in (8, 32), "8 or 32"),
            ("clip", self.clip > 0, "above 0"),
            ("lora_rank", self.lora_rank is None or self.lora_rank >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
            ("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
            ("dtype", self.dtype in ("auto", "bf16", "fp32"), "auto, bf16 or fp32"),
        ):
            if not good:
                raise RunError(f"{name} is {getattr(self, name)}: use {what}")

    @property
    def chosen_dtype(self) -> Literal["bf16", "fp32"]:
        """What ``auto`` is here."""
        if self.dtype != "auto":
            return self.dtype
        return "bf16" if self.on_gpu or _cpu_has_bf16() else "fp32"

    @property
    def on_gpu(self) -> bool:
        return torch.cuda.is_available() and self.device != "cpu"

    def windows_per_step(self, seq_len: int) -> int:
        return max(1, round(self.batch_tokens / seq_len))

    def windows_of_process(self, seq_len: int, processes: int) -> int:
        """Of a step.

        Raises:
            RunError: they cannot be shared evenly.
        """
        windows = self.windows_per_step(seq_len)
        if windows % processes:
            raise RunError(
                f"a step of {windows} windows cannot be shared by {processes} processes: change "
                "--batch-tokens"
            )
        return windows // processes

    @property
    def short_tokens(self) -> str:
        """``20M``, ``1.5B``: for names."""
        units = {10**12: "T", 10**9: "B", 10**6: "M", 10**3: "K"}
        size = next(size for size in units if self.tokens >= size)
        return f"{self.tokens / size:.6g}{units[size]}"

    def step_tokens(self, seq_len: int) -> int:
        return self.windows_per_step(seq_len) * seq_len

    def steps(self, seq_len: int) -> int:
        return math.ceil(self.tokens / self.step_tokens(seq_len))

    def decays_from(self, seq_len: int) -> int:
        """The step after which the learning rate begins to fall."""
        steps = self.steps(seq_len)
        return steps - self._decaying(steps)

    def _decaying(self, steps: int) -> int:
        return max(1, round(self.decay * steps))

    def evaluate_at(self, seq_len: int) -> list[int]:
        """The steps after which the model is evaluated; the last is the end of the run."""
        steps, per_step = self.steps(seq_len), self.step_tokens(seq_len)
        first = math.ceil(SMALLEST_TOKENS / per_step)
        if self.spacing == "log":
            wanted = np.geomspace(max(first, steps / 100), steps, self.evals)
        else:
            wanted = np.linspace(steps / self.evals, steps, self.evals)
        return sorted({max(first, round(step)) for step in wanted} | {steps})

    def warmup_steps(self, steps: int) -> int:
        """Of a run of so many; after them the learning rate is whole."""
        return max(1, round(self.warmup * steps))

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of a step, from 0: up, constant, and down where a decay is asked for."""
        up = (step + 1) / self.warmup_steps(steps)
        down = (steps - step) / self._decaying(steps)
        return self.lr * min(1.0, up, down)


def _cpu_has_bf16() -> bool:
    """Whether products are faster in bf16; other CPUs only emulate it."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_accelerator(training: Training, folder: Path) -> Any:
    """Device and number format of a run, its tracker, and the processes that share it.

    Raises:
        RunError: there is no such device or tracker, or the launcher asks for what is not done
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.tracking import filter_trackers

    if training.device == "cuda" and not training.on_gpu:
        raise RunError("no GPU that torch can use: leave --device out, or use --device cpu")
    try:
        if training.track and not filter_trackers([training.track], folder):
            raise RunError(f"tracker {training.track}: its package is not installed")
    except ValueError as error:
        raise RunError(str(error)) from None
    if PartialState._shared_state and PartialState().num_processes == 1:
        # Accelerate keeps the device and the format of the first run of a process.
        AcceleratorState._reset_state(reset_partial_state=True)
    pieces = sharding.plugin()
    held = Accelerator(
        # A launcher's processes would not find each other on a CPU that is not asked for.
        cpu=training.device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision="bf16" if training.chosen_dtype == "bf16" else "no",
        fsdp_plugin=pieces,
        # Others wait while one tokenizes; of one that is gone the launcher tells.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
        log_with=training.track,
        project_dir=folder,
    )
    if pieces:
        held.state.fsdp_plugin = pieces  # which layers are wrapped is said by each model
    return held


class Trainer:
    """A model in training, on its device; ``step`` counts the steps done."""

    def __init__(
        self,
        accelerator: Any,
        model: Any,
        masks: Masks,
        text: Text,
        training: Training,
        teacher: Teacher | None = None,
    ) -> None:
        self.teacher, self.config = teacher, model.config
        self.accelerator, self.masks, self.text, self.training = accelerator, masks, text, training
        self.seq_len = text.train.shape[1]
        self.windows = training.windows_per_step(self.seq_len)
        self.steps = training.steps(self.seq_len)
        self.step = 0
        training.windows_of_process(self.seq_len, accelerator.num_processes)  # or it is refused
        self.objective = Objective(teacher.settings.weight if teacher else 0.0)
        # The loss has a gradient of its own, and stays as it is.
        own = torch.compiler.disable(self.objective) if training.compile else self.objective
        model.loss_function = own
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if training.lora_rank:
            if accelerator.is_fsdp2:
                raise RunError("LoRA under FSDP cannot be merged: launch with DDP")
            model = lora.add(model, training.lora_rank)
        matrices, others = _learning(model)
        self.trainable = sum(p.numel() for p in (*matrices, *others))
        """Parameters that are trained."""
        optimizer = adam.optimizer(
            [
                {"params": matrices, "weight_decay": training.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            training.moment_bits,
        )
        if accelerator.is_fsdp2:
            self.model, self.optimizer = _cut(accelerator, model, optimizer)
        else:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # Autocast is entered here, once a step, and no logits are to be copied to fp32.
        accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.forward = compiled(self.model, accelerator) if training.compile else self.model

    @property
    def plain_model(self) -> Any:
        """The model without what Accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def to_save(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """The model and its whole weights, as it is loaded by others. Ends the training."""
        if self.training.lora_rank:
            merged = self.plain_model.merge_and_unload()
            return merged, merged.state_dict()
        return self.plain_model, self.accelerator.get_state_dict(self.model)

    @property
    def tokens(self) -> int:
        """Tokens seen so far."""
        return self.step * self.windows * self.seq_len

    @property
    def all_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.windows * self.seq_len

    def advance(self) -> float:
        """One step of the optimizer; the mean loss of its windows before it."""
        self.model.train()
        adam.set_rate(self.optimizer, self.training.lr_at(self.step, self.steps))
        numbers = self.text.numbers(self.step * self.windows, self.windows, self.training.seed)
        mine = numbers[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self.training.batch_size
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        total = torch.zeros((), device=self.accelerator.device)
        device = self.accelerator.device
        kernel = attention.for_training(self.accelerator, self.config, size, self.seq_len)
        with self.accelerator.autocast(), kernel:  # around all parts: weights are cast once
            for i, part in enumerate(parts):
                with self._synchronized(last=i == len(parts) - 1):
                    ids = self.text.windows(part).to(device)
                    if self.teacher:
                        self.objective.guide = self.teacher.guide(part, ids)
                    loss = self.forward(input_ids=ids, labels=ids).loss * (len(part) / len(mine))
                    with torch.autocast(device.type, enabled=False):
                        self.accelerator.backward(loss)
                    total += loss.detach()
        self.objective.guide = None
        self.masks.drop_gradients(self.plain_model)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self.optimizer.step()
        self.masks.apply(self.plain_model)
        self.optimizer.zero_grad()
        self.step += 1
        return float(self.accelerator.reduce(total, "mean"))

    def _synchronized(self, last: bool) -> Any:
        # Under FSDP each process would keep whole gradients until the last part.
        whole = last or self.accelerator.is_fsdp2
        return nullcontext() if whole else self.accelerator.no_sync(self.model)

    def evaluate(self) -> float:
        """Loss on the evaluation set, in nats per token."""
        windows = self.text.evaluation
        return evaluate(self.accelerator, self.model, windows, self.training.batch_size)

    def save(self, folder: Path) -> None:
        """Write all that a later process needs to go on from here."""
        self.accelerator.save_state(str(folder), safe_serialization=False)
        self._forget_step_before_first()
        if self.accelerator.is_main_process:
            self.plain_model.config.save_pretrained(folder)
            self.masks.save(folder / "masks.safetensors")
            (folder / "step").write_text(str(self.step))

    @classmethod
    def load(
        cls,
        accelerator: Any,
        folder: Path,
        text: Text,
        training: Training,
        teacher: Teacher | None = None,
    ) -> Trainer:
        """Go on from what :meth:`save` wrote.

        Raises:
            RunError: that was sharded and this process is not, or the other way round.
        """
        from transformers import AutoConfig

        sharded = any(folder.glob("pytorch_model_fsdp*"))
        if sharded != accelerator.is_fsdp2:
            how = "with" if sharded else "without"
            raise RunError(f"{folder}: was written {how} FSDP: launch the run as it was begun")
        config = AutoConfig.from_pretrained(folder)
        whole = not sharded or accelerator.is_main_process
        model = from_config(config) if whole else empty_model(config)
        masks = Masks.load(folder / "masks.safetensors")
        trainer = cls(accelerator, model, masks, text, training, teacher)
        accelerator.load_state(str(folder))
        trainer.step = int((folder / "step").read_text())
        trainer._forget_step_before_first()
        return trainer

    def _forget_step_before_first(self) -> None:
        """To save or load a sharded optimizer that has no state yet, torch gives it one by a step
        without gradients, which it would count among its own."""
        if self.step == 0:
            self.optimizer.state.clear()


def _cut(accelerator: Any, model: Any, optimizer: Any) -> tuple[Any, Any]:
    """Give each process its pieces of the first one's model, by FSDP."""
    # Accelerate sends parameters, and takes all else that is saved for such.
    whole = [
        (module, name)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    ]
    for module, name in whole:
        module._non_persistent_buffers_set.add(name)
    model, optimizer = accelerator.prepare(model, optimizer)
    for module, name in whole:
        module._non_persistent_buffers_set.discard(name)
        torch.distributed.broadcast(module.get_buffer(name), 0)
    # It finds the optimizer's parameters by their memory, and some had none.
    for group, params in zip(optimizer.param_groups, _learning(model), strict=True):
        group["params"] = params
    return model, optimizer


def _learning(model: Any) -> tuple[list[Any], list[Any]]:
    """What is trained: matrices, and all else, which has no weight decay."""
    found = [p for p in model.parameters() if p.requires_grad]
    return [p for p in found if p.ndim > 1], [p for p in found if p.ndim <= 1]


@torch.no_grad()
def window_losses(
    accelerator: Any,
    model: Any,
    windows: np.ndarray[Any, Any],
    batch_size: int,
    alone: bool = False,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean loss of each window, in nats per token: eval mode, fp32 logits, float64 mean.

    Args:
        alone: the first process has the model, and calls this without the others.
    """
    was_training = model.training
    model.eval()
    count = 1 if alone else accelerator.num_processes
    # As many forward passes in every process, or one of a sharded model waits for the others: a
    # process that has none left repeats a window.
    mine = [*range(accelerator.process_index, len(windows), count)]
    mine += [len(windows) - 1] * (math.ceil(len(windows) / count) - len(mine))
    found = torch.zeros(len(windows), dtype=torch.float64)
    with accelerator.autocast():  # around all batches: weights are cast once
        for i in range(0, len(mine), batch_size):
            here = mine[i : i + batch_size]
            ids = torch.from_numpy(windows[here].astype(np.int64)).to(accelerator.device)
            logits = model(input_ids=ids).logits
            for at, scores, window in zip(here, logits, ids, strict=True):  # no copy of all logits
                losses = cross_entropy(scores[:-1].float(), window[1:], reduction="none")
                if at % count == accelerator.process_index:
                    found[at] = losses.cpu().double().mean()
    model.train(was_training)
    if count > 1:
        found = accelerator.reduce(found.to(accelerator.device), "sum").cpu()
    values: np.ndarray[Any, np.dtype[np.float64]] = found.numpy()
    return values


def evaluate(accelerator: Any, model: Any, windows: np.ndarray[Any, Any], batch_size: int) -> float:
    """Loss on windows, in nats per token."""
    return float(window_losses(accelerator, model, windows, batch_size).mean())
