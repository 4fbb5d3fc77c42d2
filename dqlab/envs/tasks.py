"""The tasks: D4RL's names, files, episode limits and reference scores, and which environment has them (d4rl.json).

Actions lie in [-1, 1]: what they stand for between the bounds of an environment is said here, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.config.registry import Registry
from dqlab.envs.antmaze.maze import AntMaze
from dqlab.envs.caveats import UNSCORED
from dqlab.envs.physics import Body


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
        settings: a configurable dataclass whose fields are more of them: what gin may choose; None for none.
        extra: the extra of dqlab's that installs what the environment needs; empty for none.
        rows: of D4RL's file, approximately; 0 where it has none.
        parallel: whether several threads may each step a copy of the environment at the same time: copies that share
            nothing, and compute outside of Python.
        scored: whether there are reference scores; where there are none, 0 and 100, a score is the return.
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
    settings: Callable[[], Any] | None = None
    extra: str = ""
    rows: int = 0
    parallel: bool = False
    scored: bool = True

    @property
    def caveat(self) -> str:
        """What must stand beside every score on this task; empty where nothing must."""
        return "" if self.scored else UNSCORED

    @property
    def environment(self) -> str:
        """What messages call its environment: the user's own id where it is one of the user's."""
        return str(self.env_kwargs.get("env_id", self.env_id))

    def score(self, episode_return: Any) -> Any:
        """D4RL's normalised score (0 random, 100 expert) of an undiscounted return, or of an array of them."""
        return 100.0 * (episode_return - self.min_score) / (self.max_score - self.min_score)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the environment: the task's own, and those that gin has chosen.

        Raises:
            ConfigError: a choice is wrong.
        """
        chosen = asdict(self.settings()) if self.settings else {}
        return {**self.env_kwargs, **chosen}

    def chosen(self) -> dict[str, Any]:
        """Those that gin has chosen otherwise than by default, by their gin names."""
        if self.settings is None:
            return {}
        given = self.settings()
        return {
            f"{type(given).__name__}.{field.name}": getattr(given, field.name)
            for field in fields(given)
            if getattr(given, field.name) != field.default
        }

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


def _antmaze(maze: str) -> dict[str, Any]:
    env_id = "dqlab.envs.antmaze.env:dqlab/AntMaze-v0"
    return {"env_id": env_id, "env_kwargs": {"maze": maze}, "settings": AntMaze, "body": Body(density=5.0)}


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "walker2d": {"env_id": "Walker2d-v4", "body": Body(), "parallel": True},
    "hopper": {"env_id": "Hopper-v4", "body": Body(), "parallel": True},
    "halfcheetah": {"env_id": "HalfCheetah-v4", "body": Body(total_mass=14.0), "parallel": True},
    "pen": {"env_id": "dqlab.envs.adroit:dqlab/AdroitPen-v1", "extra": "robotics"},
    "kitchen-slider": _kitchen("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-burner": _kitchen("microwave", "kettle", "bottom burner", "light switch"),
    "antmaze-umaze": _antmaze("umaze"),
    "antmaze-medium": _antmaze("medium"),
    "antmaze-large": _antmaze("large"),
}
"""What has D4RL's environments on today's packages: v4, not v5, has D4RL's rewards and bodies. Pens share a model, and
AntMaze sets a callback of the process now and then: neither is for several threads."""


def _task(name: str, robot: str, file: str, rows: int) -> Task:
    facts = D4RL["environments"][robot]
    return Task(name=name, robot=robot, file=file, rows=rows, **facts, **ENVIRONMENTS[robot])


for _name, (_robot, _file, _rows) in D4RL["tasks"].items():
    if _robot in ENVIRONMENTS:
        _made = _task(_name, _robot, _file, _rows)
        tasks.add(
            _name, _made, source="D4RL (Fu et al. 2020)", cites=("fu2020d4rl",), summary=f"{_robot}; {_made.env_id}"
        )


Array = NDArray[Any]


def from_unit(actions: Array, low: Array, high: Array) -> Array:
    """Actions (..., A) in [-1, 1] as what they stand for in [low, high], in float64."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return np.asarray(actions * (0.5 * (high - low)) + 0.5 * (high + low))


def to_unit(actions: Array, low: Array, high: Array) -> Array:
    """Actions (..., A) in [low, high] as numbers in [-1, 1], in float64; 0 where both bounds are the same."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    span = high - low
    return np.asarray(np.where(span > 0, 2.0 * (actions - low) / np.where(span > 0, span, 1.0) - 1.0, 0.0))


def fit_action(low: Array, high: Array, dtype: Any = None) -> Callable[[Any], Array]:
    """What makes an action (A,) one of a Box: clipped into its bounds and, if a dtype is given, of that dtype."""
    if dtype is None:
        return lambda action: np.minimum(np.maximum(action, low), high)
    if np.issubdtype(dtype, np.integer):
        return lambda action: np.rint(np.minimum(np.maximum(action, low), high)).astype(dtype)
    return lambda action: np.minimum(np.maximum(action, low), high).astype(dtype)
