"""A Ray cluster: packs are its tasks. All nodes must see the packs' folders and the datasets; code travels."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import dqlab
from dqlab.ablation.engines.base import Ended, Job, OnEvent, StopCounter, engines
from dqlab.ablation.engines.mailbox import follow
from dqlab.config.fields import check_field, check_fields
from dqlab.data.formats.minari_store import VARIABLE, local_store
from dqlab.errors import ConfigError, first_line

REACHED_WITHIN = 10.0
"""Seconds that a cluster has for taking a connection."""
WHERE_RAY_IS = (
    "This machine must be a node of it: ray start --address=HOST:PORT. RayEngine.address='' starts a Ray of its own."
)
WANTS_A_TOKEN = (
    "The cluster wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token that it was "
    "started with, on every machine."
)
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@engines.register("ray", source="Moritz et al. 2018, Ray", cites=("moritz2018ray",), example={"address": ""})
@dataclass(frozen=True)
class RayEngine:
    """The nodes of a Ray cluster: each pack goes where there is room, and elsewhere from its checkpoint if it is lost.

    Attributes:
        address: `auto`, the cluster that this machine is a node of; HOST:PORT of its head; empty: a Ray of one node is
            started here, for this grid.
        retries: how many times a pack is started again that was killed, or whose node was lost.
        gpus: of a pack that wants one; less than 1 lets packs share a GPU.
    """

    address: str = "auto"
    retries: int = 2
    gpus: float = 1.0
    stops: StopCounter = field(default_factory=StopCounter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.retries >= 0, self, "retries", "at least 0")
        check_field(0 < self.gpus <= 1, self, "gpus", "above 0, at most 1")
        check_field(
            "://" not in self.address, self, "address", "auto, or HOST:PORT of a cluster that this machine is in"
        )

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> Iterator[Ended]:
        """Run every job; yields each as it ends.

        Raises:
            ConfigError: Ray is not installed, the cluster cannot be reached, one of its nodes does not see what packs
                read and write, or none has a GPU for those who want one.
        """
        if not jobs:
            return
        with self._connected(jobs):
            from dqlab.ablation.engines.ray_tasks import submit

            yield from follow(submit(jobs, self.retries, self.gpus), on_event, self.stops)

    def stop(self) -> None:
        """Ask all jobs to save and end; kill them at the second call."""
        self.stops.count += 1

    @contextmanager
    def _connected(self, jobs: Sequence[Job]) -> Iterator[None]:
        ray = _ray()
        if ray.is_initialized():
            raise ConfigError(
                "This process is connected to Ray already. Call ray.shutdown(), and set RayEngine.address."
            )
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with _own_signals():
            self._connect(
                ray, {"py_modules": modules_of(jobs), "excludes": ["__pycache__"], "env_vars": driver_variables()}
            )
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self, ray: Any, runtime_env: dict[str, Any]) -> None:
        own = {} if self.address else {"include_dashboard": False}
        try:
            if self.address:
                _check_reachable(self.address)
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(self.address or "local", runtime_env=runtime_env, **quiet, **own)
        except (OSError, RuntimeError, ValueError) as error:
            reason = first_line(error).rstrip(".")
            token = "AuthToken" in str(error.__cause__)
            raise ConfigError(
                f"No connection to a Ray cluster (RayEngine.address='{self.address}'): {reason}. "
                + (WANTS_A_TOKEN if token else WHERE_RAY_IS)
            ) from error


IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)|\.env_id\s*=\s*'(\w+)[\w.]*:", re.MULTILINE)
"""Modules that a pack's configuration imports, or that register its environment."""


def modules_of(jobs: Iterable[Job]) -> list[str]:
    """dqlab's folder, and the packages or single files of the plugins that the packs import."""
    named = {name for job in jobs for pair in IMPORT.findall((job.folder / "pack.gin").read_text()) for name in pair}
    found = (_source_of(name) for name in sorted(named - {dqlab.__name__, ""}))
    return [str(Path(dqlab.__file__).parent), *(str(path) for path in found if path is not None)]


def _source_of(name: str) -> Path | None:
    """A top-level package's folder, or a module's file; None where there is neither (the worker will say so)."""
    spec = find_spec(name)
    if spec is None:
        return None
    folder = next(iter(spec.submodule_search_locations or ()), None)
    if folder is not None:
        return Path(folder)
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def driver_variables() -> dict[str, str]:
    """Environment variables that packs have on every node: this machine's places of datasets, and dqlab's own."""
    from dqlab.data.sources import cache_folder

    own = {name: value for name, value in os.environ.items() if name.startswith("DQLAB_")}
    return {"D4RL_DATASET_DIR": str(cache_folder().resolve()), VARIABLE: str(local_store().resolve()), **own}


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The ray engine needs Ray: pip install 'dqlab[ray]'.") from error
    return ray


def _check_reachable(address: str) -> None:
    """See that somebody listens there: Ray itself waits for minutes."""
    from ray._private.services import canonicalize_bootstrap_address

    host, _, port = (canonicalize_bootstrap_address(address) or "").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN):
        pass


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler for SIGTERM when it connects; the driver keeps its own."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
