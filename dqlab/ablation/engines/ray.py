"""A Ray cluster: packs are its tasks. All nodes must see the packs' folders and the datasets; code travels."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from threading import current_thread, main_thread
from typing import Any

import dqlab
from dqlab.ablation.engines.base import DIED, STOPPED, Ended, Job, Mailbox, OnEvent, RetryingEngine, engines
from dqlab.ablation.engines.ray_tasks import LostAttemptError, fingerprint, run_pack, storage_fault
from dqlab.config.fields import check_field
from dqlab.data.download import MINARI_STORE, cache_folder, minari_store
from dqlab.errors import ConfigError, first_line, pip_install
from dqlab.tracking.run_folder import claim_folder

REACHED_WITHIN = 10.0  # seconds that a cluster has for taking a connection
PATIENCE, ANSWER = 10.0, 300.0  # seconds that killed packs have for their end, and nodes for saying what they see
WHERE_RAY_IS = "This machine must be a node of it: ray start --address=HOST:PORT. RayEngine.address='' starts one here."
WANTS_A_TOKEN = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token, on every machine."
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)|\.env_id\s*=\s*'(\w+)[\w.]*:", re.MULTILINE)
"""Modules that a pack's configuration imports, or that register its environment."""


@engines.register("ray", source="Moritz et al. 2018, Ray", cites=("moritz2018ray",), example={"address": ""})
@dataclass(frozen=True)
class RayEngine(RetryingEngine):
    """The nodes of a Ray cluster: each pack goes where there is room, and elsewhere from its checkpoint if it is lost.

    Attributes:
        address: `auto`, the cluster that this machine is a node of; HOST:PORT of its head; empty: a Ray of one node is
            started here, for this grid.
        retries: how many times a pack is started again that was killed, or whose node was lost.
        gpus: of a pack that wants one; less than 1 lets packs share a GPU.
    """

    address: str = "auto"
    gpus: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(0 < self.gpus <= 1, self, "gpus", "above 0, at most 1")
        check_field("://" not in self.address, self, "address", "auto, or HOST:PORT of a cluster with this machine")

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        if not jobs:
            return
        try:
            import ray
            from ray._private.services import canonicalize_bootstrap_address
        except ImportError as error:
            raise ConfigError(f"The ray engine needs Ray: {pip_install('ray')}.") from error
        if ray.is_initialized():
            raise ConfigError("This process is connected to Ray already. Call ray.shutdown(); set RayEngine.address.")
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        # on every node this machine's places of datasets, and dqlab's own variables
        seen = {"D4RL_DATASET_DIR": str(cache_folder().resolve()), MINARI_STORE: str(minari_store().resolve())}
        seen |= {name: value for name, value in os.environ.items() if name.startswith("DQLAB_")}
        runtime = {"py_modules": modules_of(jobs), "excludes": ["__pycache__"], "env_vars": seen}
        own = {} if self.address else {"include_dashboard": False}
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        before = signal.getsignal(signal.SIGTERM)
        try:
            if self.address:  # Ray itself would wait for minutes where nobody listens
                host, _, port = (canonicalize_bootstrap_address(self.address) or "").rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN).close()
            ray.init(self.address or "local", runtime_env=runtime, **quiet, **own)
        except (OSError, RuntimeError, ValueError) as error:
            said = f"(RayEngine.address='{self.address}'): {first_line(error).rstrip('.')}"
            advice = WANTS_A_TOKEN if "AuthToken" in str(error.__cause__) else WHERE_RAY_IS
            raise ConfigError(f"No connection to a Ray cluster {said}. {advice}") from error
        finally:
            if current_thread() is main_thread():  # Ray sets a handler when it connects; the driver keeps its own
                signal.signal(signal.SIGTERM, before)
        try:
            yield from self.follow([*submit(jobs, self.retries, self.gpus)], on_event)
        finally:
            ray.shutdown()


def modules_of(jobs: Iterable[Job]) -> list[str]:
    """dqlab's folder, and the packages or single files of the plugins that the packs import."""
    named = {name for job in jobs for pair in IMPORT.findall((job.folder / "pack.gin").read_text()) for name in pair}
    found = [str(Path(dqlab.__file__).parent)]
    for spec in map(find_spec, sorted(named - {dqlab.__name__, ""})):
        if spec is not None:  # else the worker will say so
            folder = next(iter(spec.submodule_search_locations or ()), "")
            source = folder or spec.origin or ""
            found += [source] if folder or source.endswith(".py") else []
    return found


