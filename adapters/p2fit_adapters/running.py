"""A run: begun once, taken up where it was left, its curve on disk at any moment."""

from __future__ import annotations

import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from transformers.utils import logging

from p2fit_adapters import checkpoints, curves
from p2fit_adapters.distillation import Teacher
from p2fit_adapters.errors import RunError
from p2fit_adapters.progress import Report, on_main_process
from p2fit_adapters.text import Text, TextSource, prepare
from p2fit_adapters.training import Trainer, Training, make_accelerator

_PACKAGES = ("accelerate", "p2fit", "p2fit-adapters", "tokenizers", "torch", "transformers")

STATES_FOLDER = "states"  # of those that other runs go on from

# In what a run may differ from its trunk; the text is compared by content.
_BRANCHES = {"label", "family", "keep_states", "trunk", "text"}
_BRANCHES_TRAINING = {"tokens", "decay", "evals", "spacing"}

# What may change between a run and its continuation.
_FREE = (
    "batch_size",
    "checkpoint_minutes",
    "compile",
    "device",
    "gradient_checkpointing",
    "track",
)


class Settings(Protocol):
    """What every kind of run is told."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def text(self) -> TextSource: ...
    @property
    def training(self) -> Training: ...
    @property
    def keep_states(self) -> Sequence[int]: ...
    @property
    def trunk(self) -> str | None: ...
    @property
    def save_model(self) -> bool: ...
    def evaluate_at(self) -> list[int]:
        """The steps after which the model is evaluated; the last is the end of the run."""

    def recorded(self) -> dict[str, Any]:
        """The settings that make a run what it is."""


def recorded_settings(settings: Any) -> dict[str, Any]:
    """The fields of settings, without those that may change when a run goes on."""
    found = asdict(settings)
    for name in _FREE:
        del found["training"][name]
    found["training"]["dtype"] = settings.training.chosen_dtype
    del found["save_model"]
    found["keep_states"] = list(settings.keep_states)
    return found


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    run: str
    status: str
    """``done`` or ``diverged``."""
    rows: int
    loss: float | None
    """The last finite one; None if there is none."""
    warnings: Sequence[str]


Ended = TypeVar("Ended", bound=Result)


class Run(ABC, Generic[Ended]):
    """One run in its folder; a kind of run says how it begins and what its rows hold.

    In a run of several processes all of them call the same methods; the main one writes.
    """

    columns: ClassVar[Sequence[str]]
    """Of the curve."""

    def __init__(self, settings: Settings, out: str | Path, report: Report | None = None) -> None:
        self.settings, self.out = settings, Path(out)
        self.folder = self.out / settings.name
        self.training = settings.training
        self.report = on_main_process(report)

    # What a kind of run has to say.

    @abstractmethod
    def begin(self) -> tuple[Trainer, dict[str, Any]]:
        """A model before its first step, and what the sidecar says of it."""

    @abstractmethod
    def row(self, meta: Mapping[str, Any], trainer: Trainer, loss: float) -> dict[str, Any]:
        """The row of an evaluation."""

    def first_rows(self, meta: Mapping[str, Any], trainer: Trainer) -> curves.Rows:
        """The rows there are before the first step."""
        return {}

    def tokenizer_of(self, meta: Mapping[str, Any]) -> str | None:
        """Folder or hub id whose tokenizer is used; None to train one."""
        return self.settings.model

    def teacher(self, text: Text, vocabulary: int) -> Teacher | None:
        """Whom the model learns from besides the text, ready to be asked."""
        return None

    def after_step(self, trainer: Trainer, meta: Mapping[str, Any]) -> None:
        """What is done after each step, before its evaluation."""

    def measured(self, row: Mapping[str, Any], meta: dict[str, Any]) -> None:
        """What is said of a row."""

    @abstractmethod
    def result(self, meta: Mapping[str, Any], rows: curves.Rows) -> Ended: ...

    # What all of them do.

    def go(self) -> Ended:
        """Do the run, or go on with it.

        Raises:
            RunError: it cannot be done, or has to stop; what was measured stays in the files.
        """
        logging.disable_progress_bar()  # of transformers: the report tells what goes on
        logging.set_verbosity_error()
        with _plain_errors(self.settings):
            meta = curves.read_meta(self.folder)
            if meta is not None and meta["status"] != "running":
                self._same_settings(meta)
                return self._ended(meta)
            self.accelerator = make_accelerator(self.training, self.folder)
            with curves.locked(self.folder) if self.is_main else nullcontext():
                self._same_kind()
                self.accelerator.wait_for_everyone()
                meta = curves.read_meta(self.folder)
                if meta is not None:
                    self._same_settings(meta)
                    if meta["status"] != "running":  # while this one waited for the lock
                        return self._ended(meta)
                trainer, meta, rows = self._taken_up(meta) or self._from_the_start()
                return self._train(trainer, meta, rows)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _same_settings(self, meta: dict[str, Any]) -> None:
        changed = _differences(meta["settings"], self.settings.recorded())
        if changed:
            raise RunError(
                f"{self.folder}: begun with other settings ({'; '.join(changed)}): repeat them, "
                "or use another --out"
            )

    def _same_kind(self) -> None:
        """The curves of a folder go into one table."""
        found = curves.read_columns(self.out)
        if found and found != list(self.columns):
            raise RunError(
                f"{self.out / curves.CURVES}: holds curves of another kind: use another --out"
            )

    def _ended(self, meta: dict[str, Any]) -> Ended:
        checkpoints.remove(self.folder / "checkpoints")
        if self.settings.save_model and not (self.folder / "model").exists():
            self.report.warn(
                f"{self.folder}: the run ended without keeping its model: delete the folder to do "
                "it again"
            )
        return self.result(meta, curves.read_rows(self.folder))

    def _taken_up(
        self, meta: dict[str, Any] | None
    ) -> tuple[Trainer, dict[str, Any], curves.Rows] | None:
        checkpoint = checkpoints.newest(self.folder / "checkpoints", self.report.warn)
        if meta is None or checkpoint is None:
            return None
        text = self.prepare_text(meta["vocabulary"], self.tokenizer_of(meta))
        if text.meta != meta["text"]:
            raise RunError(f"{self.folder}: the text has changed since the run was begun")
        teacher = self.teacher(text, meta["vocabulary"])
        trainer = Trainer.load(self.accelerator, checkpoint, text, self.training, teacher)
        self.report.say(f"{self.settings.name}: going on from {checkpoint}")
        return trainer, meta, curves.read_rows(self.folder)

    def _from_the_start(self) -> tuple[Trainer, dict[str, Any], curves.Rows]:
        torch.manual_seed(self.training.seed)
        trainer, meta = self.begin()
        self._keep_state(trainer)
        rows = curves.read_rows(self.folder) | self.first_rows(meta, trainer)
        self._checkpoint(trainer)
        if self.is_main:
            curves.write_rows(self.folder, rows, self.columns)  # first: a sidecar has its row 0
            curves.write_meta(self.folder, meta, self.columns)
        return trainer, meta, rows

    def prepare_text(self, vocabulary: int, tokenizer_of: str | None) -> Text:
        """The tokenized text of the run."""
        source = self.settings.text
        steps = self.training.steps(source.seq_len)
        tokens = steps * self.training.step_tokens(source.seq_len)
        with self.accelerator.main_process_first():
            text = prepare(
                source,
                tokenizer_of,
                vocabulary,
                tokens,
                self.out / ".text",
                revision=self.settings.revision,
                say=self.report.say,
            )
        times = tokens / text.train.size
        if times > 1.5:
            self.report.warn(
                f"the training text has {text.train.size} tokens: each is seen {times:.1f} times"
            )
        return text

    def branch(self, text: Text, teacher: Teacher | None = None) -> tuple[Trainer, dict[str, Any]]:
        """The model where the trunk left it for this run, and the trunk's sidecar.

        Raises:
            RunError: there is no such state, or the trunk was made in another way than this run.
        """
        assert self.settings.trunk
        trunk, name = Path(self.settings.trunk), self.settings.name
        step = self.training.decays_from(text.train.shape[1])
        state = checkpoints.named(trunk / STATES_FOLDER, step)
        fault = checkpoints.damage(state)
        if fault:
            raise RunError(f"{state}: {fault}: {name} was to go on from there")
        theirs = curves.read_meta(trunk)
        if theirs is None or theirs["text"] != text.meta:
            raise RunError(f"{trunk}: was trained on another text than {name}")
        apart = _differences(_shared(theirs["settings"]), _shared(self.settings.recorded()))
        if apart:
            raise RunError(f"{trunk}: was made in another way than {name} ({'; '.join(apart)})")
        trainer = Trainer.load(self.accelerator, state, text, self.training, teacher)
        self.report.say(f"{name}: going on from step {trainer.step} of the trunk")
        return trainer, theirs

    def _keep_state(self, trainer: Trainer) -> None:
        per_step = trainer.all_tokens // trainer.steps
        if trainer.step in {math.ceil(tokens / per_step) for tokens in self.settings.keep_states}:
            folder = self.folder / STATES_FOLDER
            if checkpoints.damage(checkpoints.named(folder, trainer.step)):
                checkpoints.keep(folder, trainer.step, trainer.save, self.accelerator)

    def described(self, model: Any, text: Text) -> dict[str, Any]:
        """What the sidecar says of any run."""
        return {
            "status": "running",
            "family": getattr(self.settings, "family", None) or model.config.model_type,
            "model": self.settings.model,
            "revision": getattr(model.config, "_commit_hash", None),
            "vocabulary": model.config.vocab_size,
            "text": text.meta,
            "optimizer": f"AdamW, betas 0.9 and 0.95, moments of {self.training.moment_bits} bits",
            "dtype": "bf16" if self.accelerator.mixed_precision == "bf16" else "fp32",
            "device": str(self.accelerator.device.type),
            "processes": self.accelerator.num_processes,
            "compiled": self.training.compile,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "settings": self.settings.recorded(),
            "warnings": [],
        }

    def _train(self, trainer: Trainer, meta: dict[str, Any], rows: curves.Rows) -> Ended:
        training = self.training
        evaluate_at = set(self.settings.evaluate_at())
        if training.track:
            self.accelerator.init_trackers("p2fit", init_kwargs=_named(training.track, self.folder))
        saved = time.monotonic()
        with self.report.run(self.settings.name, trainer) as progress:
            while trainer.step < trainer.steps:
                loss = trainer.advance()
                self.after_step(trainer, meta)
                self._keep_state(trainer)
                progress(loss)
                due = trainer.step in evaluate_at
                held_out = trainer.evaluate() if due and math.isfinite(loss) else loss
                if not math.isfinite(held_out):
                    return self._diverged(held_out, trainer, meta)
                if due:
                    self._measured(held_out, trainer, meta, rows)
                    if training.track:
                        values = {"loss": held_out, "training loss": loss, "tokens": trainer.tokens}
                        self.accelerator.log(values, step=trainer.step)
                # The clock of one process decides for all of them.
                if self._agreed(time.monotonic() - saved >= 60 * training.checkpoint_minutes):
                    self._checkpoint(trainer)
                    saved = time.monotonic()
        if training.track:
            self.accelerator.end_training()
        return self._finish(trainer, meta)

    def _agreed(self, main_says: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return main_says
        from accelerate.utils import broadcast

        told = torch.tensor([float(main_says)], device=self.accelerator.device)
        return bool(broadcast(told).item())

    def _measured(
        self, loss: float, trainer: Trainer, meta: dict[str, Any], rows: curves.Rows
    ) -> None:
        row = rows[trainer.step] = self.row(meta, trainer, loss)
        self.measured(row, meta)
        if self.is_main:
            curves.write_rows(self.folder, rows, self.columns)
        self.report.row(row)

    def warn(self, warning: str, meta: dict[str, Any]) -> None:
        """Say it, and put it in the sidecar."""
        meta["warnings"].append(warning)
        self.report.warn(warning)
        self._write_meta(meta)

    def _diverged(self, loss: float, trainer: Trainer, meta: dict[str, Any]) -> Ended:
        meta |= {"status": "diverged", "diverged_at": trainer.step}
        self.warn(
            f"{self.settings.name}: the loss is {loss} after {trainer.tokens} tokens; stopped and "
            f"marked: lower --lr, and delete {self.folder} to try again",
            meta,
        )
        return self.result(meta, curves.read_rows(self.folder))

    def _finish(self, trainer: Trainer, meta: dict[str, Any]) -> Ended:
        if self.settings.save_model:
            model, weights = trainer.to_save()
            if self.is_main:
                from transformers import AutoTokenizer

                model.save_pretrained(self.folder / "model", state_dict=weights)
                tokenizer = AutoTokenizer.from_pretrained(trainer.text.tokenizer_path)
                tokenizer.save_pretrained(self.folder / "model")
        meta["status"] = "done"
        self._write_meta(meta)
        self.accelerator.wait_for_everyone()
        if self.is_main:
            checkpoints.remove(self.folder / "checkpoints")
        return self.result(meta, curves.read_rows(self.folder))

    def _checkpoint(self, trainer: Trainer) -> None:
        folder = self.folder / "checkpoints"
        checkpoints.save(folder, trainer.step, trainer.save, self.accelerator)

    def _write_meta(self, meta: dict[str, Any]) -> None:
        if self.is_main:
            curves.write_meta(self.folder, meta, self.columns)


def check_length(model: str, config: Any, seq_len: int) -> None:
    """That a model takes windows so long.

    Raises:
        RunError: it does not.
    """
    longest = getattr(config, "max_position_embeddings", math.inf)
    if seq_len > longest:
        raise RunError(f"{model} takes {longest} tokens at once: lower --seq-len")


def _named(tracker: str, folder: Path) -> dict[str, Any]:
    """What tells runs apart in a tracker; those that write files go by the folder."""
    return {"wandb": {"name": folder.name}} if tracker == "wandb" else {}


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings that a run has in common with the trunk it leaves."""
    found = {name: value for name, value in settings.items() if name not in _BRANCHES}
    training = settings["training"].items()
    return found | {"training": {k: v for k, v in training if k not in _BRANCHES_TRAINING}}


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before}, now {after}")
    return found


@contextmanager
def _plain_errors(settings: Settings) -> Iterator[None]:
    """What a machine runs out of, in one line that says what to change."""
    size = settings.training.batch_size
    try:
        yield
    except torch.OutOfMemoryError:
        advice = f"--batch-size {size // 2}"
        if size == 1:
            advice = "a shorter --seq-len, or --gradient-checkpointing"
        raise RunError(
            f"{settings.name}: out of memory with --batch-size {size}: try {advice} (the run goes "
            "on from its last checkpoint)"
        ) from None
    except (OSError, RuntimeError) as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise RunError(
                f"{settings.name}: another process of this run has ended: see what it says"
            ) from None
        if not isinstance(error, OSError) and "PytorchStreamWriter" not in str(error):
            raise
        why = str(error).splitlines()[0]
        if isinstance(error, OSError) and error.strerror:
            why = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        raise RunError(
            f"{settings.name}: {why}; the rows that are finished are kept: mend that and repeat "
            "the command to go on"
        ) from None
