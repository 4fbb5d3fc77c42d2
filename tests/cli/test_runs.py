"""`dqlab runs`: a list in 80 columns, curves of a run under way, tags and notes to MLflow, what is not deleted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run, isolated, refused
from made_folders import write_grid, write_run
from made_grids import made_grid
from mlflow_stores import fresh_store

from dqlab.cli.runs import BARS, WIDTH, sparkline
from dqlab.tracking.run_folder import RunFolder, claim_folder

GRID = made_grid(values=(2, 5), tasks=("walker2d-medium-expert-v2",), seeds=2)
NARROW = {"COLUMNS": "80"}
LONG = "quickstart-20261128-060115-6803"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run with a long name, one that was killed, and a grid of four cells."""
    write_run(tmp_path / "runs" / LONG, seeds=(0, 1))
    write_run(tmp_path / "runs" / "killed", state="running")
    write_grid(tmp_path / "runs" / "steps", GRID)
    return tmp_path / "runs"


def test_the_list_has_runs_and_grids_and_fits(runs: Path, in_process: Run) -> None:
    assert in_process("runs", "tag", "runs/steps", "paper=table1").returncode == 0
    for name, file in (("mangled", "run.json"), ("noted", "notes.json")):
        (write_run(runs / name) / file).write_text("{")
    done = in_process("runs", "list", env=NARROW)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.count("is damaged") for line in done.stderr.splitlines()] == [1, 1]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert [*rows] == ["run", "killed", "walker2d-medium-expert-v2,", LONG, "steps", "*"]
    assert rows["killed"] == ["killed", "50.0*"]
    assert rows[LONG] == ["finished", "50.5*"]
    assert rows["steps"] == ["finished", "4/4", "cells", "paper=table1"]
    assert "* not D4RL" in done.stdout


def test_a_folder_without_runs(tmp_path: Path, in_process: Run) -> None:
    assert in_process("runs", "list", ".").stdout == "There are no runs in '.'.\n"
    assert "There is no folder 'runs'." in in_process("runs", "list").stderr


def test_a_folder_with_one_run(tmp_path: Path, in_process: Run) -> None:
    write_run(tmp_path / "only")
    assert in_process("runs", "list", ".").stdout.splitlines()[1].split() == ["only", "finished", "50.0*"]


