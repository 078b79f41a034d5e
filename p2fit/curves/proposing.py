"""What a header that people really use may mean, as options to type; nothing is taken by itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping

import polars as pl

from p2fit.curves.columns import quote
from p2fit.curves.rows import rows_are_runs
from p2fit.wording import closest

#: Column -> what it is called elsewhere: words in lower case, joined by _.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "run": ("run_name", "run_id", "experiment", "exp_name"),
    "params": (
        *("num_params", "n_params", "nparams", "model_size", "size", "n", "parameters"),
        *("num_parameters", "param_count", "parameter_count", "total_params", "model_params"),
    ),
    "tokens": (
        *("num_tokens", "n_tokens", "d", "train_tokens", "training_tokens", "tokens_seen", "tok"),
        *("tokens_trained", "total_tokens", "num_input_tokens_seen", "train_num_input_tokens_seen"),
    ),
    "loss": (
        *("eval_loss", "val_loss", "valid_loss", "validation_loss", "test_loss", "heldout_loss"),
        *("held_out_loss", "dev_loss", "final_loss"),
    ),
    "pruning_rate": (
        *("sparsity", "prune_ratio", "pruning_ratio", "prune_rate", "sparsity_ratio", "pruned"),
        *("sparsity_level", "pruned_share"),
    ),
    "base_loss": (
        *("dense_loss", "baseline_loss", "original_loss", "unpruned_loss", "base_eval_loss", "l0"),
        *("base_val_loss", "dense_eval_loss", "dense_val_loss", "teacher_loss"),
    ),
    "avg_params": ("average_params", "mean_params", "avg_active_params"),
    "active_params": ("nonzero_params", "params_nonzero", "remaining_params"),
    "family": ("model_family",),
    "method": ("pruning_method", "prune_method", "pruner"),
    "loss_stderr": ("eval_loss_stderr", "val_loss_stderr"),
}

_SCALES = {
    **dict.fromkeys(("pct", "percent", "percentage"), "/100"),
    **dict.fromkeys(("k", "thousand", "thousands"), "*1e3"),
    **dict.fromkeys(("m", "million", "millions"), "*1e6"),
    **dict.fromkeys(("b", "bn", "billion", "billions"), "*1e9"),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), "*1e12"),
}
#: A loss above this is no loss: the log of more words than any vocabulary has.
HIGHEST = 14.0
_BITS = {"bits", "bpb", "bpc", "bpt", "bpw", "byte"}
_PER_BYTE = {"bpb", "byte"}
_COUNTS = ("params", "tokens", "avg_params", "active_params")
_PERPLEXITY = ("ppl", "perplexity")

# What papers write for a column.
_SYMBOLS = {
    "params": ("n", "n0", "n_0"),
    "tokens": ("d",),
    "base_loss": ("l0", "l_0"),
    "pruning_rate": ("rho",),
    "avg_params": ("n_bar",),
}

Cells = Callable[[str], pl.Series]


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case; % is percent."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("%", "_percent"))
    return [word for word in re.split(r"[^a-z0-9]+", plain.lower()) if word]


def scale_of(column: str, name: str, cells: pl.Series) -> str:
    """What a column's values are multiplied by, read off its name or else off their size."""
    top = cells.cast(pl.Float64, strict=False).max()
    top = float(top) if isinstance(top, int | float) else 0.0
    if column == "pruning_rate":
        return "/100" if 1 < top <= 100 else ""
    if column not in _COUNTS or not 0 < top < 1e7:
        return ""
    end = _named(name)
    return end if end.startswith("*") else "*1e9" if top < 1e4 else ""


def _named(name: str) -> str:
    """What a name says that its values are multiplied by."""
    return _SCALES.get((words_of(name) or [""])[-1], "")


def unsure(column: str, name: str) -> str:
    """What to say of a scale that only the size of a count speaks for."""
    return "" if column not in _COUNTS or _named(name) else " (*1e6 for millions)"


def mended(column: str, name: str, cells: pl.Series) -> str:
    """The option that takes a column from another with its unit."""
    words = words_of(name)
    if column in ("loss", "base_loss") and set(words) & set(_PERPLEXITY):
        value = f"log({quote(name)})"
    elif column in ("loss", "base_loss") and set(words) & _BITS:
        value = f"{quote(name)}*log(2){'*BYTES' if set(words) & _PER_BYTE else ''}"
    else:
        scale = scale_of(column, name, cells)
        value = quote(name) + scale if scale else name
    return f"--column {shlex.quote(f'{column}={value}')}"


def bytes_note(options: str) -> str:
    """What to say of options that no file can fill in."""
    return ", with your bytes per token for BYTES" if "*BYTES" in options else ""


