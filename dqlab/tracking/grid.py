"""A grid's folder as nested MLflow runs: the grid, its packs, and their cells."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqlab.tracking.cells import FRESH, CellFolder, parameter, send_cell
from dqlab.tracking.folders import facts_of
from dqlab.tracking.memory import Memory
from dqlab.tracking.mlflow import connect, experiment_id, run_tags
from dqlab.tracking.runs import New, Runs, log

STATUS = {"finished": "FINISHED", "incomplete": "FAILED", "interrupted": "KILLED"}
"""MLflow's words for a grid's states."""
REPORT_SECONDS = 60.0
"""How often a growing report is sent."""


def send_grid(grid: Path, uri: str, experiment: str, over: bool = False) -> None:
    """Send whatever of a grid's folder has not been sent; does nothing twice, may be called at any time.

    Args:
        grid: the grid's folder.
        uri: MLflow's tracking URI.
        experiment: MLflow's experiment.
        over: the driver has ended; what has not finished is then shown as killed, until it goes on.

    Raises:
        Exception: whatever MLflow's client raises; what was sent before is remembered.
    """
    client, memory, facts = connect(uri), _remembered(grid, uri), facts_of(grid)
    runs = Runs(client, lambda: experiment_id(client, experiment, grid, uri), memory)
    _send_grid_run(client, runs, memory, grid, facts)
    for pack in _open_packs(grid, facts, memory.state["settled"]):
        _send_pack(client, runs, memory, pack, over)
    runs.sure()
    _send_end(client, memory, grid, facts, over)


def _remembered(grid: Path, uri: str) -> Memory:
    """What is known of earlier sendings; the owner's name stays the same in every store."""
    empty = {"owner": uuid.uuid4().hex, "unsure": False, "run": "", "status": "RUNNING", "settled": [], "finished": {}}
    memory = Memory(grid / "mlflow.json", uri, {**empty, "versions": False, "report": {}, "reported": 0.0})
    if memory.forgotten:
        memory.state |= {"owner": memory.forgotten["owner"], "unsure": True}
    return memory


def _send_grid_run(client: Any, runs: Runs, memory: Memory, grid: Path, facts: Mapping[str, Any]) -> None:
    if memory.state["run"]:
        return
    tags = {"kind": "grid", "grid": facts["name"], "caveat": facts.get("caveat", "")}
    began = min(path.stat().st_mtime for path in grid.iterdir())
    run = runs.make({"grid": New(grid.resolve().name, tags=tags, began=began)})["grid"]
    axes = {parameter(axis): ", ".join(points) for axis, points in facts["axes"].items()}
    known = {"name": facts["name"], "base": facts["base"], "tasks": ", ".join(facts["tasks"]), "cells": facts["cells"]}
    log(client, run, [], {**axes, **known, "seeds": ", ".join(map(str, facts["seeds"]))}, {})
    client.log_text(run, facts["gin"], "grid.gin")
    memory.state |= {"run": run, "began": began}
    memory.save()


def _open_packs(grid: Path, facts: Mapping[str, Any], settled: list[str]) -> list[Path]:
    """Packs that have begun and of which not every cell has been sent with its result."""
    waiting = [grid / "packs" / name for name in facts["packs"] if name not in set(settled)]
    return [pack for pack in waiting if (pack / "run.json").exists()]


def _send_pack(client: Any, runs: Runs, grid: Memory, pack: Path, over: bool) -> None:
    """What is new of one pack."""
    facts = facts_of(pack)
    memory = Memory(pack / "mlflow.json", grid.state["uri"], {"run": "", "status": "RUNNING", "cells": {}})
    cells = {name: CellFolder(pack / name, own, facts["task"]) for name, own in facts["replicas"].items()}
    _make_runs(client, runs, grid, memory, pack, facts, cells)
    before = json.dumps(memory.state)
    try:
        for name, cell in cells.items():
            send_cell(client, cell, memory.state["cells"][name], over)
        _show(client, memory, _status_of(memory.state["cells"]))
    finally:
        if json.dumps(memory.state) != before:
            memory.save()
    _settle(client, grid, pack, memory.state["cells"], cells)


