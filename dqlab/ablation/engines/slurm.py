"""A SLURM cluster, through submitit: a job for every pack. All nodes must see the packs' folders, and dqlab itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dqlab.ablation.engines.base import DIED, Ended, Job, Tell, engines
from dqlab.ablation.engines.local import Stops, ended
from dqlab.ablation.engines.process import Outcome
from dqlab.ablation.engines.slurm_job import Notes, Pack
from dqlab.errors import ConfigError
from dqlab.fields import check_fields, require

POLL = 0.5


@engines.register("slurm", source="Yoo, Jette, Grondona 2003, SLURM; submitit", example={"cluster": "local"})
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
    stops: Stops = field(default_factory=Stops, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.retries >= 0, self, "retries", "at least 0")

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[Ended]:
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
                    if done := item.ended(tell):
                        queued.remove(item)
                        yield done
        finally:
            _ask(queued, 1)
            self.stops.count = 0

    def stop(self) -> None:
        """Ask all jobs to save and end; cancel them at the second call."""
        self.stops.count += 1

    def submit(self, job: Job, notes: Notes) -> Any:
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
        return executor.submit(Pack(replace(job, folder=job.folder.resolve()), notes))


class Queued:
    """A job in SLURM's hands."""

    def __init__(self, engine: SlurmEngine, job: Job, retries: int) -> None:
        self._engine, self._job, self._retries = engine, job, retries
        self.notes = Notes.new(job.folder)
        self.submitted, self._read = engine.submit(job, self.notes), 0

    def ended(self, tell: Tell) -> Ended | None:
        """Pass on its events; how it ended, if it has, and is not to be started again."""
        done = self.submitted.done()
        events = self.notes.read()
        for event in events[self._read :]:
            tell(self._job, event)
        self._read = len(events)
        if not done:
            return None
        outcome = self._outcome()
        if outcome.mendable and self._retries and not self._engine.stops():
            self._retries -= 1
            self.submitted = self._engine.submit(self._job, self.notes)
            return None
        return ended(self._job, outcome, self._engine.stops())

    def _outcome(self) -> Outcome:
        try:
            outcome: Outcome = self.submitted.result()
        except Exception as error:  # submitit's, for a job that left no result; or whatever the job raised
            return Outcome(DIED, f"lost by SLURM: {str(error).strip().rpartition(chr(10))[2]}")
        return outcome


def _ask(queued: Sequence[Queued], times: int) -> None:
    """Ask for an end; those that wait in the queue are taken out of it."""
    for item in queued:
        item.notes.ask(times)
        if item.submitted.state == "PENDING":
            item.submitted.cancel()
