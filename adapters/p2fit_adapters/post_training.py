"""Post-training after pruning: the curves of the P² law."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from p2fit_adapters import checkpoints, curves
from p2fit_adapters.errors import RunError
from p2fit_adapters.models import Counts, load_config, load_model
from p2fit_adapters.progress import Quiet
from p2fit_adapters.pruning import Pruned, Pruning, counts_after, prune
from p2fit_adapters.text import Text, TextSource, prepare
from p2fit_adapters.training import Trainer, Training, accelerator, window_losses

_PACKAGES = ("accelerate", "p2fit", "p2fit-adapters", "tokenizers", "torch", "transformers")

# What may change between a run and its continuation.
_FREE = ("batch_size", "checkpoint_minutes", "device", "gradient_checkpointing", "track")


@dataclass(frozen=True)
class PostTraining:
    """One run: prune a model, train it on, and evaluate on the way."""

    model: str
    """Folder or hub id of a causal language model."""
    text: TextSource
    pruning: Pruning = field(default_factory=Pruning)
    training: Training = field(default_factory=Training)
    revision: str | None = None
    """Of the model on the hub."""
    family: str | None = None
    """For the column of that name; by default the model's type (llama, qwen2 …)."""
    save_model: bool = False
    """Keep the trained model, in the folder ``model`` of the run."""

    @property
    def name(self) -> str:
        """Name of the run and of its folder: model, method, criterion, rate, seed."""
        path = Path(self.model)
        parts = [path.parent.name if path.name == "model" else path.name]
        parts.append(self.pruning.method.replace(":", "of"))
        if len(self.pruning.criteria) > 1:
            parts.append(self.pruning.chosen_criterion)
        if self.pruning.rate is not None:
            parts.append(f"{self.pruning.rate:g}")
        return "_".join([*parts, f"s{self.training.seed}"])

    def recorded(self) -> dict[str, Any]:
        """The settings that make a run what it is."""
        settings = asdict(self)
        for name in _FREE:
            del settings["training"][name]
        settings["pruning"]["criterion"] = self.pruning.chosen_criterion
        settings["pruning"]["dimensions"] = list(self.pruning.dimensions)
        del settings["save_model"]
        return settings


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    run: str
    status: str
    """``done`` or ``diverged``."""
    rows: int
    base_loss: float
    loss: float
    """The last finite one."""
    pruning_rate: float
    warnings: Sequence[str]


def post_train(settings: PostTraining, out: str | Path, report: Quiet | None = None) -> Result:
    """Do a run, or go on with it where it was left, and write its curve.

    Rows are in ``out/curves.csv`` and, those of this run alone, in ``out/NAME/curves.csv``. Killed
    at any moment and called again, it ends with the same rows (bit for bit on a CPU).

    Args:
        out: folder for curves, checkpoints and tokenized text.
        report: is told of progress and warnings.

    A loss that is not a number stops the run; it is marked in the sidecar and in the result, and
    not taken up again.

    Raises:
        RunError: it cannot be done, or has to stop; what was measured stays in the files.
    """
    logging.disable_progress_bar()  # of transformers: the report tells what goes on
    logging.set_verbosity_error()
    return _Run(settings, Path(out), report or Quiet()).go()


def post_train_each(
    base: PostTraining, prunings: Sequence[Pruning], out: str | Path, report: Quiet | None = None
) -> list[Result]:
    """:func:`post_train` with each of these ways to prune, one after the other.

    Raises:
        RunError: one of them is out of reach for this model (before any is begun), or as there.
    """
    config = load_config(base.model, base.revision)
    for pruning in prunings:
        counts_after(config, pruning)
    return [post_train(replace(base, pruning=pruning), out, report) for pruning in prunings]


