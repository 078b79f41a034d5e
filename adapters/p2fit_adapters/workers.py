"""The runs of a sweep: one after the other, on several processes, or on a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch

from p2fit.extras import command
from p2fit_adapters.errors import RunError
from p2fit_adapters.jobs import Job, Sweep
from p2fit_adapters.progress import Outcome, Report, on_main_process, world_size
from p2fit_adapters.running import Result

PRELOADED = [__name__, "accelerate"]  # what takes seconds to import
if not find_spec("torchao"):  # transformers imports it, and it asks for GPUs before the fork
    PRELOADED.append("transformers.modeling_utils")
RETRIES = 5  # of a run on Ray whose worker died


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int = 1,
    ray: str | None = None,
    report: Report | None = None,
) -> list[Outcome]:
    """Make the runs that are not done, those first that others need; what is half done goes on.

    A run that fails leaves out those that need it; all others are made.

    Args:
        jobs: runs side by side, in processes of their own; GPUs are dealt out to them.
        ray: address of a Ray cluster, which runs them instead; ``local`` starts one here. Its
            machines must see the same folders. A worker that dies is replaced.
        report: is told of progress and warnings.

    Raises:
        RunError: there is no such cluster, or a launcher began this in several processes, which
            make one run after the other together; then also, in place of an outcome, as a run.
    """
    report = on_main_process(report)
    if world_size() > 1 and (ray is not None or jobs > 1):
        raise RunError("several processes make each run together: leave out --jobs and --ray")
    if ray is not None:
        return _make_runs(sweep, _Ray(sweep, ray), report)
    if jobs > 1:
        return _make_runs(sweep, _Processes(sweep, jobs), report)
    with fixed_threads(sweep.threads):
        return _make_runs(sweep, _InThisProcess(report), report)


def run_one(sweep: Sweep, index: int, report: Report | None = None) -> Outcome:
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
        if world_size() > 1:  # the others may be waiting in this run
            raise
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


def _make_runs(sweep: Sweep, workers: _Workers, report: Report) -> list[Outcome]:
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


class _InThisProcess(_Workers):
    """In this process."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.job: Job | None = None

    def submit(self, job: Job) -> None:
        self.job = job

    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        job = self.job
        assert job is not None
        return [(job, _outcome(job, lambda: job.run(self.report)))]


def _devices(count: int) -> list[str | None]:
    """A GPU for each of so many runs, as CUDA calls it; None where there is none."""
    gpus = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(i) for i in range(gpus)]
    return [names[i % gpus] if gpus else None for i in range(count)]


def _child(job: Job, threads: int, device: str | None, tell: connection.Connection) -> None:
    """A run in a new process, which ends when its parent ends, however."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends this
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with fixed_threads(threads):
        tell.send(_outcome(job, job.run))


class _Processes(_Workers):
    """In processes of their own."""

    def __init__(self, sweep: Sweep, room: int) -> None:
        # Forked from one process that has imported all and done nothing.
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.room, self.threads = room, sweep.threads
        self.devices = _devices(room)
        self.going: dict[Any, tuple[Job, ForkServerProcess, str | None]] = {}

    def submit(self, job: Job) -> None:
        device = self.devices.pop()
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_child, args=(job, self.threads, device, theirs))
        process.start()
        theirs.close()
        self.going[ours] = (job, process, device)

    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        return [self._ended(told) for told in connection.wait(list(self.going))]

    def _ended(self, told: Any) -> tuple[Job, Outcome]:
        job, process, device = self.going.pop(told)
        self.devices.append(device)
        try:
            return job, told.recv()
        except EOFError:
            process.join()
            why = f"its process ended with exit code {process.exitcode}"
            if process.exitcode == -signal.SIGKILL:
                why = "its process was killed: did the machine run out of memory?"
            return job, Outcome(job.label, "failed", error=why)
        finally:
            told.close()
            process.join()

    def close(self) -> None:
        for _, process, _ in self.going.values():
            process.terminate()
            process.join()


def _on_ray(job: Job, threads: int, folder: str) -> Outcome:
    os.chdir(folder)
    with fixed_threads(threads):
        return _outcome(job, job.run)


class _Ray(_Workers):
    """On a Ray cluster, which puts them where there is room."""

    def __init__(self, sweep: Sweep, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise RunError(f"--ray needs: {command('ray', 'p2fit-adapters')}") from None
        self.ray = ray
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if port.isdigit():  # where nothing listens, Ray would try for a quarter of an hour
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(f"--ray {address}: {str(error).splitlines()[0]}") from None
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if all(machine.get("CPU", 0) < sweep.threads for machine in machines):
            ray.shutdown()
            raise RunError(f"--ray {address}: no machine has {sweep.threads} CPUs, as threads says")
        gpus = 1 if any(machine.get("GPU", 0) >= 1 for machine in machines) else 0
        # A run whose worker died goes on from its checkpoint, wherever it is taken up.
        self.work = ray.remote(num_cpus=sweep.threads, num_gpus=gpus, max_retries=RETRIES)(_on_ray)
        self.arguments = (sweep.threads, os.getcwd())
        self.room = len(sweep.jobs)
        self.tasks: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self.tasks[self.work.remote(job, *self.arguments)] = job

    def ended(self) -> Sequence[tuple[Job, Outcome]]:
        done, _ = self.ray.wait(list(self.tasks))
        return [self._ended(task) for task in done]

    def _ended(self, task: Any) -> tuple[Job, Outcome]:
        job = self.tasks.pop(task)
        try:
            return job, self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            why = getattr(error, "cause", None) or str(error).splitlines()[0]
            return job, Outcome(job.label, "failed", error=str(why))

    def close(self) -> None:
        self.ray.shutdown()
