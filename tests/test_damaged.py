"""Damaged folders of runs and grids, at random: every reader says one line, or leaves something out with a line.

`DQLAB_FUZZ=20000` asks for that many cases of each kind, `DQLAB_FUZZ_SEED` for others.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from conftest import refused
from damaging import one_damaged
from made_folders import fail_cell, folder_of, write_grid, write_reusing, write_run
from made_grids import made_grid
from mlflow import MlflowClient
from mlflow.store.entities import PagedList
from mlflow_stores import fresh_store

from dqlab.ablation.folder import GridFolder, collect_results
from dqlab.analysis.compare import comparison_warnings, group_runs, read_folder
from dqlab.analysis.results import FAILED, CellStatus
from dqlab.config.gin_files import parse_bindings
from dqlab.config.identity import changed_results
from dqlab.errors import DqlabError
from dqlab.files import read_text
from dqlab.runs.load_policy import checkpoint_files
from dqlab.tracking.mlflow import sync as sync_module
from dqlab.tracking.mlflow.client import tracking_uri
from dqlab.tracking.mlflow.sync import send_folder
from dqlab.tracking.records import StateRecord, SummaryRecord, WeightsRecord, read_record
from dqlab.tracking.run_folder import Journal, RunFolder
from dqlab.tracking.selection_rules import CHECKPOINT_RULES
from dqlab.training import checkpoint
from dqlab.training.model_selection import ReplicaStates

CASES, SEED = int(os.environ.get("DQLAB_FUZZ", "150")), int(os.environ.get("DQLAB_FUZZ_SEED", "0"))
SMALL = made_grid(values=(2, 5), tasks=("walker2d-medium-expert-v2",), seeds=2)


def create_run(experiment: str, start: int | None = None, tags: Any = None, run_name: str = "") -> Any:
    json.dumps([start, tags, run_name]).encode()
    assert start is None or 0 < start < 2**63
    assert all(isinstance(text, str) for text in tags.values())
    return SimpleNamespace(info=SimpleNamespace(run_id="0" * 32))


def log_batch(run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
    for metric in metrics:
        float(metric.value)
        assert min(metric.timestamp, metric.step) >= 0
        assert max(metric.timestamp, metric.step) < 2**63
    for each in (*params, *tags):
        f"{each.key}{each.value}".encode()


def log_artifact(run: str, path: str, folder: str | None = None) -> None:
    assert Path(path).is_file()


def check_status(run: str, status: str, end: int | None = None) -> None:
    assert status in ("RUNNING", "FINISHED", "FAILED", "KILLED")


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> None:
    """In MLflow's place: takes what its client takes, and nothing that a server would refuse."""
    client = create_autospec(MlflowClient, instance=True, tracking_uri="http://nowhere")
    client.get_experiment_by_name.return_value = SimpleNamespace(experiment_id="0", lifecycle_stage="active")
    client.search_runs.return_value = PagedList([], None)
    client.get_run.return_value.data.tags = {"failure": "it became NaN"}
    client.create_run, client.log_batch, client.log_artifact = create_run, log_batch, log_artifact
    client.log_text.side_effect = lambda run, text, name: text.encode()
    client.set_terminated = client.update_run = check_status
    monkeypatch.setattr(sync_module, "mlflow_client", lambda uri: client)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # of thousands of writes none must survive a power cut


@pytest.fixture
def run(tmp_path: Path, sink: None) -> Path:
    """A run that goes on, with what has been sent of it and a checkpoint of its state."""
    run = write_run(tmp_path / "runs" / "run", seeds=(0, 1))
    rows = json.loads((run / "seed-0" / "summary.json").read_text())["evaluations"]
    state = {"step": 5000, "seeds": [0, 1], "stopped": [], "interval_start": 0, "journal": {"seed-0": 5, "seed-1": 5}}
    state |= {"evaluations": {"seed-0": rows, "seed-1": rows}}
    state |= {"failed": {"seed-1": {"reason": "it became NaN", "step": 10, "kind": "diverged"}}}
    checkpoint.write_checkpoint(run / "checkpoint.safetensors", {"parameters": {"actor": torch.zeros(2)}}, state)
    for seed in (0, 1):
        place = run / f"seed-{seed}" / "checkpoints" / "step-000005000.safetensors"
        checkpoint.write_checkpoint(
            place, {"actor": {"a": torch.zeros(2)}}, {"replica": f"seed-{seed}", "seed": seed, **rows[-1]}
        )
    send_folder(run, tracking_uri(run), "made", over=False)
    forget(run / "mlflow.json")
    return run


@pytest.fixture
def grid(tmp_path: Path, sink: None) -> Path:
    """A grid with a reused cell and a failed one, with what has been sent of it."""
    cells = [result.cell for result in SMALL.results]
    other = write_grid(tmp_path / "runs" / "other", SMALL)
    grid = write_reusing(tmp_path / "runs" / "grid", SMALL, other, [cells[0]])
    folder = folder_of(grid, cells[3])
    (folder / "summary.json").unlink()
    fail_cell(grid, CellStatus(cells[3], FAILED, "diverged", "it became NaN"))
    send_folder(grid, tracking_uri(grid), "made", over=False)
    for memory in (grid / "mlflow.json", *grid.glob("packs/*/mlflow.json")):
        forget(memory)
    return grid


def forget(path: Path) -> None:
    """Some of what has been sent, so that it is read again."""
    known = json.loads(path.read_text())
    runs = {key: {**run, "records": 1, "bytes": 1, "files": {}} for key, run in known["runs"].items()}
    path.write_text(json.dumps({**known, "settled": [], "runs": runs}))


