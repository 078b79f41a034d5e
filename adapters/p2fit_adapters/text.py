"""Text as packed windows of token ids, held on disk, the same for every run that asks for it.

A text is tokenized once into two flat files of ids: what is held out and what is trained on. A
window is ``seq_len`` consecutive ids. The place in the stream of training windows is one integer:
window ``position`` is entry ``position mod n`` of a permutation of all n windows that depends on
the seed and on the epoch ``position div n``, so any run can go on from any place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p2fit.files import write_text
from p2fit_adapters.errors import RunError
from p2fit_adapters.sources import Groups, groups
from p2fit_adapters.tokenizer import load_tokenizer, train_bpe

CHARACTERS_PER_TOKEN = 8  # held out per evaluation token: more than a token of a BPE ever takes
PIECE = 100_000  # characters: a longer document is tokenized in pieces, by several threads
BATCH = 1_000_000  # characters tokenized together
BPE_CHARACTERS = 5_000_000  # what a tokenizer is trained on, at most
NAMED = 200  # held-out groups named in the sidecar

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class TextSource:
    """Where text comes from and what of it is held out."""

    spec: str
    """A file, a folder, ``hub:NAME[:CONFIG][@SPLIT]`` or ``corpus``, the machine's own Python
    sources and documentation."""
    seq_len: int = 1024
    """Tokens in a window."""
    eval_tokens: int = 250_000
    """Tokens of the evaluation set, cut to whole windows."""
    split_seed: int = 0
    """Which part is held out, and the order in which the rest is read. Not the seed of a run: runs
    with different seeds are evaluated on the same text."""
    train_tokens: int | None = None
    """Training tokens to have at hand; by default what the run needs. With one number for all,
    runs of different lengths begin with the same windows."""


@dataclass(frozen=True)
class Text:
    """Packed windows to train and to evaluate on."""

    train: Ids
    """[windows, seq_len]."""
    evaluation: Ids
    """[windows, seq_len]: fixed."""
    meta: dict[str, Any]
    """What the sidecar says of it: source, tokens, held-out groups, fingerprints, tokenizer."""
    tokenizer_path: str
    """Where its tokenizer can be loaded from."""

    def batch(self, position: int, count: int, seed: int) -> torch.Tensor:
        """Windows ``position`` to ``position + count`` of the stream of a seed, as int64."""
        return self.windows(self.numbers(position, count, seed))

    def numbers(self, position: int, count: int, seed: int) -> list[int]:
        """Which of the training windows those are."""
        n = len(self.train)
        at = range(position, position + count)
        return [int(_order(seed, i // n, n)[i % n]) for i in at]

    def windows(self, numbers: Sequence[int]) -> torch.Tensor:
        """Training windows by their numbers, as int64."""
        return torch.from_numpy(self.train[list(numbers)].astype(np.int64))

    def calibration(self, count: int, seed: int) -> torch.Tensor:
        """``count`` training windows (all of them, where there are fewer), as int64."""
        at = np.random.default_rng([seed, 1]).permutation(len(self.train))[:count]
        return torch.from_numpy(self.train[at].astype(np.int64))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


def prepare(
    source: TextSource,
    tokenizer_of: str | None,
    vocab_size: int,
    tokens: int,
    folder: Path,
    *,
    revision: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Text:
    """Tokenize what a run needs, or find it in ``folder`` from an earlier one.

    Args:
        tokenizer_of: folder or hub id whose tokenizer is used; a BPE is trained where it has none.
        vocab_size: of the model; ids must be below it, and a trained BPE has that many entries.
        tokens: training tokens wanted; less is kept where the text ends before, and as many as the
            source names, if it does.
        revision: of the model on the hub.
        say: is told what is being done.

    Raises:
        RunError: the text cannot be read, is too short, or does not fit the model.
    """
    tokens = source.train_tokens or tokens
    tokenizer = None if tokenizer_of is None else load_tokenizer(tokenizer_of, revision)
    name = f"bpe-{vocab_size}" if tokenizer is None else fingerprint(tokenizer)
    place = os.path.abspath(source.spec) if os.path.exists(source.spec) else source.spec
    wanted = [place, source.eval_tokens, source.split_seed, tokens, name]
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    store, partial = folder / key, folder / f".{key}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other runs wait, and find it done
        if not store.exists():
            say(f"reading and tokenizing {source.spec}")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write(source, tokenizer, vocab_size, tokens, partial)
            partial.rename(store)
    meta = json.loads((store / "text.json").read_text(encoding="utf-8"))
    if meta["largest_id"] >= vocab_size:
        raise RunError(
            f"the tokenizer of {tokenizer_of} gives id {meta['largest_id']}, but the model has a "
            f"vocabulary of {vocab_size}: this is not the tokenizer it was trained with"
        )
    train, evaluation = (_windows(store / f"{part}.ids", source) for part in ("train", "held_out"))
    evaluation = evaluation[: source.eval_tokens // source.seq_len]
    for part, windows in (("training", train), ("evaluation", evaluation)):
        if not len(windows):
            raise RunError(
                f"{source.spec}: too short for one {part} window of {source.seq_len} tokens: give "
                "more text, or lower --seq-len or --eval-tokens"
            )
    meta |= {
        "seq_len": source.seq_len,
        "evaluation_windows": len(evaluation),
        "evaluation_fingerprint": hashlib.sha256(evaluation.tobytes()).hexdigest(),
    }
    own = store / "tokenizer"
    return Text(train, evaluation, meta, str(tokenizer_of if tokenizer is not None else own))


def fingerprint(tokenizer: Any) -> str:
    """Of a tokenizer: two with the same one make the same tokens."""
    described = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _windows(path: Path, source: TextSource) -> Ids:
    count = path.stat().st_size // 4 // source.seq_len
    if not count:
        return np.empty((0, source.seq_len), np.int32)
    return np.memmap(path, np.int32, "r", shape=(count, source.seq_len))


def _write(source: TextSource, tokenizer: Any, vocab: int, tokens: int, folder: Path) -> None:
    found = groups(source.spec, source.split_seed)
    held_out, names, rest = _hold_out(source, found)
    if tokenizer is None:
        head = []  # what the tokenizer is trained on is read once and tokenized all the same
        size = 0
        for text in rest:
            head.append(text)
            size += len(text)
            if size >= BPE_CHARACTERS:
                break
        tokenizer = train_bpe(head, vocab)
        tokenizer.save_pretrained(folder / "tokenizer")
        rest = chain(head, rest)
    evaluated = _encode(held_out, tokenizer, folder / "held_out.ids", source.eval_tokens)
    trained = _encode(rest, tokenizer, folder / "train.ids", tokens)
    meta = {
        "source": source.spec,
        "split_seed": source.split_seed,
        "tokens": trained["tokens"],
        "fingerprint": trained["fingerprint"],
        "held_out": names[:NAMED],
        "held_out_count": len(names),
        "tokenizer": fingerprint(tokenizer),
        "vocabulary": len(tokenizer),
        "largest_id": max(trained["largest_id"], evaluated["largest_id"]),
    }
    write_text(folder / "text.json", json.dumps(meta, indent=2, ensure_ascii=False))


def _hold_out(source: TextSource, found: Groups) -> tuple[list[str], list[str], Iterator[str]]:
    """The texts held out, the names of their groups, and all other texts.

    How much is held out goes by characters, so that it is the same for every tokenizer.
    """
    size = CHARACTERS_PER_TOKEN * source.eval_tokens
    ordered = iter(found)
    first = list(islice(ordered, 2))
    if len(first) == 1:  # one long document: its end
        document = "".join(first[0][1])
        if size > len(document) // 2:
            raise _too_short(source, len(document))
        name = f"the last {size} characters of {first[0][0]}"
        return [document[-size:]], [name], iter([document[:-size]])
    texts: list[str] = []
    names: list[str] = []
    held, remaining = 0, chain(first, ordered)
    for name, documents in remaining:
        names.append(name)
        for document in documents:
            texts.append(document)
            held += len(document)
            if held >= size:
                return texts, names, chain.from_iterable(documents for _, documents in remaining)
    raise _too_short(source, held)


def _too_short(source: TextSource, characters: int) -> RunError:
    return RunError(
        f"{source.spec}: {characters} characters are too few to hold out {source.eval_tokens} "
        "tokens: give more text, or lower --eval-tokens"
    )


def _encode(texts: Iterable[str], tokenizer: Any, path: Path, limit: int) -> dict[str, Any]:
    """Write at least ``limit`` ids, or all there are; each document ends in the EOS token."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    count, largest, digest = 0, 0, hashlib.sha256()
    with path.open("wb") as file:
        for pieces, ends in _batched(texts):
            encoded = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
            for ids, is_last in zip(encoded, ends, strict=True):
                data = np.array([*ids, *(end if is_last else ())], np.int32)
                file.write(data.tobytes())
                digest.update(data.tobytes())
                largest = max(largest, int(data.max(initial=0)))
                count += data.size
            if count >= limit:
                break
    return {"tokens": count, "largest_id": largest, "fingerprint": digest.hexdigest()}


def _batched(texts: Iterable[str]) -> Iterator[tuple[list[str], list[bool]]]:
    """Pieces of documents to tokenize together, and which of them end a document."""
    pieces: list[str] = []
    ends: list[bool] = []
    size = 0
    for text in texts:
        cuts = range(0, len(text), PIECE)
        pieces += [text[i : i + PIECE] for i in cuts]
        ends += [i == cuts[-1] for i in cuts]
        size += len(text)
        if size >= BATCH:
            yield pieces, ends
            pieces, ends, size = [], [], 0
    if pieces:
        yield pieces, ends
