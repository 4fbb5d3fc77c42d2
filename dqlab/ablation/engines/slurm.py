"""A SLURM cluster, through submitit: a job for every pack. All nodes must see the packs' folders, and dqlab itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dqlab.ablation.engines.base import DIED, Ended, Job, Tell, engines
from dqlab.ablation.engines.local import Stops, ended
from dqlab.ablation.engines.process import Outcome
from dqlab.ablation.engines.slurm_job import Notes, Pack
from dqlab.errors import ConfigError
from dqlab.fields import check_fields, require

POLL = 0.5
GIGABYTE = 1e9


@engines.register("slurm", source="Yoo, Jette, Grondona 2003, SLURM; submitit", example={"cluster": "local"})
@dataclass(frozen=True)
class SlurmEngine:
    """A SLURM cluster with a shared file system: a job for every pack, requeued from its checkpoint when preempted.

    Attributes:
        partition: where jobs are queued; SLURM's default if empty.
        hours: that a job may take; one that is cut off is requeued and continues, three times.
        cpus: of a job; 0: as many as the pack has threads.
        gpus: of a pack that wants one.
        setup: shell commands that are run on the node first, such as `module load cuda`.
        retries: how many times a pack is started again that was killed, or ended without saying why.
        cluster: `slurm`, or `local`: submitit's stand-in, processes of this machine, to try things out.
    """

    partition: str = ""
    hours: float = 24.0
    cpus: int = 0
    gpus: int = 1
    setup: tuple[str, ...] = ()
    retries: int = 2
    cluster: str = "slurm"
    stops: Stops = field(default_factory=Stops, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.hours > 0, self, "hours", "above 0")
        require(self.cpus >= 0 and self.retries >= 0, self, "cpus", "at least 0, and so must retries")

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
                    done = item.ended(tell)
                    if done:
                        queued.remove(item)
                        yield done
        finally:
            _ask(queued, 1)
            self.stops.count = 0

    def stop(self) -> None:
        """Ask all jobs to save and end; kill them at the second call."""
        self.stops.count += 1

    def submit(self, job: Job) -> Any:
        """Hand a job to submitit."""
        try:
            import submitit

            executor = submitit.AutoExecutor(Notes(job.folder).folder, cluster=self.cluster)
        except ImportError as error:
            raise ConfigError("The slurm engine needs submitit: pip install 'dqlab[slurm]'.") from error
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"SlurmEngine: {str(error).rstrip('.?')}. Run this where sbatch and srun are.") from error
        memory = {"mem_gb": max(1.0, job.memory / GIGABYTE)} if job.memory else {}
        chosen = {"slurm_partition": self.partition} if self.partition else {}
        executor.update_parameters(
            name=f"dqlab-{job.id}",
            timeout_min=max(1, round(60 * self.hours)),
            cpus_per_task=self.cpus or job.threads,
            gpus_per_node=self.gpus if job.gpu_memory else 0,
            **{name: list(self.setup) for name in ("slurm_setup", "local_setup") if self.setup},
            **memory,
            **chosen,
        )
        return executor.submit(Pack(replace(job, folder=job.folder.resolve())))


class Queued:
    """A job in SLURM's hands."""

    def __init__(self, engine: SlurmEngine, job: Job, retries: int) -> None:
        self._engine, self._job, self._retries = engine, job, retries
        self.notes = Notes(job.folder)
        self.notes.clear()
        self.submitted, self._read = engine.submit(job), 0

    def ended(self, tell: Tell) -> Ended | None:
        """Pass on its events; how it ended, if it has, and is not to be started again."""
        done = self.submitted.done()
        events, self._read = self.notes.read(self._read)
        for event in events:
            tell(self._job, event)
        if not done:
            return None
        outcome, asked = self._outcome(), self._engine.stops()
        if outcome.mendable and self._retries and not asked:
            self._retries -= 1
            self.submitted = self._engine.submit(self._job)
            return None
        return ended(self._job, outcome, asked)

    def _outcome(self) -> Outcome:
        try:
            outcome: Outcome = self.submitted.result()
        except Exception as error:  # submitit's, for a job that left no result; or whatever the job raised
            return Outcome(DIED, f"lost by SLURM: {str(error).strip().splitlines()[-1]}")
        return outcome


def _ask(queued: Sequence[Queued], times: int) -> None:
    """Ask for an end; those that wait in the queue are taken out of it."""
    for item in queued:
        item.notes.ask(times)
        if item.submitted.state == "PENDING":
            item.submitted.cancel()
