"""A SLURM cluster, through submitit: a job for every pack. All nodes must see the packs' folders, and dqlab itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from dqlab.ablation.engines import base
from dqlab.ablation.engines.base import engines
from dqlab.errors import ConfigError, pip_install


@dataclass
class SlurmPack:
    """What a SLURM job calls: one attempt at a pack. When SLURM wants its node back, it saves and is requeued."""

    job: base.Job
    mailbox: base.Mailbox
    preempted: bool = False

    def __call__(self) -> base.Ended:
        """Run the pack's process, in a thread: submitit's signals come to this one."""
        variables = base.job_environment(self.job.threads, None if self.job.gpu_memory else "")

        def stops() -> int:
            return self.mailbox.asked() or int(self.preempted)

        with ThreadPoolExecutor(1) as pool:
            self._attempt = pool.submit(base.run_attempt, self.job, variables, self.mailbox.write, stops)
            return self._wait()

    def checkpoint(self) -> Any:
        """What is to be called when the job is requeued; called by submitit when the job must go."""
        from submitit.helpers import DelayedSubmission

        self.preempted = True
        self._wait()
        return DelayedSubmission(SlurmPack(self.job, self.mailbox))

    def _wait(self) -> base.Ended:
        while not self._attempt.done():  # in steps: signals are heard between them
            time.sleep(base.POLL_REMOTE)
        return self._attempt.result()


@engines.register(
    "slurm", source="Yoo, Jette, Grondona 2003, SLURM; submitit", cites=("yoo2003slurm",), example={"cluster": "local"}
)
@dataclass(frozen=True)
class SlurmEngine(base.RetryingEngine):
    """A SLURM cluster with a shared file system: a job for every pack, requeued from its checkpoint when preempted.

    Attributes:
        parameters: what submitit's AutoExecutor takes beside cores, GPUs and memory, such as
            `{'timeout_min': 720, 'slurm_partition': 'gpu'}`. A job that is cut off is requeued, three times.
        retries: how many times a pack is started again that was killed, or ended without saying why.
        cluster: `slurm`, or `local`: submitit's stand-in, processes of this machine, to try things out.
    """

    parameters: Mapping[str, Any] = field(default_factory=lambda: {"timeout_min": 1440})
    cluster: str = "slurm"

    def run(self, jobs: Sequence[base.Job], on_event: base.OnEvent) -> Iterator[base.Ended]:
        """Run every job; yields each as it ends. What a killed driver leaves in the queue goes on: see `scancel`."""
        longest_first = sorted(jobs, key=lambda job: -job.seconds)
        yield from self.follow([SlurmJob(self, job) for job in longest_first], on_event)

    def submit(self, job: base.Job, mailbox: base.Mailbox) -> Any:
        """Hand a job to submitit."""
        try:
            import submitit

            executor = submitit.AutoExecutor(mailbox.folder, cluster=self.cluster)
        except ImportError as error:
            raise ConfigError(f"The slurm engine needs submitit: {pip_install('slurm')}.") from error
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"SlurmEngine: {str(error).rstrip('.?')}. Run this where sbatch and srun are.") from error
        wants = {"name": f"dqlab-{job.id}", "cpus_per_task": job.threads, "gpus_per_node": int(bool(job.gpu_memory))}
        memory = {"mem_gb": max(1.0, job.memory / 1e9)} if job.memory else {}
        executor.update_parameters(**{**wants, **memory, **self.parameters})
        return executor.submit(SlurmPack(replace(job, folder=job.folder.resolve()), mailbox))


class SlurmJob:
    """A job in SLURM's hands."""

    def __init__(self, engine: SlurmEngine, job: base.Job) -> None:
        self.job, self.mailbox = job, base.Mailbox.new(job.folder, "slurm")
        self._engine, self._retries = engine, engine.retries
        self._submitted = engine.submit(job, self.mailbox)

    def outcome(self) -> base.Ended | None:
        if not self._submitted.done():
            return None
        try:
            outcome: base.Ended = self._submitted.result()
        except Exception as error:  # submitit's, for a job that left no result; or whatever the job raised
            outcome = base.Ended(self.job, base.DIED, f"lost by SLURM: {str(error).strip().rpartition(chr(10))[2]}")
        if outcome.retryable and self._retries and not self._engine.stops:
            self._retries -= 1
            self._submitted = self._engine.submit(self.job, self.mailbox)
            return None
        return outcome

    def stop(self, times: int) -> None:
        self.mailbox.ask(times)
        if self._submitted.state == "PENDING":
            self._submitted.cancel()
