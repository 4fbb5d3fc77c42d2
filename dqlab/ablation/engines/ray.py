"""A Ray cluster: packs are its tasks; code, data and checkpoints travel through it, no file system is shared."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import current_thread, main_thread
from typing import Any

from dqlab.ablation.engines.base import Ended, Job, OnEvent, engines
from dqlab.ablation.engines.local import StopCounter
from dqlab.ablation.engines.ray_node import check_files, modules_of
from dqlab.config.fields import check_field, check_fields
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
            ConfigError: Ray is not installed, the cluster cannot be reached, or it has no GPU for those who want one.
        """
        if not jobs:
            return
        with self._connected(jobs):
            from dqlab.ablation.engines.ray_jobs import Dispatch

            try:
                yield from Dispatch(jobs, on_event, self.stops, self.retries, self.gpus).run()
            finally:
                self.stops.count = 0

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

        check_files(jobs)
        with _own_signals():
            self._connect(ray, modules_of(jobs))
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self, ray: Any, modules: Sequence[str]) -> None:
        own = {} if self.address else {"include_dashboard": False}
        code = {"py_modules": list(modules), "excludes": ["__pycache__"]}
        try:
            if self.address:
                _check_reachable(self.address)
            ray.init(self.address or "local", runtime_env=code, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, RuntimeError, ValueError) as error:
            reason = first_line(error).rstrip(".")
            token = "AuthToken" in str(error.__cause__)
            raise ConfigError(
                f"No connection to a Ray cluster (RayEngine.address='{self.address}'): {reason}. "
                + (WANTS_A_TOKEN if token else WHERE_RAY_IS)
            ) from error


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