class RayJob:
    """A job in Ray's hands, which starts it again where it dies or its node is lost; `options` are its task's."""

    def __init__(self, job: Job, gpus: float, options: Mapping[str, Any]) -> None:
        import ray

        self.job, self.mailbox, self._ray = job, Mailbox.new(job.folder, "ray"), ray
        task = ray.remote(run_pack).options(**options)
        self._reference = task.remote(replace(job, folder=job.folder.resolve()), self.mailbox, gpus)
        self._lost_after = float("inf")

    def outcome(self) -> Ended | None:
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        if not self._ray.wait([self._reference], timeout=0)[0]:
            if time.monotonic() > self._lost_after:  # it was killed and says nothing
                self._ray.cancel(self._reference, force=True)
            return None
        try:
            outcome: Ended = self._ray.get(self._reference)
        except TaskCancelledError:
            outcome = Ended(self.job, STOPPED, "stopped before it began, or killed")
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            said = str(cause) if cause is not error else str(error).strip().rpartition("\n")[2][:500]
            lost = Ended(self.job, DIED, f"lost on the cluster ({type(cause).__name__}: {said})")
            outcome = cause.args[0] if isinstance(cause, LostAttemptError) else lost
        return outcome

    def stop(self, times: int) -> None:
        self.mailbox.ask(times)
        if not self.mailbox.begun.exists():
            self._ray.cancel(self._reference)
        if times > 1:
            self._lost_after = min(self._lost_after, time.monotonic() + PATIENCE)


def submit(jobs: Sequence[Job], retries: int, gpus: float) -> Iterator[RayJob]:
    """Hand jobs to Ray, the longest first, when all nodes see what they read and write."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = [node["Resources"] for node in nodes]
    if any(job.gpu_memory for job in jobs) and not any(each.get("GPU") for each in resources):
        raise ConfigError("The grid's packs want a GPU, and no node has one. Use Experiment.device='cpu'.")
    _check_nodes({node["NodeID"]: node["NodeManagerAddress"] for node in nodes}, jobs)
    for job in sorted(jobs, key=lambda job: -job.seconds):
        able = [each for each in resources if each.get("CPU") and (each.get("GPU") or not job.gpu_memory)]
        offers = sorted((min(job.threads, each["CPU"]), min(job.memory, each.get("memory", 0))) for each in able)
        # as much as two nodes have: what no living node has would be waited for forever
        cpus, memory = map(min, zip(*offers[-2:] or [(0, 0)], strict=True))
        options = {
            "name": f"dqlab {job.id}",
            "max_retries": retries,
            "retry_exceptions": [LostAttemptError],
            "num_cpus": cpus,
            "num_gpus": gpus if job.gpu_memory else 0,
            "memory": int(memory),
        }
        yield RayJob(job, gpus, options)


def _check_nodes(nodes: Mapping[str, str], jobs: Sequence[Job]) -> None:
    """Have a small task on every node (id -> address) try the packs' folders and the datasets."""
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    inputs = {path.resolve(): fingerprint(path) for job in jobs for path in job.inputs}
    for storage in dict.fromkeys(job.folder.resolve().parent for job in jobs):
        token = storage / f".storage-check-{uuid.uuid4().hex}"
        with claim_folder(token):
            try:
                tasks = {}
                for node, address in nodes.items():
                    there = NodeAffinitySchedulingStrategy(node, soft=False)
                    task = ray.remote(storage_fault).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                    tasks[task.remote(token, inputs)] = address
                _, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER)
                for reference, address in tasks.items():
                    try:
                        fault = f"does not answer within {ANSWER:.0f} s." if reference in late else ray.get(reference)
                    except RayTaskError as error:
                        fault = f"cannot be used: {error.cause}"
                    except RayError:  # it was lost meanwhile: Ray will send it nothing
                        continue
                    if fault:
                        raise ConfigError(f"The node {address} of the Ray cluster {fault}")
            finally:
                rmtree(token, ignore_errors=True)
