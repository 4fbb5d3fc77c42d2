"""This machine: as many packs at a time as fit, a process each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, Queue, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from dqlab.ablation.engines.base import DIED, FAILED, FINISHED, SOME_FAILED, STOPPED, Ended, Job, OnEvent, engines
from dqlab.config.fields import check_field, check_fields
from dqlab.errors import ConfigError
from dqlab.machine import GPU_SHARE, QUIET_THREADS

POLL = 0.1
GRACE = 2.0
"""Seconds between two looks at a process; and after its end, for what a child of its own holds of its output."""
Event = Mapping[str, Any]
OnAttemptEvent = Callable[[Event], None]
StopRequests = Callable[[], int]
"""How many times jobs have been asked to stop: once, to save and end; twice, to be killed."""


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended: the exit code (DIED, or a negative one: without a word), and why if not FINISHED."""

    code: int
    reason: str = ""

    @property
    def retryable(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.code not in (FINISHED, SOME_FAILED, FAILED, STOPPED)


def job_environment(threads: int, device: str | None, share: float = 1.0) -> dict[str, str]:
    """Variables of a job's process: its threads (idle ones sleep), the only GPU that it sees, its share of that GPU.

    Args:
        threads: CPU threads.
        device: as CUDA_VISIBLE_DEVICES names it; `None`: as it is here.
        share: above 0, at most 1.
    """
    seen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    shared = {GPU_SHARE: str(share)} if share < 1 else {}
    return {**QUIET_THREADS, **os.environ, "OMP_NUM_THREADS": str(threads), **seen, **shared}


def run_attempt(
    command: Sequence[str], log: Path, variables: Mapping[str, str], on_event: OnAttemptEvent, stops: StopRequests
) -> AttemptOutcome:
    """Run a process to its end; `on_event` is called in this thread with each of its events, in order."""
    heard, why = False, ""
    written = log.stat().st_size if log.exists() else 0
    with JobProcess(command, log, variables) as process:
        for event in process.events(stops):
            heard, why = True, str(event.get("reason", why))
            on_event(event)
    return _judged(process.code, heard, why or _tail(log, written), stops())


class JobProcess:
    """A process in a session of its own, which a terminal's Ctrl-C does not reach; killed if it is left early."""

    def __init__(self, command: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(variables),
                start_new_session=True,
            )
        self._log = log
        self._lines: Queue[bytes] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def code(self) -> int:
        """The exit code of the process, which has ended."""
        return int(self._process.wait())

    def events(self, stops: StopRequests) -> Iterator[Event]:
        """What it tells, until it has ended; meanwhile it is asked to stop, or killed, as soon as `stops` says so."""
        ended = None
        while ended is None or (self._reader.is_alive() and time.monotonic() < ended + GRACE) or self._lines.qsize():
            self._obey(stops())
            with suppress(Empty):
                yield from self._parsed(self._lines.get(timeout=POLL))
            if ended is None and self._process.poll() is not None:
                ended = time.monotonic()

    def kill(self) -> None:
        """Kill it, and the children that share its session."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._close()
        self._process.wait()

    def _obey(self, times: int) -> None:
        if times >= 1:
            self._close()
        if times >= 2:
            self.kill()

    def _close(self) -> None:
        """The end of its input asks it to save and stop."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)

    def _parsed(self, line: bytes) -> Iterator[Event]:
        """The event of a line; what is none (a plugin prints) goes to the log."""
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event
                return
        with self._log.open("ab") as log:
            log.write(line)


def _judged(code: int, heard: bool, why: str, stops: int) -> AttemptOutcome:
    """What an exit code means; an interpreter that fails before any event has codes of its own."""
    if stops >= 2 and code < 0:
        return AttemptOutcome(STOPPED, "killed on request; it continues from its last checkpoint")
    if code == STOPPED:
        return AttemptOutcome(STOPPED, "stopped on request; it continues from its checkpoint")
    if heard and code in (FINISHED, SOME_FAILED, FAILED):
        return AttemptOutcome(code, "" if code == FINISHED else why)
    what = _signal(-code) if code < 0 else f"ended with exit code {code}"
    return AttemptOutcome(code if code < 0 else DIED, f"{what}{why and ': ' + why}")


def _signal(number: int) -> str:
    name = signal.Signals(number).name
    return f"killed by {name}" + (" (out of memory?)" if number == signal.SIGKILL else "")


def _tail(log: Path, start: int, limit: int = 2000) -> str:
    """The end of what was written to a log since it had `start` bytes."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - limit))
        return file.read().decode(errors="replace").strip()


class StopCounter:
    """Counts how often an engine has been asked to stop: once, to save; twice, to kill. Safe in a signal's handler."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        """How often it has been asked."""
        return self.count

    def at_least_once(self) -> None:
        """Count one request, unless there has been one."""
        self.count = max(self.count, 1)


@engines.register("local", source="Python's subprocess and concurrent.futures")
@dataclass(frozen=True)
class LocalEngine:
    """This machine: a process for every pack, as many at a time as there are cores, memory and GPUs for.

    Attributes:
        workers: packs at a time; 0: on CPUs, as many as cores and free memory have room for; one for each GPU. Packs
            that share a GPU share its memory evenly.
        devices: GPUs to use, as CUDA_VISIBLE_DEVICES names them; all that are visible if empty.
        retries: how many times a pack is started again that was killed, or ended without saying why.
    """

    workers: int = 0
    devices: tuple[str, ...] = ()
    retries: int = 2
    stops: StopCounter = field(default_factory=StopCounter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.workers >= 0, self, "workers", "at least 0")
        check_field(self.retries >= 0, self, "retries", "at least 0")
        listed = isinstance(self.devices, (tuple, list)) and all(isinstance(name, str) for name in self.devices)
        check_field(listed, self, "devices", "a tuple of strings, such as ('0', '1')")

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        """Run every job, the longest first; yields each as it ends."""
        if not jobs:
            return
        devices = self._devices(jobs)
        workers = self.workers or self._room(jobs, devices)
        slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in _slots(workers, devices):
            slots.put(slot)
        pool = ThreadPoolExecutor(workers)
        try:
            longest_first = sorted(jobs, key=lambda job: -job.seconds)
            futures = [pool.submit(self._run_one, job, on_event, slots) for job in longest_first]
            for future in as_completed(futures):
                yield future.result()
        finally:  # whoever listens may leave early: her jobs save what they have
            self.stops.at_least_once()
            pool.shutdown()
            self.stops.count = 0

    def slots(self) -> int:
        """Packs at a time, at most."""
        from dqlab.machine import cores

        return self.workers or cores()

    def stop(self) -> None:
        """Ask all jobs to save and end; kill them at the second call."""
        self.stops.count += 1

    def _run_one(self, job: Job, on_event: OnEvent, slots: SimpleQueue[Slot]) -> Ended:
        if self.stops():
            return Ended(job, STOPPED, "not started")
        slot = slots.get()
        variables = job_environment(job.threads, *slot) if job.gpu_memory else job_environment(job.threads, "")
        try:
            return job_end(job, self._persist(job, variables, on_event), self.stops())
        except OSError as error:  # no process, no log: a full disk ends one job, not all
            return Ended(job, DIED, f"{error.filename or 'its process'}: {error.strerror or error}")
        finally:
            slots.put(slot)

    def _persist(self, job: Job, variables: Mapping[str, str], on_event: OnEvent) -> AttemptOutcome:
        """The last of as many attempts as it takes."""
        command = job.command(job.folder.resolve())
        for _ in range(self.retries + 1):
            outcome = run_attempt(command, job.log, variables, partial(on_event, job), self.stops)
            if self.stops() or not outcome.retryable:
                break
        return outcome

    def _devices(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """The GPUs that these jobs go to; none where none of them wants one.

        Raises:
            ConfigError: some want one, and there is none.
        """
        if not any(job.gpu_memory for job in jobs):
            return ()
        found = self.devices or _visible()
        if not found:
            raise ConfigError("The grid's packs want a GPU, and there is none here. Use Experiment.device='cpu'.")
        return tuple(found)

    @staticmethod
    def _room(jobs: Sequence[Job], devices: Sequence[str]) -> int:
        """How many of these jobs run at a time."""
        from dqlab.machine import cores
        from dqlab.training.probe import USABLE, free_bytes

        if devices:
            return len(devices)
        import torch

        memory = max(job.memory for job in jobs)
        fitting = int(free_bytes(torch.device("cpu")) * USABLE) // memory if memory else len(jobs)
        return max(1, min(cores() // max(job.threads for job in jobs), fitting, len(jobs)))


class Slot(NamedTuple):
    """A place for one pack at a time: the GPU that it sees, and its share of that GPU's memory."""

    device: str | None = None
    share: float = 1.0


def _slots(workers: int, devices: Sequence[str]) -> list[Slot]:
    """As many places as there are packs at a time, spread evenly over the GPUs."""
    placed = [devices[index % len(devices)] if devices else None for index in range(workers)]
    return [Slot(device, 1.0 / placed.count(device) if device else 1.0) for device in placed]


def job_end(job: Job, outcome: AttemptOutcome, stops: int) -> Ended:
    """How a job ended; one that died while all were being stopped counts as stopped."""
    code = STOPPED if stops and outcome.retryable else outcome.code
    return Ended(job, code, outcome.reason)


def _visible() -> tuple[str, ...]:
    """The GPUs that this process sees."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = named.split(",") if named else [str(index) for index in range(count)]
    return tuple(name.strip() for name in names[:count])
