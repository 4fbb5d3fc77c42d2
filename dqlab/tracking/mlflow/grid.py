"""A grid's folder as nested MLflow runs: the grid, its packs, and their cells."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.errors import RunError, printable_name
from dqlab.files import path_within
from dqlab.tracking.folders import SkippedRecords, grid_facts, grid_of
from dqlab.tracking.mlflow.cells import FRESH, CellFolder, PackFolder, new_cell, send_cell, show_killed
from dqlab.tracking.mlflow.client import NewRun, OwnedRuns, experiment_id, log_all, log_file, mlflow_client
from dqlab.tracking.mlflow.memory import DeletedRunGuard, Memory
from dqlab.tracking.records import CellRecord, GridRecord, PlanRecord, read_record


def log_progress_points(client: Any, grid: Memory, finished: Iterable[tuple[float, str]]) -> None:
    """A point for each cell that is new, in the order of their ends.

    Args:
        client: MLflow's.
        grid: what is remembered of the grid's run.
        finished: when, in seconds, and which.
    """
    from mlflow.entities import Metric

    known, points = grid.state["finished"], []
    for at, name in sorted(item for item in finished if item[1] not in known):
        known[name] = len(known) + 1
        points.append(Metric("finished_cells", known[name], int(at * 1000), int(max(0.0, at - grid.state["began"]))))
    if points:
        log_all(client, grid.state["run"], points, {}, {})
        grid.save()


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
    return {cell["id"]: cell for cell in reversed(read_record(grid / PLAN, PlanRecord)["cells"])}


def send_reused(
    client: Any, runs: OwnedRuns, grid: Memory, folder: Path, facts: GridRecord, leaving: SkippedRecords
) -> None:
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
    log_progress_points(
        client, grid, [(grid.state["began"], f"cell-{cell}") for cell in new if _is_sent(states.get(cell), new[cell])]
    )


def _is_sent(state: Mapping[str, Any] | None, path: Path) -> bool:
    return state is not None and state["status"] == "FINISHED" and state.get("from") == str(path)


def _check(cell: str, path: Path, planned: Planned) -> None:
    if cell not in planned:
        raise RunError(f"Cell {cell}, reused from {path}, is not in the grid's plan.")
    if path.name != f"cell-{cell}" or grid_of(path.parent) is None:
        raise RunError(
            f"{printable_name(path)}, from which cell {cell} is said to be reused, is no folder of that cell in a grid."
        )
    if not os.path.exists(path / "summary.json"):
        raise RunError(f"{path} is gone, from which a cell was reused. Bring it back, or run the grid again.")


def _send(
    client: Any,
    runs: OwnedRuns,
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
        log_all(client, state["run"], [], {}, source)
    send_cell(client, folder, state, over=True)
    state["from"] = str(path)


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
        LeftOutError: something in the folder is damaged; all else was sent.
        Exception: whatever MLflow's client raises; what was sent before is remembered.
    """
    facts, memory, leaving = grid_facts(grid), _remembered(grid, uri), SkippedRecords()
    client = DeletedRunGuard(mlflow_client(uri), memory)
    runs = OwnedRuns(client, lambda: experiment_id(client, experiment, grid, uri), memory)
    _send_grid_run(client, runs, memory, grid, facts)
    with leaving.damaged():
        send_reused(client, runs, memory, grid, facts, leaving)
    for pack in _open_packs(grid, facts, memory):
        with leaving.damaged():
            _send_pack(client, runs, memory, path_within(pack, grid), over, leaving)
    runs.creation_done()
    with leaving.damaged():
        _send_end(client, memory, grid, facts, over)
    leaving.tell()


def _remembered(grid: Path, uri: str) -> Memory:
    """What is known of earlier sendings; the owner's name stays the same in every store."""
    empty = {
        "owner": uuid.uuid4().hex,
        "creation_pending": False,
        "run": "",
        "status": "RUNNING",
        "settled": [],
        "finished": {},
    }
    empty |= {"versions": False, "report": {}, "reported": 0.0, "began": 0.0}
    memory = Memory(grid / "mlflow.json", uri, empty)
    if owner := memory.forgotten.get("owner"):
        memory.state |= {"owner": owner, "creation_pending": True}
    return memory


def _send_grid_run(client: Any, runs: OwnedRuns, memory: Memory, grid: Path, facts: GridRecord) -> None:
    """The grid's run, and what the grid is: tags, because a grid may grow and parameters stay as they were."""
    if not memory.state["run"]:
        tags = {"kind": "grid", "caveat": facts.get("caveat", "")}
        began = min(path.lstat().st_mtime for path in grid.iterdir())
        run = runs.make({"grid": NewRun(grid.resolve().name, tags=tags, began=began)})["grid"]
        memory.state |= {"run": run, "began": began}
        memory.save()
    described = _described(facts)
    if memory.state.get("described") != [described, facts["gin"]]:
        log_all(client, memory.state["run"], [], {}, described)
        client.log_text(memory.state["run"], facts["gin"], "grid.gin")
        memory.state["described"] = [described, facts["gin"]]
        memory.save()


def _described(facts: GridRecord) -> dict[str, str]:
    axes = "; ".join(f"{axis}: {', '.join(map(str, points))}" for axis, points in facts["axes"].items())
    lists = {name: ", ".join(map(str, facts[name])) for name in ("tasks", "seeds")}
    return {"grid": facts["name"], "axes": axes, **lists, "base": facts["base"], "cells": str(facts["cells"])}


