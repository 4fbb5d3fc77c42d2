"""How far every cell of a grid is, from the events of its packs. Engines tell it from threads of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dqlab.ablation.engines.base import FINISHED as ENDED_WELL
from dqlab.ablation.engines.base import STOPPED, Ended, Job
from dqlab.ablation.planning import PlannedPack
from dqlab.analysis.results import FAILED, FINISHED, RUNNING, STARTING, WAITING, CellStatus
from dqlab.machine import readable_duration
from dqlab.printing import Console
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
            handler = getattr(self, f"_on_{event.get('event')}", None)
            if handler is not None:
                handler(job.id, event)
        return changed

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

    def _on_starting(self, pack: str, event: Mapping[str, Any]) -> None:
        for status in self._members(pack):
            status.state = STARTING

    def _on_started(self, pack: str, event: Mapping[str, Any]) -> None:
        self._steps(pack, event)
        self._begun[pack] = self._done[pack]
        for status in self._members(pack):
            status.state = RUNNING

    def _on_progress(self, pack: str, event: Mapping[str, Any]) -> None:
        self._steps(pack, event)

    def _on_evaluated(self, pack: str, event: Mapping[str, Any]) -> None:
        scores = event["scores"]
        for status in self._members(pack):
            status.last_score = scores.get(status.cell.replica, status.last_score)

    def _on_cell_failed(self, pack: str, event: Mapping[str, Any]) -> None:
        for status in self._members(pack):
            if status.cell.replica == event["replica"]:
                status.state, status.reason = FAILED, str(event["reason"])

    def _steps(self, pack: str, event: Mapping[str, Any]) -> None:
        self._totals[pack] = float(event.get("steps", self._totals.get(pack, 0.0)))
        self._done[pack] = float(event["step"]) / self._totals[pack] if self._totals[pack] else 0.0
        for status in self._members(pack):
            status.share = self._done[pack]

    def _members(self, pack: str) -> list[CellStatus]:
        return [self.cells[cell] for cell in self._packs[pack] if self.cells[cell].state != FAILED]

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


MARKS = {
    FINISHED: ("●", "green"),
    RUNNING: ("◐", "yellow"),
    STARTING: ("◌", "yellow"),
    WAITING: ("·", "dim"),
    FAILED: ("✗", "bold red"),
}
ORDER = (FAILED, RUNNING, STARTING, FINISHED, WAITING)


class GridDisplay:
    """Shows how far a grid is.

    Args:
        progress: how far every cell is.
        console: where to; one that is not a terminal gets a line for every cell that ends.
        title: of the table.
        note: what must stand beside every score ("not D4RL"); may be set later.
    """

    def __init__(self, progress: GridProgress, console: Console, title: str, note: str = "") -> None:
        self.progress, self.console, self.title, self.note = progress, console, title, note
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

    def show_changes(self, statuses: Iterable[CellStatus]) -> None:
        """Tell of cells whose state has changed, where there is no table."""
        for status in statuses if not self._is_live else ():
            cell = status.cell
            if status.state == WAITING:
                continue
            score = (
                ""
                if status.last_score is None or status.state == FAILED
                else f"  score {status.last_score:.1f}{self._note}"
            )
            why = f"  {status.reason}" if status.reason else ""
            counts = self.progress.counts()
            text = f"[{counts[FINISHED]}/{len(self.progress.cells)}] {cell.label}  {cell.task}  seed {cell.seed}"
            self.console.print(Text(f"{text}  {status.state}{score}{why}"), soft_wrap=True)

    @property
    def _note(self) -> str:
        return f" ({self.note})" if self.note else ""

    def render(self) -> RenderableType:
        """The table, what is left, failures."""
        rows = _rows(self.progress.cells.values())
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
        return [status for status in self.progress.cells.values() if status.state == FAILED][-3:]

    def _line(self) -> str:
        counts, left = self.progress.counts(), self.progress.seconds_left()
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        return f"{told}; {readable_duration(time.monotonic() - self._started)} so far, " + (
            "time left not known yet" if left is None else f"about {readable_duration(left)} left"
        )


def _rows(statuses: Iterable[CellStatus]) -> list[list[CellStatus]]:
    """The seeds of every setting on every task."""
    rows: dict[tuple[str, str], list[CellStatus]] = {}
    for status in statuses:
        rows.setdefault((status.cell.label, status.cell.task), []).append(status)
    return list(rows.values())


def _marks(row: list[CellStatus]) -> Text:
    return Text.assemble(*(MARKS[status.state] for status in row))


def _share(row: list[CellStatus]) -> str:
    return f"{100 * float(np.mean([status.share for status in row])):.0f}%"


def _scores(row: list[CellStatus]) -> str:
    """Mean of the last evaluations, and how many seeds that are."""
    scores = [status.last_score for status in row if status.last_score is not None]
    return f"{np.mean(scores):6.1f}  ({len(scores)} of {len(row)})" if scores else "     -"