def test_a_list_says_which_run_has_which_caveat(tmp_path: Path, in_process: Run) -> None:
    for name, caveat in (("a", "not D4RL"), ("b", "success rate in %"), ("c", "")):
        run = write_run(tmp_path / name)
        for path in (run / "run.json", run / "seed-0" / "summary.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "caveat": caveat}))
    lines = in_process("runs", "list", ".").stdout.splitlines()
    assert [line.split()[-1] for line in lines if "finished" in line] == ["50.0*", "50.0**", "50.0"]
    assert [line.strip() for line in lines[-2:]] == ["* not D4RL", "** success rate in %"]


def test_what_a_run_and_a_grid_are(runs: Path, in_process: Run) -> None:
    name = f"runs/{LONG}"
    in_process("runs", "note", name, "as it was")
    shown = in_process("runs", "show", name).stdout
    for text in ("finished", "diffusion_ql", "digest of wa", "torch 2.13.0", "as it was", "best-online", "not D4RL"):
        assert text in shown
    assert "No scores yet" not in shown
    assert "N: 2, 5" in in_process("runs", "show", "runs/steps").stdout
    for door in ("show", "tail"):
        lines = in_process("runs", door, "runs/steps").stdout.splitlines()
        assert "runs/steps: finished, 4 of 4 cells finished" in map(str.strip, lines)
        rows = [line.split() for line in lines if line.startswith(" N=")]
        assert [row[:5] for row in rows] == [[f"N={n}", GRID.tasks[0], "2", "0", "0"] for n in (2, 5)]
        assert [float(row[5]) for row in rows] == [52.0, 56.9]


def test_a_damaged_journal_has_no_curves(runs: Path, in_process: Run) -> None:
    (runs / "killed" / "seed-0" / "metrics.jsonl").write_text("{]\n")
    refused(in_process("runs", "tail", "runs/killed"), "runs/killed/seed-0/metrics.jsonl is damaged")


def add_score(run: Path, step: int, score: float) -> None:
    with (run / "seed-0" / "metrics.jsonl").open("a") as journal:
        journal.write(json.dumps({"step": step, "time": 1e9, "metrics": {"score/mean": score}}) + "\n")


def test_curves_of_a_run_under_way(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", state="running")
    add_score(run, 6000, 12.25)
    with claim_folder(run), (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-m", "dqlab", "runs", "tail", "mine", "--every", "0.1"]
        env = isolated(tmp_path) | {"FORCE_COLOR": "1", "TERM": "xterm"}
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said)
        wait_for(tmp_path / "said", "mine: running, step 6,000", "12.25")
        add_score(run, 7000, 23.5)
        wait_for(tmp_path / "said", "step 7,000", "▁█", "23.5")
        assert process.poll() is None
        RunFolder(run).write_facts(state="finished")
    assert process.wait(60) == 0
    assert "mine: finished" in (tmp_path / "said").read_text()


def wait_for(path: Path, *texts: str) -> None:
    deadline = time.monotonic() + 120
    while not all(text in path.read_text() for text in texts):
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.1)


def test_curves_of_a_line() -> None:
    assert sparkline([]) == ""
    assert sparkline([3.0, float("nan")]) == BARS[0]
    rising = sparkline(range(1000))
    assert (len(rising), rising[0], rising[-1]) == (WIDTH, BARS[0], BARS[-1])
    assert list(rising) == sorted(rising)


def test_tags_and_the_note_go_to_mlflow_and_away(runs: Path, in_process: Run) -> None:
    from mlflow.tracking import MlflowClient

    fresh_store(runs)
    name = f"runs/{LONG}"
    assert in_process("sync", name).returncode == 0
    tagged = in_process("runs", "tag", name, "baseline", "paper=table1")
    assert tagged.stdout == f"{name}: baseline, paper=table1\nFor MLflow to have it: dqlab sync {name}\n"
    in_process("runs", "note", name, "as it was")

    def stored() -> list[dict[str, str]]:
        assert in_process("sync", name).returncode == 0
        client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
        found = client.search_runs([each.experiment_id for each in client.search_experiments()])
        own = ("tag.", "mlflow.note")
        return [{key: text for key, text in run.data.tags.items() if key.startswith(own)} for run in found]

    assert stored() == [{"tag.baseline": "", "tag.paper": "table1", "mlflow.note.content": "as it was"}] * 3
    in_process("runs", "tag", name, "paper", "--remove")
    in_process("runs", "note", name, "")
    assert stored() == [{"tag.baseline": "", "mlflow.note.content": ""}] * 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["tag", "runs/steps", "a/b"], "a tag's name has letters, digits"),
        (["tag", "runs/steps", "gone", "--remove"], "has no tag 'gone'. It has none."),
        (["tag", "runs/steps/packs/00000000", "x"], "is a part of a grid. Name the grid:"),
        (["note", "runs", "x"], "runs is not the folder of a dqlab run or grid"),
        (["rm", "runs/killed", "runs/steps/packs/00000000", "--yes"], "is a part of a grid"),
        (["rm", "runs/killed", "runs/nowhere", "--yes"], "runs/nowhere is not the folder of a dqlab run or grid"),
        (["tail", "runs/killed", "--every", "0"], "--every is 0: between 0.1 and 3600 seconds."),
    ],
)
def test_what_is_refused(runs: Path, in_process: Run, args: list[str], says: str) -> None:
    refused(in_process("runs", *args), says)
    assert (runs / "killed").exists()
    assert not (runs / "steps" / "notes.json").exists()


def test_what_is_deleted(runs: Path, in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_folder(runs / "steps" / "packs" / "00000000"):
        assert "runs/steps is in use" in in_process("runs", "rm", "runs/killed", "runs/steps", "--yes").stderr
    asked: list[str] = []

    def answer(text: str) -> None:
        monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or text)  # type: ignore[func-returns-value]

    answer("")
    assert in_process("runs", "rm", "runs/steps").stdout == "runs/steps is kept.\n"
    answer("y")
    assert in_process("runs", "rm", "runs/steps").stdout == "runs/steps is deleted.\n"
    assert "Delete runs/steps (finished; " in asked[-1]
    assert sorted(path.name for path in runs.iterdir()) == ["killed", LONG]


def test_nobody_answers(runs: Path) -> None:
    command = [sys.executable, "-m", "dqlab", "runs", "rm"]
    options = {"cwd": runs.parent, "env": isolated(runs.parent), "capture_output": True, "text": True}
    done = subprocess.run([*command, "runs/killed", "--yes"], **options)  # type: ignore[call-overload]
    assert (done.returncode, done.stdout) == (0, "runs/killed is deleted.\n")
    kept = subprocess.run([*command, "runs/steps"], stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    assert (kept.returncode, "--yes deletes without asking" in kept.stderr) == (2, True)
    assert (runs / "steps").exists()
