"""This machine: as many packs at a time as fit, a process each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

from dqlab.ablation.engines.base import DIED, STOPPED, Ended, Job, Tell, engines
from dqlab.ablation.engines.process import Outcome, attempt, environment
from dqlab.errors import ConfigError
from dqlab.fields import check_fields, require


class Stops:
    """Counts how often an engine has been asked to stop: once, to save; twice, to kill. Safe in a signal's handler."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        """How often."""
        return self.count

    def at_least_once(self) -> None:
        """As if asked, unless it has been."""
        self.count = max(self.count, 1)


@engines.register("local", source="Python's subprocess and concurrent.futures")
@dataclass(frozen=True)
class LocalEngine:
    """This machine: a process for every pack, as many at a time as there are cores, memory and GPUs for.

    Attributes:
        workers: packs at a time; 0: on CPUs, as many as cores and free memory have room for; one for each GPU. Packs
            that share a GPU share its memory evenly.
        devices: GPUs to use, as CUDA_VISIBLE_DEVICES names them; all that are visible if empty.
        retries: how many times a pack is started again that was killed, or ended without saying why.
    """

    workers: int = 0
    devices: tuple[str, ...] = ()
    retries: int = 2
    stops: Stops = field(default_factory=Stops, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.workers >= 0, self, "workers", "at least 0")
        require(self.retries >= 0, self, "retries", "at least 0")
        listed = isinstance(self.devices, (tuple, list)) and all(isinstance(name, str) for name in self.devices)
        require(listed, self, "devices", "a tuple of strings, such as ('0', '1')")

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[Ended]:
        """Run every job, the longest first; yields each as it ends."""
        if not jobs:
            return
        devices = self._devices(jobs)
        workers = self.workers or self._room(jobs, devices)
        slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in _slots(workers, devices):
            slots.put(slot)
        pool = ThreadPoolExecutor(workers)
        try:
            longest_first = sorted(jobs, key=lambda job: -job.seconds)
            futures = [pool.submit(self._run_one, job, tell, slots) for job in longest_first]
            for future in as_completed(futures):
                yield future.result()
        finally:  # whoever listens may leave early: her jobs save what they have
            self.stops.at_least_once()
            pool.shutdown()
            self.stops.count = 0

    def slots(self) -> int:
        """Packs at a time, at most."""
        from dqlab.machine import cores

        return self.workers or cores()

    def stop(self) -> None:
        """Ask all jobs to save and end; kill them at the second call."""
        self.stops.count += 1

    def _run_one(self, job: Job, tell: Tell, slots: SimpleQueue[Slot]) -> Ended:
        if self.stops():
            return Ended(job, STOPPED, "not started")
        slot = slots.get()
        variables = environment(job.threads, *slot) if job.gpu_memory else environment(job.threads, "")
        try:
            return ended(job, self._persist(job, variables, tell), self.stops())
        except OSError as error:  # no process, no log: a full disk ends one job, not all
            return Ended(job, DIED, f"{error.filename or 'its process'}: {error.strerror or error}")
        finally:
            slots.put(slot)

    def _persist(self, job: Job, variables: Mapping[str, str], tell: Tell) -> Outcome:
        """The last of as many attempts as it takes."""
        command = job.command(job.folder.resolve())
        for _ in range(self.retries + 1):
            outcome = attempt(command, job.log, variables, partial(tell, job), self.stops)
            if self.stops() or not outcome.mendable:
                break
        return outcome

    def _devices(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """The GPUs that these jobs go to; none where none of them wants one.

        Raises:
            ConfigError: some want one, and there is none.
        """
        if not any(job.gpu_memory for job in jobs):
            return ()
        found = self.devices or _visible()
        if not found:
            raise ConfigError("The grid's packs want a GPU, and there is none here. Use Experiment.device='cpu'.")
        return tuple(found)

    @staticmethod
    def _room(jobs: Sequence[Job], devices: Sequence[str]) -> int:
        """How many of these jobs run at a time."""
        from dqlab.machine import cores
        from dqlab.training.memory import USABLE, free_bytes

        if devices:
            return len(devices)
        import torch

        memory = max(job.memory for job in jobs)
        fitting = int(free_bytes(torch.device("cpu")) * USABLE) // memory if memory else len(jobs)
        return max(1, min(cores() // max(job.threads for job in jobs), fitting, len(jobs)))


class Slot(NamedTuple):
    """A place for one pack at a time: the GPU that it sees, and its share of that GPU's memory."""

    device: str | None = None
    share: float = 1.0


def _slots(workers: int, devices: Sequence[str]) -> list[Slot]:
    """As many places as there are packs at a time, spread evenly over the GPUs."""
    placed = [devices[index % len(devices)] if devices else None for index in range(workers)]
    return [Slot(device, 1.0 / placed.count(device) if device else 1.0) for device in placed]


def ended(job: Job, outcome: Outcome, asked: int) -> Ended:
    """How a job ended; one that died while all were being stopped counts as stopped."""
    code = STOPPED if asked and outcome.mendable else outcome.code
    return Ended(job, code, outcome.reason)


def _visible() -> tuple[str, ...]:
    """The GPUs that this process sees."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = named.split(",") if named else [str(index) for index in range(count)]
    return tuple(name.strip() for name in names[:count])
