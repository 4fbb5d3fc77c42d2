"""Cells of a grid that were trained for another grid: where they lie, what they are in this one, and their runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.errors import RunError
from dqlab.tracking.cells import FRESH, CellFolder, new_cell, send_cell
from dqlab.tracking.damage import Leaving, read_object, reading
from dqlab.tracking.folders import GRID
from dqlab.tracking.memory import Memory
from dqlab.tracking.packs import PackFolder
from dqlab.tracking.progress import draw
from dqlab.tracking.runs import Runs, log

PLAN = "plan.json"
Planned = Mapping[str, Mapping[str, Any]]


def reused_cells(grid: Path, facts: Mapping[str, Any]) -> dict[str, Path]:
    """Folders of cells that another grid has trained, by the cell's id.

    Raises:
        RunError: grid.json is damaged.
    """
    with reading(grid / GRID):
        return {str(cell): Path(folder) for cell, folder in (facts.get("elsewhere") or {}).items()}


def planned_cells(grid: Path) -> Planned:
    """Label, points, task and seed of every cell of a grid's plan, by its id; the first one of those with one id.

    Raises:
        RunError: plan.json is damaged.
    """
    cells = read_object(grid / PLAN, "cells")["cells"]
    with reading(grid / PLAN):
        names = ("label", "points", "task", "seed")
        return {str(cell["id"]): {name: cell[name] for name in names} for cell in reversed(cells)}


def send_reused(
    client: Any, runs: Runs, grid: Memory, folder: Path, facts: Mapping[str, Any], leaving: Leaving
) -> None:
    """Send how cells ended that another grid has trained: a run for each of them, below this grid's.

    Raises:
        RunError: grid.json or plan.json is damaged.
    """
    memory = Memory(folder / "mlflow-reused.json", grid.state["uri"], {"cells": {}}, grid.state["run"])
    states = memory.state["cells"]
    new = {cell: path for cell, path in reused_cells(folder, facts).items() if not _is_sent(states.get(cell), path)}
    if not new:
        return
    planned, read_pack = planned_cells(folder), cache(PackFolder.read)
    try:
        for cell, path in new.items():
            with leaving.damaged():
                _check(cell, path, planned)
                known = states.setdefault(cell, {**FRESH, "run": "", "from": ""})
                _send(client, runs, known, (grid.state["run"], cell), planned[cell], read_pack(path.parent).tags, path)
    finally:
        memory.save()
    draw(client, grid, [(grid.state["began"], f"cell-{cell}") for cell in new if _is_sent(states.get(cell), new[cell])])


def _is_sent(state: Mapping[str, Any] | None, path: Path) -> bool:
    return state is not None and state["status"] == "FINISHED" and state["from"] == str(path)


def _check(cell: str, path: Path, planned: Planned) -> None:
    if cell not in planned:
        raise RunError(f"Cell {cell}, reused from {path}, is not in the grid's plan.")
    if not (path / "summary.json").exists():
        raise RunError(f"{path} is gone, from which a cell was reused. Bring it back, or run the grid again.")


def _send(
    client: Any,
    runs: Runs,
    state: dict[str, Any],
    place: tuple[str, str],
    planned: Mapping[str, Any],
    common: Mapping[str, str],
    path: Path,
) -> None:
    """One cell; `place`: the grid's run, and the cell's id."""
    (parent, cell), source = place, {"reused_from": str(path)}
    facts = {"seed": planned["seed"], "cell": planned["label"], "points": planned["points"]}
    folder = CellFolder(path, facts, planned["task"], history=False)
    if not state["run"]:
        key = f"reused cell-{cell}"
        state |= {"run": runs.make({key: new_cell(folder, parent, {**common, **source})})[key], "from": str(path)}
    if state["from"] != str(path):
        log(client, state["run"], [], {}, source)
    send_cell(client, folder, state, over=True)
    state["from"] = str(path)
