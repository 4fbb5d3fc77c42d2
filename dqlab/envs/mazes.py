"""D4RL's mazes, as its tasks evaluate in them, where goals are drawn, and the model of an ant in one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import SubElement, parse, tostring

import numpy as np
from numpy.random import Generator, RandomState

from dqlab.config.fields import check_field, check_fields
from dqlab.config.registry import configurable
from dqlab.envs.physics import Array

Cell = tuple[int, int]
SCALE = 4.0  # metres from one cell to the next
WALL, FREE, START, GOAL = "#.SG"
TORQUE = 30.0  # N m at an action of 1
GOAL_RADIUS = 0.5  # metres
HEIGHT = 2.0  # height of the walls, metres
CAMERA, GOAL_SITE = "maze", "goal"
CAMERA_DISTANCE = 1.3  # from the floor, as a multiple of the maze's longer side: all of it is seen at 45 degrees
GOAL_LAWS = {"per_environment": False, "per_episode": True}
"""Whether each episode has a goal of its own. D4RL 1.1: antmaze-*-v0 and -v1, as in the official evaluation; -v2."""


@dataclass(frozen=True)
class Maze:
    """A maze of square cells, seen from above: `#` is wall, `.` free, `S` where episodes start, `G` the goal's."""

    rows: tuple[str, ...]

    def cells(self, letters: str) -> list[Cell]:
        """Row and column of every cell that has one of these letters."""
        return [(i, j) for i, row in enumerate(self.rows) for j, letter in enumerate(row) if letter in letters]

    @property
    def goal(self) -> Cell:
        return self.cells(GOAL)[0]

    def centre(self, cell: Cell) -> Array:
        """x and y (m) of a cell's centre; the start's is the origin, x grows with columns and y with rows."""
        return SCALE * np.subtract(cell, self.cells(START)[0])[::-1].astype(np.float64)


DRAWINGS: Mapping[str, Mapping[str, list[str]]] = json.loads((files("dqlab.envs") / "mazes.json").read_text())
MAZES = {name: Maze(tuple(rows)) for name, rows in DRAWINGS["antmaze"].items()}
"""The mazes of antmaze-{umaze,medium,large}-*-v0, by the name that the task's name has."""
LAYOUTS = {**MAZES, **{name: Maze(tuple(rows)) for name, rows in DRAWINGS["maze2d"].items()}}
"""Those of maze2d-*; episodes start in any free cell. A cell has 1 m there; x grows with rows, y with columns."""


def draw_goal(maze: Maze, rng: Generator | RandomState) -> Array:
    """A goal's x and y (m): the goal cell's centre and, in each direction, U(0, 1) + U(0, 1/2); at least 0."""
    near, more = rng.uniform(0.0, SCALE / 4, 2), rng.uniform(0.0, SCALE / 8, 2)
    return np.maximum(maze.centre(maze.goal) + near + more, 0.0)


@configurable("envs")
@dataclass(frozen=True)
class AntMaze:
    """What gin files may choose about AntMaze.

    Attributes:
        goal_law: when a goal is drawn: `per_environment`, once for all of an environment's episodes, or of a group's in
            evaluations; or `per_episode`.
    """

    goal_law: str = "per_environment"

    def __post_init__(self) -> None:
        check_fields(self)
        check_field(self.goal_law in GOAL_LAWS, self, "goal_law", "'per_environment' or 'per_episode'")


def ant_maze_xml(maze: Maze, ant: str | Path) -> str:
    """The model's XML: Gymnasium's ant, file `ant`, changed to D4RL's, in a maze seen from above its middle."""
    root: Any = parse(ant).getroot()
    world = root.find("worldbody")
    root.find("option").set("timestep", "0.02")  # twice Gymnasium's; an environment's step of five is 0.1 s
    # MuJoCo's default time constant; a constant impedance, where the default goes from 0.9 to 0.95
    root.find("default/geom").attrib.update(solref="0.02 1", solimp="0.8 0.8 0.01", rgba="0.1 0.3 0.8 1")
    for motor in root.find("actuator"):  # controls are torques, where Gymnasium's are multiplied by 150
        motor.set("ctrlrange", _numbers(-TORQUE, TORQUE))
        motor.attrib.pop("gear", None)
    box = {"type": "box", "size": _numbers(SCALE / 2, SCALE / 2, HEIGHT / 2), "rgba": "0.35 0.3 0.25 1"}
    for cell in maze.cells(WALL):
        place = {"name": "wall_{}_{}".format(*cell), "pos": _numbers(*maze.centre(cell), HEIGHT / 2)}
        SubElement(world, "geom", {**box, **place, "contype": "1", "conaffinity": "1"})
    SubElement(root, "size", nuser_geom="1")  # how deep contacts with a geom can be (`robots.py`)
    root.find("asset/texture[@name='texplane']").attrib.update(rgb1="0.55 0.55 0.55", rgb2="0.5 0.5 0.5")
    root.find("asset/material[@name='MatPlane']").set("reflectance", "0")
    last = len(maze.rows) - 1, len(maze.rows[0]) - 1
    above = _numbers(*(maze.centre((0, 0)) + maze.centre(last)) / 2, CAMERA_DISTANCE * SCALE * (1 + max(last)))
    SubElement(world, "camera", name=CAMERA, pos=above, xyaxes="1 0 0 0 1 0", fovy="45")
    disc = {"type": "cylinder", "size": _numbers(GOAL_RADIUS, 0.02), "rgba": "0.9 0.1 0.1 1"}
    SubElement(world, "site", {**disc, "name": GOAL_SITE, "pos": _numbers(*maze.centre(maze.goal), 0.02)})
    return tostring(root, encoding="unicode")


def _numbers(*values: float) -> str:
    return " ".join(repr(float(value)) for value in values)
