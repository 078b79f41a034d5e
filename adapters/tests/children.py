"""Processes that begin with torch imported: to be killed, or to share a run."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from typing import Any

PRELOADED = [
    "p2fit_adapters.pretraining",
    "p2fit_adapters.workers",
    "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
]


def start(target: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """A process of its own, forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def launch(launcher: str, target: Callable[..., Any], *arguments: Any) -> set[int]:
    """Exit codes of two processes that find each other; where one fails, both are ended.

    Args:
        launcher: ``ddp`` or ``fsdp``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start(_one_of_two, rank, port, launcher, target, arguments) for rank in range(2)]
    left = {process.sentinel: process for process in both}
    while left:
        for sentinel in connection.wait(list(left)):
            ended = left.pop(sentinel)  # type: ignore[call-overload]
            ended.join()
            if ended.exitcode:
                for process in left.values():
                    process.kill()
    return {process.exitcode for process in both if process.exitcode is not None}


def _one_of_two(
    rank: int, port: int, launcher: str, target: Callable[..., Any], arguments: Any
) -> None:
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    if launcher == "fsdp":
        # Accelerate shards on GPUs alone: it is told that this CPU is one.
        os.environ |= {
            "ACCELERATE_USE_FSDP": "true",
            "ACCELERATE_TORCH_DEVICE": "cpu",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        }
        torch.accelerator.is_available = lambda: True
        PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    target(*arguments)


def most(profiler: Any) -> int:
    """Bytes of tensors held at most while a profiler of memory was at work, beside those before."""
    events = profiler.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
