"""Packs under way: tasks of a Ray cluster, watched until each has ended, started again where their node is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dqlab.ablation.engines.base import DIED, STOPPED, Ended, Job, OnEvent
from dqlab.ablation.engines.local import AttemptOutcome, StopRequests, job_end
from dqlab.ablation.engines.ray_node import CheckpointStore, FileSet, Inputs, driver_variables, reads_cache, run_parcel
from dqlab.errors import ConfigError
from dqlab.machine import GPU_SHARE

POLL = 0.2
PATIENCE = 5.0
"""Seconds between two looks at the tasks; and that killed ones have for saying so."""


class Dispatch:
    """The jobs of one `run`; needs a connection to Ray.

    Args:
        jobs: to run; the longest are handed to Ray first.
        on_event: told of their events.
        stops: how often they have been asked to stop.
        retries: how many times a job is started again.
        gpus: GPUs of a job that wants one, or the share of one.
    """

    def __init__(self, jobs: Sequence[Job], on_event: OnEvent, stops: StopRequests, retries: int, gpus: float) -> None:
        self._on_event, self._stops, self._gpus = on_event, stops, gpus
        self._jobs = {job.id: job for job in sorted(jobs, key=lambda job: -job.seconds)}
        self._left = dict.fromkeys(self._jobs, retries)
        self._room = _largest()
        self._inputs = Inputs(ray.put)
        self._vault = _here(CheckpointStore, {job.id: job.folder.resolve() for job in jobs})
        self._flying: dict[Any, Job] = {}
        self._told, self._killed_at = 0, 0.0

    def run(self) -> Iterator[Ended]:
        """Every job's end, as it comes.

        Raises:
            ConfigError: jobs want a GPU, and no node has one.
        """
        try:
            for job in self._jobs.values():
                self._send(job)
            while self._flying:
                yield from self._look()
        finally:
            if self._flying:  # whoever listens leaves early: the jobs save what they have
                ray.get(self._vault.ask.remote(1))
                ray.wait(list(self._flying), num_returns=len(self._flying), timeout=12 * PATIENCE)

    def _look(self) -> Iterator[Ended]:
        self._pass_on_orders()
        done, _ = ray.wait(list(self._flying), num_returns=1, timeout=POLL)
        for job, event in ray.get(self._vault.drain.remote()):
            self._on_event(self._jobs[job], event)
        for reference in done:
            job = self._flying.pop(reference)
            outcome = _outcome(reference)
            if outcome.retryable and self._left[job.id] and not self._stops():
                self._left[job.id] -= 1
                self._send(job)
            else:
                yield job_end(job, outcome, self._stops())

    def _send(self, job: Job) -> None:
        number = ray.get(self._vault.begin.remote(job.id))
        carried = {**driver_variables(), GPU_SHARE: str(self._gpus)}
        parcel = FileSet(job, number, self._inputs.of(job), reads_cache(job), carried)
        task = ray.remote(run_parcel).options(max_retries=0, name=f"dqlab {job.id}", **self._wants(job))
        self._flying[task.remote(parcel, self._vault)] = job

    def _wants(self, job: Job) -> dict[str, float]:
        """What a job takes of a node; no more than the largest has, so that it is not waited for forever."""
        if job.gpu_memory and not self._room.get("GPU"):
            raise ConfigError(
                "The grid's packs want a GPU, and no node of the cluster has one. Use Experiment.device='cpu'."
            )
        return {
            "num_cpus": min(job.threads, self._room.get("CPU", 0)),
            "num_gpus": self._gpus if job.gpu_memory else 0,
            "memory": min(job.memory, int(self._room.get("memory", 0))),
        }

    def _pass_on_orders(self) -> None:
        times = min(self._stops(), 2)
        if times > self._told:
            ray.get(self._vault.ask.remote(times))
            self._withdraw_unstarted()
            self._told, self._killed_at = times, time.monotonic()
        if times == 2 and time.monotonic() > self._killed_at + PATIENCE:
            for reference in self._flying:
                ray.cancel(reference, force=True)

    def _withdraw_unstarted(self) -> None:
        """Jobs that no node has begun need not wait for one."""
        begun = ray.get(self._vault.begun.remote())
        for reference, job in self._flying.items():
            if job.id not in begun:
                ray.cancel(reference)


def _here(cls: type, *args: Any) -> Any:
    """An actor on this machine, which keeps no processor to itself."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(cls).options(num_cpus=0, scheduling_strategy=here).remote(*args)


def _largest() -> dict[str, float]:
    """The most that any node has of each resource."""
    found: dict[str, float] = {}
    for node in ray.nodes():
        for name, amount in node["Resources"].items() if node["Alive"] else ():
            found[name] = max(found.get(name, 0), amount)
    return found


def _outcome(reference: Any) -> AttemptOutcome:
    """How a task ended."""
    try:
        outcome: AttemptOutcome = ray.get(reference)
    except TaskCancelledError:
        return AttemptOutcome(STOPPED, "stopped before it began, or killed")
    except RayError as error:
        return AttemptOutcome(DIED, f"lost on the cluster ({type(error).__name__}: {_first_line(error)})")
    return outcome


def _first_line(error: Exception) -> str:
    with suppress(IndexError):
        return str(error).strip().splitlines()[-1][:500]
    return ""
