"""A model's tokenizer, or a byte-level BPE where it has none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from p2fit_adapters.errors import RunError

END = "<|endoftext|>"
FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_tokenizer(model: str, revision: str | None = None) -> Any | None:
    """The tokenizer of a folder or hub id; None for a folder without one.

    Raises:
        RunError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    if Path(model).is_dir() and not any((Path(model) / name).exists() for name in FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise RunError(f"{model}: no tokenizer: {str(error).splitlines()[0]}") from None


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE (Sennrich et al. 2016) of at most ``vocab_size`` entries.

    Raises:
        RunError: fewer entries than there are bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise RunError(
            f"a vocabulary of {vocab_size} is too small to train a tokenizer for: "
            f"{len(alphabet) + 1} at least"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
