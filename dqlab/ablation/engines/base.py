"""What an engine is to a grid: it runs jobs, a process each, and says how each of them ended.

`run_attempt` follows one process to its end, whichever engine has started it.
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
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from dqlab.config.registry import Registry
from dqlab.machine import GPU_SHARE, QUIET_THREADS

FINISHED, SOME_FAILED, FAILED, DIED, STOPPED = 0, 1, 2, 3, 130
"""Exit codes of a job: all of its cells have results; some have; none, and it said why; it ended in a way that another
attempt may mend (so do all other codes say); it was asked to stop."""


@dataclass(frozen=True)
class Job:
    """A pack, as an engine sees it.

    Its process is `python -m WORKER FOLDER`. It reads FOLDER/pack.gin and writes into FOLDER only, checkpoints too:
    started again in the same folder, it continues; while an earlier process has the folder's lock, it waits. It tells
    events as JSON objects, one a line, on standard output. When its standard input ends, it writes its checkpoint and
    ends with STOPPED.

    Attributes:
        id: of the pack.
        folder: of the pack.
        inputs: datasets that it reads, files or folders, where they are not part of dqlab.
        threads: CPU threads that it computes with.
        memory: bytes of memory that it is expected to take, on the host.
        gpu_memory: bytes that it is expected to take on a GPU; 0 for a job without one.
        seconds: that it is expected to take; 0 where nothing is known.
        worker: the module that is run.

    Events have an `event`; whatever ends a job or a cell early has a `reason`. A job that ends without any event died:
    its interpreter failed.
    """

    id: str
    folder: Path
    inputs: Sequence[Path] = ()
    threads: int = 1
    memory: int = 0
    gpu_memory: int = 0
    seconds: float = 0.0
    worker: str = "dqlab.ablation.worker"

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", self.worker, str(self.folder.resolve())]

    @property
    def log(self) -> Path:
        """Where the process's standard error goes."""
        return self.folder / "worker.log"


@dataclass(frozen=True)
class Ended:
    """How a job, or one attempt at it, ended.

    Attributes:
        job: the job.
        code: the exit code; negative: the signal that killed it.
        reason: why, where it is not FINISHED.
    """

    job: Job
    code: int
    reason: str = ""

    @property
    def retryable(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.code not in (FINISHED, SOME_FAILED, FAILED, STOPPED)

    def when_stopping(self, stops: int) -> Ended:
        """The same; but what died while all jobs were being stopped was stopped."""
        return replace(self, code=STOPPED) if stops and self.retryable else self


OnEvent = Callable[[Job, Mapping[str, Any]], None]
"""Told of every event of a job; may be called from any thread."""


class Engine(Protocol):
    """Runs jobs. A job that dies without a word (killed, its node lost) is started again, `retries` times at most."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        """Run every job; yields each as it ends, in any order; a failing job never ends the others."""

    def stop(self) -> None:
        """Ask all jobs to write their checkpoints and end: `run` yields them as STOPPED. A second call kills them."""


engines: Registry[Callable[[], Engine]] = Registry("engine", "Where the packs of a grid are trained.", "Grid.engine")
ON_A_CLUSTER = 16


def slots_of(engine: Engine) -> int:
    """How many packs the engine runs at a time; a guess where it does not know before it runs."""
    slots = getattr(engine, "slots", None)
    return max(int(slots()), 1) if slots is not None else ON_A_CLUSTER


POLL = 0.1
"""Seconds between two looks at whether a process is to stop, or has ended."""
Event = Mapping[str, Any]
StopRequests = Callable[[], int]
"""How many times jobs have been asked to stop: once, to save and end; twice, to be killed."""


class StopCounter:
    """Counts how often an engine has been asked to stop: once, to save; twice, to kill. Safe in a signal's handler."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        """How often it has been asked."""
        return self.count


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
    job: Job, variables: Mapping[str, str], on_event: Callable[[Event], None], stops: StopRequests
) -> Ended:
    """Run a job's process to its end, in a session of its own, which a terminal's Ctrl-C does not reach.

    Args:
        job: the job.
        variables: of the process's environment.
        on_event: called in this thread with each of its events, in order; if it fails, the process is killed.
        stops: asked all the time; once: its input ends, by which it is asked to stop; twice: it is killed.
    """
    heard, why = False, ""
    try:
        with job.log.open("ab") as log, _started(job, variables, log) as process:
            written = log.tell()
            try:
                for line in _lines(process, stops):
                    event = _event_of(line)
                    if event is None:  # a plugin prints
                        log.write(line + b"\n")
                        log.flush()
                    else:
                        heard, why = True, str(event.get("reason", why))
                        on_event(event)
            finally:
                _kill(process)
        return _judged(job, process.returncode, heard, why or _tail(job.log, written), stops())
    except OSError as error:  # no process, no log: a full disk ends one job, not all
        return Ended(job, DIED, f"{error.filename or 'its process'}: {error.strerror or error}")


def _started(job: Job, variables: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        job.command, stdin=pipe, stdout=pipe, stderr=log, env=dict(variables), start_new_session=True, bufsize=0
    )


def _lines(process: subprocess.Popen[bytes], stops: StopRequests) -> Iterator[bytes]:
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


def _event_of(line: bytes) -> Event | None:
    with suppress(ValueError):
        event = json.loads(line)
        return event if isinstance(event, dict) else None
    return None


def _judged(job: Job, code: int, heard: bool, why: str, stops: int) -> Ended:
    """What an exit code means; an interpreter that fails before any event has codes of its own."""
    if stops >= 2 and code < 0:
        return Ended(job, STOPPED, "killed on request; it continues from its last checkpoint")
    if code == STOPPED:
        return Ended(job, STOPPED, "stopped on request; it continues from its checkpoint")
    if heard and code in (FINISHED, SOME_FAILED, FAILED):
        return Ended(job, code, "" if code == FINISHED else why)
    what = _signal(-code) if code < 0 else f"ended with exit code {code}"
    return Ended(job, code if code < 0 else DIED, f"{what}{why and ': ' + why}")


def _signal(number: int) -> str:
    name = signal.Signals(number).name
    return f"killed by {name}" + (" (out of memory?)" if number == signal.SIGKILL else "")


def _tail(log: Path, start: int, limit: int = 2000) -> str:
    """The end of what was written to a log since it had `start` bytes."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - limit))
        return file.read().decode(errors="replace").strip()