def _make_runs(
    client: Any,
    runs: Runs,
    grid: Memory,
    memory: Memory,
    pack: Path,
    facts: Mapping[str, Any],
    cells: Mapping[str, CellFolder],
) -> None:
    """A run for the pack and one for each of its cells, where there are none."""
    common = run_tags(dict(facts))
    if not grid.state["versions"]:
        kept = {name: value for name, value in common.items() if name.startswith("version.") or name == "git_commit"}
        log(client, grid.state["run"], [], {}, kept)
        grid.state["versions"] = True
        grid.save()
    if not memory.state["run"]:
        tags = {**common, "kind": "pack", "pack": pack.name}
        began = min((cell.began for cell in cells.values() if cell.began), default=0.0)
        new = New(_pack_name(pack.name, cells), grid.state["run"], tags, began)
        run = runs.make({f"pack {pack.name}": new})[f"pack {pack.name}"]
        log(client, run, [], {**_shared(cells), "cells": len(cells)}, {})
        memory.state["run"] = run
        memory.save()
    known = memory.state["cells"]
    parent, tags = memory.state["run"], {**common, "pack": pack.name}
    wanted = {name: _new_cell(cell, parent, tags) for name, cell in cells.items() if name not in known}
    for name, run in runs.make({f"{pack.name} {name}": new for name, new in wanted.items()}).items():
        known[name.partition(" ")[2]] = {"run": run, **FRESH}
    if wanted:
        memory.save()


def _new_cell(cell: CellFolder, parent: str, common: Mapping[str, str]) -> New:
    seed = str(cell.facts["seed"])
    tags = {**common, "kind": "cell", "cell": cell.label, "seed": seed, "task": cell.task}
    return New(f"{cell.label} | {cell.task} | seed {seed}", parent, tags, cell.began)


def _pack_name(name: str, cells: Mapping[str, CellFolder]) -> str:
    """Labels of its cells, as far as they are few."""
    labels = list(dict.fromkeys(cell.label for cell in cells.values()))
    return f"pack {name[:8]}: " + "; ".join(labels[:3]) + ("; ..." if len(labels) > 3 else "")


def _shared(cells: Mapping[str, CellFolder]) -> dict[str, str]:
    """Parameters that all cells of a pack have in common."""
    first, *others = (cell.parameters for cell in cells.values())
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _status_of(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """A pack's status: the first of these that one of its cells has."""
    found = {cell["status"] for cell in cells.values()}
    return next(status for status in ("RUNNING", "KILLED", "FAILED", "FINISHED") if status in found)


def _show(client: Any, memory: Memory, status: str) -> None:
    """Show a run with this status, if it is not shown already."""
    if memory.state["status"] != status:
        if status in ("RUNNING", "KILLED"):
            client.update_run(memory.state["run"], status=status)
        else:
            client.set_terminated(memory.state["run"], status)
        memory.state["status"] = status


def _settle(
    client: Any, grid: Memory, pack: Path, states: Mapping[str, Mapping[str, Any]], cells: Mapping[str, CellFolder]
) -> None:
    """Draw the grid's progress, finished cells over seconds, a point for each; close a finished pack."""
    from mlflow.entities import Metric

    known = grid.state["finished"]
    done = [name for name, state in states.items() if state["status"] == "FINISHED"]
    new = sorted((cells[name].ended()[1].stat().st_mtime, name) for name in done if name not in known)  # type: ignore[union-attr]
    points = []
    for at, name in new:
        known[name] = len(known) + 1
        points.append(Metric("finished_cells", known[name], int(at * 1000), int(max(0.0, at - grid.state["began"]))))
    if new:
        log(client, grid.state["run"], points, {}, {})
        if len(done) == len(states):
            grid.state["settled"].append(pack.name)
        grid.save()


def _send_end(client: Any, memory: Memory, grid: Path, facts: Mapping[str, Any], over: bool) -> None:
    """The report's new files, and the grid's status."""
    status = STATUS.get(facts["state"], "KILLED" if over else "RUNNING")
    if status != "RUNNING" or time.time() - memory.state["reported"] > REPORT_SECONDS:
        _send_report(client, memory, grid / "report")
    if memory.state["status"] != status:
        _show(client, memory, status)
        memory.save()


def _send_report(client: Any, memory: Memory, report: Path) -> None:
    files = sorted(path for path in report.rglob("*") if path.is_file() and not path.name.startswith("."))
    now = {str(path.relative_to(report)): f"{path.stat().st_mtime_ns} {path.stat().st_size}" for path in files}
    changed = [name for name, mark in now.items() if memory.state["report"].get(name) != mark]
    for name in changed:
        folder = str(Path("report", name).parent)
        client.log_artifact(memory.state["run"], str(report / name), folder)
    if changed:
        memory.state |= {"report": now, "reported": time.time()}
        memory.save()
