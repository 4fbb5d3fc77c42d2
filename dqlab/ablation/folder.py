"""A grid's folder: its layout, its lock, its plan, and which of its cells have finished.

GRID/grid.json          the grid: axes, settings, tasks, seeds, state
GRID/grid.gin           its configuration, flattened
GRID/plan.json          every cell with its id, and the packs
GRID/packs/<id>/        a pack: a run's folder with pack.gin, and a folder cell-<id>/ for each of its cells
GRID/report/            index.html, figures/, tables
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from dqlab.ablation.planning import Pack, Plan
from dqlab.errors import RunError
from dqlab.files import write_text
from dqlab.run_folder import LOCK, claim


class GridFolder:
    """The files of one grid, locked while a process runs it.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    @property
    def packs(self) -> Path:
        """The folder of all packs."""
        return self.path / "packs"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.path / "report"

    def check(self) -> None:
        """See that a grid can be run here; touches nothing.

        Raises:
            RunError: the path is a file, or holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a folder. Choose another --out.")
        if (self.path / "run.json").exists():
            raise RunError(f"{self.path} holds a single run, not a grid. Choose another --out.")
        others = [item.name for item in self.path.iterdir() if item.name != LOCK] if self.path.exists() else []
        if others and not (self.path / "grid.json").exists():
            raise RunError(f"{self.path} is not empty and holds no grid. Choose another --out.")

    def lock(self) -> None:
        """Claim the folder for this process; the claim ends with the process, however it ends.

        Raises:
            RunError: another process has it, or it cannot be written.
        """
        self._lock = claim(self.path)

    def facts(self) -> dict[str, Any]:
        """What grid.json says.

        Raises:
            RunError: this is not a grid's folder.
        """
        return _read(self.path / "grid.json", f"{self.path} is not the folder of a grid (no readable grid.json).")

    def write_facts(self, **facts: Any) -> None:
        """Add to grid.json."""
        known = self.facts() if (self.path / "grid.json").exists() else {}
        write_text(self.path / "grid.json", json.dumps({**known, **facts}, indent=1, default=str))

    def write_plan(self, plan: Plan, packs: Iterable[Pack]) -> None:
        """Write plan.json, and every pack's folder with its pack.gin where it is not there."""
        for pack in packs:
            path = self.packs / pack.id
            if not (path / "pack.gin").exists():
                path.mkdir(parents=True, exist_ok=True)
                write_text(path / "pack.gin", pack.as_gin())
        listed = {pack.id: [planned.cell.id for planned in pack.cells] for pack in packs}
        cells = [planned.cell.as_dict() for planned in plan.cells]
        write_text(self.path / "plan.json", json.dumps({"cells": cells, "packs": {**self.listed(), **listed}}))

    def listed(self) -> dict[str, list[str]]:
        """Ids of the cells of every pack that was ever planned here, by the pack's id."""
        if not (self.path / "plan.json").exists():
            return {}
        known: dict[str, list[str]] = _read(self.path / "plan.json", f"{self.path}/plan.json is damaged.")["packs"]
        return {name: cells for name, cells in known.items() if (self.packs / name).is_dir()}

    def open_packs(self, pending: set[str]) -> dict[str, list[str]]:
        """Packs that have begun and can go on: all of their cells are pending."""
        return {
            name: cells
            for name, cells in self.listed().items()
            if set(cells) <= pending and not self.is_over(name) and (self.packs / name / "run.json").exists()
        }

    def is_over(self, pack: str) -> bool:
        """Whether a pack has run to its end, well or not."""
        facts = self.packs / pack / "run.json"
        return facts.exists() and json.loads(facts.read_text()).get("state") in ("finished", "failed")

    def free_id(self, pack: str) -> str:
        """An id under which a pack can be run afresh, though one of the same cells has run to its end."""
        names = (pack, *(f"{pack}-{attempt}" for attempt in range(2, 1000)))
        return next(name for name in names if not (self.packs / name).exists() or not self.is_over(name))

    def ended(self, file: str) -> Iterator[tuple[str, Path]]:
        """Ids of cells that have a file such as summary.json, and where; a later attempt after an earlier one."""
        for pack in sorted(self.packs.glob("*"), key=lambda path: (path.name.count("-"), path.name)):
            for path in pack.glob(f"cell-*/{file}"):
                yield path.parent.name.removeprefix("cell-"), path

    def finished(self) -> dict[str, Path]:
        """Where the summary of every finished cell lies, by the cell's id."""
        return dict(self.ended("summary.json"))

    def failed(self) -> dict[str, Mapping[str, Any]]:
        """What is known of cells that failed, by their ids."""
        finished = self.finished()
        return {
            cell: _read(path, f"{path} is damaged.")
            for cell, path in self.ended("failure.json")
            if cell not in finished
        }

    def forget_failures(self) -> None:
        """Let failed cells be tried again: their records get another name."""
        for _, path in list(self.ended("failure.json")):
            path.rename(path.with_name(f"failure-{time.strftime('%Y%m%d-%H%M%S')}.json"))

    def set_aside(self) -> None:
        """Let every cell be trained again; what there is goes into another folder, and is not lost."""
        if self.packs.exists():
            self.packs.rename(self.path / f"packs-until-{time.strftime('%Y%m%d-%H%M%S')}")


def _read(path: Path, complaint: str) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(complaint) from error
    return facts
