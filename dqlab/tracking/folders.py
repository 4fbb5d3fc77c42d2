"""Folders of runs (with a run.json) and grids (with a grid.json), and what lies in them, as tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqlab.errors import DqlabError, RunError, printable_name
from dqlab.files import expanded, path_within
from dqlab.tracking import records
from dqlab.tracking.run_folder import RunFolder
from dqlab.tracking.selection_rules import SELECTION_RULES

if TYPE_CHECKING:
    import pandas as pd

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

    def said(self) -> list[str]:
        """The first of its sentences, and how many more there are."""
        more = len(self.out) - SHOWN
        return self.out[:SHOWN] + ([f"And {more} more."] if more > 0 else [])

    def tell(self) -> None:
        """Say it once all else is done. Raises LeftOutError: something was left out."""
        if self.out:
            raise LeftOutError(" ".join(self.said()))


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


def read_reused(
    grid: Path, reused: Mapping[str, Path], skipped: SkippedRecords
) -> Iterator[tuple[Path, records.CellRecord, records.RunRecord]]:
    """Folder, plan and pack's facts of cells that other grids have trained; what is gone, or none, is skipped."""
    cells = records.read_record(grid / "plan.json", records.PlanRecord)["cells"] if reused else []
    planned, facts_of = {cell["id"]: cell for cell in reversed(cells)}, cache(lambda pack: RunFolder(pack).facts())
    for cell, path in reused.items():
        with skipped.damaged():
            if cell not in planned:
                raise RunError(f"{grid / GRID}: cell {cell}, reused from {path}, is not in the grid's plan.")
            if path.name != f"cell-{cell}" or grid_of(path.parent) is None:
                place = printable_name(path)
                raise RunError(f"{place}, from which cell {cell} is said to be reused, is no folder of it in a grid.")
            if not os.path.exists(path / "summary.json"):
                raise RunError(f"{path} is gone, from which a cell was reused. Bring it back, or run the grid again.")
            yield path, planned[cell], facts_of(path.parent)


def list_runs(folder: str | Path = "runs") -> pd.DataFrame:
    """All runs in a folder and below it: a row a replica, with its score by each selection rule once it has finished.

    Runs whose records are damaged are left out, with a warning. Raises RunError: there is no such folder.
    """
    import pandas as pd

    if not expanded(folder).is_dir():
        raise RunError(f"There is no folder '{folder}'.")
    rows, leaving = list[dict[str, Any]](), SkippedRecords()
    for path in sorted(expanded(folder).rglob("run.json")):
        with leaving.damaged():
            run = RunFolder(path.parent)
            facts = {"algorithm": "", **run.facts()}
            for replica in run.replicas():
                place = run.replica(replica.name)
                own: dict[str, Any] = {"path": str(place), "cell": replica.cell, "seed": replica.seed}
                if run.failure(replica):
                    own["state"] = "failed"
                elif (place / "summary.json").exists():
                    selection = run.summary(replica)["selection"]
                    own |= {"state": "finished", **{rule: selection[rule]["score_mean"] for rule in SELECTION_RULES}}
                rows.append({**facts, **own})
    for text in leaving.out:
        warnings.warn(f"Left out: {text}", stacklevel=2)
    columns = ["path", "task", "algorithm", "cell", "seed", "state", "caveat", *SELECTION_RULES]
    return pd.DataFrame(rows, columns=columns)


def logged_metrics(run: RunFolder) -> pd.DataFrame:
    """All that a run has logged so far, a row a number: replica, seed, step, metric, value."""
    import pandas as pd

    rows = []
    for replica in run.replicas():
        for record in records.read_journal(run.replica(replica.name) / "metrics.jsonl"):
            about = {"replica": replica.name, "seed": replica.seed, "step": record["step"]}
            rows += [{**about, "metric": name, "value": value} for name, value in record["metrics"].items()]
    return pd.DataFrame(rows, columns=["replica", "seed", "step", "metric", "value"])
