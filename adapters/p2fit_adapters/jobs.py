"""The runs of a sweep and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p2fit_adapters import checkpoints, curves
from p2fit_adapters.errors import RunError
from p2fit_adapters.post_training import PostTraining, post_train
from p2fit_adapters.pretraining import Pretraining, pretrain
from p2fit_adapters.progress import Report
from p2fit_adapters.running import STATES_FOLDER, Result
from p2fit_adapters.training import SMALLEST_TOKENS

PRETRAIN, POST_TRAIN = "pretrain", "post-train"


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    model: str
    """Its name in the file."""
    settings: Pretraining | PostTraining
    out: Path
    params: float
    """Parameters at work, the mean over the run."""
    needs: tuple[Path, ...] = ()
    """Folders of runs that must be done before."""
    teacher_params: int = 0
    """Of a teacher, if there is one."""

    @property
    def kind(self) -> str:
        return PRETRAIN if isinstance(self.settings, Pretraining) else POST_TRAIN

    @property
    def folder(self) -> Path:
        return self.out / self.settings.name

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.settings.name}"

    @property
    def flops(self) -> float:
        """Of training, 6 N D (4 with LoRA), of a teacher, 2 N D of its own, and of the evaluations,
        2 N each token."""
        training, text = self.settings.training, self.settings.text
        evaluated = len(self.settings.evaluate_at()) * text.eval_tokens
        steps = training.steps(text.seq_len) - self.first_step
        trained = steps * training.step_tokens(text.seq_len)
        own = self.params * ((4 if training.lora_rank else 6) * trained + 2 * evaluated)
        return own + 2 * self.teacher_params * trained

    @property
    def first_step(self) -> int:
        """Where a run that goes on from another's state begins."""
        settings = self.settings
        return settings.training.decays_from(settings.text.seq_len) if settings.trunk else 0

    @property
    def status(self) -> str:
        """``to do``, ``running`` (perhaps interrupted), ``done`` or ``diverged``."""
        meta = curves.read_meta(self.folder)
        return "to do" if meta is None else str(meta["status"])

    def run(self, report: Report | None = None) -> Result:
        """Do it, or what is left of it.

        Raises:
            RunError: as :func:`pretrain` and :func:`post_train`.
        """
        if isinstance(self.settings, Pretraining):
            return pretrain(self.settings, self.out, report)
        return post_train(self.settings, self.out, report)


def branches(settings: Sequence[Pretraining | PostTraining], job: Callable[..., Job]) -> list[Job]:
    """Runs that decay, those that differ in their tokens alone from one trunk: a run at a constant
    learning rate that comes before them.

    Args:
        job: makes one of settings and the folders of runs that it needs besides its model's.

    Raises:
        RunError: they do not decay, are sparse, or one leaves while the learning rate still rises.
    """
    alike: dict[str, list[Pretraining | PostTraining]] = {}
    for one in settings:
        same = replace(one, training=replace(one.training, tokens=SMALLEST_TOKENS))
        alike.setdefault(same.name, []).append(one)
    found = []
    for decayed in alike.values():
        first, seq_len = decayed[0].training, decayed[0].text.seq_len
        sparse = isinstance(decayed[0], Pretraining) and decayed[0].sparsity.final
        if not first.decay or sparse:
            raise RunError("for dense runs with a decay")
        leave = sorted({one.training.decays_from(seq_len) for one in decayed})
        per_step = first.step_tokens(seq_len)
        constant = replace(first, tokens=leave[-1] * per_step, decay=0.0)
        rises = constant.warmup_steps(leave[-1])
        if rises > max(1, leave[0]):
            raise RunError(
                f"the learning rate rises for {rises} steps, and the shortest run leaves after "
                f"{leave[0]}: lower warmup, or raise the fewest tokens"
            )
        kept = tuple(step * per_step for step in leave)
        trunk = job(replace(decayed[0], training=constant, keep_states=kept, save_model=False))
        found.append(trunk)
        found += [job(replace(one, trunk=str(trunk.folder)), trunk.folder) for one in decayed]
    return found


@dataclass(frozen=True)
class Sweep:
    """The runs that a file asks for; those that others need come before them."""

    jobs: Sequence[Job]
    threads: int
    """Of each run on a CPU: with the same number, a run gives the same rows wherever it is done."""
    configs: Mapping[str, Any]
    """Of the models, by name."""
    sizes: Mapping[str, int]
    """Their parameters."""

    def missing(self, job: Job) -> list[Job]:
        """What a job needs that is not done."""
        return [
            other for other in self.jobs if other.folder in job.needs and other.status != "done"
        ]

    def tidy(self) -> None:
        """Delete the states that runs kept for others, when all those are done."""
        for trunk in {need for job in self.jobs for need in job.needs}:
            if all(job.status == "done" for job in self.jobs if trunk in job.needs):
                checkpoints.remove(trunk / STATES_FOLDER)
