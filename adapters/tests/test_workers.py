"""A sweep ends with the same files however its runs are made, and whatever is killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import children
import polars as pl
import psutil
import pytest
import tiny
import torch
from click.testing import CliRunner
from p2fit_adapters import RunError
from p2fit_adapters.sweep import read_sweep
from p2fit_adapters.workers import run_one, run_sweep

from p2fit.cli import main

KINDS = ("pretrain", "post-train")
FILE = """
[text]
spec = "{words}"
seq_len = 32
eval_tokens = 640

[training]
batch_tokens = 512
batch_size = 4
evals = 4
device = "cpu"
dtype = "fp32"
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
tokens = [10e3]
save_model = true

[[pretrain]]
tokens = [8e3]
sparsities = [0.5]

[[post-train]]
methods = ["2:4"]
tokens = [5e3]
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
    ("jobs", "hits"),
    [
        (1, [("sweep", signal.SIGKILL), ("sweep", signal.SIGKILL)]),
        (2, [("sweep", signal.SIGINT), ("sweep", signal.SIGKILL)]),
        (2, [("worker", signal.SIGKILL)]),
    ],
    ids=["alone", "two jobs", "a worker of two"],
)
def test_a_sweep_killed_at_random_and_started_again_ends_with_the_same_files(
    file: Path, whole: Path, tmp_path: Path, jobs: int, hits: list[tuple[str, signal.Signals]]
) -> None:
    chance = random.Random(str(hits))
    for target, signal_ in hits:
        at = rows(tmp_path) + chance.randint(1, 2)
        sweep = children.start(make, file, str(tmp_path), jobs, None)
        assert wait_for(lambda at=at: rows(tmp_path) >= at, sweep)
        found = below(sweep)
        os.kill(sweep.pid if target == "sweep" else found[-1].pid, signal_)
        sweep.join()
        told = {"worker": 2, "sweep": 1 if signal_ == signal.SIGINT else -signal_}[target]
        assert sweep.exitcode == told
        assert not psutil.wait_procs(found, timeout=60)[1]  # none is left behind
    sweep = children.start(make, file, str(tmp_path), jobs, None)
    sweep.join()
    assert sweep.exitcode == 0
    assert_same(tmp_path, whole)


def test_processes_of_a_launcher_make_the_runs_together(
    file: Path, whole: Path, tmp_path: Path
) -> None:
    assert children.launch("ddp", make, file, str(tmp_path), 1, None) == {0}
    for kind in KINDS:
        found, expected = (pl.read_csv(f / kind / "curves.csv") for f in (tmp_path, whole))
        assert found["run"].equals(expected["run"])
        assert found["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-5)


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


@pytest.mark.parametrize("how", [[], ["--jobs", "2"]], ids=["alone", "two jobs"])
def test_what_fails_leaves_out_only_those_that_need_it(
    words: Path, tmp_path: Path, how: list[str]
) -> None:
    config = tiny.config("llama")
    config.save_pretrained(tmp_path / "no-weights")
    head = FILE.split("[[pretrain]]")[0].format(words=words)
    file = tmp_path / "sweep.toml"
    file.write_text(
        head
        + f"""
[models.broken]
path = "{tmp_path / "no-weights"}"

[[pretrain]]
tokens = [2e3]
lr = 1e30
save_model = true

[[pretrain]]
tokens = [3e3]

[[post-train]]
tokens = [2e3]
"""
    )
    command = ["run", "sweep", str(file), "--out", str(tmp_path / "out"), "--json", *how]
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 2
    found = {one["label"]: (one["status"], one["error"]) for one in json.loads(told.stdout)}
    assert found["pretrain/tiny_dense_2K_s0"] == ("diverged", None)
    assert found["pretrain/tiny_dense_3K_s0"] == ("done", None)
    assert found["post-train/tiny_none_2K_s0"] == (
        "left out",
        "needs pretrain/tiny_dense_2K_s0, which did not end well",
    )
    status, error = found["post-train/broken_none_2K_s0"]
    assert status == "failed"
    assert "no-weights: cannot be loaded" in error
    with pytest.raises(RunError, match="do index 0 first"):
        run_one(read_sweep(file, tmp_path / "out"), 2)


def test_a_cluster_that_is_not_there_or_too_small_is_one_line(
    file: Path, tmp_path: Path, cluster: str
) -> None:
    with pytest.raises(RunError, match=r"--ray 127\.0\.0\.1:1: .*refused"):
        run_sweep(read_sweep(file, tmp_path), ray="127.0.0.1:1")
    many = tmp_path / "many.toml"
    many.write_text("threads = 64\n" + file.read_text())
    with pytest.raises(RunError, match="no machine has 64 CPUs"):
        run_sweep(read_sweep(many, tmp_path), ray=cluster)


def test_processes_of_a_launcher_are_not_multiplied(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="leave out --jobs and --ray"):
        run_sweep(read_sweep(file, tmp_path), jobs=2)


def test_what_workers_are_forked_from_has_not_looked_for_gpus() -> None:
    """CUDA cannot be used after a fork in a process whose parent has asked for it."""
    code = (
        "import sys, torch\n"
        "torch.cuda.is_available = torch.cuda.device_count = lambda: sys.exit('asked for GPUs')\n"
        "import importlib, p2fit_adapters.workers as workers\n"
        "for name in workers.PRELOADED: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
