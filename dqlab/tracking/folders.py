"""Folders that are mirrored: a run has a run.json, a grid a grid.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dqlab.errors import RunError
from dqlab.tracking.damage import read_object

RUN, GRID = "run.json", "grid.json"
NEEDED = {RUN: ("task", "data", "versions"), GRID: ("name", "axes", "base", "tasks", "seeds", "gin", "packs", "cells")}
"""What these files say from the beginning."""


def is_grid(folder: Path) -> bool:
    """Whether it is a grid's folder."""
    return (folder / GRID).exists()


def grid_of(folder: Path) -> Path | None:
    """The grid that a pack's folder belongs to."""
    grid = folder.resolve().parent.parent
    return grid if folder.resolve().parent.name == "packs" and is_grid(grid) else None


def facts_of(folder: Path) -> dict[str, Any]:
    """What the folder's file of facts says; nothing where there is none yet.

    Raises:
        RunError: the file is there and cannot be read.
    """
    path = _file_of(folder)
    return read_object(path) if path else {}


def known_facts(folder: Path) -> dict[str, Any]:
    """The same, of a folder that must hold a run or a grid.

    Raises:
        RunError: it holds neither, or its file of facts is damaged.
    """
    path = _file_of(folder)
    if path is None:
        raise RunError(f"{folder} is not the folder of a dqlab run or grid (no readable {RUN} or {GRID}).")
    return read_object(path, *NEEDED[path.name])


def _file_of(folder: Path) -> Path | None:
    return next((path for path in (folder / GRID, folder / RUN) if path.exists()), None)
