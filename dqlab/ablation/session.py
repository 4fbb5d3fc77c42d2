"""A grid as a session finds it: what is asked for, what there is already, what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dqlab.ablation.calibration import Cost, PackSizer
from dqlab.ablation.engines.base import Engine, engines
from dqlab.ablation.folder import GridFolder
from dqlab.ablation.planning import Plan, PlannedPack, make_plan, pack_cells
from dqlab.ablation.reader import ConfigResolver
from dqlab.analysis.settings import Report
from dqlab.config.gin_state import parameters_read
from dqlab.data.download import no_downloads
from dqlab.tracking.settings import Tracking


@dataclass(frozen=True)
class GridRequest:
    """What the command line asks for.

    Attributes:
        files, bindings, imports: the grid's configuration, as `configuration.load` takes it.
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
        summaries: where the summary of every finished cell lies, by the cell's id.
        failures: kind and reason of every failed cell, by its id.
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
    summaries: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    packs: list[PlannedPack] = field(default_factory=list)
    costs: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """Of all cells."""
        return [planned.cell.id for planned in self.plan.cells]

    @property
    def pending(self) -> set[str]:
        """Ids of the cells that have neither a result nor a failure."""
        return set(self.ids) - set(self.summaries) - set(self.failures)


def open_session(request: GridRequest, planning_only: bool = False) -> GridSession:
    """Read a grid and what there is of it.

    Args:
        request: what is asked for.
        planning_only: touch nothing, fetch nothing, claim nothing.

    Raises:
        DqlabError: a mistake in the grid's file, a dataset that is not to be had, a folder that is in use.
    """
    reader = ConfigResolver(request.files, request.bindings, request.imports)
    if request.report_only and (request.out / "grid.json").exists():
        reader.remembered = GridFolder(request.out).facts().get("data", {})
    engine, settings, tracking = engines.get(reader.grid.engine)(), Report(), Tracking()
    reader.read |= parameters_read()
    name, folder = Path(request.files[0]).stem, GridFolder(request.out)
    folder.check(name)
    for path in request.reuse:
        GridFolder(path).facts()
    if planning_only:
        with no_downloads() as reader.not_fetched:
            plan = make_plan(reader)
        reader.check_read()
    else:
        plan = make_plan(reader)
        reader.check_read()
        folder.lock()
        _reset(folder, request)
    session = GridSession(name, reader, plan, folder, engine, settings, tracking)
    take_stock(session, request, planning_only)
    if not request.report_only:
        session.packs = packs_to_run(session)
    return session


def _reset(folder: GridFolder, request: GridRequest) -> None:
    if request.force:
        folder.set_aside()
    if request.retry:
        folder.forget_failures()


def take_stock(session: GridSession, request: GridRequest, planning_only: bool = False) -> None:
    """See which cells have finished, here or in the folders of other grids, and which have failed.

    Raises:
        RunError: a file is damaged.
    """
    wanted = set(session.ids)
    for path in request.reuse if not request.force else ():
        found = GridFolder(path).finished().items()
        session.summaries |= {cell: summary for cell, summary in found if cell in wanted}
    if not request.force:
        reused = session.folder.elsewhere().items()
        session.summaries |= {cell: summary for cell, summary in reused if cell in wanted}
        session.summaries |= {cell: path for cell, path in session.folder.finished().items() if cell in wanted}
    retried = planning_only and (request.force or request.retry)
    for cell, failure in session.folder.failed().items() if not retried else ():
        if cell in wanted and cell not in session.summaries:
            session.failures[cell] = (failure["kind"], failure["reason"])


def packs_to_run(session: GridSession) -> list[PlannedPack]:
    """Packs that have begun, as they were; and new ones of all other cells without a result."""
    pending = session.pending
    planned = {p.cell.id: p for p in session.plan.cells}
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
