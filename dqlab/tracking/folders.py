"""Folders that are mirrored: a run has a run.json, a grid a grid.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dqlab.errors import RunError

RUN, GRID = "run.json", "grid.json"


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
    path = next((path for path in (folder / GRID, folder / RUN) if path.exists()), None)
    try:
        facts: dict[str, Any] = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}.") from error
    return facts


def known_facts(folder: Path) -> dict[str, Any]:
    """The same, of a folder that must hold a run or a grid.

    Raises:
        RunError: it holds neither.
    """
    facts = facts_of(folder)
    if not facts:
        raise RunError(f"{folder} is not the folder of a dqlab run or grid (no readable {RUN} or {GRID}).")
    return facts
