"""Folders that are mirrored: a run has a run.json, a grid a grid.json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dqlab.errors import DqlabError, RunError
from dqlab.files import path_within
from dqlab.tracking import records
from dqlab.tracking.run_folder import RunFolder

SHOWN = 3
RUN, GRID, NOTES = "run.json", "grid.json", "notes.json"


class LeftOutError(RunError):
    """Some records could not be used; all others were."""


class SkippedRecords:
    """Goes on after records that cannot be used; `out` says why each of them was left out, in a sentence or two."""

    def __init__(self) -> None:
        self.out: list[str] = []

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Leave the rest of the block out where a record cannot be used."""
        try:
            yield
        except DqlabError as error:
            self.out.append(str(error))

    def tell(self) -> None:
        """Say it once all else is done. Raises LeftOutError: something was left out."""
        if self.out:
            more = len(self.out) - SHOWN
            raise LeftOutError(" ".join(self.out[:SHOWN]) + (f" And {more} more." if more > 0 else ""))


def is_grid(folder: Path) -> bool:
    """Whether it is a grid's folder; what no file can be called, as a file may name it, is none."""
    return os.path.exists(folder / GRID)


def grid_of(folder: Path) -> Path | None:
    """The grid that a pack's folder belongs to, whose `packs` may be a link (`dqlab ablate --storage`)."""
    each = (Path(place(folder)).parent for place in (os.path.abspath, os.path.realpath))
    return next((packs.parent for packs in each if packs.name == "packs" and is_grid(packs.parent)), None)


def is_known(folder: Path) -> bool:
    """Whether it is the folder of a run or of a grid."""
    return is_grid(folder) or os.path.exists(folder / RUN)


def read_facts(folder: Path) -> records.BegunGridRecord | records.RunRecord:
    """What a run's or a grid's file of facts says; of a grid that has only begun, too. Raises RunError: neither is."""
    if not is_known(folder):
        raise RunError(f"{folder} is not the folder of a dqlab run or grid (no readable {RUN} or {GRID}).")
    return records.read_record(folder / GRID, records.BegunGridRecord) if is_grid(folder) else RunFolder(folder).facts()


def read_notes(folder: Path) -> records.NotesRecord:
    """Tags and the note that a run or a grid has been given. Raises RunError: the file is damaged, or a link."""
    if not os.path.lexists(folder / NOTES):
        return {"tags": {}, "note": ""}
    return records.read_record(path_within(folder / NOTES, folder), records.NotesRecord)


def reused_cells(facts: records.BegunGridRecord) -> dict[str, Path]:
    """Folders of cells that another grid has trained, by the cell's id."""
    return {cell: Path(folder) for cell, folder in (facts.get("elsewhere") or {}).items()}


def planned_cells(grid: Path) -> Mapping[str, records.CellRecord]:
    """Every cell of a grid's plan, by its id; the first one of those with one id."""
    return {cell["id"]: cell for cell in reversed(records.read_record(grid / "plan.json", records.PlanRecord)["cells"])}
