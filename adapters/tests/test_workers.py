"""A sweep ends with the same files however its runs are made, and whatever is killed on the way."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import children
import psutil
import pytest
import torch
from p2fit_adapters.sweep import read_sweep
from p2fit_adapters.workers import run_sweep

KINDS = ("pretrain", "post-train")
FILE = """
[text]
spec = "{words}"
seq_len = 32
eval_tokens = 640

[training]
batch_tokens = 512
batch_size = 4
evals = 5
device = "cpu"
checkpoint_minutes = 0

[models.tiny]
type = "llama"
vocab_size = 384
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 64

[[pretrain]]
tokens = [15e3]
save_model = true

[[pretrain]]
tokens = [12e3]
sparsities = [0.5]

[[post-train]]
methods = ["2:4"]
tokens = [8e3]
lr = 1e-3
calibration_windows = 8
"""
RUNS = 4


@pytest.fixture(scope="module")
def file(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "sweep.toml"
    path.write_text(FILE.format(words=words))
    return path


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep made by one process that nothing happens to."""
    out = tmp_path_factory.mktemp("whole")
    outcomes = run_sweep(read_sweep(file, out))
    assert [outcome.status for outcome in outcomes] == ["done"] * RUNS
    return out


def assert_same(out: Path, whole: Path) -> None:
    for kind in KINDS:
        assert (out / kind / "curves.csv").read_bytes() == (
            whole / kind / "curves.csv"
        ).read_bytes()
        found, expected = (
            (f / kind / "curves.meta.json").read_text().replace(str(f), "OUT") for f in (out, whole)
        )
        assert found == expected


def make(file: Path, out: str, jobs: int, ray: str | None) -> None:
    """The exit code tells of the outcomes, as that of the command."""
    torch.set_num_threads(1)
    outcomes = run_sweep(read_sweep(file, out), jobs=jobs, ray=ray)
    sys.exit(0 if all(outcome.status == "done" for outcome in outcomes) else 2)


def rows(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in out.glob("*/*/curves.csv"))


def wait_for(condition: Callable[[], bool], process: ForkServerProcess) -> bool:
    """Whether it came true before the process ended."""
    while process.is_alive():
        if condition():
            return True
        time.sleep(0.01)
    return False


def below(sweep: ForkServerProcess) -> list[psutil.Process]:
    """The processes that a sweep began, in the end those of its runs."""
    try:
        return psutil.Process(sweep.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ("jobs", "hit", "signal_"),
    [
        (1, "sweep", signal.SIGKILL),
        (2, "sweep", signal.SIGKILL),
        (2, "worker", signal.SIGKILL),
        (2, "sweep", signal.SIGINT),
    ],
    ids=["alone", "its parent", "a worker", "interrupted"],
)
def test_a_sweep_killed_at_random_and_started_again_ends_with_the_same_files(
    file: Path, whole: Path, tmp_path: Path, jobs: int, hit: str, signal_: signal.Signals
) -> None:
    chance = random.Random(f"{jobs} {hit}")
    endings = []
    while len(endings) < 2 and 0 not in endings:
        at = rows(tmp_path) + chance.randint(1, 3)
        sweep = children.start(make, file, str(tmp_path), jobs, None)
        found: list[psutil.Process] = []
        if wait_for(lambda at=at: rows(tmp_path) >= at, sweep):
            found = below(sweep)
            os.kill(sweep.pid if hit == "sweep" else found[-1].pid, signal_)
        sweep.join()
        endings.append(sweep.exitcode)
        assert not psutil.wait_procs(found, timeout=60)[1]  # none is left behind
    stopped = {"sweep": -signal_ if signal_ == signal.SIGKILL else 1, "worker": 2}[hit]
    assert endings[0] == stopped
    assert set(endings) <= {stopped, 0}
    if 0 not in endings:
        again = children.start(make, file, str(tmp_path), jobs, None)
        again.join()
        assert again.exitcode == 0
    assert_same(tmp_path, whole)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two workers."""
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    two.add_node(num_cpus=1)
    yield two.address
    two.shutdown()


def at_work_on_ray() -> list[psutil.Process]:
    """Ray's processes that are making a run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::_on_ray") or "ray::_on_ray" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_on_ray_a_killed_worker_is_replaced_and_a_killed_sweep_started_again(
    file: Path, whole: Path, tmp_path: Path, cluster: str
) -> None:
    def hit(rows_: int, target: Callable[[ForkServerProcess], int]) -> int | None:
        sweep = children.start(make, file, str(tmp_path), 1, cluster)
        assert wait_for(lambda: rows(tmp_path) >= rows_ and bool(at_work_on_ray()), sweep)
        os.kill(target(sweep), signal.SIGKILL)
        sweep.join()
        return sweep.exitcode

    assert hit(3, lambda sweep: sweep.pid or 0) == -signal.SIGKILL
    assert hit(rows(tmp_path) + 2, lambda _: at_work_on_ray()[0].pid) == 0
    assert_same(tmp_path, whole)
