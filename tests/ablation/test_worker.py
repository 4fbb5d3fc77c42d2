"""The process of a pack, as engines start it: asked to stop, killed, started again; mistakes.

Diverging cells: training/test_cells.py, and test_ablate.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import isolated
from made_packs import CELLS, check_same, held, pack_text, wait_until_held, write_hold

from dqlab.tracking.run_folder import claim_folder

OFTEN = ("Training.checkpoint_seconds=0.0", "Training.eval_every=30", "Training.log_every=5")
STEPS = 60


def make_pack(folder: Path, *bindings: str) -> Path:
    folder.mkdir()
    write_hold(folder.parent)
    (folder / "pack.gin").write_text("import hold\n" + pack_text(CELLS, *OFTEN, *bindings, steps=STEPS))
    return folder


def start(folder: Path, **env: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-m", "dqlab.ablation.worker", str(folder)], subprocess.PIPE
    env = isolated(folder.parent) | env
    with (folder / "worker.log").open("a") as log:
        return subprocess.Popen(command, cwd=folder.parent, env=env, stdin=pipe, stdout=pipe, stderr=log, text=True)


def run(folder: Path) -> tuple[int, list[Any]]:
    """Exit code and events of a process that nobody disturbs."""
    process = start(folder)
    assert process.stdout is not None
    events = [json.loads(line) for line in process.stdout]
    return process.wait(120), events


def wait_for(process: subprocess.Popen[str], event: str) -> Any:
    assert process.stdout is not None
    return next(told for told in map(json.loads, process.stdout) if told["event"] == event)


def close_input(process: subprocess.Popen[str]) -> None:
    """As when whoever started it dies."""
    assert process.stdin is not None
    process.stdin.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_pack(tmp_path_factory.mktemp("workers") / "whole")
    code, events = run(folder)
    assert code == 0, (folder / "worker.log").read_text()
    assert [event["event"] for event in events[:2]] == ["starting", "started"]
    assert events[-1] == {"event": "finished"}
    return folder


def test_it_waits_for_an_earlier_process_of_the_same_pack(whole: Path) -> None:
    """However long that takes; asked to stop, it stops waiting."""
    with claim_folder(whole):
        patient = start(whole)
        wait_for(patient, "waiting")
        close_input(patient)
        assert patient.wait(120) == 130
        patient = start(whole)
        wait_for(patient, "waiting")
    wait_for(patient, "finished")
    assert patient.wait(120) == 0


def test_the_lowest_seed_is_looked_into(whole: Path, tmp_path: Path) -> None:
    """What fails of that costs a warning."""
    assert {path.parent.name for path in whole.glob("*/inspection.json")} == {"cell-a", "cell-b"}
    folder = shutil.copytree(whole, tmp_path / "copied")
    write_hold(tmp_path)
    (folder / "cell-a" / "inspection.json").write_text("{")
    (folder / "cell-b" / "inspection.json").unlink()
    assert run(folder) == (0, [{"event": "finished"}])
    assert "warning: no look inside of eta=0.5, seed 0:" in (folder / "worker.log").read_text()
    assert (folder / "cell-b" / "inspection.json").read_text() == (whole / "cell-b" / "inspection.json").read_text()
    (folder / "cell-b" / "failure.json").write_text(json.dumps({"kind": "diverged", "reason": "NaN"}))
    assert run(folder) == (1, [{"event": "finished"}]), "some cells have failed"


def test_stopped_it_saves_and_goes_on_as_if_undisturbed(whole: Path, tmp_path: Path) -> None:
    folder = make_pack(tmp_path / "pack")
    stopped = start(folder, **held(20, tmp_path / "go"))
    wait_until_held(tmp_path / "go")
    close_input(stopped)
    (tmp_path / "go").touch()
    assert stopped.wait(120) == 130, (folder / "worker.log").read_text()
    code, events = run(folder)
    assert code == 0, (folder / "worker.log").read_text()
    assert 0 < next(event for event in events if event["event"] == "started")["step"] < STEPS
    for name in CELLS:
        check_same(folder, name, whole)


def test_killed_while_it_begins_and_then_nobody_listens(tmp_path: Path) -> None:
    """Before the first checkpoint: begun afresh, whatever lies there. The next one is written though nobody reads."""
    folder = make_pack(tmp_path / "pack", "Training.checkpoint_seconds=1e9", "Training.evaluate_untrained=False")
    process = start(folder, **held(1, tmp_path / "never"))
    wait_for(process, "started")
    process.kill()
    process.wait(120)
    assert (folder / "run.json").exists()
    assert not (folder / "checkpoint.safetensors").exists()
    (folder / ".run.json.1.tmp").write_text("{")
    again = start(folder, **held(20, tmp_path / "go"))
    assert wait_for(again, "started")["step"] == 0
    assert again.stdout is not None
    again.stdout.close()
    wait_until_held(tmp_path / "go")
    again.terminate()
    (tmp_path / "go").touch()
    assert again.wait(120) == 130, (folder / "worker.log").read_text()
    assert (folder / "checkpoint.safetensors").exists()


def test_mistakes_and_accidents_are_told(tmp_path: Path) -> None:
    code, events = run(make_pack(tmp_path / "pack", "DiffusionQL.etta=1"))
    assert (code, events[-1]["event"]) == (2, "failed")
    assert "has no parameter 'etta'" in events[-1]["reason"]
    chatter = "import os\nprint('chatter')\nos.write(1, b'more')\n"
    plugin = f"{chatter}from dqlab.training.programs import Step\nStep.take_sums = None"
    (tmp_path / "breaks_steps.py").write_text(plugin)
    broken = make_pack(tmp_path / "broken", "import breaks_steps")
    code, events = run(broken)
    assert code == 3
    assert events[-1]["reason"].startswith("TypeError: ")
    log = (broken / "worker.log").read_text()
    assert all(words in log for words in ("Traceback", "chatter", "more"))
