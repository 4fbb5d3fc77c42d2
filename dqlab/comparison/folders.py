"""Finished runs in folders: of a run, of a pack, of a whole grid with the cells that it took from others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from dqlab import configuration
from dqlab.comparison.finished_runs import FinishedRun, Found, comparable
from dqlab.errors import RunError
from dqlab.files import read_text
from dqlab.records import GridRecord, RunRecord, SummaryRecord, read
from dqlab.replica import Replica, replicas_of
from dqlab.run_folder import FAILURE, RunFolder
from dqlab.tracking.damage import Leaving
from dqlab.tracking.folders import GRID, RUN, grid_facts, is_grid, run_facts
from dqlab.tracking.reused import planned_cells, reused_cells

SUMMARY = "summary.json"


def read_folder(path: Path) -> Found:
    """All runs in a folder; of those that are damaged it is said why.

    Raises:
        RunError: it is the folder of neither a run nor a grid, or the file that says what it is is damaged.
    """
    return _read_grid(path, grid_facts(path)) if is_grid(path) else _read_run(path, run_facts(path))


def _read_grid(path: Path, facts: GridRecord) -> Found:
    packs, number = [path / "packs" / name for name in facts["packs"]], facts["cells"]
    leaving, parts = Leaving(), []
    for pack in packs:
        with leaving.damaged():
            parts += [_read_run(pack, run_facts(pack))] if (pack / RUN).exists() else []
    here = Found.all_of(parts)
    found = Found.all_of([here, _read_reused(path, facts, {Path(run.name).name for run in here.runs})])
    seen = len(found.runs) + found.failed + len(found.damaged) + len(found.gone)
    unfinished = max(number - seen, found.unfinished) if not leaving.out else found.unfinished
    return replace(found, unfinished=unfinished, damaged=(*found.damaged, *leaving.out))


def _read_reused(grid: Path, facts: GridRecord, here: Iterable[str]) -> Found:
    """Cells that other grids have trained, except those that are finished here too."""
    elsewhere = {cell: path for cell, path in reused_cells(facts).items() if f"cell-{cell}" not in here}
    there = {cell: path for cell, path in elsewhere.items() if os.path.exists(path / SUMMARY)}
    planned, pack_facts = planned_cells(grid) if there else {}, cache(run_facts)
    leaving, runs = Leaving(), []
    for cell, path in there.items():
        with leaving.damaged():
            if cell not in planned:
                raise RunError(f"{grid / GRID}: cell {cell}, reused from {path}, is not in the grid's plan.")
            own = Replica(path.name, planned[cell]["seed"], planned[cell]["label"])
            runs.append(_compared(RunFolder(path.parent), own, pack_facts(path.parent)))
    gone = (str(path) for cell, path in elsewhere.items() if cell not in there)
    return Found(tuple(runs), damaged=tuple(leaving.out), gone=tuple(gone))


def _read_run(path: Path, facts: RunRecord) -> Found:
    """The replicas of a run or of a pack."""
    folder = RunFolder(path)
    replicas = replicas_of(facts)
    failed = [replica for replica in replicas if (folder.replica(replica.name) / FAILURE).exists()]
    ended = [replica for replica in replicas if (folder.replica(replica.name) / SUMMARY).exists()]
    done = [replica for replica in ended if replica not in failed]
    leaving, runs = Leaving(), []
    for replica in done:
        with leaving.damaged():
            runs.append(_compared(folder, replica, facts))
    return Found(tuple(runs), len(failed), len(replicas) - len(done) - len(failed), tuple(leaving.out))


def _compared(folder: RunFolder, replica: Replica, facts: RunRecord) -> FinishedRun:
    place = folder.replica(replica.name)
    own, summary = place / "config.gin", read(place / SUMMARY, SummaryRecord)
    written = own if own.exists() else folder.config
    config = configuration.flat(read_text(written), str(written))
    made_with = {**facts["versions"], "commit": facts["git_commit"], "device": facts["device_name"]}
    return FinishedRun(
        name=str(place.resolve()),
        label=replica.cell or str(facts.get("cell") or ""),
        task=summary["task"],
        seed=replica.seed,
        caveat=summary["caveat"],
        physics=summary["physics"],
        digest=facts["data"]["digest"],
        config=comparable(config),
        made_with=made_with,
        scores={rule: row["score_mean"] for rule, row in summary["selection"].items()},
    )
