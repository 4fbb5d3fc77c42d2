"""How far a grid is, as it is told and shown."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from made_grids import made_result
from rich.console import Console

from dqlab.ablation.config_resolver import ResolvedDataset
from dqlab.ablation.display import GridDisplay
from dqlab.ablation.engines.base import DIED, FINISHED, STOPPED, Ended, Job
from dqlab.ablation.planning import PackKind, PlannedPack
from dqlab.analysis.results import Cell, CellStatus
from dqlab.machine import readable_duration

KIND = PackKind("walker2d-medium-expert-v2", "", ResolvedDataset("embedded", None, ""))


def cell(number: int) -> Cell:
    return Cell(f"{number:04x}", f"N={number // 2}", {"N": str(number // 2)}, KIND.task, number % 2)


def pack(name: str, *numbers: int) -> PlannedPack:
    return PlannedPack(name, KIND, tuple(cell(number) for number in numbers))


def job(name: str) -> Job:
    return Job(name, Path(name))


def write_cell(folder: Path, name: str, record: Mapping[str, object]) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(record))


def made_display(tmp_path: Path, console: Console) -> GridDisplay:
    cells = {cell(number).id: CellStatus(cell(number)) for number in range(6)}
    cells["0000"].finish(tmp_path)
    cells["0000"].last_score = 50.0
    cells["0001"].fail("diverged", "it diverged")
    packs = [pack("a", 2, 3), pack("b", 4, 5)]
    return GridDisplay(cells, packs, console, "steps in runs/steps", "not D4RL")


@pytest.fixture
def progress(tmp_path: Path) -> GridDisplay:
    return made_display(tmp_path, Console(file=io.StringIO(), width=120))


def counts(progress: GridDisplay) -> dict[str, int]:
    return dict(Counter(status.state for status in progress.cells.values()))


def test_progress_follows_the_packs(progress: GridDisplay, tmp_path: Path) -> None:
    assert counts(progress) == {"finished": 1, "waiting": 4, "failed": 1}
    progress.on_event(job("a"), {"event": "starting"})
    assert counts(progress) == {"finished": 1, "waiting": 2, "starting": 2, "failed": 1}
    progress.on_event(job("a"), {"event": "started", "step": 0, "steps": 100})
    assert [name for name, status in progress.cells.items() if status.state == "running"] == ["0002", "0003"]
    progress.on_event(job("a"), {"event": "progress", "step": 50, "updates_per_second": 3.0})
    assert progress.cells["0003"].share == 0.5
    progress.on_event(job("a"), {"event": "evaluated", "step": 50, "scores": {"cell-0002": 12.5}})
    assert (progress.cells["0002"].last_score, progress.cells["0003"].last_score) == (12.5, None)
    progress.on_event(job("a"), {"event": "cell_failed", "replica": "cell-0003", "reason": "NaN"})
    assert (progress.cells["0003"].state, progress.cells["0003"].reason) == ("failed", "NaN")
    progress.on_event(job("a"), {"event": "progress", "step": 80, "updates_per_second": 3.0})
    assert progress.cells["0003"].share == 0.5  # it stays where it ended
    progress.on_event(job("a"), {"event": "of a later version"})
    job_a = Job("a", tmp_path / "a")
    write_cell(tmp_path / "a" / "cell-0002", "summary.json", made_result(cell(2), 13.0).summary)
    write_cell(tmp_path / "a" / "cell-0003", "failure.json", {"kind": "diverged", "reason": "NaN"})
    progress.on_end(Ended(job_a, FINISHED))
    assert counts(progress) == {"finished": 2, "waiting": 2, "failed": 2}
    assert progress.done() == 4.0
    assert (progress.cells["0002"].last_score, progress.cells["0002"].share) == (13.0, 1.0)
    assert progress.cells["0002"].folder == tmp_path / "a" / "cell-0002"
    assert (progress.cells["0003"].failure, progress.cells["0003"].reason) == ("diverged", "NaN")


@pytest.mark.parametrize(
    ("code", "reason", "state", "failure", "said"),
    [
        (STOPPED, "", "waiting", "", ""),
        (FINISHED, "", "failed", "crashed", "it ended without a result"),
        (DIED, "killed by SIGKILL", "failed", "crashed", "killed by SIGKILL"),
    ],
)
def test_cells_of_which_an_ended_pack_left_nothing(
    progress: GridDisplay, code: int, reason: str, state: str, failure: str, said: str
) -> None:
    progress.on_event(job("b"), {"event": "started", "step": 0, "steps": 100})
    progress.on_event(job("b"), {"event": "progress", "step": 40})
    progress.on_end(Ended(job("b"), code, reason))
    status = progress.cells["0004"]
    assert (status.state, status.failure, status.reason) == (state, failure, said)


@pytest.mark.parametrize("terminal", [False, True])
def test_cells_that_begin_and_end_have_lines(tmp_path: Path, terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"})
    with made_display(tmp_path, console) as display:
        display.on_event(job("a"), {"event": "started", "step": 0, "steps": 100})
        display.on_event(job("a"), {"event": "cell_failed", "replica": "cell-0003", "reason": "it diverged"})
        write_cell(tmp_path / "a" / "cell-0002", "summary.json", made_result(cell(2), 13.0).summary)
        display.on_end(Ended(Job("a", tmp_path / "a"), FINISHED))
    text = out.getvalue()
    assert "[2/6] N=1  walker2d-medium-expert-v2  seed 0  finished  score 13.0 (not D4RL)" in text
    assert "N=1  walker2d-medium-expert-v2  seed 1  failed  it diverged" in text
    assert "N=1  walker2d-medium-expert-v2  seed 0  running" in text
    assert ("67%" in text) == terminal, "two results, two failures, and two cells to go"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (200_000, "2.3 days")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert readable_duration(seconds) == text
