"""Cells of a grid that were trained for another grid: where they lie, what they are in this one, and their runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.errors import RunError
from dqlab.printing import name
from dqlab.records import CellRecord, GridRecord, PlanRecord, read
from dqlab.tracking.cells import FRESH, CellFolder, new_cell, send_cell
from dqlab.tracking.damage import Leaving
from dqlab.tracking.folders import grid_of
from dqlab.tracking.memory import Memory
from dqlab.tracking.packs import PackFolder
from dqlab.tracking.progress import draw
from dqlab.tracking.runs import Runs, log

PLAN = "plan.json"
Planned = Mapping[str, CellRecord]


def reused_cells(facts: GridRecord) -> dict[str, Path]:
    """Folders of cells that another grid has trained, by the cell's id."""
    return {cell: Path(folder) for cell, folder in (facts.get("elsewhere") or {}).items()}


def planned_cells(grid: Path) -> Planned:
    """Every cell of a grid's plan, by its id; the first one of those with one id.

    Raises:
        RunError: plan.json is damaged.
    """
    return {cell["id"]: cell for cell in reversed(read(grid / PLAN, PlanRecord)["cells"])}


def send_reused(client: Any, runs: Runs, grid: Memory, folder: Path, facts: GridRecord, leaving: Leaving) -> None:
    """Send how cells ended that another grid has trained: a run for each of them, below this grid's.

    Raises:
        RunError: plan.json is damaged.
    """
    memory = Memory(folder / "mlflow-reused.json", grid.state["uri"], {"cells": {}}, grid.state["run"])
    states = memory.state["cells"]
    new = {cell: path for cell, path in reused_cells(facts).items() if not _is_sent(states.get(cell), path)}
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
    return state is not None and state["status"] == "FINISHED" and state.get("from") == str(path)


def _check(cell: str, path: Path, planned: Planned) -> None:
    if cell not in planned:
        raise RunError(f"Cell {cell}, reused from {path}, is not in the grid's plan.")
    if path.name != f"cell-{cell}" or grid_of(path.parent) is None:
        raise RunError(
            f"{name(path)}, from which cell {cell} is said to be reused, is no folder of that cell in a grid."
        )
    if not os.path.exists(path / "summary.json"):
        raise RunError(f"{path} is gone, from which a cell was reused. Bring it back, or run the grid again.")


def _send(
    client: Any,
    runs: Runs,
    state: dict[str, Any],
    place: tuple[str, str],
    planned: CellRecord,
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
    if state.get("from") != str(path):
        log(client, state["run"], [], {}, source)
    send_cell(client, folder, state, over=True)
    state["from"] = str(path)
