"""What the packs of a cluster talk to: keeps their folders on the driver's machine, their events, and its orders.

One attempt at a job is the current one. A node that was given up may still live, beyond a broken network: what its
attempt sends is refused, so that nothing of it mixes with its successor's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.transfer import Receiver, scan


class SupersededError(Exception):
    """Another attempt at the job has begun."""


class Vault:
    """An actor's class; `folders` are those of the jobs, by id."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._receivers = {job: Receiver(folder) for job, folder in folders.items()}
        self._attempts: Counter[str] = Counter()
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._begun: set[str] = set()
        self._asked = 0

    def begin(self, job: str) -> int:
        """The number of a new attempt at a job: earlier ones are not listened to any more."""
        self._attempts[job] += 1
        self._begun.discard(job)
        self._receivers[job].clear()
        return self._attempts[job]

    def ask(self, times: int) -> None:
        """Have jobs asked to stop (1), or killed (2)."""
        self._asked = times

    def begun(self) -> set[str]:
        """The jobs whose current attempt runs on some node, or ran."""
        return self._begun

    def drain(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Events since the last call, in order: job and event."""
        events, self._events = self._events, []
        return events

    def asked(self, job: str, attempt: int) -> int:
        """What `ask` said last."""
        self._check(job, attempt)
        self._begun.add(job)
        return self._asked

    def names(self, job: str, attempt: int) -> list[str]:
        """The files of a job's folder."""
        self._check(job, attempt)
        return list(scan(self._folders[job]))

    def fetch(self, job: str, attempt: int, name: str) -> bytes:
        """A file of a job's folder."""
        self._check(job, attempt)
        return (self._folders[job] / name).read_bytes()

    def hear(self, job: str, attempt: int, event: Mapping[str, Any]) -> None:
        """Keep an event for the driver."""
        self._check(job, attempt)
        self._events.append((job, event))

    def stage(self, job: str, attempt: int, name: str, content: bytes) -> None:
        """Keep a file's new content."""
        self._check(job, attempt)
        self._receivers[job].stage(name, content)

    def commit(self, job: str, attempt: int, names: Sequence[str], gone: Sequence[str]) -> None:
        """Put what was staged into the job's folder."""
        self._check(job, attempt)
        self._receivers[job].commit(names, gone)

    def _check(self, job: str, attempt: int) -> None:
        if attempt != self._attempts[job]:
            raise SupersededError(f"attempt {attempt} at {job} was given up; {self._attempts[job]} is under way")
