"""A grid as a session finds it: what is asked for, what there is already, what is left to do; and what it records."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from dqlab.ablation.calibration import Cost
from dqlab.ablation.config_resolver import ConfigResolver
from dqlab.ablation.engines.base import Engine, engines
from dqlab.ablation.folder import GridFolder
from dqlab.ablation.planning import PackSizer, Plan, PlannedPack, make_plan, pack_cells
from dqlab.analysis.results import FAILED, FINISHED, RUNNING, CellStatus
from dqlab.analysis.settings import Report
from dqlab.config.gin_state import parameters_read
from dqlab.data.download import no_downloads
from dqlab.errors import masked
from dqlab.files import write_text
from dqlab.runs.experiment import Tracking
from dqlab.tracking.mlflow.client import tracking_uri

EVERY = 5.0
"""Seconds between two records of how far a grid is."""


@dataclass(frozen=True)
class GridRequest:
    """What the command line asks for.

    Attributes:
        files, bindings, imports: the grid's configuration, as `gin_files.load_gin` takes it.
        out: the grid's folder.
        reuse: folders of other grids, whose finished cells are not trained again.
        force: train all cells again; what there is is set aside.
        retry: try cells again that have diverged.
        command: what was typed, for the record.
    """

    files: Sequence[str | Path]
    bindings: Sequence[str]
    imports: Sequence[str]
    out: Path
    reuse: Sequence[Path] = ()
    force: bool = False
    retry: bool = False
    command: str = ""

    @property
    def name(self) -> str:
        """The grid's name."""
        return Path(self.files[0]).stem


@dataclass
class GridSession:
    """A grid as it stands at the start of a session, and what is left to do.

    Attributes:
        request: what was asked for.
        resolver, plan, folder: what the grid is, and where.
        cells: how far every cell is, by its id.
        packs: what is to be run.
        costs: of the packs, by their ids.
        state: as its folder has it: `running`, `finished`, `incomplete` (some have failed) or `interrupted`.
    """

    request: GridRequest
    resolver: ConfigResolver
    plan: Plan
    folder: GridFolder
    engine: Engine
    tracking: Tracking
    cells: dict[str, CellStatus]
    packs: Sequence[PlannedPack] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    state: str = RUNNING
    _recorded: float = 0.0

    def in_state(self, *states: str) -> list[CellStatus]:
        """The cells that are in one of these states."""
        return [status for status in self.cells.values() if status.state in states]

    @property
    def pending(self) -> list[CellStatus]:
        """The cells that have neither a result nor a failure."""
        return [status for status in self.cells.values() if status.state not in (FINISHED, FAILED)]

    @property
    def experiment(self) -> str:
        """The MLflow experiment that the grid is recorded in."""
        return self.tracking.experiment or self.request.name

    def record_plan(self) -> None:
        """Write what the grid is into its folder, before anything is run."""
        name, grid, folder = self.request.name, self.resolver.grid, self.folder
        folder.write_facts(name=name)  # from now on this is a grid's folder
        folder.write_plan(self.plan, self.packs)
        write_text(folder.path / "grid.gin", self.resolver.text)
        uri = {"mlflow_uri": masked(tracking_uri(folder.path))} if self.tracking.mlflow else {}
        folder.write_facts(
            name=name,
            axes=grid.axis_points,
            labels=[setting.label for setting in grid.settings],
            base=grid.resolved_base,
            tasks=list(dict.fromkeys(cell.task for cell in self.plan.cells)),
            seeds=list(grid.seeds),
            mlflow_experiment=self.experiment,
            **uri,
            packs=sorted(folder.listed()),
            gin=self.resolver.text,
            cells=len(self.cells),
            elsewhere=self._elsewhere(),
            command=self.request.command,
        )
        self.record_state(RUNNING)

    def _elsewhere(self) -> dict[str, str]:
        """Folders of finished cells that other grids have trained, by the cell's id."""
        own = self.folder.packs.resolve()
        found = {cell: status.folder for cell, status in self.cells.items() if status.folder}
        # with links as they are: from where a link to a storage leads nothing leads back to the grid
        return {cell: os.path.abspath(path) for cell, path in found.items() if own not in path.resolve().parents}

    def record_now_and_then(self) -> None:
        """Write how far the grid is while it runs, not too often."""
        if time.monotonic() - self._recorded > EVERY:
            self.record_state(RUNNING)

    def record_end(self, interrupted: bool, seconds: float) -> None:
        """Write how the grid has ended, after so many seconds."""
        if self.in_state(FINISHED):
            self.folder.write_facts(seconds=float(self.folder.facts().get("seconds", 0.0)) + seconds)
        if interrupted and self.pending:
            self.record_state("interrupted")
        else:
            self.record_state("incomplete" if self.pending or self.in_state(FAILED) else "finished")

    def record_state(self, state: str) -> None:
        """Write how far the grid is, and which cells have crashed: they have left nothing else behind."""
        self.state, self._recorded = state, time.monotonic()
        finished, failed = self.in_state(FINISHED), self.in_state(FAILED)
        crashed = {status.cell.id: status.reason for status in failed if status.failure == "crashed"}
        self.folder.write_facts(state=state, finished=len(finished), failed=len(failed), crashed=crashed)


def open_session(request: GridRequest, planning_only: bool = False) -> GridSession:
    """Read a grid, see what there is of it, and what is left to do.

    Args:
        request: what is asked for.
        planning_only: touch nothing, fetch nothing, claim nothing.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
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
        if request.force:
            folder.set_aside()
        if request.retry:
            folder.forget_failures()
        folder.place_packs(resolver.grid.storage)
    cells = _cells_so_far(plan, folder, request, planning_only)
    session = GridSession(request, resolver, plan, folder, engine, tracking, cells)
    session.packs = _packs_to_run(session)
    return session


def _cells_so_far(plan: Plan, folder: GridFolder, request: GridRequest, planning_only: bool) -> dict[str, CellStatus]:
    """How far every cell is, here or in the folders of other grids, by its id.

    Raises:
        RunError: a file is damaged.
    """
    cells: dict[str, CellStatus] = {}
    for cell in plan.cells:
        cells.setdefault(cell.id, CellStatus(cell))
    if not request.force:
        folder.update(cells, request.reuse)
    for status in cells.values() if planning_only and request.retry else ():
        if status.state == FAILED:
            status.wait()
    return cells


def _packs_to_run(session: GridSession) -> list[PlannedPack]:
    """Packs that have begun, as they were; and new ones of all other cells without a result."""
    pending = {status.cell.id for status in session.pending}
    planned = {cell.id: cell for cell in session.plan.cells}
    begun = session.folder.open_packs(pending)
    kept = []
    for name, cells in begun.items():
        own = [planned[cell] for cell in cells if cell in planned]
        kept.append(PlannedPack(name, session.plan.kinds[own[0].kind], tuple(own)))
    left = pending - {cell for cells in begun.values() for cell in cells}
    sizes = PackSizer(session.resolver.grid.pack, len(left), slots_of(session.engine))
    new = pack_cells(session.plan, left, sizes)
    return kept + [PlannedPack(session.folder.free_id(pack.id), pack.kind, pack.cells) for pack in new]


ON_A_CLUSTER = 16


def slots_of(engine: Engine) -> int:
    """How many packs the engine runs at a time; a guess where it does not know before it runs."""
    slots = getattr(engine, "slots", None)
    return max(int(slots()), 1) if slots is not None else ON_A_CLUSTER
