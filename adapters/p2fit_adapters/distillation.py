"""Teachers: models whose distribution of next tokens another one learns from.

A teacher is asked in each step, or, with :attr:`Distillation.top_k`, once for each window before
training begins. Then its most probable tokens are on disk, where all runs of a folder find them,
and the model that learns has the memory for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from p2fit_adapters.errors import RunError
from p2fit_adapters.loss import Guide, TopK
from p2fit_adapters.models import count_parameters, load_config, load_model, meta_model
from p2fit_adapters.naming import model_name
from p2fit_adapters.progress import Report
from p2fit_adapters.text import Text, fingerprint
from p2fit_adapters.tokenizer import load_tokenizer

SELF = "self"


@dataclass(frozen=True)
class Distillation:
    """Who teaches, and how much of the loss is that.

    Raises:
        RunError: a value out of its range.
    """

    teacher: str = SELF
    """``self``, the model before pruning, or folder or hub id of a model with its tokenizer."""
    weight: float = 0.9
    """Of the divergence from the teacher, in (0, 1]; the rest is of the cross-entropy. Hinton et
    al. (arXiv 1503.02531) found a considerably lower weight on the true tokens best; Minitron
    (arXiv 2407.14679) uses the teacher alone, 1."""
    top_k: int | None = None
    """Keep the teacher's so many most probable tokens on disk, and ask it once for each window."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise RunError(f"weight is {self.weight}: use a share above 0 for the teacher")
        if self.top_k is not None and self.top_k < 1:
            raise RunError(f"top_k is {self.top_k}: use at least 1")

    @property
    def name(self) -> str:
        """``self``, or what the teacher is called: for names and the column ``teacher``."""
        return SELF if self.teacher == SELF else model_name(self.teacher)


def distillations(
    teachers: Sequence[str], weight: float | None = None, top_k: int | None = None
) -> list[Distillation | None]:
    """One for each teacher, where ``none`` is plain training; without any, that alone.

    Raises:
        RunError: a value out of its range, or one that no teacher has a use for.
    """
    found = [
        None
        if teacher == "none"
        else Distillation(teacher, Distillation.weight if weight is None else weight, top_k)
        for teacher in dict.fromkeys(teachers or ["none"])
    ]
    if not any(found) and (weight, top_k) != (None, None):
        raise RunError("a weight and a number of tokens are a teacher's: name one (self)")
    return found


