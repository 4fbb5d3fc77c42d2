"""The tasks: D4RL's names, reference scores, episode limits and files, as data (Fu et al. 2020; D4RL 1.1)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from dqlab.envs.physics import physics_laws
from dqlab.errors import ConfigError
from dqlab.registry import Registry

D4RL_ROOT = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


@dataclass(frozen=True)
class Task:
    """What D4RL says of one task.

    Attributes:
        name: D4RL's name, such as `walker2d-medium-expert-v2`.
        robot: the body, which fixes environment and reference scores.
        env_id: the Gymnasium environment with the same observation, reward and termination as D4RL's.
        min_score, max_score: returns that D4RL scores as 0 and 100.
        episode_limit: steps after which an episode is truncated.
        file: the dataset's file, relative to D4RL's server.
        state_dim, action_dim: widths of observation and action; actions lie in [-1, 1].
        total_mass: kg, where the robot's XML fixes it.
    """

    name: str
    robot: str
    env_id: str
    min_score: float
    max_score: float
    episode_limit: int
    file: str
    state_dim: int
    action_dim: int
    total_mass: float | None = None

    def score(self, episode_return: Any) -> Any:
        """D4RL's normalised score (0 random, 100 expert) of an undiscounted return, or of an array of them."""
        return 100.0 * (episode_return - self.min_score) / (self.max_score - self.min_score)

    @property
    def url(self) -> str:
        """Where D4RL publishes the dataset."""
        return D4RL_ROOT + self.file


tasks: Registry[Task] = Registry("task", "A benchmark task: environment, dataset file and reference scores.")

ROBOTS: dict[str, dict[str, Any]] = {
    "walker2d": dict(env_id="Walker2d-v4", min_score=1.629008, max_score=4592.3, state_dim=17, action_dim=6),
    "hopper": dict(env_id="Hopper-v4", min_score=-20.272305, max_score=3234.3, state_dim=11, action_dim=3),
    "halfcheetah": dict(
        env_id="HalfCheetah-v4", min_score=-280.178953, max_score=12135.0, state_dim=17, action_dim=6, total_mass=14.0
    ),
}

for _robot, _facts in ROBOTS.items():
    for _level in ("medium", "medium-replay", "medium-expert"):
        _file = f"gym_mujoco_v2/{_robot}_{_level.replace('-', '_')}-v2.hdf5"
        _task = Task(f"{_robot}-{_level}-v2", _robot, episode_limit=1000, file=_file, **_facts)
        tasks.add(_task.name, _task, source="D4RL (Fu et al. 2020)", summary=f"{_robot}, {_level} data, on MuJoCo 2.1")


def make_env(task: Task, physics: str = "mujoco210") -> Any:
    """The task's Gymnasium environment, with an episode limit and the chosen physics.

    Args:
        task: which task.
        physics: a name from the `physics` registry; `mujoco210` gives D4RL's dynamics.

    Raises:
        ConfigError: unknown physics, or gymnasium with MuJoCo is not installed.
    """
    law = physics_laws.get(physics)
    try:
        import gymnasium
    except ImportError as error:
        raise ConfigError("Environments need gymnasium and mujoco: pip install dqlab") from error
    with warnings.catch_warnings():  # v4, not v5, has D4RL's reward and bodies
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            env = gymnasium.make(task.env_id, max_episode_steps=task.episode_limit, disable_env_checker=True)
        except (ImportError, gymnasium.error.Error) as error:
            raise ConfigError(f"Cannot build {task.env_id}: {error}. Try: pip install dqlab") from error
    law(env.unwrapped.model, total_mass=task.total_mass)  # type: ignore[attr-defined]
    return env
