"""D4RL's three mazes, as its tasks evaluate in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        """Where episodes start."""
        return self.cells(START)[0]

    @property
    def goal(self) -> Cell:
        """Where the goal lies."""
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


def maze_called(name: str) -> Maze:
    """One of D4RL's mazes.

    Raises:
        ConfigError: there is no such maze.
    """
    if name not in MAZES:
        raise ConfigError(f"Unknown maze '{name}' of AntMaze. {nearest_of_few(str(name), MAZES)}")
    return MAZES[name]
