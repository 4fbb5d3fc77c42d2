"""The report of a grid, from what its folder holds; made in a process of its own, so that the driver stays small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dqlab.ablation.folder import GridFolder
from dqlab.analysis.results import FAILED, FINISHED, CellStatus, GridResults, Report
from dqlab.config import gin_files
from dqlab.config.gin_files import format_bindings, parse_bindings
from dqlab.config.gin_state import abbreviate_names, bound_parameters
from dqlab.config.registry import Registry, RegistryEntry
from dqlab.errors import RunError
from dqlab.printing import Console
from dqlab.tracking.records import GridRecord, InspectionRecord, RunRecord, SummaryRecord, read_record
from dqlab.tracking.run_folder import INSPECTION

if TYPE_CHECKING:
    from dqlab.ablation.driver import GridRequest


def report_grid(request: GridRequest, console: Console) -> None:
    """Report what there is of a grid, as it was planned last; only what the report shows is read from the request."""
    from dqlab.analysis.report.write import report_and_print  # pandas and matplotlib take a second

    gin_files.load_gin(request.files, request.bindings, request.imports)
    settings, folder = Report(), GridFolder(request.out)
    folder.facts()  # says where there is no grid
    folder.check(request.name)
    results = collect_results(folder)
    if not results.results:
        raise RunError(f"No cell of the grid has finished in {request.out}: there is nothing to report yet.")
    bound = format_bindings(abbreviate_names(bound_parameters()))
    now, before = parse_bindings(bound), parse_bindings(results.gin)
    names = [name for name in {**before, **now} if now.get(name) != before.get(name)]
    apart = ("Report.", "Tracking.", "Grid.engine", "Grid.storage", "Grid.pack")
    if changed := [name for name in names if not name.startswith(apart) and "Engine." not in name]:
        text = f"The report is of the grid as it was planned last; changed since, and left out: {', '.join(changed)}."
        console.print(Text(text), soft_wrap=True)
    report_and_print(results, settings, folder.report, console)


def report_apart(request: GridRequest, console: Console) -> None:
    """Report what there is of a grid, by `dqlab ablate --report-only` in a process of its own."""
    command = [sys.executable, "-m", "dqlab", "ablate", "--report-only", f"--grid={request.files[0]}"]
    command += [f"--gin={path}" for path in request.files[1:]]
    command += [f"--set={binding}" for binding in request.bindings]
    command += [f"--plugin={module}" for module in request.imports]
    command += [f"--out={request.out}", *(["--quiet"] if console.quiet else [])]
    env = {**os.environ, "COLUMNS": str(console.width)}
    if subprocess.run(command, env=env, start_new_session=True).returncode:  # Ctrl-C is for its parent
        raise RunError(f"There is no report in {request.out}. Make it with the same command and --report-only.")


def collect_results(folder: GridFolder) -> GridResults:
    """A grid as far as it has come."""
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
    runs = [read_record(path / "run.json", RunRecord) for path in sorted(packs)]
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
        facts={**_facts_of(runs), **of_sessions},
        components=components_used([parse_bindings(facts["gin"]), *read]),
        inspections=_inspections(finished, facts["base"]),
    )


def _inspections(finished: Sequence[CellStatus], base: str) -> dict[str, dict[str, InspectionRecord]]:
    """Task -> label -> what is inside of the policy of the lowest seed that has been looked at; the base first."""
    found: dict[str, dict[str, InspectionRecord]] = {}
    for status in sorted(finished, key=lambda status: (status.cell.label != base, status.cell.seed)):
        of_task, label, folder = found.setdefault(status.cell.task, {}), status.cell.label, status.folder
        if folder and label not in of_task and (path := folder / INSPECTION).exists():
            of_task[label] = read_record(path, InspectionRecord)
    return found


def _facts_of(runs: Sequence[RunRecord]) -> dict[str, Any]:
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
