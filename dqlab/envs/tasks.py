"""The tasks: D4RL's names, files, episode limits and reference scores, and which environment has them (d4rl.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from dqlab.envs.physics import Body
from dqlab.registry import Registry


@dataclass(frozen=True)
class Task:
    """What D4RL (or whoever defines it) says of one task.

    Attributes:
        name: D4RL's name, such as `walker2d-medium-expert-v2`.
        robot: the environment among D4RL's, such as `walker2d` or `antmaze-large`; tasks with the same one share it.
        env_id: the Gymnasium environment with the same observation, reward and termination as D4RL's, as `NAME`, or
            `MODULE:NAME` where importing a module registers it.
        min_score, max_score: returns that D4RL scores as 0 and 100.
        episode_limit: steps after which an episode is truncated.
        file: the dataset's file, relative to D4RL's root; empty where D4RL has none.
        state_dim, action_dim: widths of observation and action; actions lie in [-1, 1].
        body: what a physics law must know of the model's bodies; None for a model that needs no correction.
        env_kwargs: arguments of the environment.
        extra: the extra of dqlab's that installs what the environment needs; empty for none.
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
    body: Body | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra: str = ""

    def score(self, episode_return: Any) -> Any:
        """D4RL's normalised score (0 random, 100 expert) of an undiscounted return, or of an array of them."""
        return 100.0 * (episode_return - self.min_score) / (self.max_score - self.min_score)

    @property
    def url(self) -> str:
        """Where D4RL publishes the dataset."""
        return str(D4RL["root"]) + self.file


tasks: Registry[Task] = Registry(
    "task", "A benchmark task: environment, dataset file and reference scores.", "Experiment.task"
)

D4RL: dict[str, Any] = json.loads((files("dqlab.envs") / "d4rl.json").read_text())


def _kitchen(*goals: str) -> dict[str, Any]:
    return {"env_id": "dqlab.envs.kitchen:dqlab/Kitchen-v0", "env_kwargs": {"goals": goals}, "extra": "robotics"}


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "walker2d": {"env_id": "Walker2d-v4", "body": Body()},
    "hopper": {"env_id": "Hopper-v4", "body": Body()},
    "halfcheetah": {"env_id": "HalfCheetah-v4", "body": Body(total_mass=14.0)},
    "pen": {"env_id": "dqlab.envs.adroit:dqlab/AdroitPen-v1", "extra": "robotics"},
    "kitchen-slider": _kitchen("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-burner": _kitchen("microwave", "kettle", "bottom burner", "light switch"),
}
"""What has D4RL's environments on today's packages: v4, not v5, has D4RL's rewards and bodies."""


def _task(name: str, robot: str, file: str) -> Task:
    facts = D4RL["environments"][robot]
    return Task(name=name, robot=robot, file=file, **facts, **ENVIRONMENTS[robot])


for _name, (_robot, _file) in D4RL["tasks"].items():
    if _robot in ENVIRONMENTS:
        _made = _task(_name, _robot, _file)
        tasks.add(_name, _made, source="D4RL (Fu et al. 2020)", summary=f"{_robot}; {_made.env_id}")
