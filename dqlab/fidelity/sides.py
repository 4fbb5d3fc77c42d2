"""Copies of a task's environment whose states can be read and set: in today's packages, and in D4RL's own stack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.envs.backend import stepped
from dqlab.envs.legacy.place import legacy_python
from dqlab.envs.legacy.process import Worker
from dqlab.envs.making import make_env
from dqlab.envs.tasks import Task
from dqlab.fidelity.states import State, stand, state_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moved:
    """What one step gave to n copies.

    Attributes:
        observation (n, S), reward (n,).
        terminated (n,), over (n,): the environment ended the episode; that, or its step limit.
    """

    observation: Array
    reward: Array
    terminated: NDArray[np.bool_]
    over: NDArray[np.bool_]


class Side(ABC):
    """n copies of a task's environment in one stack."""

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> Array:
        """Begin an episode in every copy; observations (n, S)."""

    @abstractmethod
    def states(self) -> list[State]:
        """Of all copies."""

    @abstractmethod
    def stand(self, states: Sequence[State]) -> Array:
        """Put every copy into a state; observations (n, S)."""

    @abstractmethod
    def step(self, actions: Array) -> Moved:
        """Step every copy by actions (n, A), also those whose episode is over."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def physical(self) -> Array:
        """Positions and velocities (n, nq + nv)."""
        return np.array([[*state["qpos"], *state["qvel"]] for state in self.states()])


class Original(Side):
    """D4RL's own stack.

    Args:
        task: whose environment.
        copies: n.
        noise: whether the kitchen observes with noise.

    Raises:
        ConfigError: it is not installed. StackError: its process fails.
    """

    def __init__(self, task: Task, copies: int, noise: bool = True) -> None:
        self._worker, self._all = Worker(legacy_python()), list(range(copies))
        self.versions = self._worker.versions
        self.facts = self._worker.ask("make", task=task.name, count=copies, noise=noise)

    def reset(self, seeds: Sequence[int]) -> Array:
        """As in `Side`."""
        return np.array(self._worker.ask("reset", seeds=list(seeds), groups=list(seeds))["observations"])

    def states(self) -> list[State]:
        """As in `Side`."""
        return list(self._worker.ask("get_state", which=self._all)["states"])

    def stand(self, states: Sequence[State]) -> Array:
        """As in `Side`."""
        return np.array(self._worker.ask("set_state", which=self._all, states=list(states))["observations"])

    def step(self, actions: Array) -> Moved:
        """As in `Side`."""
        got = self._worker.ask("step", which=self._all, actions=actions.tolist())
        return Moved(*(np.array(got[name]) for name in ("observations", "rewards", "terminated", "over")))

    def close(self) -> None:
        """As in `Side`."""
        self._worker.close()


class Today(Side):
    """Today's packages, in this process.

    Args:
        task, copies, noise: as in `Original`.
        physics: a name from the `physics` registry.
    """

    def __init__(self, task: Task, copies: int, noise: bool = True, physics: str = "mujoco210") -> None:
        silent = {"noise": 0.0} if "goals" in task.env_kwargs and not noise else {}
        self._envs: list[Any] = [make_env(task, physics, **silent) for _ in range(copies)]
        self.reset(range(copies))  # so that a state can be set at once

    def reset(self, seeds: Sequence[int]) -> Array:
        """As in `Side`."""
        begun = zip(self._envs, seeds, strict=True)
        return np.array([env.reset(seed=seed, options={"group": seed})[0] for env, seed in begun])

    def states(self) -> list[State]:
        """As in `Side`."""
        return [state_of(env) for env in self._envs]

    def stand(self, states: Sequence[State]) -> Array:
        """As in `Side`."""
        return np.array([stand(env, state) for env, state in zip(self._envs, states, strict=True)])

    def step(self, actions: Array) -> Moved:
        """As in `Side`."""
        each = [stepped(env, action) for env, action in zip(self._envs, actions, strict=True)]
        return Moved(*(np.array(column) for column in zip(*each, strict=True)))

    def close(self) -> None:
        """As in `Side`."""
        for env in self._envs:
            env.close()
