"""A grid's folder: its layout, its lock, its plan, and which of its cells have finished.

GRID/grid.json          the grid: axes, settings, tasks, seeds, state
GRID/grid.gin           its configuration, flattened
GRID/plan.json          every cell with its id, and the packs
GRID/packs/<id>/        a pack: a run's folder with pack.gin, and a folder cell-<id>/ for each of its cells; with
                        Grid.storage `packs` is a link to a folder there
GRID/report/            index.html, figures/, tables
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dqlab.ablation.planning import Plan, PlannedPack
from dqlab.analysis.results import FINISHED, Cell, CellStatus
from dqlab.config.gin_files import rebind_text
from dqlab.config.identity import SOURCES
from dqlab.errors import RunError
from dqlab.errors import printable_name as name_of
from dqlab.files import expanded, write_text
from dqlab.tracking.folders import reused_cells
from dqlab.tracking.records import BegunGridRecord, FailureRecord, PlanRecord, RunRecord, read_record
from dqlab.tracking.run_folder import LOCK, PACK, claim_folder


class GridFolder:
    """The files of one grid, locked while a process runs it."""

    def __init__(self, path: Path) -> None:
        self.path, self.packs, self.report = path, path / "packs", path / "report"

    def check(self, name: str = "") -> None:
        """See that a grid of that name can be run here, or raise a RunError that says why not; touches nothing."""
        begun, names = (self.path / "grid.json").exists(), {item.name for item in self.path.glob("[!.]*")} - {LOCK}
        strange = names and not begun and "plan.json" not in names
        if strange or (self.path.exists() and not self.path.is_dir()):
            raise RunError(f"{self.path} is there already, and no grid's folder. Choose another --out.")
        if self.packs.is_symlink() and not self.packs.exists():
            raise RunError(f"{self.packs} is a link to {self.packs.readlink()}, which is not here. Mount it again.")
        known = self.facts()["name"] if begun else name  # a damaged one may be deleted: it is written anew
        if name and known != name:
            held = f"{self.path} holds the grid '{name_of(known)}', not '{name}'"
            raise RunError(f"{held}. Choose another --out (and --reuse it).")

    def lock(self) -> None:
        """Claim the folder for this process; the claim ends with the process, however it ends."""
        self._lock = claim_folder(self.path)

    def place_packs(self, storage: str) -> None:
        """Let the packs lie in a new folder of `storage`, if that is not empty, to which `packs` links."""
        if not storage:
            return
        place = expanded(storage).resolve()
        if self.packs.exists():
            if self.packs.resolve().parent != place:
                there = f"{self.packs} has packs already, outside of {place}"
                raise RunError(f"{there}. Leave --storage off, or choose another --out.")
            return
        new = place / f"{self.path.resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        try:
            new.mkdir(parents=True)
            self.packs.symlink_to(new)
        except OSError as error:
            raise RunError(f"Cannot make {new}: {error.strerror}. Choose another --storage.") from error

    def facts(self) -> BegunGridRecord:
        """What grid.json says. Raises RunError: this is not a grid's folder."""
        if not (self.path / "grid.json").exists():
            raise RunError(f"{self.path} is not the folder of a grid (it has no grid.json).")
        return read_record(self.path / "grid.json", BegunGridRecord)

    def write_facts(self, **facts: Any) -> None:
        """Add to grid.json."""
        known: Mapping[str, Any] = self.facts() if (self.path / "grid.json").exists() else {}
        write_text(self.path / "grid.json", json.dumps({**known, **facts}, indent=1, default=str))

    def write_plan(self, plan: Plan, packs: Iterable[PlannedPack]) -> None:
        """Write plan.json, and every pack's pack.gin: anew where it has not begun, its data's place where it has."""
        for pack in packs:
            path = self.packs / pack.id / PACK
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = path.with_name("run.json").exists() and path.exists()
            source = {SOURCES: (pack.kind.data.source,)}
            path.write_text(rebind_text(path.read_text(), source) if begun else pack.as_gin())
        listed = {pack.id: [cell.id for cell in pack.cells] for pack in packs}
        cells = [cell.as_dict() for cell in plan.cells]
        write_text(self.path / "plan.json", json.dumps({"cells": cells, "packs": {**self.listed(), **listed}}))

    def listed(self) -> dict[str, list[str]]:
        """Ids of the cells of every pack that was ever planned here, by the pack's id."""
        path = self.path / "plan.json"
        known = read_record(path, PlanRecord)["packs"] if path.exists() else {}
        return {name: cells for name, cells in known.items() if (self.packs / name).is_dir()}

    def cells(self) -> list[Cell]:
        """The cells of the plan that was made last."""
        rows = read_record(self.path / "plan.json", PlanRecord)["cells"]
        return [Cell(row["id"], row["label"], row["points"], row["task"], row["seed"]) for row in rows]

    def open_packs(self, pending: set[str]) -> dict[str, list[str]]:
        """Packs that have begun and can go on: their cells are pending, or have ended there; none is in two of them."""
        found: dict[str, list[str]] = {}
        taken: set[str] = set()
        begun = {name: cells for name, cells in self.listed().items() if (self.packs / name / "run.json").exists()}
        ends = (*self.ended("summary.json"), *self.ended("failure.json"))
        ended = {(path.parent.parent.name, cell) for cell, path in ends}
        for name, cells in begun.items():
            left = pending.intersection(cells)
            others = {(name, cell) for cell in cells if cell not in left}
            if left and not taken & left and not self.is_over(name) and others <= ended:
                found[name] = cells
                taken |= left
        return found

    def is_over(self, pack: str) -> bool:
        """Whether a pack has run to its end, well or not."""
        path = self.packs / pack / "run.json"
        return path.exists() and read_record(path, RunRecord)["state"] in ("finished", "failed")

    def free_id(self, pack: str) -> str:
        """An id under which a pack can be run afresh, though one of the same cells has run to its end."""
        names = (pack, *(f"{pack}-{attempt}" for attempt in range(2, 1000)))
        return next(name for name in names if not (self.packs / name).exists() or not self.is_over(name))

    def ended(self, file: str) -> Iterator[tuple[str, Path]]:
        """Ids of cells that have a file such as summary.json, and where; a later attempt after an earlier one."""
        for pack in sorted(self.packs.glob("*"), key=lambda path: (len(path.name), path.name)):
            for path in pack.glob(f"cell-*/{file}"):
                yield path.parent.name.removeprefix("cell-"), path

    def update(self, cells: Mapping[str, CellStatus], reuse: Iterable[Path] = ()) -> None:
        """Bring cells up to date, by id: which have finished, here or in other grids, and which have failed."""
        reused = reused_cells(self.facts()) if (self.path / "grid.json").exists() else {}
        found = {cell: path.parent for grid in reuse for cell, path in GridFolder(grid).ended("summary.json")}
        found |= {cell: folder for cell, folder in reused.items() if os.path.exists(folder / "summary.json")}
        found |= {cell: path.parent for cell, path in self.ended("summary.json")}
        for name in cells.keys() & found.keys():
            cells[name].finish(found[name])
        for name, path in self.ended("failure.json"):
            if name in cells and cells[name].state != FINISHED:
                known = read_record(path, FailureRecord)
                cells[name].fail(known["kind"], known["reason"])

    def forget_failures(self) -> None:
        """Let failed cells be tried again: their records get another name. Packs under way end first, with theirs."""
        for _, path in list(self.ended("failure.json")):
            if self.is_over(path.parent.parent.name):
                path.rename(path.with_name(f"failure-{time.strftime('%Y%m%d-%H%M%S')}.json"))

    def set_aside(self) -> None:
        """Let every cell be trained again; what there is goes into another folder, and is not lost."""
        if self.packs.exists():
            self.packs.rename(self.path / f"packs-until-{time.strftime('%Y%m%d-%H%M%S')}")
