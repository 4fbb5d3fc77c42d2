"""What is compared: finished runs with one seed each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dqlab.config.identity import describes_setting
from dqlab.config.replica import Replica, replicas_of
from dqlab.errors import ConfigError, RunError
from dqlab.files import read_text
from dqlab.tracking.folders import (
    GRID,
    RUN,
    SkippedRecords,
    grid_facts,
    is_grid,
    planned_cells,
    reused_cells,
    run_facts,
)
from dqlab.tracking.records import GridRecord, RunRecord, SummaryRecord, read_record
from dqlab.tracking.run_folder import FAILURE, RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """One finished run of one seed.

    Attributes:
        name: its folder.
        label: of the grid's setting that it belongs to, or empty.
        task, seed, caveat, physics: of the run.
        digest: of its data.
        config: its configuration as text, without what makes no difference.
        made_with: versions, commit and device: name -> text.
        scores: selection rule -> D4RL-normalised score.
    """

    name: str
    label: str
    task: str
    seed: int
    caveat: str
    physics: str
    digest: str
    config: Mapping[str, str]
    made_with: Mapping[str, str]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class FoundRuns:
    """What there is at one place: finished runs, how many have failed or not finished, and why others cannot be read.

    Attributes:
        runs: finished ones.
        failed, unfinished: numbers of others.
        damaged: a sentence or two on each run, or pack, whose records are damaged.
        gone: folders of reused cells that are not there any more.
    """

    runs: tuple[FinishedRun, ...] = ()
    failed: int = 0
    unfinished: int = 0
    damaged: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @staticmethod
    def all_of(parts: Iterable[FoundRuns]) -> FoundRuns:
        """The runs of several places; a run that is named twice counts once."""
        parts = list(parts)
        runs = {run.name: run for part in parts for run in part.runs}
        failed, unfinished = sum(part.failed for part in parts), sum(part.unfinished for part in parts)
        damaged = dict.fromkeys(text for part in parts for text in part.damaged)
        gone = dict.fromkeys(path for part in parts for path in part.gone)
        return FoundRuns(tuple(runs.values()), failed, unfinished, tuple(damaged), tuple(gone))


def find_runs(folders: Sequence[str]) -> FoundRuns:
    """The runs in folders.

    Raises:
        ConfigError: nothing is named.
        RunError: something that is named is not there, or nothing has finished.
    """
    if not folders:
        raise ConfigError("dqlab compare wants folders of runs or grids.")
    for name in folders:
        if not Path(name).exists():
            raise RunError(f"There is no folder '{name}'.")
    found = FoundRuns.all_of([read_folder(Path(name)) for name in folders])
    if not found.runs:
        lost = [*found.damaged, *(f"{path} is gone." for path in found.gone)]
        raise RunError(
            f"Nothing to compare: no run of {', '.join(folders)} has finished "
            f"({found.failed} failed, {found.unfinished} not finished)." + "".join(f" {text}" for text in lost[:1])
        )
    return found


def _bindings(config: Path) -> dict[str, Any]:
    """What a run's config.gin binds."""
    from dqlab.config.gin_syntax import parse_bindings

    return parse_bindings(read_text(config), str(config))


def comparable(config: Mapping[str, Any]) -> dict[str, str]:
    """A flat configuration as text, without what makes no difference to a run; what came later, where it is chosen."""
    return {name: str(value) for name, value in config.items() if describes_setting(name, value)}


SUMMARY = "summary.json"


def read_folder(path: Path) -> FoundRuns:
    """All runs in a folder; of those that are damaged it is said why.

    Raises:
        RunError: it is the folder of neither a run nor a grid, or the file that says what it is is damaged.
    """
    return _read_grid(path, grid_facts(path)) if is_grid(path) else _read_run(path, run_facts(path))


def _read_grid(path: Path, facts: GridRecord) -> FoundRuns:
    packs, number = [path / "packs" / name for name in facts["packs"]], facts["cells"]
    leaving, parts = SkippedRecords(), []
    for pack in packs:
        with leaving.damaged():
            parts += [_read_run(pack, run_facts(pack))] if (pack / RUN).exists() else []
    here = FoundRuns.all_of(parts)
    found = FoundRuns.all_of([here, _read_reused(path, facts, {Path(run.name).name for run in here.runs})])
    seen = len(found.runs) + found.failed + len(found.damaged) + len(found.gone)
    unfinished = max(number - seen, found.unfinished) if not leaving.out else found.unfinished
    return replace(found, unfinished=unfinished, damaged=(*found.damaged, *leaving.out))


def _read_reused(grid: Path, facts: GridRecord, here: Iterable[str]) -> FoundRuns:
    """Cells that other grids have trained, except those that are finished here too."""
    elsewhere = {cell: path for cell, path in reused_cells(facts).items() if f"cell-{cell}" not in here}
    there = {cell: path for cell, path in elsewhere.items() if os.path.exists(path / SUMMARY)}
    planned, pack_facts = planned_cells(grid) if there else {}, cache(run_facts)
    leaving, runs = SkippedRecords(), []
    for cell, path in there.items():
        with leaving.damaged():
            if cell not in planned:
                raise RunError(f"{grid / GRID}: cell {cell}, reused from {path}, is not in the grid's plan.")
            own = Replica(path.name, planned[cell]["seed"], planned[cell]["label"])
            runs.append(_compared(RunFolder(path.parent), own, pack_facts(path.parent)))
    gone = (str(path) for cell, path in elsewhere.items() if cell not in there)
    return FoundRuns(tuple(runs), damaged=tuple(leaving.out), gone=tuple(gone))


def _read_run(path: Path, facts: RunRecord) -> FoundRuns:
    """The replicas of a run or of a pack."""
    folder = RunFolder(path)
    replicas = replicas_of(facts)
    failed = [replica for replica in replicas if (folder.replica(replica.name) / FAILURE).exists()]
    ended = [replica for replica in replicas if (folder.replica(replica.name) / SUMMARY).exists()]
    done = [replica for replica in ended if replica not in failed]
    leaving, runs = SkippedRecords(), []
    for replica in done:
        with leaving.damaged():
            runs.append(_compared(folder, replica, facts))
    return FoundRuns(tuple(runs), len(failed), len(replicas) - len(done) - len(failed), tuple(leaving.out))


def _compared(folder: RunFolder, replica: Replica, facts: RunRecord) -> FinishedRun:
    place = folder.replica(replica.name)
    own, summary = place / "config.gin", read_record(place / SUMMARY, SummaryRecord)
    written = own if own.exists() else folder.config
    config = _bindings(written)
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
