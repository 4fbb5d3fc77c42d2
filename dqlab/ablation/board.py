"""How far every cell of a grid is, from the events of its packs. Engines tell it from threads of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dqlab.ablation.cells import Cell
from dqlab.ablation.engines.base import STOPPED, Ended, Job
from dqlab.ablation.planning import Pack

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
STARTING = "starting"
"""Its process reads data and, where that pays, compiles: half a minute or more."""


@dataclass
class Standing:
    """How far a cell is: `score` is that of its last evaluation, `share` of its updates are done (0 to 1)."""

    cell: Cell
    state: str = WAITING
    share: float = 0.0
    score: float | None = None
    reason: str = ""


class Board:
    """The standing of every cell.

    Args:
        cells: of the grid, in order.
        finished: the last score of those that have finished, by id.
        failed: why others have failed before, by id.
        packs: that are to be run.
        seconds: what each pack is expected to take, by its id.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        finished: Mapping[str, float],
        failed: Mapping[str, str],
        packs: Sequence[Pack],
        seconds: Mapping[str, float],
    ) -> None:
        self.cells: dict[str, Standing] = {}
        for cell in cells:
            standing = self.cells.setdefault(cell.id, Standing(cell))
            if cell.id in finished:
                standing.state, standing.share, standing.score = FINISHED, 1.0, finished[cell.id]
            elif cell.id in failed:
                standing.state, standing.reason = FAILED, failed[cell.id]
        self._packs = {pack.id: [planned.cell.id for planned in pack.cells] for pack in packs}
        self._seconds = dict(seconds)
        self._done: dict[str, float] = dict.fromkeys(self._packs, 0.0)
        self._begun: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def tell(self, job: Job, event: Mapping[str, Any]) -> list[Standing]:
        """Take an event in; returns the cells whose state changed."""
        with self._lock:
            before = {cell: self.cells[cell].state for cell in self._packs[job.id]}
            handler = getattr(self, f"_on_{event.get('event')}", None)
            if handler is not None:
                handler(job.id, event)
            return [self.cells[cell] for cell, state in before.items() if self.cells[cell].state != state]

    def _on_starting(self, pack: str, event: Mapping[str, Any]) -> None:
        for standing in self._members(pack):
            standing.state = STARTING

    def _on_started(self, pack: str, event: Mapping[str, Any]) -> None:
        self._steps(pack, event)
        self._begun[pack] = self._done[pack]
        for standing in self._members(pack):
            standing.state = RUNNING

    def _on_progress(self, pack: str, event: Mapping[str, Any]) -> None:
        self._steps(pack, event)

    def _on_evaluated(self, pack: str, event: Mapping[str, Any]) -> None:
        scores = event["scores"]
        for standing in self._members(pack):
            standing.score = scores.get(standing.cell.replica, standing.score)

    def _on_cell_failed(self, pack: str, event: Mapping[str, Any]) -> None:
        for standing in self._members(pack):
            if standing.cell.replica == event["replica"]:
                standing.state, standing.reason = FAILED, str(event["reason"])

    def _steps(self, pack: str, event: Mapping[str, Any]) -> None:
        self._totals[pack] = float(event.get("steps", self._totals.get(pack, 0.0)))
        self._done[pack] = float(event["step"]) / self._totals[pack] if self._totals[pack] else 0.0
        for standing in self._members(pack):
            standing.share = self._done[pack]

    def _members(self, pack: str) -> list[Standing]:
        return [self.cells[cell] for cell in self._packs[pack] if self.cells[cell].state != FAILED]

    def ended(self, ended: Ended, finished: Mapping[str, float], failed: Mapping[str, str]) -> list[Standing]:
        """Take the end of a job in: scores of its cells that have finished, reasons of those that have failed."""
        with self._lock:
            self._done[ended.job.id] = self._done[ended.job.id] if ended.code == STOPPED else 1.0
            changed = []
            for cell in self._packs[ended.job.id]:
                standing = self.cells[cell]
                before = standing.state
                if cell in finished:
                    standing.state, standing.share, standing.score = FINISHED, 1.0, finished[cell]
                elif cell in failed:
                    standing.state, standing.reason = FAILED, failed[cell]
                else:
                    standing.state = WAITING
                changed += [standing] if standing.state != before else []
            return changed

    def counts(self) -> dict[str, int]:
        """How many cells are in each state."""
        with self._lock:
            states = [standing.state for standing in self.cells.values()]
        return {state: states.count(state) for state in (FINISHED, RUNNING, STARTING, WAITING, FAILED)}

    def seconds_left(self) -> float | None:
        """An estimate by the pace so far; None before there is any."""
        with self._lock:
            weights = {pack: (self._seconds.get(pack) or 1.0) * len(cells) for pack, cells in self._packs.items()}
            done = sum(weights[pack] * (self._done[pack] - self._begun.get(pack, 0.0)) for pack in weights)
            left = sum(weight * (1.0 - self._done[pack]) for pack, weight in weights.items())
        elapsed = time.monotonic() - self._started
        return elapsed * left / done if done > 0.0 else None
