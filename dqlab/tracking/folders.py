"""Folders that are mirrored: a run has a run.json, a grid a grid.json."""

from __future__ import annotations

import os
from pathlib import Path

from dqlab.errors import RunError
from dqlab.records import BegunGridRecord, GridRecord, RunRecord, read

RUN, GRID = "run.json", "grid.json"


def is_grid(folder: Path) -> bool:
    """Whether it is a grid's folder; what no file can be called, as a file may name it, is none."""
    return os.path.exists(folder / GRID)


def grid_of(folder: Path) -> Path | None:
    """The grid that a pack's folder belongs to."""
    packs = Path(os.path.realpath(folder)).parent
    return packs.parent if packs.name == "packs" and is_grid(packs.parent) else None


def is_known(folder: Path) -> bool:
    """Whether it is the folder of a run or of a grid."""
    return is_grid(folder) or os.path.exists(folder / RUN)


def facts_of(folder: Path) -> BegunGridRecord | RunRecord:
    """What a run's or a grid's file of facts says; of a grid that has only begun, too.

    Raises:
        RunError: the folder holds neither, or the file is damaged.
    """
    return read(folder / GRID, BegunGridRecord) if is_grid(folder) else run_facts(folder)


def grid_facts(folder: Path) -> GridRecord:
    """What the grid.json of a grid that has been planned says.

    Raises:
        RunError: it is damaged, or the grid's command was ended before it was complete.
    """
    return read(folder / GRID, GridRecord)


def run_facts(folder: Path) -> RunRecord:
    """What a run.json says.

    Raises:
        RunError: there is none, or it is damaged.
    """
    if not os.path.exists(folder / RUN):
        raise RunError(f"{folder} is not the folder of a dqlab run or grid (no readable {RUN} or {GRID}).")
    return read(folder / RUN, RunRecord)
