"""Jobs on other machines: a folder that all of them see carries events to the driver, and its requests to stop back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dqlab.ablation.engines.base import Ended, Event, Job, OnEvent, StopCounter
from dqlab.files import write_text

POLL = 0.5
"""Seconds between two looks at all jobs."""


class Mailbox:
    """What the driver and a job write for each other, in a folder of this driver's beside the pack's.

    Args:
        folder: of the mailbox; it is not made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stop, self._begun, self._events = folder / "stop", folder / "begun", folder / "events.jsonl"
        self._read = 0

    @classmethod
    def new(cls, pack: Path, engine: str) -> Mailbox:
        """A mailbox for a pack's folder; jobs that an earlier driver has left behind are asked to stop."""
        every = pack.resolve().with_name(f".{pack.name}.{engine}")
        for earlier in every.glob("*/"):
            cls(earlier).ask(1)
        mailbox = cls(every / str(time.time_ns()))
        mailbox.folder.mkdir(parents=True)
        return mailbox

    def ask(self, times: int) -> None:
        """Have the job asked to stop (1), or killed (2)."""
        write_text(self._stop, str(times))

    def asked(self) -> int:
        """What `ask` said last."""
        return int(self._stop.read_text()) if self._stop.exists() else 0

    def begin(self) -> None:
        """The job has a machine."""
        self._begun.touch()

    def begun(self) -> bool:
        """Whether the job has ever had a machine."""
        return self._begun.exists()

    def write(self, event: Mapping[str, object]) -> None:
        """Add an event."""
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


def follow(remote: Sequence[RemoteJob], on_event: OnEvent, stops: StopCounter) -> Iterator[Ended]:
    """Pass on the events of jobs, and requests to stop; yields each job as it ends."""
    left, told = list(remote), 0
    try:
        while left:
            time.sleep(POLL)
            if told < stops():
                told = stops()
                for each in left:
                    each.stop(told)
            for each in list(left):
                outcome = each.outcome()
                for event in each.mailbox.new_events():
                    on_event(each.job, event)
                if outcome is not None:
                    left.remove(each)
                    yield outcome.when_stopping(stops())
    finally:  # whoever listens may leave early: the jobs save what they have
        for each in left:
            each.stop(1)
        stops.count = 0
