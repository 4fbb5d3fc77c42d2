"""The report of a grid, from what its folder holds; made in a process of its own, so that the driver stays small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text

from dqlab.ablation.folder import GridFolder
from dqlab.ablation.session import GridRequest
from dqlab.analysis.results import FAILED, FINISHED, CellStatus, GridResults, UsedComponent
from dqlab.analysis.settings import Report
from dqlab.config import gin_files
from dqlab.config.catalogue import gin_parameters
from dqlab.config.gin_state import abbreviate_names, bound_parameters
from dqlab.config.gin_syntax import format_bindings, parse_bindings
from dqlab.config.registry import Registry, RegistryEntry
from dqlab.envs.tasks import tasks
from dqlab.errors import RunError
from dqlab.printing import Console
from dqlab.runs.experiment import Experiment
from dqlab.tracking.records import DataRecord, GridRecord, RunRecord, SummaryRecord, read_record


def report_grid(request: GridRequest, console: Console) -> None:
    """Report what there is of a grid, as it was planned last; only what the report shows is read from the request.

    Args:
        request: as for a run.
        console: where the table goes.

    Raises:
        DqlabError: there is nothing to report, or the report cannot be written.
    """
    from dqlab.analysis.report.write import report_and_print  # pandas, matplotlib and rliable take two seconds

    gin_files.load_gin(request.files, request.bindings, request.imports)
    settings, folder = Report(), GridFolder(request.out)
    folder.check(request.name)
    results = collect_results(folder)
    if not results.results:
        raise RunError(f"No cell of the grid has finished in {request.out}: there is nothing to report yet.")
    if changed := _changed_since(results.gin):
        text = f"The report is of the grid as it was planned last; changed since, and left out: {', '.join(changed)}."
        console.print(Text(text), soft_wrap=True)
    report_and_print(results, settings, folder.report, console)


def _changed_since(gin: str) -> list[str]:
    """Parameters that are bound otherwise than in a grid's configuration, but for those of its report and engine."""
    now, before = (parse_bindings(text) for text in (format_bindings(abbreviate_names(bound_parameters())), gin))
    names = [name for name in {**before, **now} if now.get(name) != before.get(name)]
    apart = ("Report.", "Tracking.", "Grid.engine", "Grid.storage", "Grid.hours", "Grid.pack")
    return [name for name in names if not name.startswith(apart) and "Engine." not in name]


def report_apart(request: GridRequest, console: Console) -> None:
    """Report what there is of a grid, by `dqlab ablate --report-only` in a process of its own.

    Raises:
        RunError: it failed; it has said why.
    """
    command = [sys.executable, "-m", "dqlab.cli", "ablate", "--report-only", f"--grid={request.files[0]}"]
    command += [f"--gin={path}" for path in request.files[1:]]
    command += [f"--set={binding}" for binding in request.bindings]
    command += [f"--plugin={module}" for module in request.imports]
    command += [f"--out={request.out}", *(["--quiet"] if console.quiet else [])]
    size = {"COLUMNS": str(console.width)}
    process = subprocess.Popen(command, env={**os.environ, **size}, start_new_session=True)  # Ctrl-C is for its parent
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        raise
    if code:
        raise RunError(f"There is no report in {request.out}. Make it with the same command and --report-only.")


def collect_results(folder: GridFolder) -> GridResults:
    """A grid as far as it has come.

    Raises:
        RunError: a file of it is missing, or damaged.
    """
    facts = read_record(folder.path / "grid.json", GridRecord)
    planned = folder.cells()
    found = {cell.id: CellStatus(cell) for cell in planned}
    folder.update(found)
    for cell, reason in facts.get("crashed", {}).items():
        if cell in found and found[cell].state not in (FINISHED, FAILED):
            found[cell].fail("crashed", reason)
    packs = set()
    for status in found.values():
        if status.folder is not None:
            status.summary = read_record(status.folder / "summary.json", SummaryRecord)
            packs.add(status.folder.parent)
    cells = [replace(found[cell.id], cell=cell) for cell in planned]
    finished, failed = (tuple(each for each in cells if each.state == state) for state in (FINISHED, FAILED))
    algorithms = {str(each.summary["algorithm"]) for each in finished if "algorithm" in each.summary}
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
        facts={**_facts_of(sorted(packs)), **of_sessions},
        components=components_used(facts["gin"], algorithms),
        known_tasks=tuple(tasks.names()),
    )


def _facts_of(packs: Sequence[Path]) -> dict[str, Any]:
    """Versions, devices and commits of the packs; several of a kind are all named."""
    runs = [read_record(path / "run.json", RunRecord) for path in packs]
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


def _about(data: DataRecord) -> str:
    """A dataset in a few words."""
    rows = f", {data['rows']:,} rows of {data['episodes']:,} episodes" if "rows" in data and "episodes" in data else ""
    return f"from {data['source']}{rows} (SHA-256 {data['digest'][:12]})"


Bound = Mapping[str, set[Any]]
"""`Configurable.parameter` -> every value that the file or one of the axes' points gives it."""


def components_used(gin: str, algorithms: Set[str]) -> tuple[UsedComponent, ...]:
    """The components that at least one cell uses, algorithms first, for the works that the report cites.

    Args:
        gin: the grid's configuration, flattened; from one that cannot be read only the defaults and algorithms follow.
        algorithms: names that finished cells have been trained with.
    """
    bound = _bound(gin)
    bound["Experiment.algorithm"] = bound.get("Experiment.algorithm", set()) | algorithms or {Experiment.algorithm}
    used: dict[tuple[str, str], RegistryEntry[Any]] = {}
    _follow("Experiment", {"algorithm": Experiment.algorithm, "physics": Experiment.physics}, bound, used)
    _follow("Grid", {"engine": ""}, bound, used)
    return tuple(UsedComponent(entry.name, entry.source, entry.cites) for entry in used.values())


def _follow(
    owner: str, parameters: Mapping[str, Any], bound: Bound, used: dict[tuple[str, str], RegistryEntry[Any]]
) -> None:
    """Add the components that the parameters of a configurable choose, and theirs in turn."""
    for parameter, default in parameters.items():
        values = bound.get(f"{owner}.{parameter}", {default} if isinstance(default, str) else set())
        choosing = [each for each in list(Registry.kinds.values()) if each.chosen_by.rpartition(".")[2] == parameter]
        for registry in choosing:
            for entry in (registry.entry(str(value)) for value in values if value in registry):
                if (registry.kind, entry.name) not in used:
                    used[registry.kind, entry.name] = entry
                    _follow(entry.gin_name, gin_parameters(registry, entry), bound, used)


def _bound(text: str) -> dict[str, set[Any]]:
    """Values of the file; a parameter that an axis sets has those of the axis, too."""
    try:
        flat = parse_bindings(text)
    except (SyntaxError, ValueError):
        return {}
    bound: dict[str, set[Any]] = {}
    for name, value in [*flat.items(), *_of_axes(flat.get("Grid.axes", {}))]:
        owner, _, parameter = name.rpartition("/")[2].rpartition(".")
        if isinstance(value, str):
            bound.setdefault(f"{owner.rpartition('.')[2]}.{parameter}", set()).add(value)
    return bound


def _of_axes(axes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Every binding of every point."""
    for axis in axes.values():
        for name, value in axis.items():
            listed = {name: value} if not isinstance(value, Mapping) else value
            for parameter, values in listed.items():
                yield from ((parameter, each) for each in (values if isinstance(values, (tuple, list)) else [values]))