def _open_packs(grid: Path, facts: GridRecord, memory: Memory) -> list[Path]:
    """Packs that have begun and of which not every cell has been sent with its result.

    One that was set aside and begun afresh has the same id, and remembers nothing of having been sent.
    """
    packs = {name: grid / "packs" / name for name in facts["packs"]}
    settled = [name for name in memory.state["settled"] if name in packs and (packs[name] / "mlflow.json").exists()]
    if settled != memory.state["settled"]:
        memory.state["settled"] = settled
        memory.save()
    done = set(settled)
    return [pack for name, pack in packs.items() if name not in done and (pack / "run.json").exists()]


def _send_pack(client: Any, runs: OwnedRuns, grid: Memory, path: Path, over: bool, leaving: SkippedRecords) -> None:
    """What is new of one pack."""
    pack = PackFolder.read(path)
    memory = _remembered_pack(grid, pack)
    _make_runs(client, runs, grid, memory, pack)
    before, states = json.dumps(memory.state), memory.state["cells"]
    try:
        for name, cell in pack.cells.items():
            with leaving.damaged():
                send_cell(client, cell, states[name], over)
                continue
            if over:
                show_killed(client, states[name])
        _show(client, memory, _status_of(states))
    finally:
        if json.dumps(memory.state) != before:
            memory.save()
    _settle(client, grid, pack, states)


def _remembered_pack(grid: Memory, pack: PackFolder) -> Memory:
    """What is known of a pack's earlier sendings; one that begins gets a name that no pack before it had."""
    empty = {"run": "", "status": "RUNNING", "cells": {}, "attempt": uuid.uuid4().hex[:8]}
    path = pack.path / "mlflow.json"
    begins = not path.exists()
    memory = Memory(path, grid.state["uri"], empty, grid.state["run"])
    if begins:
        for name in pack.cells:
            grid.state["finished"].pop(name, None)
        memory.save()
    elif memory.forgotten:
        memory.state["attempt"] = memory.forgotten.get("attempt", "")
    memory.state["cells"] = {name: cell for name, cell in memory.state["cells"].items() if name in pack.cells}
    return memory


def _make_runs(client: Any, runs: OwnedRuns, grid: Memory, memory: Memory, pack: PackFolder) -> None:
    """A run for the pack and one for each of its cells, where there are none."""
    if not grid.state["versions"]:
        kept = {name: text for name, text in pack.tags.items() if name.startswith("version.") or name == "git_commit"}
        log_all(client, grid.state["run"], [], {}, kept)
        grid.state["versions"] = True
        grid.save()
    tags = {**pack.tags, "pack": pack.path.name}
    attempt = " ".join(part for part in (pack.path.name, memory.state.get("attempt", "")) if part)
    if not memory.state["run"]:
        new = NewRun(pack.title, grid.state["run"], {**tags, "kind": "pack"}, pack.began)
        run = runs.make({f"pack {attempt}": new})[f"pack {attempt}"]
        log_all(client, run, [], {**pack.shared, "cells": len(pack.cells)}, {})
        memory.state["run"] = run
        memory.save()
    known, parent = memory.state["cells"], memory.state["run"]
    wanted = {name: new_cell(cell, parent, tags) for name, cell in pack.cells.items() if name not in known}
    for key, run in runs.make({f"{attempt} {name}": new for name, new in wanted.items()}).items():
        known[key.rpartition(" ")[2]] = {"run": run, **FRESH}
    if wanted:
        memory.save()


def _status_of(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """A pack's status: the first of these that one of its cells has; nothing is known of damaged ones."""
    found = {cell["status"] or "RUNNING" for cell in cells.values()}
    return next((status for status in ("RUNNING", "KILLED", "FAILED") if status in found), "FINISHED")


def _show(client: Any, memory: Memory, status: str) -> None:
    """Show a run with this status, if it is not shown already."""
    if memory.state["status"] != status:
        if status in ("RUNNING", "KILLED"):
            client.update_run(memory.state["run"], status=status)
        else:
            client.set_terminated(memory.state["run"], status)
        memory.state["status"] = status


def _settle(client: Any, grid: Memory, pack: PackFolder, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the grid's progress; close a finished pack."""
    done = [name for name, state in states.items() if state["status"] == "FINISHED"]
    new = (name for name in done if name not in grid.state["finished"])
    log_progress_points(
        client, grid, [((pack.cells[name].path / "summary.json").stat().st_mtime, name) for name in new]
    )
    if len(done) == len(states):
        grid.state["settled"].append(pack.path.name)
        grid.save()


def _send_end(client: Any, memory: Memory, grid: Path, facts: GridRecord, over: bool) -> None:
    """The report's new files, and the grid's status."""
    status = STATUS.get(facts.get("state", ""), "KILLED" if over else "RUNNING")
    if status != "RUNNING" or time.time() - memory.state["reported"] > REPORT_SECONDS:
        _send_report(client, memory, path_within(grid / "report", grid))
    if memory.state["status"] != status:
        _show(client, memory, status)
        memory.save()


def _send_report(client: Any, memory: Memory, report: Path) -> None:
    files = sorted(path for path in report.rglob("*") if path.is_file() and not path.name.startswith("."))
    now = {str(path.relative_to(report)): f"{path.stat().st_mtime_ns} {path.stat().st_size}" for path in files}
    changed = [name for name, mark in now.items() if memory.state["report"].get(name) != mark]
    for name in changed:
        folder = str(Path("report", name).parent)
        log_file(client, memory.state["run"], report / name, report, folder)
    if changed:
        memory.state |= {"report": now, "reported": time.time()}
        memory.save()
