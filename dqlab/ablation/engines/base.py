"""What an engine is to a grid: it runs jobs, a process each, and says how each of them ended; and that of this machine.

`run_attempt` follows one process to its end, whichever engine has started it. Where that happens on another machine, a
`Mailbox`, a folder that both see, carries events to the driver, and its requests to stop back.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

from dqlab.config.fields import NonNegativeInt, check_field, check_fields
from dqlab.config.registry import Registry
from dqlab.errors import ConfigError
from dqlab.files import write_text
from dqlab.machine import GPU_SHARE, QUIET_THREADS, cores

FINISHED, SOME_FAILED, FAILED, DIED, STOPPED = 0, 1, 2, 3, 130
"""Exit codes of a job: all of its cells have results; some have; none, and it said why; it ended in a way that another
attempt may mend (so do all other codes say); it was asked to stop."""
POLL, POLL_REMOTE = 0.1, 0.5  # seconds between two looks at a process, and at all jobs on other machines
Slot = tuple[str | None, float]  # a pack's place: the GPU that it sees, and its share of that GPU's memory


@dataclass(frozen=True)
class Job:
    """A pack, as an engine sees it; its process is `python -m WORKER FOLDER`.

    It reads FOLDER/pack.gin and writes into FOLDER only, checkpoints too: started again in the same folder, it
    continues; while an earlier process has the folder's lock, it waits. It tells events as JSON objects, one a line, on
    standard output: each has an `event`; whatever ends a job or a cell early has a `reason`. A job that ends without
    any event died: its interpreter failed. When its standard input ends, it writes its checkpoint and ends (STOPPED).
    """

    id: str
    folder: Path  # of the pack
    inputs: Sequence[Path] = ()  # datasets that it reads, files or folders, where they are not part of dqlab
    threads: int = 1  # of the CPU, that it computes with
    memory: int = 0  # bytes that it is expected to take
    gpu_memory: int = 0  # the same on a GPU; 0 for a job without one
    seconds: float = 0.0  # that it is expected to take; 0 where nothing is known
    worker: str = "dqlab.ablation.worker"  # the module that is run

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.worker, str(self.folder.resolve())]

    @property
    def log(self) -> Path:
        """Where the process's standard error goes."""
        return self.folder / "worker.log"


@dataclass(frozen=True)
class Ended:
    """How a job, or one attempt at it, ended: its exit code (negative: the signal that killed it), and why."""

    job: Job
    code: int
    reason: str = ""

    @property
    def retryable(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.code not in (FINISHED, SOME_FAILED, FAILED, STOPPED)

    def when_stopping(self, stopping: bool) -> Ended:
        """The same; but what died while all jobs were being stopped was stopped."""
        return replace(self, code=STOPPED) if stopping and self.retryable else self


Event = Mapping[str, Any]
OnEvent = Callable[[Job, Event], None]  # told of every event of a job; may be called from any thread


@runtime_checkable
class Engine(Protocol):
    """Runs jobs. A job that dies without a word (killed, its node lost) is started again, `retries` times at most."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        """Run every job; yields each as it ends, in any order; a failing job never ends the others."""

    def stop(self) -> None:
        """Ask all jobs to write their checkpoints and end: `run` yields them as STOPPED. A second call kills them."""


engines: Registry[Callable[[], Engine]] = Registry("engine", "Where the packs of a grid are trained.", "Grid.engine")


def slots_of(engine: Engine) -> int:
    """How many packs the engine runs at a time; a guess where it does not know before it runs."""
    slots = getattr(engine, "slots", None)
    return max(int(slots()), 1) if slots is not None else 16


def job_environment(threads: int, device: str | None, share: float = 1.0) -> dict[str, str]:
    """Variables of a job's process: its threads (idle ones sleep), what CUDA shows it (None: as here), its share."""
    seen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    shared = {GPU_SHARE: str(share)} if share < 1 else {}
    return {**QUIET_THREADS, **os.environ, "OMP_NUM_THREADS": str(threads), **seen, **shared}


def run_attempt(
    job: Job, variables: Mapping[str, str], on_event: Callable[[Event], None], stops: Callable[[], int]
) -> Ended:
    """Run a job's process to its end, in a session of its own, which a terminal's Ctrl-C does not reach.

    `on_event` is called in this thread with each of its events; if it fails, the process is killed. `stops` is asked
    all the time; once: its input ends, by which it is asked to stop; twice: it is killed.
    """
    heard, why, pipe = False, "", subprocess.PIPE
    options: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "env": variables, "start_new_session": True, "bufsize": 0}
    try:
        with job.log.open("a+b") as log:
            before = log.tell()
            with subprocess.Popen(job.command, stderr=log, **options) as process:
                try:
                    for line in _lines(process, stops):
                        event: Any = None
                        with suppress(ValueError):
                            event = json.loads(line)
                        if isinstance(event, dict):
                            heard, why = True, str(event.get("reason", why))
                            on_event(event)
                        else:  # a plugin prints
                            log.write(line + b"\n")
                            log.flush()
                finally:
                    _kill(process)
            log.seek(max(before, log.seek(0, os.SEEK_END) - 2000))  # the whole may be larger than memory
            last = log.read().decode(errors="replace").strip()
        return _judged(job, process.returncode, heard, why or last, stops())
    except OSError as error:  # no process, no log: a full disk ends one job, not all
        return Ended(job, DIED, f"{error.filename or 'its process'}: {error.strerror or error}")


