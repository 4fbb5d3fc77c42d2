"""The report of a grid, made in a process of its own: the one that drives the grid stays small."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqlab.ablation.components import components_used
from dqlab.ablation.session import GridRequest, GridSession, open_session
from dqlab.analysis.report.write import report_and_print
from dqlab.analysis.results import FAILED, FINISHED, GridResults
from dqlab.config.plugins import load_plugins
from dqlab.envs.tasks import tasks
from dqlab.errors import DqlabError, RunError, masked, message_of, printable
from dqlab.printing import Console
from dqlab.tracking.records import DataRecord, RunRecord, SummaryRecord, read_record

Crashes = Mapping[str, tuple[str, str]]
"""Kind and reason of failures that the grid's folder does not know of, by the cell's id."""


def report_grid(request: GridRequest, console: Console, crashes: Crashes | None = None, **facts: Any) -> None:
    """Report what there is of a grid.

    Args:
        request: as for a run.
        console: where the table goes.
        crashes: failures that left nothing behind.
        facts: of the session that has run it.

    Raises:
        DqlabError: there is nothing to report, or the report cannot be written.
    """
    session = open_session(replace(request, report_only=True), planning_only=True)
    if not session.in_state(FINISHED):
        others = len(session.folder.finished())
        hint = (
            f" {others} of other settings {'has' if others == 1 else 'have'}: to report them, give the same --gin, "
            "--set, --steps, --seeds and --tasks as when they were trained."
        )
        told = f"No cell of the grid has finished in {request.out}: there is nothing to report yet."
        raise RunError(told + (hint if others else ""))
    for cell, failure in (crashes or {}).items():
        if session.cells[cell].state != FINISHED:
            session.cells[cell].fail(*failure)
    results = collect_results(session, {"command": request.command, **facts})
    report_and_print(results, session.settings, session.folder.report, console)


def report_apart(request: GridRequest, console: Console, crashes: Crashes, **facts: Any) -> None:
    """Report what there is of a grid, in a process of its own.

    Raises:
        RunError: it failed; it has said why.
    """
    size = (console.width, console.quiet, console.is_terminal)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(request, size, dict(crashes), facts))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        raise
    if process.exitcode:
        raise RunError(f"There is no report in {request.out}. Make it with the same command and --report-only.")


def _child(request: GridRequest, size: tuple[int, bool, bool], crashes: Crashes, facts: Mapping[str, Any]) -> None:
    width, quiet, terminal = size
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; who waits for this ends it
    load_plugins()
    try:
        report_grid(request, Console(width=width, quiet=quiet, force_terminal=terminal), crashes, **facts)
    except (DqlabError, OSError) as error:
        print(f"dqlab: error: {printable(masked(message_of(error)))}", file=sys.stderr)
        sys.exit(2)


def collect_results(session: GridSession, facts: Mapping[str, Any]) -> GridResults:
    """A grid as far as it has come.

    Args:
        session: the grid.
        facts: of the session that has run it.

    Raises:
        RunError: a summary is damaged.
    """
    reader, packs = session.reader, set()
    for status in session.in_state(FINISHED):
        assert status.folder is not None
        status.summary = read_record(status.folder / "summary.json", SummaryRecord)
        packs.add(status.folder.parent)
    cells = [replace(session.cells[cell.id], cell=cell) for cell in session.plan.cells]
    finished, failed = (tuple(each for each in cells if each.state == state) for state in (FINISHED, FAILED))
    algorithms = {str(each.summary["algorithm"]) for each in finished if "algorithm" in each.summary}
    return GridResults(
        name=session.name,
        base=reader.grid.resolved_base,
        labels=tuple(setting.label for setting in reader.grid.settings),
        axes=reader.grid.axis_points,
        tasks=tuple(dict.fromkeys(each.cell.task for each in cells)),
        seeds=reader.grid.seeds,
        results=finished,
        failures=failed,
        pending=tuple(each for each in cells if each.state not in (FINISHED, FAILED)),
        gin=reader.text,
        facts={**_facts_of(sorted(packs)), **facts},
        components=components_used(reader.text, algorithms),
        known_tasks=tuple(tasks.names()),
    )


def _about(data: DataRecord) -> str:
    """A dataset in a few words."""
    rows = f", {data['rows']:,} rows of {data['episodes']:,} episodes" if "rows" in data and "episodes" in data else ""
    return f"from {data['source']}{rows} (SHA-256 {data['digest'][:12]})"


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
