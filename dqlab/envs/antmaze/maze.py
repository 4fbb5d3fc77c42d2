"""D4RL's three mazes, as its tasks evaluate in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import NDArray

from dqlab.config.fields import check_fields
from dqlab.config.registry import Registry, configurable
from dqlab.errors import ConfigError, nearest_of_few

Cell = tuple[int, int]
SCALE = 4.0
"""Metres from one cell to the next."""
WALL, FREE, START, GOAL = "#.SG"


@dataclass(frozen=True)
class Maze:
    """A maze of square cells, seen from above.

    Attributes:
        rows: top to bottom; a letter a cell: `#` wall, `.` free, `S` where episodes start, `G` where the goal lies.
    """

    rows: tuple[str, ...]

    def cells(self, letters: str) -> list[Cell]:
        """Row and column of every cell that has one of these letters."""
        return [(i, j) for i, row in enumerate(self.rows) for j, letter in enumerate(row) if letter in letters]

    @property
    def start(self) -> Cell:
        return self.cells(START)[0]

    @property
    def goal(self) -> Cell:
        return self.cells(GOAL)[0]

    def centre(self, cell: Cell) -> NDArray[np.float64]:
        """x and y (m) of a cell's centre; the start's is the origin, x grows with columns and y with rows."""
        return SCALE * np.array([cell[1] - self.start[1], cell[0] - self.start[0]], dtype=np.float64)


MAZES: Mapping[str, Maze] = {
    "umaze": Maze(
        (
            "#####",
            "#S..#",
            "###.#",
            "#G..#",
            "#####",
        )
    ),
    "medium": Maze(
        (
            "########",
            "#S.##..#",
            "#..#...#",
            "##...###",
            "#..#...#",
            "#.#..#.#",
            "#...#.G#",
            "########",
        )
    ),
    "large": Maze(
        (
            "############",
            "#S...#.....#",
            "#.##.#.#.#.#",
            "#......#...#",
            "#.####.###.#",
            "#..#.#.....#",
            "##.#.#.#.###",
            "#..#...#.G.#",
            "############",
        )
    ),
}
"""The mazes of antmaze-{umaze,medium,large}-*-v0, by the name that the task's name has."""


def maze_by_name(name: str) -> Maze:
    """One of D4RL's mazes.

    Raises:
        ConfigError: there is no such maze.
    """
    if name not in MAZES:
        raise ConfigError(f"Unknown maze '{name}' of AntMaze. {nearest_of_few(str(name), MAZES)}")
    return MAZES[name]


RandomSource = Generator | RandomState
GoalLaw = Callable[[Generator, int | None, bool], RandomSource | None]
goal_laws: Registry[GoalLaw] = Registry(
    "goal_law",
    "When AntMaze draws a goal: `(episode's generator, group or None, has a goal) -> what draws the next, or None`.",
    "AntMaze.goal_law",
    arguments=3,
)


@goal_laws.register(
    "per_environment",
    source="D4RL 1.1, antmaze-*-v0 and -v1; the Diffusion-QL code's evaluation",
    cites=("wang2023diffusion",),
)
def per_environment(episode: Generator, group: int | None, has_goal: bool) -> RandomSource | None:
    """One goal for all of an environment's episodes; or, in evaluations, one for all episodes of a group."""
    if group is not None:
        return RandomState(group)  # what D4RL draws from, where a program seeds NumPy with that number
    return None if has_goal else episode


@goal_laws.register("per_episode", source="D4RL 1.1, antmaze-*-v2")
def per_episode(episode: Generator, group: int | None, has_goal: bool) -> RandomSource | None:
    """A new goal in every episode."""
    return episode


def draw_goal(maze: Maze, rng: RandomSource) -> NDArray[np.float64]:
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
