"""What the fuzzers share: mutants of files, what they found before, and the watch over each input.

Each door has a driver here that gives it ``P2FIT_FUZZ`` inputs (500; 2 000 in CI, 100 000 by
``make fuzz``): the files of ``corpus/DOOR`` first, which are inputs that once were too much for it.
Whatever comes in, p2fit does its work or refuses in its own words: no other exception, no number
that is not finite, no more than 10 s of processor time or 1 GiB.
"""

from __future__ import annotations

import math
import os
import random
import resource
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from p2fit.errors import CurvesError, FitError, LawError

COUNT = int(os.environ.get("P2FIT_FUZZ", "500"))
REFUSALS = (CurvesError, FitError, LawError)
CORPUS = Path(__file__).parent / "corpus"
SECONDS, MEMORY = 10, 1 << 20  # of processor time; KiB
#: What is put in anywhere.
STRANGE = (
    *(b"", b"0", b"-1", b"1e300", b"-1e300", b"1e-320", b"1e999", b"NaN", b"Infinity", b"inf"),
    *(b"9" * 20, b"9" * 5000, b"true", b"null", b"[]", b"{}", b'""', b"''", b'"', b"'", b"\\"),
    *(b"\0", b"\r", b"\n", b"\t", b" ", b",", b";", b"=", b"#", b"\xff", b"\xef\xbb\xbf"),
    *(b"\x1b[31m", b"\xed\xa0\x80", b"\\ud800", "é".encode(), "𝛼".encode(), "\u202e".encode()),
    *(b"[" * 3000, b"(" * 300, b"=HYPERLINK(1)", b"2020-01-01", b"0x10", b"1_000"),
    *(b"1" + b"0" * 400, b"run", b"loss", b"tokens", b"params", b"step"),
)  # fmt: skip


def corpus(door: str) -> list[bytes]:
    """What once was too much for a door."""
    return [path.read_bytes() for path in sorted((CORPUS / door).glob("*"))]


def mutants(seeds: Sequence[bytes], count: int = COUNT) -> Iterator[bytes]:
    """The same inputs each time: seeds with pieces taken out, put in, changed and doubled."""
    rng = random.Random(0)
    for i in range(count):
        data = bytearray(seeds[i % len(seeds)])
        for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
            at = rng.randrange(len(data) + 1)
            end = min(len(data), at + rng.choice((1, 1, 2, 5, 20, 200)))
            kind = rng.randrange(6)
            if kind == 0:
                del data[at:end]
            elif kind == 1:
                data[at:at] = rng.choice(STRANGE)
            elif kind == 2:
                data[at:end] = rng.choice(STRANGE)
            elif kind == 3:
                data[at:at] = data[at:end]
            elif kind == 4 and at < len(data):
                data[at] = rng.randrange(256)
            else:  # a piece of another
                other = rng.choice(seeds)
                begin = rng.randrange(len(other) + 1)
                data[at:end] = other[begin : begin + rng.choice((1, 5, 50))]
        yield bytes(data)


def finite(value: Any) -> bool:
    """Whether plain data has no number that JSON lacks."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@contextmanager
def watched() -> Iterator[None]:
    """Raises where what is within takes more processor time or memory than anything may."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    old = signal.signal(signal.SIGPROF, late)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > before + MEMORY:
        raise MemoryError("more than 1 GiB")


def attack(door: str, inputs: Iterable[bytes], enter: Callable[[bytes], Any]) -> None:
    """Give a door its corpus and the inputs, one after the other.

    Args:
        enter: goes in with one; what it returns is plain data, all of it finite.
    """
    taken, refused, failed = 0, 0, list[str]()
    for i, data in enumerate((*corpus(door), *inputs)):
        try:
            with watched():
                found = enter(data)
            if not finite(found):
                raise ValueError("a number that is not finite")
        except REFUSALS:
            refused += 1
        except Exception as error:
            failed.append(f"input {i}: {type(error).__name__}: {error}\n{data[:3000]!r}")
        else:
            taken += 1
    assert not failed, f"{door}: {len(failed)} failures\n" + "\n".join(failed[:5])
    assert taken  # else the inputs are all alike
    assert refused