class Teacher:
    """A model that is not trained; each process has the whole of it."""

    def __init__(
        self,
        settings: Distillation,
        accelerator: Any,
        text: Text,
        model: str,
        revision: str | None,
        vocabulary: int,
    ) -> None:
        """
        Args:
            model, revision: of the model before pruning.
            vocabulary: of the model that learns.

        Raises:
            RunError: the teacher cannot be loaded, or does not speak of the same tokens.
        """
        self.settings, self.accelerator, self.text = settings, accelerator, text
        self.vocabulary = vocabulary
        own = settings.teacher == SELF
        self._where = (model, revision) if own else (settings.teacher, None)
        self.config = load_config(*self._where)
        longest = getattr(self.config, "max_position_embeddings", None)
        if longest and text.train.shape[1] > longest:
            raise RunError(f"teacher {self._where[0]} takes {longest} tokens at once")
        if not own:
            self._check()
        self.params = count_parameters(meta_model(self.config)).total
        self._model: Any = None
        self._store: Path | None = None

    def _check(self) -> None:
        name = self.settings.teacher
        if self.config.vocab_size < self.vocabulary:
            raise RunError(
                f"teacher {name} has a vocabulary of {self.config.vocab_size}, the model one of "
                f"{self.vocabulary}: a teacher must know all the tokens"
            )
        tokenizer = load_tokenizer(name)
        if tokenizer is None or fingerprint(tokenizer) != self.text.meta["tokenizer"]:
            raise RunError(
                f"teacher {name} has another tokenizer than the model: use one of its kind"
            )

    def described(self) -> dict[str, Any]:
        """What the sidecar says of it."""
        revision = getattr(self.config, "_commit_hash", None)
        return {"model": self._where[0], "revision": revision, "params": self.params}

    def tokens_read(self, tokens: int) -> int:
        """Tokens of training text that it has read for so many of a run."""
        return tokens if self.settings.top_k is None else min(tokens, self.text.train.size)

    def get_ready(
        self, seed: int, windows: int, batch_size: int, folder: Path, report: Report
    ) -> None:
        """Load it, or ask it of all windows of a run that are not in the folder yet.

        Args:
            seed: of the order of the windows.
            windows: of the run.
        """
        if self.settings.top_k is None:
            self._model = self._loaded()
            return
        if self.settings.top_k >= self.vocabulary:
            raise RunError(
                f"top_k is {self.settings.top_k}, of {self.vocabulary} tokens in all: leave it out"
            )
        self._store = folder / f"{self._key()}.top{self.settings.top_k}"
        folder.mkdir(parents=True, exist_ok=True)
        self._store.touch()
        needed = np.unique(self.text.numbers(0, min(windows, len(self.text.train)), seed))
        with self._store.open("r+b") as file:
            size, to = self._record, file.fileno()
            missing = [int(i) for i in needed if not any(os.pread(to, 4, int(i) * size))]
            mine = missing[self.accelerator.process_index :: self.accelerator.num_processes]
            if mine:
                report.say(f"asking the teacher of {len(missing)} windows, once for all runs")
                self._model = self._loaded()
                for at in _parts(mine, batch_size):
                    self._write(to, at)
                self._model = None
        self.accelerator.wait_for_everyone()

    def _loaded(self) -> Any:
        half = self.accelerator.mixed_precision == "bf16"
        model = load_model(*self._where, torch.bfloat16 if half else torch.float32)
        return model.requires_grad_(False).eval().to(self.accelerator.device)

    def _key(self) -> str:
        """Of a teacher's words on a text: another teacher, text or format is another file."""
        where = Path(self._where[0])
        files = sorted(where.iterdir()) if where.is_dir() else []
        facts = [
            os.path.abspath(where) if files else self._where,
            [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files],
            getattr(self.config, "_commit_hash", None),
            self.text.meta["fingerprint"],
            self.text.train.shape,
            self.vocabulary,
            self.accelerator.mixed_precision,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @property
    def _record(self) -> int:
        """Bytes of a window: a checksum, ids, logarithms of chances."""
        assert self.settings.top_k
        return int(4 + 8 * self.text.train.shape[1] * self.settings.top_k)

    def _write(self, file: int, at: list[int]) -> None:
        assert self.settings.top_k
        ids = torch.from_numpy(self.text.train[at].astype(np.int64))
        for number, logits in zip(at, self._logits(ids), strict=True):
            scores = logits.float()
            best, found = (scores - scores.logsumexp(1, keepdim=True)).topk(self.settings.top_k)
            payload = found.int().cpu().numpy().tobytes() + best.cpu().numpy().tobytes()
            os.pwrite(file, payload, number * self._record + 4)
            # Last: a window without a checksum is asked for again.
            os.pwrite(file, _checksum(payload), number * self._record)

    @torch.no_grad()
    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():
            logits: torch.Tensor = self._model(input_ids=ids.to(self.accelerator.device)).logits
        return logits[..., : self.vocabulary]

    def guide(self, at: Sequence[int], ids: torch.Tensor) -> Guide:
        """What it says of windows.

        Args:
            at: their numbers in the training text.
            ids: their tokens.

        Raises:
            RunError: what is on disk is damaged.
        """
        if self._store is None:
            return self._logits(ids)
        assert self.settings.top_k
        shape = (len(at), self.text.train.shape[1], self.settings.top_k)
        found = np.empty((len(at), 2, *shape[1:]), np.int32)
        with self._store.open("rb") as file:
            for i, number in enumerate(at):
                record = os.pread(file.fileno(), self._record, number * self._record)
                if record[:4] != _checksum(record[4:]):
                    raise RunError(f"{self._store}: damaged: delete it to ask the teacher again")
                found[i] = np.frombuffer(record[4:], np.int32).reshape(2, *shape[1:])
        parts = (torch.from_numpy(found[:, 0]), torch.from_numpy(found[:, 1].view(np.float32)))
        return TopK(*(part.to(self.accelerator.device) for part in parts))


def _parts(numbers: list[int], size: int) -> Iterator[list[int]]:
    return (numbers[i : i + size] for i in range(0, len(numbers), size))


def _checksum(payload: bytes) -> bytes:
    return (zlib.crc32(payload) or 1).to_bytes(4, "little")  # not that of a hole in the file
