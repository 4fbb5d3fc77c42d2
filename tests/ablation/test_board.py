"""How far a grid is, as it is told and shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dqlab.ablation.engines.base import FINISHED, STOPPED, Ended, Job
from dqlab.ablation.planning import PackKind, PlannedCell, PlannedPack
from dqlab.ablation.progress import GridDisplay, GridProgress
from dqlab.ablation.reader import Data
from dqlab.analysis.results import Cell
from dqlab.machine import readable_duration

KIND = PackKind("walker2d-medium-expert-v2", "", Data("embedded", None, ""))


def cell(number: int) -> Cell:
    return Cell(f"{number:04x}", f"N={number // 2}", {"N": str(number // 2)}, KIND.task, number % 2)


def pack(name: str, *numbers: int) -> PlannedPack:
    return PlannedPack(name, KIND, tuple(PlannedCell(cell(number), {}, "kind") for number in numbers))


def job(name: str) -> Job:
    return Job(name, Path(name), {})


@pytest.fixture
def board() -> GridProgress:
    cells = [cell(number) for number in range(6)]
    packs = [pack("a", 2, 3), pack("b", 4, 5)]
    return GridProgress(cells, {"0000": 50.0}, {"0001": "it diverged"}, packs, {"a": 30.0, "b": 10.0})


def test_a_board_follows_its_packs(board: GridProgress) -> None:
    assert board.counts() == {"finished": 1, "running": 0, "starting": 0, "waiting": 4, "failed": 1}
    assert {each.state for each in board.tell(job("a"), {"event": "starting"})} == {"starting"}
    changed = board.tell(job("a"), {"event": "started", "step": 0, "steps": 100})
    assert [standing.cell.id for standing in changed] == ["0002", "0003"]
    assert board.tell(job("a"), {"event": "progress", "step": 50, "updates_per_second": 3.0}) == []
    assert board.cells["0003"].share == 0.5
    board.tell(job("a"), {"event": "evaluated", "step": 50, "scores": {"cell-0002": 12.5}})
    assert (board.cells["0002"].score, board.cells["0003"].score) == (12.5, None)
    (failed,) = board.tell(job("a"), {"event": "cell_failed", "replica": "cell-0003", "reason": "NaN"})
    assert (failed.cell.id, failed.reason) == ("0003", "NaN")
    board.tell(job("a"), {"event": "progress", "step": 80, "updates_per_second": 3.0})
    assert board.cells["0003"].share == 0.5  # it stays where it ended
    board.tell(job("a"), {"event": "of a later version"})
    board.ended(Ended(job("a"), FINISHED), {"0002": 13.0}, {"0003": "NaN"})
    assert board.counts() == {"finished": 2, "running": 0, "starting": 0, "waiting": 2, "failed": 2}
    assert (board.cells["0002"].score, board.cells["0002"].share) == (13.0, 1.0)


def test_a_stopped_pack_waits_again(board: GridProgress) -> None:
    board.tell(job("b"), {"event": "started", "step": 0, "steps": 100})
    board.tell(job("b"), {"event": "progress", "step": 40})
    board.ended(Ended(job("b"), STOPPED), {}, {})
    assert board.cells["0004"].state == "waiting"


def test_time_left_goes_by_the_pace_of_this_session(board: GridProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dqlab.ablation.progress.time.monotonic", lambda: now[0])
    board._started = 0.0
    assert board.seconds_left() is None
    board.tell(job("a"), {"event": "started", "step": 50, "steps": 100})  # half of it was done by an earlier session
    board.tell(job("a"), {"event": "progress", "step": 75})
    now[0] = 10.0
    # weights 60 and 20: a quarter of a's 60 took 10 s; left are 15 of a's and 20 of b's
    assert board.seconds_left() == pytest.approx(10.0 * (15 + 20) / 15)


def text_of(board: GridProgress, height: int = 40) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120, height=height, force_terminal=False)
    display = GridDisplay(board, console, "steps in runs/steps", "not D4RL")
    console.print(display.render())
    return out.getvalue()


def test_the_table_shows_states_scores_failures(board: GridProgress) -> None:
    board.tell(job("a"), {"event": "started", "step": 0, "steps": 100})
    text = text_of(board)
    assert "●✗" in text
    assert "◐◐" in text
    assert "score so far (not D4RL)" in text
    assert "50.0  (1 of 2)" in text
    assert "✗ N=0, seed 1: it diverged" in text
    assert "1 finished, 2 running, 2 waiting, 1 failed" in text


def test_a_low_terminal_shows_what_matters_first() -> None:
    cells = [cell(number) for number in range(40)]
    board = GridProgress(cells, {}, {"0024": "it diverged"}, [], {})
    text = text_of(board, height=14)
    assert "N=18 " in text  # cell 0x24 = 36
    assert "... and 15 more rows" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (200_000, "2.3 days")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert readable_duration(seconds) == text
