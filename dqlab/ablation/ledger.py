"""Results and failures of a grid's cells, as its packs end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dqlab.ablation.board import Board
from dqlab.ablation.cells import Cell
from dqlab.ablation.engines.base import FINISHED, STOPPED, Ended
from dqlab.ablation.results import Result
from dqlab.ablation.session import Session
from dqlab.records import FailureRecord, SummaryRecord, read

NO_RESULT = "it ended without a result"


def last_score(path: Path) -> float:
    """The last score in a summary."""
    return Result(Cell(""), read(path, SummaryRecord)).score("last")


def board_of(session: Session) -> Board:
    """The standing of every cell at the start."""
    return Board(
        (planned.cell for planned in session.plan.cells),
        {cell: last_score(path) for cell, path in session.summaries.items()},
        {cell: reason for cell, (_, reason) in session.failures.items()},
        session.packs,
        {name: cost.seconds for name, cost in session.costs.items()},
    )


class Ledger:
    """Takes the ends of packs in.

    Args:
        session: whose summaries and failures are kept up to date.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cells = {pack.id: [planned.cell.id for planned in pack.cells] for pack in session.packs}

    def take_in(self, ended: Ended) -> tuple[Mapping[str, float], Mapping[str, str]]:
        """Last scores of a pack's cells that have finished, and why others have failed; by their ids."""
        finished, failed = {}, {}
        for cell in self._cells[ended.job.id]:
            folder = ended.job.folder / f"cell-{cell}"
            if (summary := folder / "summary.json").exists():
                self._session.summaries[cell] = summary
                finished[cell] = last_score(summary)
            elif failure := _failure(folder, ended):
                self._session.failures[cell] = failure
                failed[cell] = failure[1]
        return finished, failed


def _failure(folder: Path, ended: Ended) -> tuple[str, str] | None:
    """Kind and reason of a failure; None where a cell is only not done yet."""
    if (record := folder / "failure.json").exists():
        known = read(record, FailureRecord)
        return known["kind"], known["reason"]
    return None if ended.code == STOPPED else ("crashed", ended.reason if ended.code != FINISHED else NO_RESULT)
