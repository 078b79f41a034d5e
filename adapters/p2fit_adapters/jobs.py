"""The runs of a sweep and what each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2fit_adapters import checkpoints, curves
from p2fit_adapters.post_training import PostTraining, post_train
from p2fit_adapters.pretraining import STATES_FOLDER, Pretraining, pretrain
from p2fit_adapters.progress import Report
from p2fit_adapters.running import Result

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
        evaluated = len(training.evaluate_at(text.seq_len)) * text.eval_tokens
        steps = training.steps(text.seq_len) - self.first_step
        trained = steps * training.step_tokens(text.seq_len)
        own = self.params * ((4 if training.lora_rank else 6) * trained + 2 * evaluated)
        return own + 2 * self.teacher_params * trained

    @property
    def first_step(self) -> int:
        """Where a run that goes on from another's state begins."""
        trunk = getattr(self.settings, "trunk", None)
        training = self.settings.training
        return training.decays_from(self.settings.text.seq_len) if trunk else 0

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
