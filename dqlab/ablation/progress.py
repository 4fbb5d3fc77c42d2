"""How far every cell of a grid is, from the events of its packs. Engines tell it from threads of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqlab.ablation.engines.base import FINISHED as ENDED_WELL
from dqlab.ablation.engines.base import STOPPED, Ended, Job
from dqlab.ablation.planning import PlannedPack
from dqlab.analysis.results import FAILED, FINISHED, RUNNING, STARTING, WAITING, CellStatus
from dqlab.tracking.records import FailureRecord, SummaryRecord, read_record


class GridProgress:
    """How far every cell is.

    Args:
        cells: by their ids; kept up to date.
        packs: that are to be run.
        seconds: what each pack is expected to take, by its id.
    """

    def __init__(
        self, cells: Mapping[str, CellStatus], packs: Sequence[PlannedPack], seconds: Mapping[str, float]
    ) -> None:
        self.cells = cells
        self._packs = {pack.id: [cell.id for cell in pack.cells] for pack in packs}
        self._seconds = dict(seconds)
        self._done: dict[str, float] = dict.fromkeys(self._packs, 0.0)
        self._begun: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def on_event(self, job: Job, event: Mapping[str, Any]) -> list[CellStatus]:
        """Follow an event of a pack; returns the cells whose state changed."""
        with self._changes(job) as changed:
            if event.get("event") in ("started", "progress"):
                self._totals[job.id] = float(event.get("steps", self._totals.get(job.id, 0.0)))
                self._done[job.id] = float(event["step"]) / self._totals[job.id] if self._totals[job.id] else 0.0
            if event.get("event") == "started":
                self._begun[job.id] = self._done[job.id]
            for status in [self.cells[cell] for cell in self._packs[job.id] if self.cells[cell].state != FAILED]:
                self._follow(status, event, self._done[job.id])
        return changed

    def _follow(self, status: CellStatus, event: Mapping[str, Any], done: float) -> None:
        """What an event means for one of the cells of its pack, of which that share is done."""
        match event.get("event"):
            case "starting":
                status.state = STARTING
            case "started":
                status.state, status.share = RUNNING, done
            case "progress":
                status.share = done
            case "evaluated":
                status.last_score = event["scores"].get(status.cell.replica, status.last_score)
            case "cell_failed" if status.cell.replica == event["replica"]:
                status.state, status.reason = FAILED, str(event["reason"])

    def on_end(self, ended: Ended) -> list[CellStatus]:
        """Read what a pack that has ended left of its cells; returns those whose state changed.

        Raises:
            RunError: a summary or a failure's record is damaged.
        """
        with self._changes(ended.job) as changed:
            self._done[ended.job.id] = self._done[ended.job.id] if ended.code == STOPPED else 1.0
            for cell in self._packs[ended.job.id]:
                read_outcome(self.cells[cell], ended)
        return changed

    @contextmanager
    def _changes(self, job: Job) -> Iterator[list[CellStatus]]:
        """Collects the cells of a pack whose state changes within this."""
        changed: list[CellStatus] = []
        with self._lock:
            before = {cell: self.cells[cell].state for cell in self._packs[job.id]}
            yield changed
            changed += [self.cells[cell] for cell, state in before.items() if self.cells[cell].state != state]

    def counts(self) -> dict[str, int]:
        """How many cells are in each state."""
        with self._lock:
            states = [status.state for status in self.cells.values()]
        return {state: states.count(state) for state in (FINISHED, RUNNING, STARTING, WAITING, FAILED)}

    def seconds_left(self) -> float | None:
        """An estimate by the pace so far; None before there is any."""
        with self._lock:
            weights = {pack: (self._seconds.get(pack) or 1.0) * len(cells) for pack, cells in self._packs.items()}
            done = sum(weights[pack] * (self._done[pack] - self._begun.get(pack, 0.0)) for pack in weights)
            left = sum(weight * (1.0 - self._done[pack]) for pack, weight in weights.items())
        elapsed = time.monotonic() - self._started
        return elapsed * left / done if done > 0.0 else None


NO_RESULT = "it ended without a result"


def read_outcome(status: CellStatus, ended: Ended) -> None:
    """How a cell of a pack that has ended did, by its files; it waits again where it is only not done yet."""
    folder = ended.job.folder / status.cell.replica
    if (folder / "summary.json").exists():
        status.last_score = read_last_score(folder)
        status.finish(folder)
    elif (record := folder / "failure.json").exists():
        known = read_record(record, FailureRecord)
        status.fail(known["kind"], known["reason"])
    elif ended.code != STOPPED:
        status.fail("crashed", ended.reason if ended.code != ENDED_WELL else NO_RESULT)
    else:
        status.wait()


def read_last_score(folder: Path) -> float:
    """The last score in the summary of a finished cell.

    Raises:
        RunError: it is damaged.
    """
    return float(read_record(folder / "summary.json", SummaryRecord)["selection"]["last"]["score_mean"])
