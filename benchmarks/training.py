"""How fast the adapters train on this CPU, beside the rate of a plain matrix product.

    .venv-adapters/bin/python benchmarks/training.py

Not a part of ``run.py``: it needs torch, and so the environment of ``make test-adapters``. Products
and steps take turns, so that a share means the same on a busy machine.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from common import table
from p2fit_adapters import Text, Trainer, Training, pretrain, read_sweep
from p2fit_adapters.estimate import plan
from p2fit_adapters.models import from_config, new_config
from p2fit_adapters.pruning import Masks
from p2fit_adapters.training import make_accelerator
from run import rewrite

WIDTH = 1024  # of the plain product
STEPS, LEAST = 3, 0.25  # steps that are timed; seconds of products beside each


@dataclass(frozen=True)
class Size:
    """A Llama, with as many windows in a step as one forward pass takes."""

    name: str
    config: dict[str, int]
    windows: int
    seq_len: int


def _size(name: str, windows: int, seq_len: int, *numbers: int) -> Size:
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    fields += ("num_attention_heads", "num_key_value_heads")
    return Size(name, dict(zip(fields, numbers, strict=True)), windows, seq_len)


SIZES = (
    _size("3 M", 8, 256, 4096, 192, 512, 4, 4, 4),
    _size("30 M", 4, 512, 8192, 512, 1376, 8, 8, 8),
    _size("135 M", 4, 512, 49152, 576, 1536, 30, 9, 3),
)


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a plain product."""
    left, right = (torch.randn(WIDTH, WIDTH).to(dtype) for _ in range(2))
    times, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < LEAST:
        torch.matmul(left, right)
        times += 1
    return 2 * WIDTH**3 * times / seconds


def flops_per_token(config: Any, model: Any, seq_len: int) -> float:
    """Of forward and backward: 6 for each weight of a product, and causal attention."""
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    return 6 * (weights + config.num_hidden_layers * config.hidden_size * seq_len)


def measure_size(size: Size, threads: int, dtype: str) -> tuple[str, ...]:
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    config = new_config(
        "llama",
        size.config | {"max_position_embeddings": size.seq_len, "tie_word_embeddings": True},
    )
    tokens = size.windows * size.seq_len
    training = Training(
        tokens=10**9, batch_tokens=tokens, batch_size=size.windows, device="cpu", dtype=dtype
    )
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (64, size.seq_len), dtype=np.int32)
    model = from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        held = make_accelerator(training, Path(folder))
        trainer = Trainer(held, model, Masks({}), Text(ids, ids[:8], {}, ""), training)
        trainer.advance()
        rates, seconds = [], []
        for _ in range(STEPS):
            rates.append(product_rate(torch.bfloat16 if dtype == "bf16" else torch.float32))
            began = time.perf_counter()
            trainer.advance()
            seconds.append(time.perf_counter() - began)
    speed, rate = tokens / median(seconds), median(rates)
    share = speed * flops_per_token(config, model, size.seq_len) / rate
    return (
        size.name,
        dtype,
        str(threads),
        f"{speed:,.0f}",
        f"{rate / 1e9:,.0f}",
        f"{share:.0%}",
    )


SWEEP = """
[text]
spec = "corpus"
seq_len = 256
eval_tokens = 16384
[training]
batch_tokens = 2048
device = "cpu"
evals = 4
[models.small]
type = "llama"
vocab_size = 4096
hidden_size = 192
intermediate_size = 512
num_hidden_layers = 4
num_attention_heads = 4
num_key_value_heads = 4
[[pretrain]]
tokens = [400_000]
"""


def estimated() -> str:
    """The time that --dry-run says of a run, and the time it takes."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.toml"
        file.write_text(SWEEP)
        sweep = read_sweep(file, folder)
        (job,) = sweep.jobs
        # The text is read before; the estimate does not count it.
        short = replace(job.settings, training=replace(job.settings.training, tokens=2048))
        pretrain(short, job.out)
        (planned,) = plan(sweep)
        torch.set_num_threads(sweep.threads)
        began = time.perf_counter()
        job.run()
        taken = time.perf_counter() - began
    return f"`--dry-run` said {planned.seconds:.0f} s of a run that then took {taken:.0f} s."


def measure() -> str:
    rows = []
    for size in SIZES:
        for threads in (1, 2):
            for dtype in ("fp32", "bf16") if size is not SIZES[-1] else ("bf16",):
                rows.append(measure_size(size, threads, dtype))
                print(*rows[-1], flush=True)
    head = ("Llama of", "format", "threads", "tokens/s", "plain product, GFLOP/s", "share of it")
    return f"{table(head, rows)}\n\n{estimated()}"


if __name__ == "__main__":
    block = measure()
    rewrite("training", block)
    print(block)