def _lines(process: subprocess.Popen[bytes], stops: Callable[[], int]) -> Iterator[bytes]:
    """What a process writes, until it has ended; meanwhile it is asked to stop, or killed, as soon as `stops` says."""
    assert process.stdin is not None
    assert process.stdout is not None
    output, is_open, rest = select.poll(), True, b""
    output.register(process.stdout)
    while is_open or process.poll() is None:
        if stops() >= 1:
            process.stdin.close()
        if stops() >= 2:
            _kill(process)
        if not is_open:  # it has closed its output, and goes on
            time.sleep(POLL)
        elif output.poll(1000 * POLL):
            chunk = os.read(process.stdout.fileno(), 2**16)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            is_open = bool(chunk)
        else:  # a child of its own may hold its output when it has ended
            is_open = process.poll() is None
    yield from [rest] if rest else []


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it, if it still runs, and the children that share its session."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _judged(job: Job, code: int, heard: bool, why: str, stops: int) -> Ended:
    """What an exit code means; an interpreter that fails before any event has codes of its own."""
    if stops >= 2 and code < 0:
        return Ended(job, STOPPED, "killed on request; it continues from its last checkpoint")
    if code == STOPPED:
        return Ended(job, STOPPED, "stopped on request; it continues from its checkpoint")
    if heard and code in (FINISHED, SOME_FAILED, FAILED):
        return Ended(job, code, "" if code == FINISHED else why)
    what = f"ended with exit code {code}"
    if code < 0:
        what = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    return Ended(job, code if code < 0 else DIED, f"{what}{why and ': ' + why}")


class Mailbox:
    """What the driver and a job write for each other, in a folder of this driver's beside the pack's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun = folder, folder / "begun"  # which is there once the job has had a machine
        self._stop, self._events, self._read = folder / "stop", folder / "events.jsonl", 0

    @classmethod
    def new(cls, pack: Path, engine: str) -> Mailbox:
        """A mailbox for a pack's folder; jobs that an earlier driver has left behind are asked to stop."""
        every = pack.resolve().with_name(f".{pack.name}.{engine}")
        for earlier in every.glob("*/"):
            cls(earlier).ask(1)
        (new := every / str(time.time_ns())).mkdir(parents=True)
        return cls(new)

    def ask(self, times: int) -> None:
        """Have the job asked to stop (1), or killed (2)."""
        write_text(self._stop, str(times))

    def asked(self) -> int:
        """What `ask` said last."""
        return int(self._stop.read_text()) if self._stop.exists() else 0

    def write(self, event: Event) -> None:
        with self._events.open("a") as file:
            file.write(json.dumps(dict(event)) + "\n")

    def new_events(self) -> Iterator[Event]:
        """The events since the last call, as far as they are whole."""
        if not self._events.exists():
            return
        with self._events.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        for line in whole.splitlines():
            with suppress(ValueError):  # a machine may have been lost in the middle of a line
                yield json.loads(line)


class RemoteJob(Protocol):
    """A job in the hands of a cluster."""

    job: Job
    mailbox: Mailbox

    def outcome(self) -> Ended | None:
        """How its last attempt ended; None while it waits, runs, or is started again."""

    def stop(self, times: int) -> None:
        """Have it stopped (1) or killed (2), and taken out of the queue if it still waits there."""


