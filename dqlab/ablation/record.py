"""What a grid's folder says of it while it runs, and the process that sends it to MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dqlab.ablation.session import GridSession
from dqlab.analysis.results import FAILED, FINISHED
from dqlab.errors import masked
from dqlab.files import write_text
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.mlflow.mirror import Mirror
from dqlab.tracking.mlflow.sync import warn_unsent

EVERY = 5.0
"""Seconds between two updates while packs end."""


@contextmanager
def grid_record(session: GridSession) -> Iterator[GridRecordWriter]:
    """Within this a grid is recorded: in its folder and, unless that is switched off, in MLflow."""
    record = GridRecordWriter(session)
    record.begin()
    mirror = Mirror(session.folder.path, record.experiment) if session.tracking.mlflow else None
    try:
        yield record
    finally:
        record.update(record.state)
        if mirror is not None and not mirror.close(session.tracking.patience):
            warn_unsent(session.folder.path)


class GridRecordWriter:
    """Writes plan, configuration and facts of a grid into its folder.

    Args:
        session: whose grid.

    Attributes:
        state: what the folder says of the grid once this has ended.
    """

    def __init__(self, session: GridSession) -> None:
        self._session, self._written = session, 0.0
        self.state = "interrupted"

    @property
    def experiment(self) -> str:
        """The MLflow experiment that the grid is recorded in."""
        return self._session.tracking.experiment or self._session.name

    def begin(self) -> None:
        """Write everything, before anything is run."""
        session = self._session
        session.folder.write_facts(name=session.name)  # from now on this is a grid's folder
        session.folder.write_plan(session.plan, session.packs)
        write_text(session.folder.path / "grid.gin", session.reader.text)
        grid = session.reader.grid
        session.folder.write_facts(
            name=session.name,
            axes=grid.axis_points,
            labels=[setting.label for setting in grid.settings],
            base=grid.resolved_base,
            tasks=list(dict.fromkeys(cell.task for cell in session.plan.cells)),
            seeds=list(grid.seeds),
            mlflow_experiment=self.experiment,
            **self._address(),
            packs=sorted(session.folder.listed()),
            gin=session.reader.text,
            cells=len(session.cells),
            data={
                asked: {"digest": data.digest, "caveat": data.caveat} for asked, data in session.reader.found.items()
            },
            elsewhere=self._elsewhere(),
        )
        self.update("running")

    def _address(self) -> dict[str, str]:
        """Where it is recorded, if it is."""
        session = self._session
        return {"mlflow_uri": masked(tracking_uri(session.folder.path))} if session.tracking.mlflow else {}

    def _elsewhere(self) -> dict[str, str]:
        """Folders of finished cells that other grids have trained, by the cell's id."""
        own = self._session.folder.packs.resolve()
        found = {cell: status.folder.resolve() for cell, status in self._session.cells.items() if status.folder}
        return {cell: str(folder) for cell, folder in found.items() if own not in folder.parents}

    def keep_up(self) -> None:
        """Write how far the grid is while it runs, not too often."""
        if time.monotonic() - self._written > EVERY:
            self.update("running")

    def end(self, interrupted: bool, seconds: float) -> float:
        """Write how the grid has ended, after so many seconds; returns those of all of its sessions with a result."""
        session = self._session
        if interrupted and session.pending:
            self.state = "interrupted"
        else:
            self.state = "incomplete" if session.pending or session.in_state(FAILED) else "finished"
        self.update(self.state)
        total = float(session.folder.facts().get("seconds", 0.0)) + seconds
        if session.in_state(FINISHED):
            session.folder.write_facts(seconds=total)
        return total

    def update(self, state: str) -> None:
        """Write how far the grid is."""
        session = self._session
        finished, failed = (len(session.in_state(each)) for each in (FINISHED, FAILED))
        session.folder.write_facts(state=state, finished=finished, failed=failed)
        self._written = time.monotonic()
