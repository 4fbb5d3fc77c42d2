"""D4RL's own environments as a backend: gym, mujoco-py and MuJoCo 2.1.0, in a process of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from dqlab.envs.backend import Array, Environments, StepResult, env_backends
from dqlab.envs.legacy.process import Worker, legacy_python
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError

AT_ONCE = 10
"""Environments that one request makes."""


@env_backends.register(
    "d4rl",
    source="D4RL 1.1 (Fu et al. 2020) on gym 0.23.1, mujoco-py 2.1.2.14, MuJoCo 2.1.0",
    cites=("fu2020d4rl", "todorov2012mujoco"),
)
class OriginalStack(Environments):
    """D4RL's own environments on MuJoCo 2.1.0 (`make legacy`); a physics law does not apply.

    Raises:
        ConfigError: the stack is not installed, or D4RL has no such task.
    """

    own_physics: ClassVar[str] = "MuJoCo 2.1.0"

    def __init__(self, task: Task, physics: str) -> None:
        if not task.file:
            raise ConfigError(f"D4RL has no {task.name}: Experiment.env_backend='gymnasium' steps it.")
        if chosen := task.chosen():
            raise ConfigError(
                f"{', '.join(chosen)}: D4RL's own {task.name} has no such choice. "
                "Use Experiment.env_backend='gymnasium'."
            )
        self._task, self._python, self._count = task, legacy_python(), 0

    @cached_property
    def worker(self) -> Worker:
        """The process, started when it is first needed."""
        return Worker(self._python)

    def prepare(self, count: int) -> None:
        """Have the worker make the environments, a few at a time.

        Raises:
            StackError: the process fails.
        """
        while self._count < count:  # a kitchen takes a second
            wanted = min(self._count + AT_ONCE, count)
            self.worker.ask("make", task=self._task.name, count=wanted)
            self._count = wanted

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        """Begin episodes; AntMaze's goal is drawn as D4RL draws it, with numpy seeded by the group."""
        self.prepare(len(seeds))
        return np.array(self.worker.ask("reset", seeds=list(seeds), groups=list(groups))["observations"])

    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        got = self.worker.ask("step", which=list(which), actions=np.asarray(actions, dtype=np.float64).tolist())
        return StepResult(*(np.array(got[name]) for name in ("observations", "rewards", "over")))

    def close(self) -> None:
        if "worker" in self.__dict__:
            self.worker.close()
            del self.__dict__["worker"]
        self._count = 0