def use_run(run: Path) -> None:
    """What compare, sync, eval and --resume read of a run."""
    folder, state = RunFolder(run), {}
    _said(lambda: compare(run))
    _said(lambda: send_folder(run, tracking_uri(run), "made", over=True))
    read = partial(checkpoint.read_checkpoint, kind=WeightsRecord)
    for which in CHECKPOINT_RULES:
        _said(lambda which=which: list(map(read, checkpoint_files(folder, None, which))))
    _said(lambda: changed_results(parse_bindings(read_text(folder.config)), parse_bindings("A.x = 1")))
    _said(lambda: folder.check(resume=True))
    _said(lambda: state.update(checkpoint.read_checkpoint(folder.checkpoint, StateRecord)[1]))
    kept = {path: path.read_bytes() for path in run.glob("*/*.json*") if path.is_file()}
    _said(lambda: _restore(folder, state))
    for path, content in kept.items():
        with suppress(OSError):
            path.write_bytes(content)


def _restore(folder: RunFolder, state: Any) -> None:
    if state:
        replicas = folder.replicas()
        ReplicaStates(replicas, folder, state).record()
        for replica in replicas:
            Journal(folder.replica(replica.name) / "metrics.jsonl", state["journal"].get(replica.name, 0))


def use_grid(grid: Path) -> None:
    """What compare, sync, and `ablate` with its report read of a grid."""
    folder = GridFolder(grid)
    _said(lambda: compare(grid))
    _said(lambda: send_folder(grid, tracking_uri(grid), "made", over=True))
    _said(lambda: folder.check("steps"))
    _said(lambda: folder.open_packs({result.cell.id for result in SMALL.results}))
    _said(lambda: [folder.free_id(pack.name) for pack in folder.packs.iterdir()])
    summaries = folder.ended("summary.json")
    _said(lambda: [float(read_record(path, SummaryRecord)["selection"]["last"]["score_mean"]) for _, path in summaries])
    _said(lambda: collect_results(folder))


def compare(folder: Path) -> None:
    found = read_folder(folder)
    if found.runs:
        tuple(comparison_warnings(found, group_runs(found.runs)))


def _said(read: Callable[[], object]) -> None:
    """A reader comes to its end, or says one line."""
    said = "nothing"
    try:
        read()
    except DqlabError as error:
        said = str(error)
    assert 0 < len(said) < 10_000, "the command line cuts it further"
    assert "\n" not in said


def check(use: Callable[[Path], None], folder: Path, paths: Iterable[Path], what: str) -> None:
    """Damage, use, mend; all cases that fail are listed."""
    paths, faults = sorted(paths), Counter()
    memory = {path: path.read_bytes() for path in folder.rglob("mlflow*.json")}
    for case in range(CASES):
        with one_damaged(paths, Random(f"{SEED} {what} {case}")) as path:
            try:
                use(folder)
            except Exception as error:
                faults[f"{path.name}: {type(error).__name__}: {str(error)[:100]}, first in case {case}"] += 1
        for kept, content in memory.items():
            kept.write_bytes(content)
    assert not faults, f"{sum(faults.values())} of {CASES}: {faults.most_common(20)}"


HUGE = b"1" + b"0" * 400
DEEP = b'"more": ' + b"[" * 5000 + b"]" * 5000 + b', "task": '
SUMMARY = "seed-0/summary.json"
JOURNAL = "seed-0/metrics.jsonl"
DOORS = [
    ("compare", SUMMARY, b'"score_mean": 50.0', b'"score_mean": ' + HUGE, "selection.last.score_mean: "),
    ("compare", "config.gin", b"Experiment.seeds = ", b"Experiment.seeds = ((", "config.gin:"),
    ("sync", JOURNAL, b'"step": 2000', b'"step": ' + HUGE, "metrics.jsonl is damaged (1.step: "),
    ("sync", JOURNAL, b'"step": 2000', b'"step" 2000', "(expected `:` at line 2 column "),
    ("sync", "mlflow.json", b'"runs": {', b'"runs": 3, "x": {', "mlflow.json is damaged (runs: "),
    ("eval", "run.json", b'"task": ', DEEP, "run.json is damaged (recursion"),
    ("eval", "run.json", b"walker2d", b"\xff\xfe", "run.json is damaged (invalid unicode"),
]


@pytest.mark.parametrize(("door", "name", "old", "new", "said"), DOORS, ids=[door[-1] for door in DOORS])
def test_doors(door: str, name: str, old: bytes, new: bytes, said: str, run: Path, dqlab: Any, tmp_path: Path) -> None:
    """The commands themselves: one message, exit code 2; where other seeds are sound, a warning."""
    path = run / name
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    if name != "mlflow.json":
        (run / "mlflow.json").unlink()
    fresh_store(tmp_path / "runs")
    done = dqlab(door, "runs/run")
    assert "Traceback" not in done.stderr
    if name == SUMMARY:
        assert f"Left out: runs/run/{name} is damaged ({said}" in done.stdout
        return
    refused(done, said)


def test_run_folders(run: Path) -> None:
    check(use_run, run, [path for path in run.rglob("*") if path.is_file() and path.suffix != ".jsonl"], "run")
    check(use_run, run, run.glob("*/metrics.jsonl"), "journal")


def test_grid_folders(grid: Path) -> None:
    names = ("*.json", "packs/*/*.json", "packs/*/*/*.json", "packs/*/*/config.gin")
    check(use_grid, grid, [path for name in names for path in grid.glob(name)], "grid")
    check(use_grid, grid, grid.glob("packs/*/*/metrics.jsonl"), "journal of a grid")
