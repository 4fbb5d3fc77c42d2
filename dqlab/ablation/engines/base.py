"""What an engine is to a grid: it runs jobs, a process each, and says how each of them ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dqlab.config.registry import Registry

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
    """How a job ended: its exit code (negative: the signal that killed it), and the reason where it is not FINISHED."""

    job: Job
    code: int
    reason: str = ""


OnEvent = Callable[[Job, Mapping[str, Any]], None]
"""Told of every event of a job; may be called from any thread."""


class Engine(Protocol):
    """Runs jobs. A job that dies without a word (killed, its node lost) is started again, `retries` times at most."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        """Run every job; yields each as it ends, in any order; a failing job never ends the others."""

    def stop(self) -> None:
        """Ask all jobs to write their checkpoints and end: `run` yields them as STOPPED. A second call kills them."""


engines: Registry[Callable[[], Engine]] = Registry("engine", "Where the packs of a grid are trained.", "Grid.engine")
