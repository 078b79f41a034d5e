"""The runs of a sweep: one after the other, on several processes, or on a Ray cluster."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Any

import torch

from p2fit_adapters.errors import RunError
from p2fit_adapters.progress import Quiet
from p2fit_adapters.running import Result
from p2fit_adapters.sweep import Job, Sweep


@dataclass(frozen=True)
class Outcome:
    """What became of a run of a sweep."""

    label: str
    status: str
    """``done``, ``diverged``, ``failed``, or ``left out`` where what it needs is not there."""
    loss: float | None = None
    error: str | None = None


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int = 1,
    ray: str | None = None,
    report: Quiet | None = None,
) -> list[Outcome]:
    """Make the runs that are not done, those first that others need; what is half done goes on.

    A run that fails leaves out those that need it; all others are made.

    Args:
        jobs: runs side by side, in processes of their own; GPUs are dealt out to them.
        ray: address of a Ray cluster, which runs them instead; ``local`` starts one here. Its
            machines must see the same folders. A worker that dies is replaced.
        report: is told of progress and warnings.
    """
    report = report or Quiet()
    if ray is not None:
        return _drive(sweep, _Ray(sweep, ray), report)
    if jobs > 1:
        return _drive(sweep, _Processes(sweep, jobs), report)
    with fixed_threads(sweep.threads):
        return _drive(sweep, _Here(report), report)


def run_one(sweep: Sweep, index: int, report: Quiet | None = None) -> Outcome:
    """The run of this number, from 0, for the arrays of a batch system.

    Raises:
        RunError: there is no such run, or what it needs is not done.
    """
    if not 0 <= index < len(sweep.jobs):
        raise RunError(f"index {index}: the sweep has runs 0 to {len(sweep.jobs) - 1}")
    job = sweep.jobs[index]
    numbers = {other.folder: i for i, other in enumerate(sweep.jobs)}
    for other in sweep.missing(job):
        raise RunError(f"{job.label} needs {other.label}: do index {numbers[other.folder]} first")
    with fixed_threads(sweep.threads):
        return _outcome(job, lambda: job.run(report))


def _outcome(job: Job, run: Callable[[], Result]) -> Outcome:
    try:
        result = run()
    except RunError as error:
        return Outcome(job.label, "failed", error=str(error))
    return Outcome(job.label, result.status, result.loss)


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """So many threads, whatever the machine has: on others, sums would round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Workers(ABC):
    """Where runs are made."""

    room = 1

    @abstractmethod
    def submit(self, job: Job) -> None: ...

    @abstractmethod
    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        """Waits for some that were submitted."""

    def close(self) -> None:  # noqa: B027
        """Nothing more will be asked for."""


def _drive(sweep: Sweep, workers: _Workers, report: Quiet) -> list[Outcome]:
    outcomes: dict[str, Outcome] = {}
    waiting, running = list(sweep.jobs), 0
    by_folder = {job.folder: job.label for job in sweep.jobs}
    try:
        while waiting or running:
            for job in list(waiting):
                needed = [outcomes.get(by_folder[need]) for need in job.needs]
                if any(other is not None and other.status != "done" for other in needed):
                    waiting.remove(job)
                    missing = ", ".join(by_folder[need] for need in job.needs)
                    why = f"needs {missing}, which did not end well"
                    outcomes[job.label] = Outcome(job.label, "left out", error=why)
                    report.warn(f"{job.label}: {why}")
                elif all(needed) and running < workers.room:
                    waiting.remove(job)
                    workers.submit(job)
                    running += 1
            if running:
                for job, outcome in workers.ended():
                    running -= 1
                    outcomes[job.label] = outcome
                    report.outcome(outcome, len(outcomes), len(sweep.jobs))
    finally:
        workers.close()
    sweep.tidy()
    return [outcomes[job.label] for job in sweep.jobs]


class _Here(_Workers):
    """In this process."""

    def __init__(self, report: Quiet) -> None:
        self.report = report
        self.job: Job | None = None

    def submit(self, job: Job) -> None:
        self.job = job

    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        job = self.job
        assert job is not None
        return [(job, _outcome(job, lambda: job.run(self.report)))]


def _begin(threads: int, devices: Any) -> None:
    """In a new process: its threads, its GPU, and an end when its parent ends, however."""
    device = devices.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    torch.set_num_threads(threads)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(job: Job) -> Outcome:
    return _outcome(job, job.run)


class _Processes(_Workers):
    def __init__(self, sweep: Sweep, room: int) -> None:
        context = get_context("spawn")
        devices = context.Queue()
        count = torch.cuda.device_count()
        for i in range(room):
            devices.put(i % count if count else None)
        self.room = room
        self.pool = ProcessPoolExecutor(room, context, _begin, (sweep.threads, devices))
        self.futures: dict[Future[Outcome], Job] = {}

    def submit(self, job: Job) -> None:
        self.futures[self.pool.submit(_work, job)] = job

    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        done, _ = wait(self.futures, return_when=FIRST_COMPLETED)
        try:
            return [(self.futures.pop(future), future.result()) for future in done]
        except BrokenProcessPool:
            raise RunError(
                "a worker was killed (did the machine run out of memory?): repeat the command to "
                "go on, with fewer --jobs perhaps"
            ) from None

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


class _Ray(_Workers):
    def __init__(self, sweep: Sweep, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise RunError("--ray needs: pip install 'p2fit-adapters[ray]'") from None
        self.ray = ray
        where = None if address == "local" else address
        try:
            ray.init(where, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(f"--ray {address}: {str(error).splitlines()[0]}") from None
        resources = ray.cluster_resources()
        gpus = 1 if resources.get("GPU", 0) >= 1 else 0
        threads, folder = sweep.threads, os.getcwd()

        def work(job: Job) -> Outcome:
            os.chdir(folder)
            with fixed_threads(threads):
                return _work(job)

        # A run whose worker died goes on from its checkpoint, wherever it is taken up.
        self.work = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=-1)(work)
        self.room = len(sweep.jobs)
        self.tasks: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self.tasks[self.work.remote(job)] = job

    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        done, _ = self.ray.wait(list(self.tasks))
        return [(self.tasks.pop(task), self.ray.get(task)) for task in done]

    def close(self) -> None:
        self.ray.shutdown()
