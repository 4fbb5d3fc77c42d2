"""Packs as tasks of a Ray cluster; their folders and datasets lie in a file system that all of its nodes see."""

from __future__ import annotations

import platform
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dqlab.ablation.engines.base import DIED, STOPPED, Ended, Job, job_environment, run_attempt
from dqlab.ablation.engines.mailbox import Mailbox
from dqlab.errors import ConfigError
from dqlab.files import sha256_of, size_of
from dqlab.tracking.run_folder import RunFolder, claim_folder

PATIENCE = 10.0
ANSWER = 300.0
"""Seconds that packs have for their end when they are killed; and nodes for saying what they see."""


class LostAttemptError(Exception):
    """An attempt died: Ray makes another."""

    @property
    def ended(self) -> Ended:
        """How."""
        ended: Ended = self.args[0]
        return ended


def run_pack(job: Job, mailbox: Mailbox, gpus: float) -> Ended:
    """One attempt at a pack, on a node.

    Raises:
        LostAttemptError: it died.
    """
    if mailbox.asked():
        return Ended(job, STOPPED, "not started")
    try:
        mailbox.begin()
    except OSError as error:  # a node that has joined later
        reason = f"the node {platform.node()} does not see {job.folder.parent}: {error.strerror}"
        raise LostAttemptError(Ended(job, DIED, reason)) from error
    variables = job_environment(job.threads, *((None, gpus) if job.gpu_memory else ("",)))
    outcome = run_attempt(job, variables, mailbox.write, mailbox.asked)
    if outcome.retryable and not mailbox.asked():
        raise LostAttemptError(outcome)
    return outcome


class RayJob:
    """A job in Ray's hands, which starts it again where it dies or its node is lost.

    Args:
        job: the job.
        retries: how many times it is started again.
        gpus: that it takes if it wants one, or the share of one.
        room: the most that any node has of each resource.
    """

    def __init__(self, job: Job, retries: int, gpus: float, room: Mapping[str, float]) -> None:
        self.job, self.mailbox = job, Mailbox.new(job.folder, "ray")
        task = ray.remote(run_pack).options(
            name=f"dqlab {job.id}",
            max_retries=retries,
            retry_exceptions=[LostAttemptError],
            num_cpus=min(job.threads, room.get("CPU", 0)),  # more than any node has would be waited for forever
            num_gpus=gpus if job.gpu_memory else 0,
            memory=min(job.memory, int(room.get("memory", 0))),
        )
        self._reference = task.remote(replace(job, folder=job.folder.resolve()), self.mailbox, gpus)
        self._lost_after = float("inf")

    def outcome(self) -> Ended | None:
        """How it ended, if it has; one that was killed and says nothing is given up."""
        if not ray.wait([self._reference], timeout=0)[0]:
            if time.monotonic() > self._lost_after:
                ray.cancel(self._reference, force=True)
            return None
        try:
            outcome: Ended = ray.get(self._reference)
        except TaskCancelledError:
            return Ended(self.job, STOPPED, "stopped before it began, or killed")
        except RayTaskError as error:
            if isinstance(error.cause, LostAttemptError):
                return error.cause.ended
            return Ended(self.job, DIED, f"lost on the cluster ({type(error.cause).__name__}: {error.cause})")
        except RayError as error:
            said = str(error).strip().splitlines() or [""]
            return Ended(self.job, DIED, f"lost on the cluster ({type(error).__name__}: {said[-1][:500]})")
        return outcome

    def stop(self, times: int) -> None:
        """Have it stopped or killed; taken out of the queue, if no node has begun it."""
        self.mailbox.ask(times)
        if not self.mailbox.begun():
            ray.cancel(self._reference)
        if times > 1:
            self._lost_after = min(self._lost_after, time.monotonic() + PATIENCE)


def submit(jobs: Sequence[Job], retries: int, gpus: float) -> list[RayJob]:
    """Hand jobs to Ray, the longest first, when all nodes see what they read and write.

    Raises:
        ConfigError: a node does not; or jobs want a GPU, and no node has one.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    room: dict[str, float] = {}
    for name, amount in (item for node in nodes for item in node["Resources"].items()):
        room[name] = max(room.get(name, 0), amount)
    if any(job.gpu_memory for job in jobs) and not room.get("GPU"):
        raise ConfigError(
            "The grid's packs want a GPU, and no node of the cluster has one. Use Experiment.device='cpu'."
        )
    check_nodes({node["NodeID"]: node["NodeManagerAddress"] for node in nodes}, jobs)
    return [RayJob(job, retries, gpus, room) for job in sorted(jobs, key=lambda job: -job.seconds)]


def check_nodes(nodes: Mapping[str, str], jobs: Sequence[Job]) -> None:
    """Have a small task on every node try the packs' folders and the datasets.

    Args:
        nodes: id -> address.
        jobs: whose they are.

    Raises:
        ConfigError: a node does not see them as this machine does.
    """
    inputs = {path.resolve(): fingerprint(path) for job in jobs for path in job.inputs}
    for storage in dict.fromkeys(job.folder.resolve().parent for job in jobs):
        with _locked_folder(storage) as token:
            tasks = {
                ray.remote(storage_fault)
                .options(
                    num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
                )
                .remote(token, inputs): address
                for node, address in nodes.items()
            }
            _, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER)
            for reference, address in tasks.items():
                fault = f"does not answer within {ANSWER:.0f} s." if reference in late else _answer(reference)
                if fault:
                    raise ConfigError(f"The node {address} of the Ray cluster {fault}")


def _answer(reference: object) -> str:
    try:
        return str(ray.get(reference))
    except RayTaskError as error:
        return f"cannot be used: {error.cause}"
    except RayError:  # it was lost meanwhile: Ray will send it nothing
        return ""


@contextmanager
def _locked_folder(storage: Path) -> Iterator[Path]:
    """A new folder in a storage, locked by this process."""
    token = storage / f".storage-check-{uuid.uuid4().hex}"
    with claim_folder(token):
        try:
            yield token
        finally:
            rmtree(token, ignore_errors=True)


ADVICE = (
    "All nodes must see what packs write, at the same path: name a folder of a file system that they share with "
    "--storage DIR."
)


def storage_fault(token: Path, inputs: Mapping[Path, str]) -> str:
    """What this node lacks, as the end of a sentence; empty where nothing.

    Args:
        token: a folder that the driver has made in the storage, and holds the lock of.
        inputs: datasets, with their fingerprints on the driver's machine.
    """
    if not token.is_dir():
        return f"does not see {token.parent}. {ADVICE}"
    try:
        (token / uuid.uuid4().hex).write_text("")
        if not RunFolder(token).in_use():
            return (
                f"sees {token.parent}, but not its locks, which keep two processes from writing one pack. Mount it so "
                "that flock works between machines (NFS 4, Lustre with -o flock), or choose another --storage DIR."
            )
    except OSError as error:
        return f"cannot write to {token.parent} ({error.strerror}). {ADVICE}"
    for path, known in inputs.items():
        if not path.exists() or fingerprint(path) != known:
            what = "has another dataset in" if path.exists() else "does not see the dataset"
            return f"{what} {path}. All nodes must see what packs read, at the same path."
    return ""


def fingerprint(path: Path) -> str:
    """By which a dataset is known to be the same: SHA-256 of a file, size of a folder."""
    return sha256_of(path) if path.is_file() else f"{size_of(path)} bytes"
