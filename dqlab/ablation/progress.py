"""How far every cell of a grid is, from the events of its packs. Engines tell it from threads of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dqlab.ablation.engines.base import STOPPED, Ended, Job
from dqlab.ablation.planning import PlannedPack
from dqlab.analysis.results import Cell
from dqlab.machine import readable_duration
from dqlab.printing import Console

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
STARTING = "starting"
"""Its process reads data and, where that pays, compiles: half a minute or more."""


@dataclass
class CellStatus:
    """How far a cell is: `score` is that of its last evaluation, `share` of its updates are done (0 to 1)."""

    cell: Cell
    state: str = WAITING
    share: float = 0.0
    score: float | None = None
    reason: str = ""


class GridProgress:
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
        packs: Sequence[PlannedPack],
        seconds: Mapping[str, float],
    ) -> None:
        self.cells: dict[str, CellStatus] = {}
        for cell in cells:
            standing = self.cells.setdefault(cell.id, CellStatus(cell))
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

    def tell(self, job: Job, event: Mapping[str, Any]) -> list[CellStatus]:
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

    def _members(self, pack: str) -> list[CellStatus]:
        return [self.cells[cell] for cell in self._packs[pack] if self.cells[cell].state != FAILED]

    def ended(self, ended: Ended, finished: Mapping[str, float], failed: Mapping[str, str]) -> list[CellStatus]:
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


MARKS = {
    FINISHED: ("●", "green"),
    RUNNING: ("◐", "yellow"),
    STARTING: ("◌", "yellow"),
    WAITING: ("·", "dim"),
    FAILED: ("✗", "bold red"),
}
ORDER = (FAILED, RUNNING, STARTING, FINISHED, WAITING)


class GridDisplay:
    """Shows a board.

    Args:
        board: the standing of every cell.
        console: where to; one that is not a terminal gets a line for every cell that ends.
        title: of the table.
        note: what must stand beside every score ("not D4RL"); may be set later.
    """

    def __init__(self, board: GridProgress, console: Console, title: str, note: str = "") -> None:
        self.board, self.console, self.title, self.note = board, console, title, note
        self.message = ""
        self._started = time.monotonic()
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=2, transient=False)
        self._is_live = console.is_terminal and not console.quiet

    def __enter__(self) -> GridDisplay:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Something that concerns the whole grid."""
        self.message = text
        if not self._is_live:
            self.console.print(Text(text), soft_wrap=True)

    def changed(self, standings: Iterable[CellStatus]) -> None:
        """Tell of cells whose state has changed, where there is no table."""
        for standing in standings if not self._is_live else ():
            cell = standing.cell
            if standing.state == WAITING:
                continue
            score = (
                ""
                if standing.score is None or standing.state == FAILED
                else f"  score {standing.score:.1f}{self._note}"
            )
            why = f"  {standing.reason}" if standing.reason else ""
            counts = self.board.counts()
            text = f"[{counts[FINISHED]}/{len(self.board.cells)}] {cell.label}  {cell.task}  seed {cell.seed}"
            self.console.print(Text(f"{text}  {standing.state}{score}{why}"), soft_wrap=True)

    @property
    def _note(self) -> str:
        return f" ({self.note})" if self.note else ""

    def render(self) -> RenderableType:
        """The table, what is left, failures."""
        rows = _rows(self.board.cells.values())
        room = max(self.console.size.height - 9, 5)
        shown = (
            sorted(rows, key=lambda row: min(ORDER.index(s.state) for s in row))[:room] if len(rows) > room else rows
        )
        table = Table(title=self.title, title_justify="left")
        for column in ("cell", "task", "seeds", "done", f"score so far{self._note}"):
            table.add_column(column, justify="right" if column == "done" else "left", no_wrap=column != "task")
        for row in shown:
            table.add_row(row[0].cell.label, row[0].cell.task, _marks(row), _share(row), _scores(row))
        parts: list[RenderableType] = [table]
        if len(rows) > len(shown):
            parts.append(Text(f"... and {len(rows) - len(shown):,} more rows", style="dim"))
        parts.append(Text(self._line()))
        parts += [Text(f"✗ {s.cell.label}, seed {s.cell.seed}: {s.reason}", style="red") for s in self._failures()]
        if self.message:
            parts.append(Text(self.message, style="bold"))
        return Group(*parts)

    def _failures(self) -> list[CellStatus]:
        return [standing for standing in self.board.cells.values() if standing.state == FAILED][-3:]

    def _line(self) -> str:
        counts, left = self.board.counts(), self.board.seconds_left()
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        return f"{told}; {readable_duration(time.monotonic() - self._started)} so far, " + (
            "time left not known yet" if left is None else f"about {readable_duration(left)} left"
        )


def _rows(standings: Iterable[CellStatus]) -> list[list[CellStatus]]:
    """The seeds of every setting on every task."""
    rows: dict[tuple[str, str], list[CellStatus]] = {}
    for standing in standings:
        rows.setdefault((standing.cell.label, standing.cell.task), []).append(standing)
    return list(rows.values())


def _marks(row: list[CellStatus]) -> Text:
    return Text.assemble(*(MARKS[standing.state] for standing in row))


def _share(row: list[CellStatus]) -> str:
    return f"{100 * float(np.mean([standing.share for standing in row])):.0f}%"


def _scores(row: list[CellStatus]) -> str:
    """Mean of the last evaluations, and how many seeds that are."""
    scores = [standing.score for standing in row if standing.score is not None]
    return f"{np.mean(scores):6.1f}  ({len(scores)} of {len(row)})" if scores else "     -"
