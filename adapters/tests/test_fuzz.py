"""The door of sweep files: any text is a sweep, or refused in a line with its place."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from p2fit_adapters import RunError, read_sweep
from p2fit_adapters.jobs import POST_TRAIN, PRETRAIN
from p2fit_adapters.sweep import _KEYS

FILE = """threads = 2

[text]
spec = "corpus"
seq_len = 32
eval_tokens = 640

[training]
batch_tokens = 512
batch_size = 16
evals = 3
device = "cpu"
decay = 0.1

[models.a]
type = "llama"
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 3
num_attention_heads = 4

[[pretrain]]
tokens = [4096]
save_model = true

[[pretrain]]
tokens = [2048, "2x"]
sparsities = [0.0, 0.5]
schedule = "geometric"
seeds = [1]
lr = { a = 5e-3 }

[[post-train]]
models = ["a"]
methods = ["2:4", "depth", "width"]
rates = [0.2]
criteria = ["wanda"]
dimensions = ["mlp"]
tokens = ["0.1x", 1e6]
seeds = [1, 2]
calibration_windows = 8
"""
COUNT = int(os.environ.get("P2FIT_FUZZ", "500"))
SECONDS, MEMORY = 10, 1 << 20  # of processor time; KiB
STRANGE = (
    *("0", "-1", "1e300", "1e-300", "nan", "inf", "true", "9" * 20, "9" * 5000, "2020-01-01"),
    *('""', '"x"', '"1e300x"', '"nanx"', "[]", "{}", "[[]]", "{ a = 1 }", "[true]", "[1, 'x']"),
    *("0.5", "1.0", "12", "1000", "65536", '"../../evil"', '"llama"', '"\\u0000"', "[" * 3000),
    *("\n", "=", ".", "[", "]", "[[", "#", "é", "num_hidden_layers", "seeds", "tokens", "a"),
)  # fmt: skip


def mutants() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(COUNT):
        lines = FILE.splitlines()
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            at = rng.randrange(len(lines))
            name, sign, value = lines[at].partition(" = ")
            kind = rng.randrange(6)
            if kind == 0:
                del lines[at]
            elif kind < 3 and sign:  # another value
                lines[at] = f"{name} = {rng.choice(STRANGE)}"
            elif kind == 3 and sign:  # within the value
                cut = rng.randrange(len(value) + 1)
                lines[at] = f"{name} = {value[:cut]}{rng.choice(STRANGE)}{value[cut:]}"
            elif kind == 4:
                lines.insert(rng.randrange(len(lines)), lines[at])
            else:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(STRANGE) + lines[at][cut + 1 :]
        yield "\n".join(lines)


@contextmanager
def watched() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    old = signal.signal(signal.SIGPROF, late)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > before + MEMORY:
        raise MemoryError("more than 1 GiB")


#: What once was too much: tracebacks, minutes, or taken.
FOUND = [
    (
        "num_hidden_layers = 3",
        "num_hidden_layers = 99999999999999999999",
        "num_hidden_layers: 9999",
    ),
    ("num_hidden_layers = 3", "num_hidden_layers = 100000", "num_hidden_layers: 100000: give at"),
    ("seeds = [1]", "seeds = [true]", "pretrain 2: seeds: True: give whole numbers"),
    ("tokens = [4096]", "tokens = [1e300]", "pretrain 1: tokens: 1e+300: give a count"),
    ("tokens = [4096]", 'tokens = ["1e300x"]', "pretrain 1: tokens: '1e300x': give a count"),
    ("tokens = [4096]", 'tokens = ["999999999999x"]', "pretrain 1: tokens: '999999999999x': more"),
    ("tokens = [4096]", "tokens = [nan]", "pretrain 1: tokens: nan is no number"),
    ("tokens = [4096]", "tokens = [[1]]", "pretrain 1: tokens: give a count"),
    ("tokens = [4096]", f"tokens = [{'9' * 5000}]", "sweep.toml: "),
    ("tokens = [4096]", "tokens = " + "[" * 3000, "nested too deeply"),
    ("device = ", "lr = 2020-01-01\ndevice = ", "training: lr: 2020-01-01: a date"),
    ("evals = 3", 'evals = "3"', "training: evals: '3': give a whole number"),
    ("lr = { a = 5e-3 }", "lr = { a = true }", "pretrain 2: lr: give a number above 0"),
    ("methods = [", "methods = [1, ", "post-train 1: methods: 1: give a list of methods"),
    ("[models.a]", "[models]\na = 1\n[models.b]", "models.a: 1: give a table"),
]


@pytest.mark.parametrize(("old", "new", "said"), FOUND)
def test_what_was_once_too_much(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1))
    with watched(), pytest.raises(RunError) as caught:
        read_sweep(path, tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_text_is_a_sweep_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    taken, refused, failed = 0, 0, list[str]()
    for i, text in enumerate(mutants()):
        path.write_text(text)
        try:
            with watched():
                found = read_sweep(path, tmp_path / "out")
                for job in found.jobs:
                    assert job.folder.parent.parent == tmp_path / "out"
                    json.dumps(job.settings.recorded(), allow_nan=False)
            taken += 1
        except RunError as error:
            refused += 1
            if "\n" in str(error):
                failed.append(f"input {i}: {error}")
        except Exception as error:
            failed.append(f"input {i}: {type(error).__name__}: {error}\n{text}")
    assert not failed, f"{len(failed)} failures\n" + "\n".join(failed[:3])
    assert taken
    assert refused


def test_the_schema_knows_every_key() -> None:
    path = Path(read_sweep.__code__.co_filename).parent / "sweep.schema.json"
    rules = json.loads(path.read_bytes())["$defs"]
    for kind in (PRETRAIN, POST_TRAIN):
        named = {n for part in (kind, "block", "training") for n in rules[part]["properties"]}
        assert _KEYS[kind] <= named
