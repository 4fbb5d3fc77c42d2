"""How far a grid is, as it is told and shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from made_grids import made_result

from dqlab.ablation.display import GridDisplay
from dqlab.ablation.engines.base import DIED, FINISHED, STOPPED, Ended, Job
from dqlab.ablation.planning import PackKind, PlannedPack, ResolvedDataset
from dqlab.analysis.results import Cell, CellStatus
from dqlab.machine import readable_duration
from dqlab.printing import Console

KIND = PackKind("walker2d-medium-expert-v2", "", ResolvedDataset("embedded", None, ""))
CELLS = [Cell(f"{n:04x}", f"N={n // 2}", {"N": str(n // 2)}, KIND.task, n % 2) for n in range(6)]


@pytest.mark.parametrize("terminal", [False, True])
def test_cells_follow_their_packs_and_have_lines(tmp_path: Path, terminal: bool) -> None:
    """One has finished before, one failed; one finishes now, one fails; of two the pack ends in some other way."""
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=terminal, color_system=None, _environ={"TERM": "xterm"})
    cells = {cell.id: CellStatus(cell) for cell in CELLS}
    cells["0000"].finish(tmp_path)
    cells["0001"].fail("diverged", "it diverged")
    packs = [PlannedPack("a", KIND, tuple(CELLS[2:4])), PlannedPack("b", KIND, tuple(CELLS[4:]))]
    display = GridDisplay(cells, packs, console, "steps in runs/steps", "not D4RL")
    jobs = {name: Job(name, tmp_path / name) for name in ("a", "b")}

    def tell(name: str, event: str, **more: Any) -> float:
        display.on_event(jobs[name], {"event": event, **more})
        return display.done()

    records = {"0002": ("summary", made_result(CELLS[2], 13.0).summary), "0003": ("failure", DIVERGED)}
    with display:
        assert tell("a", "starting") == tell("a", "started", step=0, steps=100) == 2.0
        assert tell("a", "progress", step=50, updates_per_second=3.0) == 3.0
        tell("a", "evaluated", step=50, scores={"cell-0002": 12.5})
        assert (cells["0002"].last_score, cells["0003"].last_score) == (12.5, None)
        assert tell("a", "cell_failed", replica="cell-0003", reason="NaN") == 3.5
        assert tell("a", "progress", step=80) == tell("a", "of a later version") == 3.8
        for cell, (name, record) in records.items():
            (tmp_path / "a" / f"cell-{cell}").mkdir(parents=True)
            (tmp_path / "a" / f"cell-{cell}" / f"{name}.json").write_text(json.dumps(record))
        display.on_end(Ended(jobs["a"], FINISHED))
        assert (cells["0002"].folder, cells["0003"].failure) == (tmp_path / "a" / "cell-0002", "diverged")
    text = out.getvalue()
    assert "[2/6] N=1  walker2d-medium-expert-v2  seed 0  finished  score 13.0 (not D4RL)" in text
    for said in ("seed 0  starting", "seed 0  running", "seed 1  running", "seed 1  failed  NaN"):
        assert f"[1/6] N=1  walker2d-medium-expert-v2  {said}" in text
    assert ("67%" in text) == terminal, "two results, two failures, and two cells to go"
    for code, reason, wanted in ENDS:
        tell("b", "started", step=0, steps=100)
        display.on_end(Ended(jobs["b"], code, reason))
        assert (cells["0004"].state, cells["0004"].failure, cells["0004"].reason) == wanted
        cells["0004"].wait()


DIVERGED = {"kind": "diverged", "reason": "NaN"}
ENDS = [
    (STOPPED, "", ("waiting", "", "")),
    (FINISHED, "", ("failed", "crashed", "it ended without a result")),
    (DIED, "killed by SIGKILL", ("failed", "crashed", "killed by SIGKILL")),
]


def test_durations_are_for_people() -> None:
    times = {0.4: "0 s", 89: "89 s", 90: "2 min", 3600: "60 min", 5400: "1.5 h", 200_000: "2.3 days"}
    assert {seconds: readable_duration(seconds) for seconds in times} == times
