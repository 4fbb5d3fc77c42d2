"""A SLURM cluster, through submitit: a job for every pack. All nodes must see the packs' folders, and dqlab itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from dqlab.ablation.engines.base import (
    DIED,
    Ended,
    Job,
    OnEvent,
    StopCounter,
    engines,
    job_environment,
    run_attempt,
)
from dqlab.ablation.engines.mailbox import POLL, Mailbox, follow
from dqlab.config.fields import check_field, check_fields
from dqlab.errors import ConfigError


@dataclass
class SlurmPack:
    """What a SLURM job calls: one attempt at a pack. When SLURM wants its node back, it saves and is requeued."""

    job: Job
    mailbox: Mailbox
    preempted: bool = False

    def __call__(self) -> Ended:
        """Run the pack's process, in a thread: submitit's signals come to this one."""
        with ThreadPoolExecutor(1) as pool:
            self._attempt: Future[Ended] = pool.submit(self._run)
            while not self._attempt.done():
                time.sleep(POLL)
            return self._attempt.result()

    def checkpoint(self) -> Any:
        """What is to be called when the job is requeued; called by submitit when the job must go."""
        from submitit.helpers import DelayedSubmission

        self.preempted = True
        while not self._attempt.done():
            time.sleep(POLL)
        return DelayedSubmission(SlurmPack(self.job, self.mailbox))

    def _run(self) -> Ended:
        variables = job_environment(self.job.threads, None if self.job.gpu_memory else "")
        return run_attempt(self.job, variables, self.mailbox.write, lambda: self.mailbox.asked() or int(self.preempted))


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
        yield from follow(
            [SlurmJob(self, job) for job in sorted(jobs, key=lambda job: -job.seconds)], on_event, self.stops
        )

    def stop(self) -> None:
        """Ask all jobs to save and end; cancel them at the second call."""
        self.stops.count += 1

    def submit(self, job: Job, mailbox: Mailbox) -> Any:
        """Hand a job to submitit."""
        try:
            import submitit

            executor = submitit.AutoExecutor(mailbox.folder, cluster=self.cluster)
        except ImportError as error:
            raise ConfigError("The slurm engine needs submitit: pip install 'dqlab[slurm]'.") from error
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"SlurmEngine: {str(error).rstrip('.?')}. Run this where sbatch and srun are.") from error
        wants = {"cpus_per_task": job.threads, "gpus_per_node": int(bool(job.gpu_memory))}
        memory = {"mem_gb": max(1.0, job.memory / 1e9)} if job.memory else {}
        executor.update_parameters(**{"name": f"dqlab-{job.id}", **wants, **memory, **self.parameters})
        return executor.submit(SlurmPack(replace(job, folder=job.folder.resolve()), mailbox))


class SlurmJob:
    """A job in SLURM's hands."""

    def __init__(self, engine: SlurmEngine, job: Job) -> None:
        self.job, self.mailbox = job, Mailbox.new(job.folder, "slurm")
        self._engine, self._retries = engine, engine.retries
        self._submitted = engine.submit(job, self.mailbox)

    def outcome(self) -> Ended | None:
        """How it ended, if it has, and is not to be started again."""
        if not self._submitted.done():
            return None
        try:
            outcome: Ended = self._submitted.result()
        except Exception as error:  # submitit's, for a job that left no result; or whatever the job raised
            outcome = Ended(self.job, DIED, f"lost by SLURM: {str(error).strip().rpartition(chr(10))[2]}")
        if outcome.retryable and self._retries and not self._engine.stops():
            self._retries -= 1
            self._submitted = self._engine.submit(self.job, self.mailbox)
            return None
        return outcome

    def stop(self, times: int) -> None:
        """Have it stopped or killed; taken out of the queue, if it waits there."""
        self.mailbox.ask(times)
        if self._submitted.state == "PENDING":
            self._submitted.cancel()
