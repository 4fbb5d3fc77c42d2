"""One attempt at a job: its process is started, heard, asked to stop, and judged by how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from dqlab.ablation.engines.base import DIED, FAILED, FINISHED, SOME_FAILED, STOPPED
from dqlab.machine import GPU_SHARE
from dqlab.training.threads import QUIET_THREADS

POLL = 0.1
GRACE = 2.0
"""Seconds between two looks at a process; and after its end, for what a child of its own holds of its output."""

Event = Mapping[str, Any]
Hear = Callable[[Event], None]
Asked = Callable[[], int]
"""How many times jobs have been asked to stop: once, to save and end; twice, to be killed."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the exit code (DIED, or a negative one: without a word), and why if not FINISHED."""

    code: int
    reason: str = ""

    @property
    def mendable(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.code not in (FINISHED, SOME_FAILED, FAILED, STOPPED)


def environment(threads: int, device: str | None, share: float = 1.0) -> dict[str, str]:
    """Of a job's process: its threads (idle ones sleep), the only GPU that it sees, and its share of that GPU's memory.

    Args:
        threads: CPU threads.
        device: as CUDA_VISIBLE_DEVICES names it; `None`: as it is here.
        share: above 0, at most 1.
    """
    seen = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    shared = {GPU_SHARE: str(share)} if share < 1 else {}
    return {**QUIET_THREADS, **os.environ, "OMP_NUM_THREADS": str(threads), **seen, **shared}


def attempt(command: Sequence[str], log: Path, variables: Mapping[str, str], hear: Hear, asked: Asked) -> Outcome:
    """Run a process to its end; `hear` is called in this thread with each of its events, in order."""
    heard, why = False, ""
    written = log.stat().st_size if log.exists() else 0
    with Process(command, log, variables) as process:
        for event in process.events(asked):
            heard, why = True, str(event.get("reason", why))
            hear(event)
    return _judged(process.code, heard, why or _tail(log, written), asked())


class Process:
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

    def events(self, asked: Asked) -> Iterator[Event]:
        """What it tells, until it has ended; meanwhile it is asked to stop, or killed, as soon as `asked` says so."""
        ended = None
        while ended is None or (self._reader.is_alive() and time.monotonic() < ended + GRACE) or self._lines.qsize():
            self._obey(asked())
            with suppress(Empty):
                yield from self._parsed(self._lines.get(timeout=POLL))
            if ended is None and self._process.poll() is not None:
                ended = time.monotonic()

    def kill(self) -> None:
        """Kill it, and the children that share its session."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Process:
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


def _judged(code: int, heard: bool, why: str, asked: int) -> Outcome:
    """What an exit code means; an interpreter that fails before any event has codes of its own."""
    if asked >= 2 and code < 0:
        return Outcome(STOPPED, "killed on request; it continues from its last checkpoint")
    if code == STOPPED:
        return Outcome(STOPPED, "stopped on request; it continues from its checkpoint")
    if heard and code in (FINISHED, SOME_FAILED, FAILED):
        return Outcome(code, "" if code == FINISHED else why)
    what = _signal(-code) if code < 0 else f"ended with exit code {code}"
    return Outcome(code if code < 0 else DIED, f"{what}{why and ': ' + why}")


def _signal(number: int) -> str:
    name = signal.Signals(number).name
    return f"killed by {name}" + (" (out of memory?)" if number == signal.SIGKILL else "")


def _tail(log: Path, start: int, limit: int = 2000) -> str:
    """The end of what was written to a log since it had `start` bytes."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - limit))
        return file.read().decode(errors="replace").strip()
