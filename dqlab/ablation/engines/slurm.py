"""A SLURM cluster, through submitit: a job for every pack. All nodes must see the packs' folders, and dqlab itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import DIED, Ended, Job, OnEvent, engines
from dqlab.ablation.engines.local import AttemptOutcome, Event, StopCounter, job_end, job_environment, run_attempt
from dqlab.config.fields import check_field, check_fields
from dqlab.errors import ConfigError
from dqlab.files import write_text

JOB_POLL = 0.5


@dataclass(frozen=True)
class JobMailbox:
    """What driver and job write for each other: events, whether to stop, submitit's files; a folder a driver."""

    folder: Path

    @classmethod
    def new(cls, pack: Path) -> JobMailbox:
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
        """The file of the job's events, one a line."""
        return self.folder / "events.jsonl"

    @property
    def stop(self) -> Path:
        """The file that says how often the job has been asked to stop."""
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
class SlurmPack:
    """What a SLURM job calls: one attempt at a pack. When SLURM wants its node back, it saves and is requeued."""

    job: Job
    notes: JobMailbox
    preempted: bool = False

    def __call__(self) -> AttemptOutcome:
        """Run the pack's process, in a thread: submitit's signals come to this one."""
        with ThreadPoolExecutor(1) as pool:
            self._attempt: Future[AttemptOutcome] = pool.submit(self._run)
            while not self._attempt.done():
                time.sleep(JOB_POLL)
            return self._attempt.result()

    def checkpoint(self) -> Any:
        """What is to be called when the job is requeued; called by submitit when the job must go."""
        from submitit.helpers import DelayedSubmission

        self.preempted = True
        while not self._attempt.done():
            time.sleep(JOB_POLL)
        return DelayedSubmission(SlurmPack(self.job, self.notes))

    def _run(self) -> AttemptOutcome:
        notes, job = self.notes, self.job
        variables = job_environment(job.threads, None if job.gpu_memory else "")
        return run_attempt(
            job.command(job.folder), job.log, variables, notes.write, lambda: notes.asked() or self.preempted
        )


POLL = 0.5


@engines.register(
    "slurm", source="Yoo, Jette, Grondona 2003, SLURM; submitit", cites=("yoo2003slurm",), example={"cluster": "local"}
)
@dataclass(frozen=True)
class SlurmEngine:
    """A SLURM cluster with a shared file system: a job for every pack, requeued from its checkpoint when preempted.

    Attributes:
        parameters: what submitit's AutoExecutor takes beside cores, GPUs and memory, such as
            `{'timeout_min': 720, 'slurm_partition': 'gpu'}`. A job that is cut off is requeued, three times.
        retries: how many times a pack is started again that was killed, or ended without saying why.
        cluster: `slurm`, or `local`: submitit's stand-in, processes of this machine, to try things out.
    """

    parameters: Mapping[str, Any] = field(default_factory=lambda: {"timeout_min": 1440})
    retries: int = 2
    cluster: str = "slurm"
    stops: StopCounter = field(default_factory=StopCounter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.retries >= 0, self, "retries", "at least 0")

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        """Run every job; yields each as it ends. What a killed driver leaves in the queue goes on: see `scancel`.

        Raises:
            ConfigError: submitit is not installed, or there is no SLURM here.
        """
        queued = [Queued(self, job, self.retries) for job in sorted(jobs, key=lambda job: -job.seconds)]
        told = 0
        try:
            while queued:
                time.sleep(POLL)
                if told < self.stops():
                    told = self.stops()
                    _ask(queued, told)
                for item in list(queued):
                    if done := item.ended(on_event):
                        queued.remove(item)
                        yield done
        finally:
            _ask(queued, 1)
            self.stops.count = 0

    def stop(self) -> None:
        """Ask all jobs to save and end; cancel them at the second call."""
        self.stops.count += 1

    def submit(self, job: Job, notes: JobMailbox) -> Any:
        """Hand a job to submitit."""
        try:
            import submitit

            executor = submitit.AutoExecutor(notes.folder, cluster=self.cluster)
        except ImportError as error:
            raise ConfigError("The slurm engine needs submitit: pip install 'dqlab[slurm]'.") from error
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"SlurmEngine: {str(error).rstrip('.?')}. Run this where sbatch and srun are.") from error
        wants = {"cpus_per_task": job.threads, "gpus_per_node": int(bool(job.gpu_memory))}
        memory = {"mem_gb": max(1.0, job.memory / 1e9)} if job.memory else {}
        executor.update_parameters(**{"name": f"dqlab-{job.id}", **wants, **memory, **self.parameters})
        return executor.submit(SlurmPack(replace(job, folder=job.folder.resolve()), notes))


class Queued:
    """A job in SLURM's hands."""

    def __init__(self, engine: SlurmEngine, job: Job, retries: int) -> None:
        self._engine, self._job, self._retries = engine, job, retries
        self.notes = JobMailbox.new(job.folder)
        self.submitted, self._read = engine.submit(job, self.notes), 0

    def ended(self, on_event: OnEvent) -> Ended | None:
        """Pass on its events; how it ended, if it has, and is not to be started again."""
        done = self.submitted.done()
        events = self.notes.read()
        for event in events[self._read :]:
            on_event(self._job, event)
        self._read = len(events)
        if not done:
            return None
        outcome = self._outcome()
        if outcome.retryable and self._retries and not self._engine.stops():
            self._retries -= 1
            self.submitted = self._engine.submit(self._job, self.notes)
            return None
        return job_end(self._job, outcome, self._engine.stops())

    def _outcome(self) -> AttemptOutcome:
        try:
            outcome: AttemptOutcome = self.submitted.result()
        except Exception as error:  # submitit's, for a job that left no result; or whatever the job raised
            return AttemptOutcome(DIED, f"lost by SLURM: {str(error).strip().rpartition(chr(10))[2]}")
        return outcome


def _ask(queued: Sequence[Queued], times: int) -> None:
    """Ask for an end; those that wait in the queue are taken out of it."""
    for item in queued:
        item.notes.ask(times)
        if item.submitted.state == "PENDING":
            item.submitted.cancel()
