"""The results of a grid, read from the folders of its packs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqlab.ablation.ledger import TRAIN_AGAIN
from dqlab.ablation.planning import Plan
from dqlab.ablation.reader import Reader
from dqlab.ablation.results import Failure, GridResults, Result
from dqlab.files import read_json


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
    keys = ("selection", "evaluations", "caveat", "steps")
    known = {cell: read_json(path, *keys, mend=TRAIN_AGAIN) for cell, path in summaries.items()}
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


def _about(data: Mapping[str, Any]) -> str:
    """A dataset in a few words."""
    rows = f", {data['rows']:,} rows of {data['episodes']:,} episodes" if "rows" in data else ""
    return f"from {data['source']}{rows} (SHA-256 {data['digest'][:12]})"


def _facts_of(packs: Sequence[Path]) -> dict[str, Any]:
    """Versions, devices and commits of the packs; several of a kind are all named."""
    keys = ("versions", "device", "device_name", "git_commit", "task", "data")
    runs = [
        read_json(path / "run.json", *keys, mend="Delete the folder to have its cells trained again.") for path in packs
    ]
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
