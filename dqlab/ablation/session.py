"""A grid as a session finds it: what is asked for, what there is already, what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from dqlab.ablation.calibration import Cost, PackSizer
from dqlab.ablation.engines.base import Engine, engines
from dqlab.ablation.folder import GridFolder
from dqlab.ablation.planning import Plan, PlannedPack, make_plan, pack_cells
from dqlab.ablation.reader import ConfigResolver
from dqlab.analysis.results import FAILED, FINISHED, CellStatus
from dqlab.analysis.settings import Report
from dqlab.config.gin_state import parameters_read
from dqlab.data.download import no_downloads
from dqlab.tracking.settings import Tracking


@dataclass(frozen=True)
class GridRequest:
    """What the command line asks for.

    Attributes:
        files, bindings, imports: the grid's configuration, as `gin_files.load_gin` takes it.
        out: the grid's folder.
        reuse: folders of other grids, whose finished cells are not trained again.
        force: train all cells again; what there is is set aside.
        retry: try cells again that have diverged.
        report_only: train nothing.
        command: what was typed, for the record.
    """

    files: Sequence[str | Path]
    bindings: Sequence[str]
    imports: Sequence[str]
    out: Path
    reuse: Sequence[Path] = ()
    force: bool = False
    retry: bool = False
    report_only: bool = False
    command: str = ""


@dataclass
class GridSession:
    """A grid as it stands at the start of a session, and what is left to do.

    Attributes:
        name: of the grid.
        reader, plan, folder: what it is, and where.
        cells: how far every cell is, by its id.
        packs: what is to be run.
        costs: of the packs, by their ids.
    """

    name: str
    reader: ConfigResolver
    plan: Plan
    folder: GridFolder
    engine: Engine
    settings: Report
    tracking: Tracking
    cells: dict[str, CellStatus]
    packs: Sequence[PlannedPack] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)

    def in_state(self, *states: str) -> list[CellStatus]:
        """The cells that are in one of these states."""
        return [status for status in self.cells.values() if status.state in states]

    @property
    def pending(self) -> list[CellStatus]:
        """The cells that have neither a result nor a failure."""
        return [status for status in self.cells.values() if status.state not in (FINISHED, FAILED)]


def open_session(request: GridRequest, planning_only: bool = False) -> GridSession:
    """Read a grid, see what there is of it, and what is left to do.

    Args:
        request: what is asked for.
        planning_only: touch nothing, fetch nothing, claim nothing.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
    reader = ConfigResolver(request.files, request.bindings, request.imports)
    name, folder = Path(request.files[0]).stem, GridFolder(request.out)
    if request.report_only and (request.out / "grid.json").exists():
        reader.remembered = folder.facts().get("data", {})
    engine, settings, tracking = engines.get(reader.grid.engine)(), Report(), Tracking()
    reader.read |= parameters_read()
    folder.check(name)
    for path in request.reuse:
        GridFolder(path).facts()
    plan = _plan(reader, planning_only)
    if not planning_only:
        folder.lock()
        folder.reset(request.force, request.retry)
    cells = _cells_so_far(plan, folder, request, planning_only)
    session = GridSession(name, reader, plan, folder, engine, settings, tracking, cells)
    if not request.report_only:
        session.packs = _packs_to_run(session)
    return session


def _plan(reader: ConfigResolver, planning_only: bool) -> Plan:
    with no_downloads() if planning_only else nullcontext() as not_fetched:
        reader.not_fetched = not_fetched
        plan = make_plan(reader)
    reader.check_read()
    return plan


def _cells_so_far(
    plan: Plan, folder: GridFolder, request: GridRequest, planning_only: bool = False
) -> dict[str, CellStatus]:
    """Which cells have finished, here or in the folders of other grids, and which have failed; by their ids.

    Raises:
        RunError: a file is damaged.
    """
    cells: dict[str, CellStatus] = {}
    for cell in plan.cells:
        cells.setdefault(cell.id, CellStatus(cell))
    if not request.force:
        elsewhere = [GridFolder(path).finished() for path in request.reuse]
        for found in (*elsewhere, folder.elsewhere(), folder.finished()):
            for name in cells.keys() & found.keys():
                cells[name].finish(found[name].parent)
    retried = planning_only and (request.force or request.retry)
    failed = {} if retried else folder.failed()
    for name in cells.keys() & failed.keys():
        if cells[name].state != FINISHED:
            cells[name].fail(failed[name]["kind"], failed[name]["reason"])
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
    widths = PackSizer(session.reader.grid.pack, len(left), slots_of(session.engine))
    new = pack_cells(session.plan, left, widths)
    return kept + [PlannedPack(session.folder.free_id(pack.id), pack.kind, pack.cells) for pack in new]


ON_A_CLUSTER = 16


def slots_of(engine: Engine) -> int:
    """How many packs the engine runs at a time; a guess where it does not know before it runs."""
    slots = getattr(engine, "slots", None)
    return max(int(slots()), 1) if slots is not None else ON_A_CLUSTER
