"""What trainers print on a console, read into columns: a record for each line that has a loss.

nanoGPT and what is made of it, modded-nanogpt, Megatron-LM and torchtune's logs on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from p2fit.logs.log import Log, Records

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf"
_WORDED = re.compile(rf"([A-Za-z][A-Za-z_ ]*?)\s+({_NUMBER})\s*(?:ms|s|%)?$")  # val loss 2.65
_PAIR = re.compile(rf"([\w/]+):\s*({_NUMBER})")  # val_loss:2.65
_LABELLED = re.compile(rf"\s*([A-Za-z][^:|]*?)\s*:\s*({_NUMBER})\s*$")  # lm loss: 2.65E+00


@dataclass(frozen=True)
class _Console:
    """A trainer, and its lines that have a loss."""

    name: str
    line: re.Pattern[str]
    """``step``, and the ``rest`` of the line."""
    separator: str | None
    """Between the numbers of the rest; None where they are ``name:number``."""
    number: re.Pattern[str]


_CONSOLES = (
    _Console(
        "nanoGPT console",
        re.compile(r"^(?:step|iter) (?P<step>\d+): (?P<rest>.*\bloss .*)$", re.MULTILINE),
        ", ",
        _WORDED,
    ),
    _Console(
        "modded-nanogpt console",
        re.compile(r"^step:(?P<step>\d+)/\d+,? (?P<rest>.*loss:.*)$", re.MULTILINE),
        None,
        _PAIR,
    ),
    _Console(
        "torchtune log",
        re.compile(r"^Step (?P<step>\d+) \| (?P<rest>.*loss:.*)$", re.MULTILINE),
        None,
        _PAIR,
    ),
    _Console(
        "Megatron-LM console",
        re.compile(
            r"^.*?(?:\biteration +(?P<step>\d+)/ *\d+|"
            r"(?P<held>validation) loss at iteration +(?P<at>\d+)(?: on (?P<set>\w+) set)?) \|"
            r"(?P<rest>.*\bloss.*)$",
            re.MULTILINE,
        ),
        "|",
        _LABELLED,
    ),
)
_PER_STEP = re.compile(r"tokens per iteration will be: ([\d,]+)")
_PARAMS = re.compile(r"^number of parameters: ([\d.]+[KMB])\b", re.MULTILINE)
_LENGTH = re.compile(r"\bseq_length \.+ (\d+)")


def console_log(source: str, text: str) -> Log | None:
    """The log in a console's text; None where it is no known trainer's."""
    console = next((one for one in _CONSOLES if one.line.search(text)), None)
    if console is None:
        return None
    records, lines, notes = Records(), [], []
    params, per_step, length = (found.search(text) for found in (_PARAMS, _PER_STEP, _LENGTH))
    if params:
        notes.append(f"{source}: params are {params[1]}, as the log prints them")
    tokens: dict[int, float] = {}
    line, start = 1, 0
    for found in console.line.finditer(text):
        line += text.count("\n", start, found.start())
        start = found.start()
        step, record = _record(console, found)
        if per_step:
            tokens[step] = step * float(per_step[1].replace(",", ""))
        elif length and "consumed samples" in record:
            tokens[step] = record["consumed samples"] * float(length[1])
        if step in tokens:
            record["tokens"] = tokens[step]
        if params:
            record["params"] = params[1]
        records.add({"step": step, **record})
        lines.append(line)
    columns = records.columns()
    return Log(
        source, console.name, columns, records.height, lines=lines, in_time=True, notes=notes
    )


def _record(console: _Console, found: re.Match[str]) -> tuple[int, dict[str, Any]]:
    parts = found.groupdict()
    numbers = dict(_numbers(console, parts["rest"]))
    if parts.get("held"):
        name = f"{parts['set'] or 'validation'} loss"
        return int(parts["at"]), {name: numbers.get("lm loss value")}
    return int(parts["step"]), numbers


def _numbers(console: _Console, rest: str) -> Iterator[tuple[str, float]]:
    if console.separator is None:
        for name, number in console.number.findall(rest):
            yield name, float(number)
        return
    for part in rest.split(console.separator):
        if found := console.number.match(part.strip()):
            yield found[1], float(found[2])