@dataclass(frozen=True, kw_only=True)
class RetryingEngine(Engine):
    """What dqlab's own engines have in common."""

    retries: NonNegativeInt = 2
    stops: list[float] = field(default_factory=list, init=False, repr=False, compare=False)
    """When jobs were asked to stop: once, to save; twice, to be killed."""

    def __post_init__(self) -> None:
        check_fields(self)

    def stop(self) -> None:
        self.stops.append(time.time())

    def follow(self, remote: Sequence[RemoteJob], on_event: OnEvent) -> Iterator[Ended]:
        """Pass on the events of jobs, and requests to stop; yields each job as it ends."""
        left, told = list(remote), 0
        try:
            while left:
                time.sleep(POLL_REMOTE)
                if told < len(self.stops):
                    told = len(self.stops)
                    for each in left:
                        each.stop(told)
                for each in list(left):
                    outcome = each.outcome()
                    for event in each.mailbox.new_events():
                        on_event(each.job, event)
                    if outcome is not None:
                        left.remove(each)
                        yield outcome.when_stopping(bool(self.stops))
        finally:  # whoever listens may leave early: the jobs save what they have
            for each in left:
                each.stop(1)
            self.stops.clear()


@engines.register("local", source="Python's subprocess and concurrent.futures")
@dataclass(frozen=True)
class LocalEngine(RetryingEngine):
    """This machine: a process for every pack, as many at a time as there are cores, memory and GPUs for.

    Attributes:
        workers: packs at a time; 0: on CPUs, as many as cores and free memory have room for; one for each GPU. Packs
            that share a GPU share its memory evenly.
        devices: GPUs to use, as CUDA_VISIBLE_DEVICES names them; all that are visible if empty.
        retries: how many times a pack is started again that was killed, or ended without saying why.
    """

    workers: NonNegativeInt = 0
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = isinstance(self.devices, (tuple, list)) and all(isinstance(name, str) for name in self.devices)
        check_field(listed, self, "devices", "a tuple of strings, such as ('0', '1')")

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        if not jobs:
            return
        devices = self._devices(jobs)
        workers = self.workers or len(devices) or self._room(jobs)
        placed = [devices[index % len(devices)] if devices else None for index in range(workers)]
        slots: SimpleQueue[Slot] = SimpleQueue()
        for device in placed:
            slots.put((device, 1.0 / placed.count(device) if device else 1.0))
        pool = ThreadPoolExecutor(workers)
        try:
            longest_first = sorted(jobs, key=lambda job: -job.seconds)
            futures = [pool.submit(self._run_one, job, on_event, slots) for job in longest_first]
            for future in as_completed(futures):
                yield future.result()
        finally:  # whoever listens may leave early: the jobs save what they have
            if not self.stops:
                self.stop()
            pool.shutdown()
            self.stops.clear()

    def slots(self) -> int:
        return self.workers or cores()

    def _run_one(self, job: Job, on_event: OnEvent, slots: SimpleQueue[Slot]) -> Ended:
        """As many attempts as it takes, in a place that is free."""
        if self.stops:
            return Ended(job, STOPPED, "not started")
        slot = slots.get()
        variables = job_environment(job.threads, *(slot if job.gpu_memory else ("",)))
        try:
            for _ in range(self.retries + 1):
                outcome = run_attempt(job, variables, partial(on_event, job), self.stops.__len__)
                if self.stops or not outcome.retryable:
                    break
            return outcome.when_stopping(bool(self.stops))
        finally:
            slots.put(slot)

    def _devices(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """The GPUs that these jobs go to; none where none of them wants one."""
        if not any(job.gpu_memory for job in jobs):
            return ()
        if self.devices:
            return tuple(self.devices)
        import torch

        count = torch.cuda.device_count()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        found = [name.strip() for name in visible.split(",")[:count]]
        if not found:
            raise ConfigError("The grid's packs want a GPU, and there is none here. Use Experiment.device='cpu'.")
        return tuple(found)

    @staticmethod
    def _room(jobs: Sequence[Job]) -> int:
        """How many of these jobs run at a time on CPUs."""
        import torch

        from dqlab.training.probe import USABLE, free_bytes

        memory = max(job.memory for job in jobs)
        fitting = int(free_bytes(torch.device("cpu")) * USABLE) // memory if memory else len(jobs)
        return max(1, min(cores() // max(job.threads for job in jobs), fitting, len(jobs)))
