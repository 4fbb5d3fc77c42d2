"""What steps a task's environments: the interface between evaluation and the two stacks, today's and D4RL's own."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry
from dqlab.envs.physics import Array, physics_laws
from dqlab.envs.tasks import Task
from dqlab.errors import ConfigError, DqlabError, NotFiniteError, pip_install
from dqlab.machine import cores


def make_env(task: Task, physics: str = "mujoco210", **arguments: Any) -> Any:
    """The task's Gymnasium environment, with an episode limit and the chosen physics, checked (`envs/boxed.py`).

    Args:
        task: a benchmark's, or the user's.
        physics: a name from the `physics` registry; `mujoco210` gives D4RL's dynamics.
        arguments: more of the environment's own, such as `render_mode`.

    A ConfigError where physics are unknown, a choice is wrong, what the environment needs is not installed, it cannot
    be made, or its observations and actions are not the task's.
    """
    import gymnasium

    from dqlab.envs.boxed import CheckedEnv, check_vectors, describe_error

    law = physics_laws.get(physics)
    given, name = {**task.arguments(), **arguments}, task.environment
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            env = gymnasium.make(task.env_id, max_episode_steps=task.episode_limit, disable_env_checker=True, **given)
        except DqlabError:
            raise
        except (ImportError, gymnasium.error.Error) as error:
            raise ConfigError(f"Cannot build {task.env_id}: {error}. Try: {pip_install(task.extra)}") from error
        except (Exception, SystemExit) as error:  # somebody's constructor
            raise ConfigError(f"The environment '{name}' cannot be made: it raised {describe_error(error)}.") from error
    check_vectors(name, "observations", env.observation_space, task.state_dim)
    check_vectors(name, "actions", env.action_space, task.action_dim)
    if task.body is not None:
        law(env.unwrapped.model, task.body)
    return CheckedEnv(env, name, casts=not task.file)


@dataclass(frozen=True)
class StepResult:
    """Of a step of m environments: states (m, S), rewards (m,), and which episodes (m,) ended, by a limit or not."""

    state: Array
    reward: Array
    over: NDArray[np.bool_]


class Environments(ABC):
    """Copies of a task's environment, made as they are needed and known by their numbers.

    Attributes:
        own_physics: what steps them, where no physics law can choose it.
    """

    own_physics: ClassVar[str] = ""

    @abstractmethod
    def prepare(self, count: int) -> None:
        """Make as many as will be needed, so that what is missing shows early."""

    @abstractmethod
    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        """Begin an episode in environments 0, 1, ..., n - 1; their states (n, S).

        Args:
            seeds: n, of the initial states and whatever else is drawn in an episode.
            groups: n, of what D4RL draws once and keeps for all episodes of an evaluation, such as AntMaze's goal:
                environments with the same number share it.
        """

    @abstractmethod
    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        """Step the environments with these numbers by actions (m, A)."""

    @abstractmethod
    def close(self) -> None:
        """End processes and free memory."""


EnvBackend = Callable[[Task, str], Environments]
env_backends: Registry[EnvBackend] = Registry(
    "env_backend",
    "What steps the environments of an evaluation: `(task, physics) -> Environments`.",
    "Experiment.env_backend",
    arguments=2,
)

ENVS_PER_THREAD = 10  # at least: with five for each, two threads were slower than one (docs/performance.md)


@env_backends.register("gymnasium", source="Gymnasium and MuJoCo's own wheels", cites=("todorov2012mujoco",))
class GymnasiumEnvironments(Environments):
    """Today's packages in this process, corrected to D4RL's dynamics by the physics law."""

    def __init__(self, task: Task, physics: str) -> None:
        self._task, self._physics = task, physics
        self.envs: list[Any] = []
        self.threads = cores() if task.parallel else 1  # MuJoCo computes without Python's interpreter lock

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads)

    def prepare(self, count: int) -> None:
        while len(self.envs) < count:
            self.envs.append(make_env(self._task, self._physics))

    def reset(self, seeds: Sequence[int], groups: Sequence[int]) -> Array:
        self.prepare(len(seeds))
        states: list[Array] = []  # finite or not
        for env, seed, group in zip(self.envs, seeds, groups, strict=False):
            try:
                states.append(env.reset(seed=seed, options={"group": group})[0])
            except NotFiniteError as error:
                states.append(error.given)
        return np.stack(states)

    def step(self, which: Sequence[int], actions: Array) -> StepResult:
        envs = [self.envs[number] for number in which]
        share = max(math.ceil(len(envs) / self.threads), ENVS_PER_THREAD)
        starts = range(0, len(envs), share)
        run = self._pool.map if len(starts) > 1 else map
        parts = run(lambda start: list(map(step_environment, envs[start:][:share], actions[start:][:share])), starts)
        states, rewards, _, over = (np.array(column) for column in zip(*chain(*parts), strict=True))
        return StepResult(states, rewards, over)

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []


def step_environment(env: Any, action: Array) -> tuple[Array, float, bool, bool]:
    """Step a Gymnasium environment: state, reward, whether it ended the episode, whether that or its limit did.

    What is not finite is given as it is: it is a fault of this episode alone, not of those that are stepped with it.
    """
    try:
        state, reward, terminated, truncated, _ = env.step(action)
    except NotFiniteError as error:
        state, reward, terminated, truncated, _ = error.given
    return state, reward, terminated, terminated or truncated
