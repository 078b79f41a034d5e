"""How long a sweep will take: a few steps of each model, measured here, and the rest computed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from p2fit_adapters import curves
from p2fit_adapters.jobs import Job, Sweep
from p2fit_adapters.models import from_config
from p2fit_adapters.pretraining import Pretraining
from p2fit_adapters.progress import Report
from p2fit_adapters.pruning.masks import Masks
from p2fit_adapters.text import Text
from p2fit_adapters.training import Trainer, make_accelerator, window_losses
from p2fit_adapters.workers import fixed_threads

SECONDS = 1.5  # of steps, for each model, after one that is not counted
MOST_STEPS = 20
CALIBRATION_PASSES = 3  # of N:M: through all blocks, and twice through each


@dataclass(frozen=True)
class Planned:
    """A run of a sweep before it is made."""

    label: str
    kind: str
    params: float
    """Parameters at work, the mean over the run."""
    tokens: int
    flops: float
    status: str
    seconds: float
    """What is left of it takes so long here; 0 where it is done."""
    needs: Sequence[str]


@dataclass(frozen=True)
class _Speed:
    """Seconds, of the dense model."""

    start: float
    """To build it and to write a checkpoint."""
    step: float
    window: float
    """To evaluate one."""


def plan(sweep: Sweep, report: Report | None = None) -> list[Planned]:
    """What a sweep will do and how long each run will take on this machine, on its own.

    A few steps of each model are measured, with random text; a pruned model takes as much less as
    it has fewer parameters. Reading and tokenizing the text is not counted.

    Raises:
        RunError: a model cannot be had.
    """
    report = report or Report()
    speeds: dict[Any, _Speed] = {}
    labels = {job.folder: job.label for job in sweep.jobs}
    found = []
    with fixed_threads(sweep.threads):
        for job in sweep.jobs:
            status, seconds = job.status, 0.0
            if status in ("to do", "running"):
                key = _probed(job)
                if key not in speeds:
                    report.say(f"measuring {job.model}")
                    speeds[key] = _measure(job, sweep.configs[job.model])
                seconds = _seconds(job, speeds[key], sweep.sizes[job.model])
            found.append(
                Planned(
                    job.label,
                    job.kind,
                    job.params,
                    job.settings.training.tokens,
                    job.flops,
                    status,
                    seconds,
                    [labels[need] for need in job.needs],
                )
            )
    return found


def makespan(planned: Sequence[Planned], workers: int) -> float:
    """Seconds of all runs on so many workers, each taking the first run that can begin."""
    ends: dict[str, float] = {}
    free = [0.0] * max(1, workers)
    for run in planned:
        ready = max((ends[need] for need in run.needs), default=0.0)
        at = min(range(len(free)), key=lambda i: max(free[i], ready))
        free[at] = ends[run.label] = max(free[at], ready) + run.seconds
    return max(free)


def _probed(job: Job) -> tuple[Any, ...]:
    """What the speed depends on."""
    training = job.settings.training
    sizes = (training.batch_tokens, training.batch_size, job.settings.text.seq_len)
    rest = (training.device, training.dtype, training.gradient_checkpointing, training.compile)
    return (job.model, *sizes, *rest)


def _measure(job: Job, config: Any) -> _Speed:
    training = replace(job.settings.training, tokens=10**12, track=None)
    seq_len = job.settings.text.seq_len
    rng = np.random.default_rng(0)
    windows = max(training.windows_per_step(seq_len), 2 * training.batch_size)
    ids = rng.integers(0, config.vocab_size, (windows, seq_len), dtype=np.int32)
    text = Text(ids, ids[: 2 * training.batch_size], {}, "")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        held = make_accelerator(training, Path(folder))
        trainer = Trainer(held, from_config(config), Masks({}), text, training)
        trainer.save(Path(folder))
        trainer.advance()  # the first one, which may compile
        start = time.perf_counter() - began
    times: list[float] = []
    while len(times) < 3 or (sum(times) < SECONDS and len(times) < MOST_STEPS):
        began = time.perf_counter()
        trainer.advance()  # its loss is read, and so the device has done it
        times.append(time.perf_counter() - began)
    trainer.evaluate()
    began = time.perf_counter()
    window_losses(held, trainer.model, text.evaluation, training.batch_size)
    window = (time.perf_counter() - began) / len(text.evaluation)
    return _Speed(start, float(np.median(times)), window)


def _seconds(job: Job, speed: _Speed, size: int) -> float:
    """
    Args:
        size: parameters of the model whose speed it is.
    """
    settings, training = job.settings, job.settings.training
    text = settings.text
    done = max(curves.read_rows(job.folder), default=0)
    evaluation = speed.window * (text.eval_tokens // text.seq_len)
    first = max(done, job.first_step)
    evals = sum(step > first for step in settings.evaluate_at())
    share, begin = 1.0, speed.start
    if not isinstance(settings, Pretraining):
        pruning = settings.pruning
        share = 1 - (pruning.rate or 0.0)
        begin += 0 if settings.trunk else evaluation  # of the base model
        if pruning.method != "none" and not settings.trunk:
            begin += evaluation
            passes = 1.0 if pruning.is_structured else CALIBRATION_PASSES
            calibrated = 0 if pruning.chosen_criterion == "magnitude" else passes
            begin += speed.window * pruning.calibration_windows * calibrated
    steps = training.steps(text.seq_len) - first
    taught = job.teacher_params / size / 3  # a forward pass, of the three of a step
    return begin + share * evals * evaluation + (share + taught) * steps * speed.step


def totals(planned: Sequence[Planned], workers: int) -> Mapping[str, float]:
    """Runs, those to be made, FLOPs and seconds of these."""
    left = [run for run in planned if run.status in ("to do", "running")]
    return {
        "runs": len(planned),
        "left": len(left),
        "flops": sum(run.flops for run in left),
        "seconds": makespan(planned, workers),
    }
