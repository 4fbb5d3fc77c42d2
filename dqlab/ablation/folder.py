"""A grid's folder: its layout, its lock, its plan, which of its cells have finished, and what they have given.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqlab.ablation.planning import Plan, PlannedPack
from dqlab.analysis.results import FAILED, FINISHED, Cell, CellStatus, GridResults
from dqlab.config.gin_files import parse_bindings, rebind_text
from dqlab.config.identity import SOURCES, belongs_to_setting
from dqlab.config.registry import Registry, RegistryEntry
from dqlab.errors import ConfigError, RunError, printable_name
from dqlab.files import expanded, read_text, write_text
from dqlab.tracking import records
from dqlab.tracking.folders import reused_cells
from dqlab.tracking.records import read_record
from dqlab.tracking.run_folder import INSPECTION, LOCK, PACK, RunFolder, claim_folder


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
            held = f"{self.path} holds the grid '{printable_name(known)}', not '{name}'"
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

    def facts(self) -> records.BegunGridRecord:
        """What grid.json says. Raises RunError: this is not a grid's folder."""
        if not (self.path / "grid.json").exists():
            raise RunError(f"{self.path} is not the folder of a grid (it has no grid.json).")
        return read_record(self.path / "grid.json", records.BegunGridRecord)

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
        known = read_record(path, records.PlanRecord)["packs"] if path.exists() else {}
        return {name: cells for name, cells in known.items() if (self.packs / name).is_dir()}

    def cells(self) -> list[Cell]:
        """The cells of the plan that was made last."""
        rows = read_record(self.path / "plan.json", records.PlanRecord)["cells"]
        return [Cell(row["id"], row["label"], row["points"], row["task"], row["seed"]) for row in rows]

    def open_packs(self, pending: set[str]) -> dict[str, list[str]]:
        """Packs that have begun and can go on: their cells are pending, or have ended there; none is in two of them."""
        found, taken = dict[str, list[str]](), set[str]()
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
        return path.exists() and read_record(path, records.RunRecord)["state"] in ("finished", "failed")

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
                known = read_record(path, records.FailureRecord)
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


def collect_results(folder: GridFolder) -> GridResults:
    """A grid as far as it has come."""
    facts = read_record(folder.path / "grid.json", records.GridRecord)
    planned = folder.cells()
    found = {cell.id: CellStatus(cell) for cell in planned}
    folder.update(found)
    for cell, reason in facts.get("crashed", {}).items():
        if cell in found and found[cell].state not in (FINISHED, FAILED):
            found[cell].fail("crashed", reason)
    packs = set()
    for status in found.values():
        if status.folder is not None:
            status.summary = read_record(status.folder / "summary.json", records.SummaryRecord)
            packs.add(status.folder.parent)
    runs = [read_record(path / "run.json", records.RunRecord) for path in sorted(packs)]
    # of an early version's run only the algorithm is known
    read = [{"Experiment.algorithm": run.get("algorithm"), **run.get("parameters", {})} for run in runs]
    cells = [replace(found[cell.id], cell=cell) for cell in planned]
    finished, failed = (tuple(each for each in cells if each.state == state) for state in (FINISHED, FAILED))
    of_sessions = {name: value for name, value in facts.items() if name in ("command", "seconds")}
    return GridResults(
        name=facts["name"],
        base=facts["base"],
        labels=tuple(dict.fromkeys(cell.label for cell in planned)),
        axes={axis: tuple(points) for axis, points in facts["axes"].items()},
        tasks=tuple(facts["tasks"]),
        seeds=tuple(facts["seeds"]),
        results=finished,
        failures=failed,
        pending=tuple(each for each in cells if each.state not in (FINISHED, FAILED)),
        gin=facts["gin"],
        configs=_configs(finished),
        facts={**_facts_of(runs), **of_sessions},
        components=components_used([parse_bindings(facts["gin"]), *read]),
        inspections=_inspections(finished, facts["base"]),
    )


def _configs(finished: Sequence[CellStatus]) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> label -> parameters; without what is damaged, for no figure needs it."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for status in finished:
        of_task, label, folder = found.setdefault(status.cell.task, {}), status.cell.label, status.folder
        if label in of_task or folder is None:
            continue
        path = RunFolder(folder.parent).config_of(folder.name)
        with suppress(ConfigError, RunError):
            bound = parse_bindings(read_text(path), str(path))
            of_task[label] = {name: value for name, value in bound.items() if belongs_to_setting(name)}
    return found


def _inspections(finished: Sequence[CellStatus], base: str) -> dict[str, dict[str, records.InspectionRecord]]:
    """Task -> label -> what is inside of the policy of the lowest seed that has been looked at; the base first."""
    found: dict[str, dict[str, records.InspectionRecord]] = {}
    for status in sorted(finished, key=lambda status: (status.cell.label != base, status.cell.seed)):
        of_task, label, folder = found.setdefault(status.cell.task, {}), status.cell.label, status.folder
        if folder and label not in of_task and (path := folder / INSPECTION).exists():
            of_task[label] = read_record(path, records.InspectionRecord)
    return found


def _facts_of(runs: Sequence[records.RunRecord]) -> dict[str, Any]:
    """Versions, devices and commits of the packs; several of a kind are all named."""
    versions: dict[str, dict[str, None]] = {}
    data_of = {}
    for run in runs:
        data, rows = run["data"], ""
        if "rows" in data and "episodes" in data:
            rows = f", {data['rows']:,} rows of {data['episodes']:,} episodes"
        data_of[run["task"]] = f"from {data['source']}{rows} (SHA-256 {data['digest'][:12]})"
        for package, version in run["versions"].items():
            versions.setdefault(package, {})[version] = None
    return {
        "versions": {name: next(iter(found)) if len(found) == 1 else [*found] for name, found in versions.items()},
        "device_names": sorted({f"{run['device']} ({run['device_name']})" for run in runs}),
        "git_commits": sorted({run["git_commit"] for run in runs} - {""}),
        "executions": sorted({run.get("execution", "") for run in runs} - {""}),
        "data": data_of,
    }


def components_used(runs: Iterable[Mapping[str, Any]]) -> tuple[RegistryEntry[Any], ...]:
    """The components that at least one run, as `Configurable.parameter` -> value, uses: for the works to be cited."""
    chosen = {
        (name.rpartition(".")[2], value): None for run in runs for name, value in run.items() if isinstance(value, str)
    }
    entries = {
        (registry.kind, value): registry.entry(value)
        for parameter, value in chosen
        for registry in Registry.kinds.values()
        if registry.chosen_by.rpartition(".")[2] == parameter and value in registry
    }
    return tuple(entries.values())