class _Run:
    def __init__(self, settings: PostTraining, out: Path, report: Quiet) -> None:
        self.settings, self.out, self.report = settings, out, report
        self.folder = out / settings.name
        self.training = settings.training

    def go(self) -> Result:
        with _plain_errors(self.settings), curves.locked(self.folder):
            meta = curves.read_meta(self.folder)
            if meta is not None:
                self._same_settings(meta)
                if meta["status"] != "running":
                    checkpoints.remove(self.folder / "checkpoints")
                    if self.settings.save_model and not (self.folder / "model").exists():
                        self.report.warn(
                            f"{self.folder}: the run ended without keeping its model: delete the "
                            "folder to do it again"
                        )
                    return self._result(meta)
            self.accelerator = accelerator(self.training, self.folder)
            trainer, meta, rows = self._begin(meta)
            return self._train(trainer, meta, rows)

    def _same_settings(self, meta: dict[str, Any]) -> None:
        changed = _differences(meta["settings"], self.settings.recorded())
        if changed:
            raise RunError(
                f"{self.folder}: begun with other settings ({'; '.join(changed)}): repeat them, "
                "or use another --out"
            )

    def _begin(self, meta: dict[str, Any] | None) -> tuple[Trainer, dict[str, Any], curves.Rows]:
        checkpoint = checkpoints.newest(self.folder / "checkpoints", self.report.warn)
        if meta is None or checkpoint is None:
            return self._from_the_start()
        text = self._text(meta["vocabulary"])
        if text.meta != meta["text"]:
            raise RunError(f"{self.folder}: the text has changed since the run was begun")
        trainer = Trainer.load(self.accelerator, checkpoint, text, self.training)
        self.report.say(f"{self.settings.name}: going on from {checkpoint}")
        return trainer, meta, curves.read_rows(self.folder)

    def _text(self, vocabulary: int) -> Text:
        source = self.settings.text
        tokens = self.training.steps(source.seq_len) * source.seq_len
        tokens *= self.training.windows_per_step(source.seq_len)
        with self.accelerator.main_process_first():
            text = prepare(
                source,
                self.settings.model,
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

    def _from_the_start(self) -> tuple[Trainer, dict[str, Any], curves.Rows]:
        settings, training = self.settings, self.training
        torch.manual_seed(training.seed)
        model = load_model(settings.model, settings.revision)
        longest = getattr(model.config, "max_position_embeddings", math.inf)
        if settings.text.seq_len > longest:
            raise RunError(f"{settings.model} takes {longest} tokens at once: lower --seq-len")
        text = self._text(model.config.vocab_size)
        model.to(self.accelerator.device)
        self.report.say(f"{settings.name}: measuring the loss before pruning")
        base = self._losses(model, text)
        self.report.say(f"{settings.name}: pruning")
        windows = text.calibration(settings.pruning.calibration_windows, training.seed)
        with self.accelerator.autocast():
            pruned = prune(model, settings.pruning, windows, training.batch_size)
        revision = getattr(model.config, "_commit_hash", None)
        del model  # its weights, where pruning has made new ones
        loss = float(base.mean())
        if settings.pruning.method != "none":
            loss = float(self._losses(pruned.model, text).mean())
        if not math.isfinite(loss) or not math.isfinite(float(base.mean())):
            raise RunError(f"{settings.model}: its loss is not a number before any training")
        meta = self._meta(pruned, text, base, revision)
        trainer = Trainer(self.accelerator, pruned.model, pruned.masks, text, training)
        rows = curves.read_rows(self.folder) | {0: self._row(meta, 0, 0, loss)}
        self._checkpoint(trainer)
        if self.accelerator.is_main_process:
            curves.write_rows(self.folder, rows)  # first: a run with a sidecar has its row 0
            curves.write_meta(self.folder, meta)
        return trainer, meta, rows

    def _losses(self, model: Any, text: Text) -> np.ndarray[Any, np.dtype[np.float64]]:
        size = self.training.batch_size
        return window_losses(self.accelerator, model, text.evaluation, size)

    def _train(self, trainer: Trainer, meta: dict[str, Any], rows: curves.Rows) -> Result:
        training = self.training
        evaluate_at = set(training.evaluate_at(trainer.seq_len))
        if training.track:
            self.accelerator.init_trackers("p2fit", init_kwargs=_named(training.track, self.folder))
        saved = time.monotonic()
        with self.report.run(self.settings.name, trainer) as progress:
            while trainer.step < trainer.steps:
                loss = trainer.advance()
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
                if time.monotonic() - saved >= 60 * training.checkpoint_minutes:
                    self._checkpoint(trainer)
                    saved = time.monotonic()
        if training.track:
            self.accelerator.end_training()
        return self._finish(trainer, meta)

    def _measured(
        self, loss: float, trainer: Trainer, meta: dict[str, Any], rows: curves.Rows
    ) -> None:
        row = rows[trainer.step] = self._row(meta, trainer.step, trainer.tokens, loss)
        below = f"below the base model's {row['base_loss']:.4g}"
        if (
            row["pruning_rate"] > 0
            and loss < row["base_loss"]
            and not any(below in warning for warning in meta["warnings"])
        ):
            self._warn(
                f"{row['run']}: after {trainer.tokens} tokens the loss is {loss:.4g}, {below}: "
                "that was not trained enough on such text, and the P² law does not hold here",
                meta,
            )
        if self.accelerator.is_main_process:
            curves.write_rows(self.folder, rows)
        self.report.row(row)

    def _warn(self, warning: str, meta: dict[str, Any]) -> None:
        meta["warnings"].append(warning)
        self.report.warn(warning)
        self._write_meta(meta)

    def _diverged(self, loss: float, trainer: Trainer, meta: dict[str, Any]) -> Result:
        meta |= {"status": "diverged", "diverged_at": trainer.step}
        self._warn(
            f"{self.settings.name}: the loss is {loss} after {trainer.tokens} tokens; stopped and "
            f"marked: lower --lr, and delete {self.folder} to try again",
            meta,
        )
        return self._result(meta)

    def _finish(self, trainer: Trainer, meta: dict[str, Any]) -> Result:
        if self.settings.save_model:
            model = trainer.plain_model
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                from transformers import AutoTokenizer

                model.save_pretrained(self.folder / "model")
                tokenizer = AutoTokenizer.from_pretrained(trainer.text.tokenizer_path)
                tokenizer.save_pretrained(self.folder / "model")
        meta["status"] = "done"
        self._write_meta(meta)
        if self.accelerator.is_main_process:
            checkpoints.remove(self.folder / "checkpoints")
        return self._result(meta)

    def _checkpoint(self, trainer: Trainer) -> None:
        checkpoints.save(self.folder / "checkpoints", trainer.step, trainer.save)

    def _write_meta(self, meta: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            curves.write_meta(self.folder, meta)

    def _row(self, meta: dict[str, Any], step: int, tokens: int, loss: float) -> dict[str, Any]:
        before, after = Counts(**meta["before"]), Counts(**meta["after"])
        return {
            "run": self.settings.name,
            "family": meta["family"],
            "method": meta["method"],
            "criterion": meta["criterion"],
            "params": before.total,
            "pruning_rate": before.rate(after),
            "base_loss": meta["base_loss"],
            "tokens": tokens,
            "loss": loss,
            "seed": self.training.seed,
            "step": step,
            "params_after": after.total,
            "non_embedding": before.non_embedding,
            "non_embedding_after": after.non_embedding,
            "non_embedding_rate": before.non_embedding_rate(after),
        }

    def _meta(
        self,
        pruned: Pruned,
        text: Text,
        base: np.ndarray[Any, np.dtype[np.float64]],
        revision: str | None,
    ) -> dict[str, Any]:
        settings, pruning = self.settings, self.settings.pruning
        calibrated = pruning.method != "none" and pruning.chosen_criterion != "magnitude"
        return {
            "status": "running",
            "family": settings.family or pruned.model.config.model_type,
            "method": pruning.method,
            "criterion": pruning.chosen_criterion,
            "model": settings.model,
            "revision": revision,
            "vocabulary": pruned.model.config.vocab_size,
            "before": asdict(pruned.before),
            "after": asdict(pruned.after),
            "pruning_rate": pruned.before.rate(pruned.after),
            "pruned": pruned.details,
            "calibration": {
                "windows": min(pruning.calibration_windows, len(text.train)) if calibrated else 0,
                "seed": self.training.seed,
                "text": "training part",
            },
            "base_loss": float(base.mean()),
            "base_loss_stderr": float(base.std(ddof=1) / math.sqrt(len(base)))
            if len(base) > 1
            else None,
            "text": text.meta,
            "optimizer": "AdamW, betas 0.9 and 0.95",
            "dtype": "bf16" if self.accelerator.mixed_precision == "bf16" else "fp32",
            "device": str(self.accelerator.device.type),
            "processes": self.accelerator.num_processes,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            "settings": settings.recorded(),
            "warnings": [],
        }

    def _result(self, meta: dict[str, Any]) -> Result:
        rows = curves.read_rows(self.folder)
        return Result(
            run=self.settings.name,
            status=meta["status"],
            rows=len(rows),
            base_loss=meta["base_loss"],
            loss=float(rows[max(rows)]["loss"]),
            pruning_rate=meta["pruning_rate"],
            warnings=meta["warnings"],
        )


def _named(tracker: str, folder: Path) -> dict[str, Any]:
    """What tells runs apart in a tracker; those that write files go by the folder."""
    return {"wandb": {"name": folder.name}} if tracker == "wandb" else {}


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
def _plain_errors(settings: PostTraining) -> Any:
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
        if not isinstance(error, OSError) and "PytorchStreamWriter" not in str(error):
            raise
        why = str(error).splitlines()[0]
        if isinstance(error, OSError) and error.strerror:
            why = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        raise RunError(
            f"{settings.name}: {why}; the rows that are finished are kept: mend that and repeat "
            "the command to go on"
        ) from None
