"""Which columns of a log are what: by what the caller says, else by their names."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from p2fit.curves.checking import schema
from p2fit.curves.columns import read_expression
from p2fit.curves.proposing import propose, words_of
from p2fit.errors import CurvesError, Fault, FitError
from p2fit.logs.log import Log
from p2fit.wording import join

Kind = Literal["held-out", "training", "named by you", "results"]
Unit = Literal["nats", "bits", "perplexity", "bits-per-byte"]
TOKENS = (
    *("tokens", "num_input_tokens_seen", "train/num_input_tokens_seen", "tokens_seen"),
    *("total_tokens", "train/total_tokens", "throughput/total_tokens", "consumed_tokens"),
    *("tokens_trained", "train_tokens", "num_tokens", "n_tokens"),
)
STEPS = (
    *("step", "global_step", "train/global_step", "trainer/global_step"),
    *("iter", "iteration", "current_steps", "Step", "_step"),
)
_RATES = (
    *("learning_rate", "train/learning_rate", "lr", "train/lr", "learning rate", "learning-rate"),
    *("optim/learning_rate_group0", "optim/lr", "lr-AdamW", "lr-Adam"),
)
_HELD_OUT = {"eval", "evaluation", "val", "valid", "validation", "test", "heldout", "dev"}
_TRAINING = (["train", "loss"], ["training", "loss"], ["loss", "train"], ["lm", "loss"], ["loss"])
OTHER_UNITS = {"ppl", "perplexity", "bits", "bpb", "bpc", "bpt", "bpw", "byte"}


@dataclass(frozen=True)
class Asked:
    """What the caller said besides the logs."""

    columns: Mapping[str, str]
    """Column -> its name in the logs."""
    given: Mapping[str, Any]
    """Of all runs."""
    runs: Mapping[str, Mapping[str, Any]]
    """Of a run by name; it comes first."""
    origin: str
    """Where ``runs`` is from."""

    def of(self, run: str) -> dict[str, Any]:
        return {**self.given, **self.runs.get(run, {})}


def fault(log: Log, what: str, column: str | None = None) -> CurvesError:
    return CurvesError([Fault(log.source, None, column, what)])


def has(log: Log) -> str:
    shown = ", ".join(list(log.columns)[:12]) + ", ..." * (len(log.columns) > 12)
    return f"the log has {shown}"


def proposed(log: Log, asked: Asked, missing: Collection[str]) -> str:
    """The options that name what is missing, where all of it has a name that is known."""
    if log.in_time or log.entries:
        return ""
    found, run_by = propose(log.header, log.column, asked.columns)
    if not set(missing) <= found.keys():
        return ""
    told = {"loss", "tokens"} - set(missing)  # by its name without being asked for
    options = [run_by, *(option for column, option in found.items() if column not in told)]
    names = f"no {join(tuple(missing))}; if its columns are what they are called, add "
    return names + " ".join(option for option in options if option)


def mapped(log: Log, column: str, asked: Asked) -> str:
    """The log's name of a column that the caller mapped."""
    name = asked.columns[column]
    if name not in log.columns:
        try:
            log.work_out(read_expression(name, log.columns))
        except FitError as error:
            raise fault(log, f"{column}: {error}") from None
    return name


def choose_loss(log: Log, asked: Asked) -> tuple[str, Kind]:
    if not log.height:
        raise fault(log, "no records")
    words = {name: words_of(name) for name in log.columns}
    if "loss" in asked.columns:
        name = mapped(log, "loss", asked)
        words[name] = words_of(name)
        if _HELD_OUT.intersection(words[name]):
            return name, "held-out"
        return name, "training" if words[name] in _TRAINING else "named by you"
    filled = [n for n, w in words.items() if "loss" in w and log.column(n).count()]
    held = [n for n in filled if _HELD_OUT.intersection(words[n])]
    held = [n for n in held if len(words[n]) == 2] or held  # without a data set's name, if there is
    held = [n for n in held if "test" not in words[n]] or held  # one run of it, at the end
    if len(held) > 1:
        several = ", ".join(held)
        raise fault(
            log,
            f"several held-out losses: {several}; choose one with --column "
            f"{shlex.quote(f'loss={held[0]}')}",
        )
    if held:
        return held[0], "held-out"
    # In a trainer_state.json train_loss is the mean over the whole run.
    for wanted in [["loss"]] if log.entries else _TRAINING:
        for name in filled:
            if words[name] == wanted:
                return name, "training"
    other = [n for n, w in words.items() if OTHER_UNITS.intersection(w) and log.column(n).count()]
    other = [n for n in other if _HELD_OUT.intersection(words[n])] or other
    if len(other) == 1:  # its unit is asked for
        return other[0], "held-out" if _HELD_OUT.intersection(words[other[0]]) else "named by you"
    what = proposed(log, asked, ["loss"])
    raise fault(log, what or f"no loss: name it with --column loss=NAME; {has(log)}")


def find_columns(log: Log, loss: str, asked: Asked) -> dict[str, str]:
    """Column -> its name in the log, of all that is asked for or can be told by its name."""
    names = {"loss": loss}
    for column in (*(f["name"] for f in schema()["fields"]), *asked.columns):
        if column in asked.columns:
            names[column] = mapped(log, column, asked)
        elif column in log.columns and column not in ("tokens", "loss"):
            names[column] = column
    there = log.column(loss).is_not_null()
    for column, candidates in (("step", STEPS), ("tokens", TOKENS)):
        for name in candidates:
            known = column in names or name not in log.columns
            if not known and (log.column(name).is_not_null() & there).any():
                names[column] = name
    # Where the count stands on other records, what it is at a step can be told.
    if "tokens" not in names and "step" in names:
        for name in TOKENS:
            if name in log.columns and log.column(name).count():
                names.setdefault("tokens", name)
    for name in _RATES:
        if name in log.columns:
            names.setdefault("learning_rate", name)
    names.pop("run", None)
    return names
