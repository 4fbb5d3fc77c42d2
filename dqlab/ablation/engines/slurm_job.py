"""What runs inside a SLURM job, and the files by which it and the driver speak to each other."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import Job
from dqlab.ablation.engines.process import Event, Outcome, attempt, environment
from dqlab.files import write_text

POLL = 0.5


class Notes:
    """What driver and job write for each other beside the pack's folder: events, whether to stop, submitit's files."""

    def __init__(self, folder: Path, new: bool = False) -> None:
        self.folder = folder.with_name(f".{folder.name}.slurm")
        self.events, self.stop = self.folder / "events.jsonl", self.folder / "stop"
        if new:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.events.touch()

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
        return DelayedSubmission(Pack(self.job))

    def _run(self) -> Outcome:
        notes, job = Notes(self.job.folder), self.job
        variables = environment(job.threads, None if job.gpu_memory else "")
        return attempt(
            job.command(job.folder), job.log, variables, notes.write, lambda: notes.asked() or self.preempted
        )
