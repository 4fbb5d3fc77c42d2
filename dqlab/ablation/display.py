"""The grid filling up, on a terminal; plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType

import numpy as np
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dqlab.ablation.board import FAILED, FINISHED, RUNNING, STARTING, WAITING, Board, Standing
from dqlab.console import Console
from dqlab.machine import duration

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

    def __init__(self, board: Board, console: Console, title: str, note: str = "") -> None:
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

    def changed(self, standings: Iterable[Standing]) -> None:
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

    def _failures(self) -> list[Standing]:
        return [standing for standing in self.board.cells.values() if standing.state == FAILED][-3:]

    def _line(self) -> str:
        counts, left = self.board.counts(), self.board.seconds_left()
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        return f"{told}; {duration(time.monotonic() - self._started)} so far, " + (
            "time left not known yet" if left is None else f"about {duration(left)} left"
        )


def _rows(standings: Iterable[Standing]) -> list[list[Standing]]:
    """The seeds of every setting on every task."""
    rows: dict[tuple[str, str], list[Standing]] = {}
    for standing in standings:
        rows.setdefault((standing.cell.label, standing.cell.task), []).append(standing)
    return list(rows.values())


def _marks(row: list[Standing]) -> Text:
    return Text.assemble(*(MARKS[standing.state] for standing in row))


def _share(row: list[Standing]) -> str:
    return f"{100 * float(np.mean([standing.share for standing in row])):.0f}%"


def _scores(row: list[Standing]) -> str:
    """Mean of the last evaluations, and how many seeds that are."""
    scores = [standing.score for standing in row if standing.score is not None]
    return f"{np.mean(scores):6.1f}  ({len(scores)} of {len(row)})" if scores else "     -"
