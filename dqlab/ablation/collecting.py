"""The results of a grid, read from the folders of its packs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqlab.ablation.planning import Plan
from dqlab.ablation.reader import Reader
from dqlab.ablation.results import Failure, GridResults, Result
from dqlab.records import DataRecord, RunRecord, SummaryRecord, read


def collect(
    name: str,
    reader: Reader,
    plan: Plan,
    summaries: Mapping[str, Path],
    failures: Mapping[str, tuple[str, str]],
    facts: Mapping[str, Any],
) -> GridResults:
    """A grid as far as it has come.

    Args:
        name: of the grid.
        reader, plan: what it is.
        summaries: where the summary of every finished cell lies, by the cell's id.
        failures: kind and reason of every failed cell, by its id.
        facts: of the session that has run it.
    """
    cells = [planned.cell for planned in plan.cells]
    known = {cell: read(path, SummaryRecord) for cell, path in summaries.items()}
    wanted = {cell.id for cell in cells}
    packs = {path.parent.parent for cell, path in summaries.items() if cell in wanted}
    return GridResults(
        name=name,
        base=reader.grid.the_base,
        labels=tuple(setting.label for setting in reader.grid.settings),
        axes=reader.grid.axis_points,
        tasks=tuple(dict.fromkeys(cell.task for cell in cells)),
        seeds=reader.grid.seeds,
        results=tuple(Result(cell, known[cell.id]) for cell in cells if cell.id in known),
        failures=tuple(Failure(cell, *failures[cell.id]) for cell in cells if cell.id in failures),
        pending=tuple(cell for cell in cells if cell.id not in known and cell.id not in failures),
        gin=reader.text,
        facts={**_facts_of(sorted(packs)), **facts},
    )


def _about(data: DataRecord) -> str:
    """A dataset in a few words."""
    rows = f", {data['rows']:,} rows of {data['episodes']:,} episodes" if "rows" in data and "episodes" in data else ""
    return f"from {data['source']}{rows} (SHA-256 {data['digest'][:12]})"


def _facts_of(packs: Sequence[Path]) -> dict[str, Any]:
    """Versions, devices and commits of the packs; several of a kind are all named."""
    runs = [read(path / "run.json", RunRecord) for path in packs]
    versions: dict[str, list[str]] = {}
    for run in runs:
        for package, version in run["versions"].items():
            known = versions.setdefault(package, [])
            known += [version] if version not in known else []
    return {
        "versions": {package: found[0] if len(found) == 1 else found for package, found in versions.items()},
        "device_names": sorted({f"{run['device']} ({run['device_name']})" for run in runs}),
        "git_commits": sorted({run["git_commit"] for run in runs} - {""}),
        "executions": sorted({run.get("execution", "") for run in runs} - {""}),
        "data": {run["task"]: _about(run["data"]) for run in runs},
    }
