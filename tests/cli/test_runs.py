"""`dqlab runs`: a list in 80 columns, curves of a run under way, tags and notes to MLflow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Run, refused
from made_folders import write_grid, write_run
from made_grids import made_grid
from mlflow_stores import fresh_store

from dqlab.tracking.run_folder import claim_folder

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
    assert rows["steps"] == ["finished", "4", "cells", "paper=table1"]
    assert "* not D4RL" in done.stdout


def test_folders_without_runs_and_with_one(tmp_path: Path, in_process: Run) -> None:
    assert in_process("runs", "list", ".").stdout == "There are no runs in '.'.\n"
    assert "There is no folder 'runs'." in in_process("runs", "list").stderr
    write_run(tmp_path / "only")
    assert in_process("runs", "list", ".").stdout.splitlines()[1].split() == ["only", "finished", "50.0*"]


def test_what_a_run_and_a_grid_are(runs: Path, in_process: Run) -> None:
    in_process("runs", "note", f"runs/{LONG}", "as it was")
    shown = in_process("runs", "show", f"runs/{LONG}").stdout
    for text in ("finished", "diffusion_ql", "digest of wa", "torch 2.13.0", "as it was", "best-online", "not D4RL"):
        assert text in shown
    assert "N: 2, 5" in in_process("runs", "show", "runs/steps").stdout
    (runs / "killed" / "seed-0" / "summary.json").unlink()
    (runs / "killed" / "seed-0" / "metrics.jsonl").write_text("{]\n")
    refused(in_process("runs", "show", "runs/killed"), "runs/killed/seed-0/metrics.jsonl is damaged")


def add_score(run: Path, step: int, score: float) -> None:
    with (run / "seed-0" / "metrics.jsonl").open("a") as journal:
        journal.write(json.dumps({"step": step, "time": 1e9, "metrics": {"score/mean": score}}) + "\n")


def test_curves_of_a_run_under_way(tmp_path: Path, in_process: Run) -> None:
    """At most 32 of the values, the last one among them."""
    run = write_run(tmp_path / "mine", state="running")
    for number in range(101):
        add_score(run, 6000 + 10 * number, 12.5 + number)
    with claim_folder(run):
        shown = in_process("runs", "show", "mine").stdout
    assert re.search(r"state +running", shown)
    assert "step 7,000" in shown
    assert re.search("[^▁-█]▁[▁-█]{30}█ +112.5", shown)


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


def test_what_is_refused(runs: Path, in_process: Run) -> None:
    for args, said in (
        (["tag", "runs/steps", "a/b"], "a tag's name has letters, digits"),
        (["tag", "runs/steps", "gone", "--remove"], "has no tag 'gone'. It has none."),
        (["tag", "runs/steps/packs/00000000", "x"], "is a part of a grid. Name the grid:"),
        (["note", "runs", "x"], "runs is not the folder of a dqlab run or grid"),
    ):
        refused(in_process("runs", *args), said)
    assert not (runs / "steps" / "notes.json").exists()
