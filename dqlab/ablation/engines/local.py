"""This machine: as many packs at a time as fit, a process each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from dqlab.ablation.engines import base
from dqlab.ablation.engines.base import engines
from dqlab.config.fields import NonNegativeInt, check_field
from dqlab.errors import ConfigError
from dqlab.machine import cores

Slot = tuple[str | None, float]  # a pack's place: the GPU that it sees, and its share of that GPU's memory


@engines.register("local", source="Python's subprocess and concurrent.futures")
@dataclass(frozen=True)
class LocalEngine(base.RetryingEngine):
    """This machine: a process for every pack, as many at a time as there are cores, memory and GPUs for.

    Attributes:
        workers: packs at a time; 0: on CPUs, as many as cores and free memory have room for; one for each GPU. Packs
            that share a GPU share its memory evenly.
        devices: GPUs to use, as CUDA_VISIBLE_DEVICES names them; all that are visible if empty.
        retries: how many times a pack is started again that was killed, or ended without saying why.
    """

    workers: NonNegativeInt = 0
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = isinstance(self.devices, (tuple, list)) and all(isinstance(name, str) for name in self.devices)
        check_field(listed, self, "devices", "a tuple of strings, such as ('0', '1')")

    def run(self, jobs: Sequence[base.Job], on_event: base.OnEvent) -> Iterator[base.Ended]:
        """Run every job, the longest first; yields each as it ends."""
        if not jobs:
            return
        devices = self._devices(jobs)
        workers = self.workers or len(devices) or self._room(jobs)
        placed = [devices[index % len(devices)] if devices else None for index in range(workers)]
        slots: SimpleQueue[Slot] = SimpleQueue()
        for device in placed:
            slots.put((device, 1.0 / placed.count(device) if device else 1.0))
        pool = ThreadPoolExecutor(workers)
        try:
            longest_first = sorted(jobs, key=lambda job: -job.seconds)
            futures = [pool.submit(self._run_one, job, on_event, slots) for job in longest_first]
            for future in as_completed(futures):
                yield future.result()
        finally:  # whoever listens may leave early: the jobs save what they have
            if not self.stops:
                self.stop()
            pool.shutdown()
            self.stops.clear()

    def slots(self) -> int:
        """Packs at a time, at most."""
        return self.workers or cores()

    def _run_one(self, job: base.Job, on_event: base.OnEvent, slots: SimpleQueue[Slot]) -> base.Ended:
        """As many attempts as it takes, in a place that is free."""
        if self.stops:
            return base.Ended(job, base.STOPPED, "not started")
        slot = slots.get()
        variables = base.job_environment(job.threads, *(slot if job.gpu_memory else ("",)))
        try:
            for _ in range(self.retries + 1):
                outcome = base.run_attempt(job, variables, partial(on_event, job), self.stops.__len__)
                if self.stops or not outcome.retryable:
                    break
            return outcome.when_stopping(bool(self.stops))
        finally:
            slots.put(slot)

    def _devices(self, jobs: Sequence[base.Job]) -> tuple[str, ...]:
        """The GPUs that these jobs go to; none where none of them wants one."""
        if not any(job.gpu_memory for job in jobs):
            return ()
        if self.devices:
            return tuple(self.devices)
        import torch

        count = torch.cuda.device_count()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        found = [name.strip() for name in visible.split(",")[:count]]
        if not found:
            raise ConfigError("The grid's packs want a GPU, and there is none here. Use Experiment.device='cpu'.")
        return tuple(found)

    @staticmethod
    def _room(jobs: Sequence[base.Job]) -> int:
        """How many of these jobs run at a time on CPUs."""
        import torch

        from dqlab.training.probe import USABLE, free_bytes

        memory = max(job.memory for job in jobs)
        fitting = int(free_bytes(torch.device("cpu")) * USABLE) // memory if memory else len(jobs)
        return max(1, min(cores() // max(job.threads for job in jobs), fitting, len(jobs)))
