"""Runs a grid: plans it, gives its packs to an engine, shows how it fills up, and reports.

Nothing of a session is kept but what is in the grid's folder: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from dqlab.ablation.display import GridDisplay, announce_grid, say_what_is_missing, show_plan
from dqlab.ablation.engines.base import Engine, Job, engines, slots_of
from dqlab.ablation.folder import GridFolder, collect_results
from dqlab.ablation.planning import ConfigResolver, Plan, PlannedPack, make_plan, pack_cells, pack_sizes, plan_jobs
from dqlab.analysis.results import FAILED, FINISHED, RUNNING, CellStatus, Report
from dqlab.config.gin_files import format_bindings, load_gin, parse_bindings
from dqlab.config.gin_state import abbreviate_names, bound_parameters, parameters_read
from dqlab.data.download import no_downloads
from dqlab.errors import RunError, masked
from dqlab.files import write_text
from dqlab.machine import handled_signals
from dqlab.printing import Console
from dqlab.runs.experiment import Tracking
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.mlflow.sync import Mirror, warn_unsent

EVERY = 5.0  # seconds between two records of how far a grid is
EXIT_CODES = {"finished": 0, "incomplete": 1, "interrupted": 130}  # every cell has a result; some have failed; stopped


@dataclass(frozen=True)
class GridRequest:
    """What the command line asks for: a grid, by files, bindings and imports as `gin_files.load_gin` takes them."""

    files: Sequence[str | Path]
    bindings: Sequence[str]
    imports: Sequence[str]
    out: Path  # the grid's folder
    reuse: Sequence[Path] = ()  # folders of other grids, whose finished cells are not trained again
    force: bool = False  # train all cells again, and set aside what there is
    retry: bool = False  # train those again that have failed
    command: str = ""  # what was typed, for the record

    @property
    def name(self) -> str:
        return Path(self.files[0]).stem


@dataclass
class GridSession:
    """A grid as it stands at the start of a session, and what is left to do."""

    request: GridRequest
    resolver: ConfigResolver
    plan: Plan
    folder: GridFolder
    engine: Engine
    tracking: Tracking
    cells: dict[str, CellStatus] = field(default_factory=dict)  # how far every cell is, by its id
    packs: Sequence[PlannedPack] = ()  # what is to be run
    jobs: Sequence[Job] = ()  # the same, measured
    state: str = RUNNING  # or `finished`, `incomplete` (some have failed), `interrupted`
    recorded: float = 0.0  # when that was written

    def in_state(self, state: str) -> list[CellStatus]:
        return [status for status in self.cells.values() if status.state == state]

    @property
    def pending(self) -> list[CellStatus]:
        return [status for status in self.cells.values() if status.state not in (FINISHED, FAILED)]

    @property
    def experiment(self) -> str:
        return self.tracking.experiment or self.request.name

    def record_plan(self) -> None:
        """Write what the grid is into its folder, before anything is run."""
        grid, folder, own = self.resolver.grid, self.folder, self.folder.packs.resolve()
        folder.write_plan(self.plan, self.packs)
        write_text(folder.path / "grid.gin", self.resolver.loaded.header() + self.resolver.text)
        uri = {"mlflow_uri": masked(tracking_uri(folder.path))} if self.tracking.mlflow else {}
        found = {cell: status.folder for cell, status in self.cells.items() if status.folder}
        folder.write_facts(
            name=self.request.name,
            axes={axis: list(dict.fromkeys(each.points[axis] for each in grid.settings)) for axis in grid.axes},
            labels=[setting.label for setting in grid.settings],
            base=grid.resolved_base,
            tasks=list(dict.fromkeys(cell.task for cell in self.plan.cells)),
            seeds=list(grid.seeds),
            mlflow_experiment=self.experiment,
            **uri,
            packs=sorted(folder.listed()),
            gin=self.resolver.text,
            cells=len(self.cells),
            # with links as they are: from where a link to a storage leads nothing leads back to the grid
            elsewhere={c: os.path.abspath(path) for c, path in found.items() if own not in path.resolve().parents},
            command=self.request.command,
        )
        self.record_state(RUNNING)

    def record_state(self, state: str) -> None:
        """Write how far the grid is, and which cells have crashed: they have left nothing else behind."""
        self.state, self.recorded = state, time.monotonic()
        finished, failed = self.in_state(FINISHED), self.in_state(FAILED)
        crashed = {status.cell.id: status.reason for status in failed if status.failure == "crashed"}
        self.folder.write_facts(state=state, finished=len(finished), failed=len(failed), crashed=crashed)


def open_session(request: GridRequest, planning_only: bool = False) -> GridSession:
    """Read a grid, see what there is of it, and what is left to do; `planning_only` touches and fetches nothing."""
    resolver, folder = ConfigResolver(request.files, request.bindings, request.imports), GridFolder(request.out)
    engine, tracking = engines.get(resolver.grid.engine)(), Tracking()
    Report()  # its mistakes are told before anything is trained
    resolver.read |= parameters_read()
    folder.check(request.name)
    for path in request.reuse:
        GridFolder(path).facts()
    with no_downloads() if planning_only else nullcontext() as not_fetched:
        resolver.not_fetched = not_fetched
        plan = make_plan(resolver)
    resolver.check_read()
    if not planning_only:
        folder.lock()
        folder.write_facts(name=request.name)  # from now on this is a grid's folder, killed or not
        if request.force:
            folder.set_aside()
        if request.retry:
            folder.forget_failures()
        folder.place_packs(resolver.grid.storage)
    session = GridSession(request, resolver, plan, folder, engine, tracking)
    for cell in plan.cells:
        session.cells.setdefault(cell.id, CellStatus(cell))
    if not request.force:
        folder.update(session.cells, request.reuse)
    for status in session.in_state(FAILED) if planning_only and request.retry else ():
        status.wait()
    session.packs = _packs_to_run(session)
    return session


def _packs_to_run(session: GridSession) -> list[PlannedPack]:
    """Packs that have begun, as they were; and new ones of all other cells without a result."""
    pending = {status.cell.id for status in session.pending}
    planned = {cell.id: cell for cell in session.plan.cells}
    kept = []
    for name, cells in session.folder.open_packs(pending).items():
        own = tuple(planned[cell] for cell in cells if cell in planned)
        kept.append(PlannedPack(name, session.plan.kinds[own[0].kind], own))
    left = pending - {cell.id for pack in kept for cell in pack.cells}
    width = pack_sizes(session.resolver.grid.pack, len(left), slots_of(session.engine))
    new = pack_cells(session.plan, left, width)
    return kept + [PlannedPack(session.folder.free_id(pack.id), pack.kind, pack.cells) for pack in new]


def ablate(request: GridRequest, console: Console) -> int:
    """Run a grid as far as it comes, and report; returns one of `EXIT_CODES`."""
    started = time.monotonic()
    with handled_signals(signal.default_int_handler, signal.SIGTERM):  # as Ctrl-C, wherever it comes
        session = open_session(request)
        announce_grid(session, console)
        with console.status("calibrating"):
            session.jobs = plan_jobs(session.packs, session.folder.packs)
        session.record_plan()
        mirror = Mirror(session.folder.path, session.experiment) if session.tracking.mlflow else None
        try:
            interrupted = run_packs(session, console) if session.packs else False
            if session.in_state(FINISHED):
                seconds = float(session.folder.facts().get("seconds", 0.0)) + time.monotonic() - started
                session.folder.write_facts(seconds=seconds)
            state = "incomplete" if session.pending or session.in_state(FAILED) else "finished"
            session.record_state("interrupted" if interrupted and session.pending else state)
            if session.in_state(FINISHED):
                report_apart(request, console)
        finally:
            if session.state == RUNNING:
                session.record_state("interrupted")
            if mirror is not None and not mirror.close(session.tracking.patience):
                warn_unsent(session.folder.path)
        say_what_is_missing(session, console)
        return EXIT_CODES[session.state]


def dry_run(request: GridRequest, console: Console) -> None:
    """Show the plan of a grid; nothing is written, nothing fetched."""
    session = open_session(request, planning_only=True)
    announce_grid(session, console)
    console.print("calibrating", style="dim")
    session.jobs = plan_jobs(session.packs, session.folder.packs)
    show_plan(session, console)


def report_grid(request: GridRequest, console: Console) -> None:
    """Report what there is of a grid, as it was planned last; only what the report shows is read from the request."""
    from dqlab.analysis.report.write import report_and_print  # pandas and matplotlib take a second

    load_gin(request.files, request.bindings, request.imports)
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
        console.say(text)
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


def run_packs(session: GridSession, console: Console) -> bool:
    """Let the engine run all packs, and keep the session's cells up to date; returns whether a signal stopped it."""
    caveat = "; ".join(sorted({kind.data.caveat for kind in session.plan.kinds.values()} - {""}))
    title = f"{session.request.name} in {session.folder.path}"
    display, stopped = GridDisplay(session.cells, session.packs, console, title, caveat), Event()

    def heed(*_: object) -> None:
        told = "Stopping: packs write their checkpoints and end. Ctrl-C ends them at once."
        if stopped.is_set():
            told = "Ending at once; the same command continues from the last checkpoints."
        stopped.set()
        session.engine.stop()
        with suppress(RuntimeError):  # the signal may have come while something else was printed
            console.say(told)

    with display, handled_signals(heed, signal.SIGINT, signal.SIGTERM):
        for ended in session.engine.run(session.jobs, display.on_event):
            display.on_end(ended)
            if time.monotonic() - session.recorded > EVERY:
                session.record_state(RUNNING)
    return stopped.is_set()
