"""Where AntMaze's goal is, and how often it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import NDArray

from dqlab.envs.antmaze.mazes import SCALE, Maze
from dqlab.fields import check_fields
from dqlab.registry import Registry, configurable

Draws = Generator | RandomState
GoalLaw = Callable[[Generator, int | None, bool], Draws | None]

goal_laws: Registry[GoalLaw] = Registry(
    "goal_law",
    "When AntMaze draws a goal: `(episode's generator, group or None, has a goal) -> what draws the next, or None`.",
    "AntMaze.goal_law",
    arguments=3,
)


@goal_laws.register("per_environment", source="D4RL 1.1, antmaze-*-v0 and -v1; the Diffusion-QL code's evaluation")
def per_environment(episode: Generator, group: int | None, has_goal: bool) -> Draws | None:
    """One goal for all of an environment's episodes; or, in evaluations, one for all episodes of a group."""
    if group is not None:
        return RandomState(group)  # what D4RL draws from, where a program seeds NumPy with that number
    return None if has_goal else episode


@goal_laws.register("per_episode", source="D4RL 1.1, antmaze-*-v2")
def per_episode(episode: Generator, group: int | None, has_goal: bool) -> Draws | None:
    """A new goal in every episode."""
    return episode


def draw_goal(maze: Maze, rng: Draws) -> NDArray[np.float64]:
    """A goal's x and y (m): the goal cell's centre, and in each direction U(0, 1) + U(0, 1/2), as in D4RL.

    Args:
        maze: where; coordinates below 0 become 0.
        rng: what draws.
    """
    near, more = rng.uniform(0.0, SCALE / 4, 2), rng.uniform(0.0, SCALE / 8, 2)
    return np.maximum(maze.centre(maze.goal) + near + more, 0.0)


@configurable("envs")
@dataclass(frozen=True)
class AntMaze:
    """What gin files may choose about AntMaze.

    Attributes:
        goal_law: when a goal is drawn, a name from its registry.

    Raises:
        ConfigError: there is no such law.
    """

    goal_law: str = "per_environment"

    def __post_init__(self) -> None:
        check_fields(self)
        goal_laws.get(self.goal_law)