def other_unit(column: str, name: str) -> str:
    """Why a loss, by the name that it has, is not in nats per token; empty where it may be."""
    words = set(words_of(name))
    if words & set(_PERPLEXITY):
        return f"{name} is a perplexity by its name: {mended(column, name, pl.Series())}"
    if words & _BITS:
        option = mended(column, name, pl.Series())
        return f"{name} is in bits by its name: {option}{bytes_note(option)}"
    return ""


def doubtful_units(
    names: Mapping[str, str], frame: pl.DataFrame, whole: bool
) -> Iterator[tuple[str, str]]:
    """Losses that look like another unit than nats per token: the column, and why.

    Args:
        names: what the losses are called in the file.
        frame: their values.
        whole: whether these are loss curves; in another table a loss may be anything.
    """
    for column, name in names.items():
        if " = " in name:  # an expression says what it does
            continue
        if name != column and (why := other_unit(column, name)):
            yield column, why
            continue
        middle = frame[column].median() if whole else None
        if isinstance(middle, float) and middle > HIGHEST:
            option = f"--column '{column}=log({quote(name)})'"
            yield (
                column,
                f"half of it is above {middle:.4g}, and no vocabulary has a loss above "
                f"{HIGHEST:g}: is it a perplexity? {option}",
            )


def propose(
    header: Collection[str], cells: Cells, taken: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Options that name what a table's columns seem to be.

    Args:
        header: the names in the file.
        cells: name -> its cells.
        taken: columns that are mapped already, and what to.

    Returns:
        Column -> its option, for what is neither in the header nor taken; and the option that
        names the runs, empty where none is needed.
    """
    found, sources = {}, {c: c for c in SYNONYMS if c in header}
    for column, text in taken.items():
        read = [name for name in header if name == text or name in re.split(r"\W+", text)]
        if read:
            sources[column] = read[-1]
    for column, synonyms in SYNONYMS.items():
        if column in header or column in taken:
            continue
        for name in header:
            if _core(column, name) in (column, *synonyms) and name not in SYNONYMS:
                found[column] = mended(column, name, cells(name))
                sources[column] = name
                break
    if "run" in {*header, *taken, *found}:
        return found, ""
    return found, _run_by(header, cells, sources)


def _core(column: str, name: str) -> str:
    words = words_of(name)
    if len(words) > 1 and words[-1] in _SCALES and (column in _COUNTS or column == "pruning_rate"):
        words = words[:-1]
    if column in ("loss", "base_loss"):
        words = ["loss" if word in _PERPLEXITY or word in _BITS else word for word in words]
        if words == ["base", "loss"] and column == "loss":
            return ""
    return "_".join(words)


def _run_by(header: Collection[str], cells: Cells, sources: Mapping[str, str]) -> str:
    """Columns that tell the runs apart, and no more of them than do."""
    texts = [n for n in header if _is_text(cells(n)) and n not in sources.values()]
    settings = ("family", "method", "pruning_rate", "seed", "params")
    names = [*texts, *(sources[s] for s in settings if s in sources)]
    names += [n for n in header if n == "seed" and n not in names]
    if not names:
        return ""
    frame = pl.DataFrame({n: cells(n) for n in names})
    tokens = (
        cells(sources["tokens"]).cast(pl.Float64, strict=False) if "tokens" in sources else None
    )
    if rows_are_runs(frame, tokens):
        return ""
    # The names of settings before their numbers: a model says its size.
    for name in reversed(names):
        rest = [n for n in names if n != name]
        if rest and frame[rest].n_unique() == frame[names].n_unique():
            names = rest
    return f"--run-by {shlex.quote(','.join(names))}"


def _is_text(cells: pl.Series) -> bool:
    return cells.cast(pl.Float64, strict=False).null_count() > cells.null_count()


def offer(header: Collection[str], cells: Cells, taken: Mapping[str, str]) -> str:
    """All of :func:`propose` in one line of options; empty where there is none."""
    found, run_by = propose(header, cells, taken)
    return " ".join(part for part in (run_by, *found.values()) if part)


def meant(name: str, header: Collection[str]) -> str:
    """The column that a name in a formula, which is none, seems to stand for; empty if none."""
    core = "_".join(words_of(name))
    for column, synonyms in SYNONYMS.items():
        if column in header and core in (*synonyms, *_SYMBOLS.get(column, ())):
            return column
    return misspelt(name, header)


def misspelt(name: str, header: Collection[str]) -> str:
    """The column that a name is a slip of; empty if none."""
    return closest(name, header, cutoff=0.85) if len(name) > 3 else ""
