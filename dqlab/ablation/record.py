"""What grid.json says of a grid, kept up to date while it runs."""

from __future__ import annotations

import time

from dqlab.ablation.session import Session
from dqlab.files import write_text
from dqlab.printing import masked
from dqlab.tracking.mlflow import tracking_uri

EVERY = 5.0
"""Seconds between two updates while packs end."""


class Record:
    """Writes plan, configuration and facts of a grid into its folder.

    Args:
        session: whose grid.
    """

    def __init__(self, session: Session) -> None:
        self._session, self._written = session, 0.0
        self._packs: list[str] = []

    @property
    def experiment(self) -> str:
        """MLflow's."""
        return self._session.tracking.experiment or self._session.name

    def begin(self) -> None:
        """Write everything, before anything is run."""
        session = self._session
        session.folder.write_facts(name=session.name)  # from now on this is a grid's folder
        session.folder.write_plan(session.plan, session.packs)
        write_text(session.folder.path / "grid.gin", session.reader.text)
        self._packs = sorted(session.folder.listed())
        grid = session.reader.grid
        session.folder.write_facts(
            name=session.name,
            axes=grid.axis_points,
            labels=[setting.label for setting in grid.settings],
            base=grid.the_base,
            tasks=list(dict.fromkeys(planned.cell.task for planned in session.plan.cells)),
            seeds=list(grid.seeds),
            mlflow_experiment=self.experiment,
            **self._address(),
            packs=self._packs,
            gin=session.reader.text,
            cells=len(set(session.ids)),
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
        own, found = self._session.folder.packs.resolve(), self._session.summaries.items()
        return {cell: str(path.parent.resolve()) for cell, path in found if own not in path.resolve().parents}

    def update(self, state: str) -> None:
        """Write how far the grid is."""
        session = self._session
        session.folder.write_facts(state=state, finished=len(session.summaries), failed=len(session.failures))
        self._written = time.monotonic()

    def add_seconds(self, seconds: float) -> float:
        """Add the time of this session to those before; their sum."""
        total = self._session.folder.facts().get("seconds", 0.0) + seconds
        self._session.folder.write_facts(seconds=total)
        return total

    def keep_up(self) -> None:
        """The same while it runs, not too often."""
        if time.monotonic() - self._written > EVERY:
            self.update("running")
