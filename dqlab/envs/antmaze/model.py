"""D4RL's ant in a maze, made of the ant that Gymnasium installs: each deviation is one of `PATCHES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, parse, tostring

from dqlab.envs.antmaze.maze import SCALE, WALL, Maze

TORQUE = 30.0
"""N m at an action of 1."""
GOAL_RADIUS = 0.5
"""Metres."""
HEIGHT = 2.0
"""Height of the walls, metres."""
CAMERA, GOAL_SITE = "maze", "goal"
WALL_COLOUR, ANT_COLOUR, GOAL_COLOUR = "0.35 0.3 0.25 1", "0.1 0.3 0.8 1", "0.9 0.1 0.1 1"
FLOOR_COLOURS = ("0.55 0.55 0.55", "0.5 0.5 0.5")
CAMERA_DISTANCE = 1.3
"""Distance of the camera from the floor, as a multiple of the maze's longer side: all of it is seen at 45 degrees."""


def longer_timestep(root: Element, maze: Maze) -> None:
    """0.02 s, twice Gymnasium's; with five to an environment's step, that is 0.1 s."""
    _element(root, "option").set("timestep", "0.02")


def softer_contacts(root: Element, maze: Maze) -> None:
    """A constant impedance of 0.8, where MuJoCo's default goes from 0.9 to 0.95; its time constant is the default."""
    geom = _element(root, "default/geom")
    geom.set("solref", "0.02 1")
    geom.set("solimp", "0.8 0.8 0.01")


def torque_motors(root: Element, maze: Maze) -> None:
    """Controls are torques of at most 30 N m, where Gymnasium's are multiplied by 150."""
    for motor in _element(root, "actuator"):
        motor.set("ctrlrange", _numbers(-TORQUE, TORQUE))
        motor.attrib.pop("gear", None)


def add_walls(root: Element, maze: Maze) -> None:
    """A box on every wall cell, which the robot's geoms collide with."""
    world, size = _element(root, "worldbody"), _numbers(SCALE / 2, SCALE / 2, HEIGHT / 2)
    for row, column in maze.cells(WALL):
        x, y = maze.centre((row, column))
        name, pos = f"wall_{row}_{column}", _numbers(x, y, HEIGHT / 2)
        look = {"name": name, "type": "box", "pos": pos, "size": size, "rgba": WALL_COLOUR}
        SubElement(world, "geom", {**look, "contype": "1", "conaffinity": "1"})


def room_for_depths(root: Element, maze: Maze) -> None:
    """A number for each geom, in which a physics law notes how deep contacts with it can be (`contacts.py`)."""
    SubElement(root, "size", nuser_geom="1")


def plain_colours(root: Element, maze: Maze) -> None:
    """A quiet floor, on which a blue ant is seen from far above."""
    texture = _element(root, "asset/texture[@name='texplane']")
    texture.set("rgb1", FLOOR_COLOURS[0])
    texture.set("rgb2", FLOOR_COLOURS[1])
    _element(root, "asset/material[@name='MatPlane']").set("reflectance", "0")
    _element(root, "default/geom").set("rgba", ANT_COLOUR)


def view_from_above(root: Element, maze: Maze) -> None:
    """A camera above the maze's middle, and a disc that shows the goal: seen, never felt."""
    world, last = _element(root, "worldbody"), (len(maze.rows) - 1, len(maze.rows[0]) - 1)
    x, y = (maze.centre((0, 0)) + maze.centre(last)) / 2
    distance = CAMERA_DISTANCE * SCALE * max(len(maze.rows), len(maze.rows[0]))
    SubElement(world, "camera", name=CAMERA, pos=_numbers(x, y, distance), xyaxes="1 0 0 0 1 0", fovy="45")
    disc = {"type": "cylinder", "size": _numbers(GOAL_RADIUS, 0.02), "rgba": GOAL_COLOUR}
    SubElement(world, "site", {**disc, "name": GOAL_SITE, "pos": _numbers(*maze.centre(maze.goal), 0.02)})


PATCHES: tuple[Callable[[Element, Maze], None], ...] = (
    longer_timestep,
    softer_contacts,
    torque_motors,
    add_walls,
    room_for_depths,
    plain_colours,
    view_from_above,
)


def ant_maze_xml(maze: Maze, ant: str | Path) -> str:
    """The model's XML: Gymnasium's ant, file `ant`, changed to D4RL's, in a maze."""
    root = parse(ant).getroot()
    for patch in PATCHES:
        patch(root, maze)
    return tostring(root, encoding="unicode")


def _element(root: Element, path: str) -> Element:
    found = root.find(path)
    if found is None:
        raise ValueError(f"Gymnasium's ant.xml has no <{path}>")
    return found


def _numbers(*values: float) -> str:
    return " ".join(repr(float(value)) for value in values)
