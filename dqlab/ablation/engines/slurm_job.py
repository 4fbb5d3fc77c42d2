"""What runs inside a SLURM job, and the files by which it and the driver speak to each other."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import Job
from dqlab.ablation.engines.process import Event, Outcome, attempt, environment
from dqlab.files import write_text

POLL = 0.5


@dataclass(frozen=True)
class Notes:
    """What driver and job write for each other: events, whether to stop, submitit's files; a folder a driver."""

    folder: Path

    @classmethod
    def new(cls, pack: Path) -> Notes:
        """Notes beside a pack's folder; jobs that an earlier driver has left behind are asked to stop."""
        every = pack.resolve().with_name(f".{pack.name}.slurm")
        for earlier in every.glob("*/"):
            cls(earlier).ask(1)
        notes = cls(every / str(time.time_ns()))
        notes.folder.mkdir(parents=True)
        notes.events.touch()
        return notes

    @property
    def events(self) -> Path:
        """Of the job, one a line."""
        return self.folder / "events.jsonl"

    @property
    def stop(self) -> Path:
        """Whether it is to stop."""
        return self.folder / "stop"

    def ask(self, times: int) -> None:
        """Have the job asked to stop (1), or killed (2)."""
        write_text(self.stop, str(times))

    def asked(self) -> int:
        """What `ask` said last."""
        return int(self.stop.read_text()) if self.stop.exists() else 0

    def write(self, event: Event) -> None:
        """Add an event."""
        with self.events.open("a") as file:
            file.write(json.dumps(dict(event)) + "\n")

    def read(self) -> list[Event]:
        """All events that are whole."""
        return [json.loads(line) for line in self.events.read_text().rpartition("\n")[0].splitlines()]


@dataclass
class Pack:
    """What a SLURM job calls: one attempt at a pack. When SLURM wants its node back, it saves and is requeued."""

    job: Job
    notes: Notes
    preempted: bool = False

    def __call__(self) -> Outcome:
        """Run the pack's process, in a thread: submitit's signals come to this one."""
        with ThreadPoolExecutor(1) as pool:
            self._attempt: Future[Outcome] = pool.submit(self._run)
            while not self._attempt.done():
                time.sleep(POLL)
            return self._attempt.result()

    def checkpoint(self) -> Any:
        """What is to be called when the job is requeued; called by submitit when the job must go."""
        from submitit.helpers import DelayedSubmission

        self.preempted = True
        while not self._attempt.done():
            time.sleep(POLL)
        return DelayedSubmission(Pack(self.job, self.notes))

    def _run(self) -> Outcome:
        notes, job = self.notes, self.job
        variables = environment(job.threads, None if job.gpu_memory else "")
        return attempt(
            job.command(job.folder), job.log, variables, notes.write, lambda: notes.asked() or self.preempted
        )
