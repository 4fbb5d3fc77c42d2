"""Grids in real MLflow: nested runs, readable parameters, and mirrors and servers that are killed in the middle."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from made_folders import begin_cell, finish_cell, folder_of, write_grid, write_reusing, write_state
from made_grids import TASKS, made_grid
from mlflow_stores import fresh_store, history, journal
from ray_cluster import until

from dqlab.analysis.compare import find_runs
from dqlab.analysis.results import FAILED, CellStatus, GridResults
from dqlab.errors import RunError
from dqlab.runs.evaluate import keep_video
from dqlab.tracking.folders import LeftOutError
from dqlab.tracking.mlflow import sync as sync_module
from dqlab.tracking.mlflow.client import all_runs, mlflow_client
from dqlab.tracking.mlflow.sync import Mirror, is_tracked, send_folder, sync_to_mlflow
from dqlab.tracking.mlflow.tree import axis_parameter, config_digest

SMALL = made_grid(values=(2, 5), tasks=TASKS[:1], seeds=2)


def stored(uri: str, kind: str) -> list[Any]:
    """The experiment's runs of a kind."""
    client = mlflow_client(uri)
    runs = all_runs(client, [client.get_experiment_by_name("steps").experiment_id])
    return [run for run in runs if run.data.tags["kind"] == kind]


def states(uri: str, kind: str = "cell") -> Counter[str]:
    return Counter(run.info.status for run in stored(uri, kind))


def artifacts(uri: str, run: Any, folder: str | None = None) -> set[str]:
    return {item.path for item in mlflow_client(uri).list_artifacts(run.info.run_id, folder)}


def artifact(uri: str, run: Any, name: str) -> bytes:
    return Path(mlflow_client(uri).download_artifacts(run.info.run_id, name)).read_bytes()


def check_complete(uri: str, folder: Path, grid: GridResults) -> None:
    """Every run once, nested, finished, with all of its metrics."""
    (top,), packs = stored(uri, "grid"), {run.info.run_id: run for run in stored(uri, "pack")}
    assert len(packs) == len(grid.labels) * len(grid.tasks)
    assert {run.data.tags["mlflow.parentRunId"] for run in packs.values()} == {top.info.run_id}
    cells = stored(uri, "cell")
    by_place = {(run.data.tags["cell"], run.data.tags["task"], run.data.tags["seed"]): run for run in cells}
    assert len(cells) == len(by_place) == len(grid.results)
    for result in grid.results:
        run = by_place[result.cell.label, result.cell.task, str(result.cell.seed)]
        pack = packs[run.data.tags["mlflow.parentRunId"]]
        assert pack.data.tags["pack"] == folder_of(folder, result.cell).parent.name
        assert history(mlflow_client(uri), run) == journal(folder_of(folder, result.cell))
    assert {run.info.status for run in (top, *packs.values(), *cells)} == {"FINISHED"}
    assert top.data.tags["finished"] == str(len(grid.results))


def test_a_finished_grid_of_two_tasks_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = made_grid(values=(2, 5), seeds=2)
    folder, uri = write_grid(tmp_path / "runs" / "steps-1", grid), fresh_store(tmp_path)
    (folder / "report" / "figures").mkdir(parents=True)
    (folder / "report" / "figures" / "scores.png").write_bytes(b"a figure")
    send_folder(folder, uri, "steps")
    check_complete(uri, folder, grid)
    cell = next(run for run in stored(uri, "cell") if run.data.tags["cell"] == "N=2")
    task = cell.data.tags["task"]
    assert cell.data.params == {"N": "2", "seed": cell.data.tags["seed"], "task": task}
    assert artifacts(uri, cell) == {"config.gin", "summary.json", "curve.png"}
    (pack,) = [run for run in stored(uri, "pack") if run.info.run_id == cell.data.tags["mlflow.parentRunId"]]
    made = {"data_digest": f"digest of {task}", "version.torch": "2.13.0", "git_commit": "abc"}
    assert all(run.data.tags.items() >= made.items() for run in (cell, pack))
    assert pack.data.params == {"N": "2", "task": task, "cells": "2"}, "what its cells share"
    began = [(folder_of(folder, each.cell) / "config.gin").stat().st_mtime for each in grid.results]
    assert {run.info.start_time for run in stored(uri, "cell")} == {int(at * 1000) for at in began}
    (top,) = stored(uri, "grid")
    assert top.data.tags.items() >= {"grid": "steps", "base": "N=2", "cells": "8"}.items()
    assert artifacts(uri, top) == {"grid.gin", "report"}
    assert artifacts(uri, top, "report/figures") == {"report/figures/scores.png"}
    noting = _Client(mlflow_client(uri))
    monkeypatch.setattr(sync_module, "mlflow_client", lambda uri: noting)
    send_folder(folder, uri, "steps")
    assert not noting.asked, "nothing is new, so nothing is asked of MLflow"
    for summary in folder.rglob("summary.json"):  # as a copy of the folder has it
        os.utime(summary, (1e9, 1e9))
    send_folder(folder, uri, "steps", over=True)
    check_complete(uri, folder, grid)


def test_a_growing_grid_with_failures_and_a_retry(tmp_path: Path) -> None:
    """Cells run, fail, are tried again, finish, become more; half a line of a journal waits; a dead driver is seen."""
    uri, folder = fresh_store(tmp_path), tmp_path / "runs" / "steps-1"
    first, second, *rest = SMALL.results
    failure = CellStatus(second.cell, FAILED, "diverged", "the loss is not finite")
    pending = tuple(CellStatus(result.cell) for result in rest)
    write_grid(folder, replace(SMALL, results=(first,), failures=(failure,), pending=pending), state="running")
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("half")
    begin_cell(folder, second.cell, 3)
    records = folder_of(folder, second.cell) / "metrics.jsonl"
    records.write_text(records.read_text()[:-20])
    send_folder(folder, uri, "steps")
    (failed,) = [run for run in stored(uri, "cell") if run.info.status == "FAILED"]
    assert failed.data.tags["failure"] == "diverged: the loss is not finite"
    assert artifacts(uri, failed) == {"config.gin", "failure.json"}
    assert {step for _, step, _ in history(mlflow_client(uri), failed)} == {1000, 2000}
    assert states(uri) == {"FINISHED": 1, "FAILED": 1, "RUNNING": 2}
    assert states(uri, "grid") == {"RUNNING": 1}
    send_folder(folder, uri, "steps", over=True)
    assert states(uri) == {"FINISHED": 1, "FAILED": 1, "KILLED": 2}
    assert states(uri, "grid") == {"KILLED": 1}
    write_state(folder, state="incomplete")
    send_folder(folder, uri, "steps", over=True)
    assert states(uri, "grid") == {"FAILED": 1}
    write_state(folder, state="running")
    (folder_of(folder, second.cell) / "failure.json").unlink()  # it is tried again
    send_folder(folder, uri, "steps")
    again = mlflow_client(uri).get_run(failed.info.run_id)
    assert (again.info.status, again.data.tags.get("failure")) == ("RUNNING", None)
    for result in (second, *rest):
        begin_cell(folder, result.cell, 5)
        finish_cell(folder, result)
    (folder / "report" / "index.html").write_text("the whole report")
    write_state(folder, state="finished", finished=4)
    send_folder(folder, uri, "steps", over=True)
    check_complete(uri, folder, SMALL)
    assert artifact(uri, stored(uri, "grid")[0], "report/index.html") == b"the whole report"
    write_grid(folder, made_grid(values=(2, 5, 10), tasks=TASKS[:1], seeds=3))
    (folder / "grid.gin").write_text("a longer grid")
    send_folder(folder, uri, "steps")
    (top,) = stored(uri, "grid")
    assert (top.data.tags["axes"], top.data.tags["seeds"], top.data.tags["cells"]) == ("N: 2, 5, 10", "0, 1, 2", "9")
    assert not top.data.params, "which could not follow"
    assert artifact(uri, top, "grid.gin") == b"a longer grid"


class _Client:
    """MLflow's client; notes what it is asked, and its connection may break at the n-th call of a method."""

    def __init__(self, client: Any, breaks: str = "", at: int = 0, after: bool = False) -> None:
        self._client, self._breaks, self._left, self._after = client, breaks, at, after
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left:
                return method(*args, **kwargs)
            if self._after:
                method(*args, **kwargs)
            raise ConnectionError("the server is gone")

        return call if name == self._breaks else method


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_a_sender_that_dies_at_any_call(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it or right after it (the answer was lost): nothing is left out, and nothing is there twice."""
    grid = made_grid(values=(2,), seeds=2)
    folder, uri, deaths = write_grid(tmp_path / "steps", grid), fresh_store(tmp_path), 0
    for die_at, after in ((1, False), (1, True), (2, True), (3, False), (4, True), (6, False)):
        dying = _Client(mlflow_client(uri), call, die_at, after)
        with monkeypatch.context() as patch:
            patch.setattr(sync_module, "mlflow_client", lambda uri, dying=dying: dying)
            try:
                send_folder(folder, uri, "steps")
            except ConnectionError:
                deaths += 1
    assert deaths >= 3
    send_folder(folder, uri, "steps")
    check_complete(uri, folder, grid)


def test_a_mirror_is_killed(tmp_path: Path) -> None:
    """A real mirror of a grid: kill -9 in the middle, then another one."""
    folder, uri = tmp_path / "runs" / "steps", fresh_store(tmp_path / "runs")
    write_grid(folder, replace(SMALL, results=SMALL.results[:2]), state="running")
    mirror = Mirror(folder, "steps")
    until(lambda: list(folder.glob("packs/*/mlflow.json")))
    os.kill(mirror._process.pid, signal.SIGKILL)
    mirror._process.wait()
    write_grid(folder, SMALL)
    assert Mirror(folder, "steps").close(patience=300.0), (folder / "mlflow.log").read_text()
    check_complete(uri, folder, SMALL)


def test_sync_to_another_store_and_back(dqlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack stands for its grid; the packs lie in a storage, to which `packs` links."""
    folder = write_grid(tmp_path / "runs" / "steps", SMALL)
    (folder / "packs").rename(tmp_path / "storage")
    (folder / "packs").symlink_to(tmp_path / "storage")
    uris = [fresh_store(tmp_path / "runs"), fresh_store(tmp_path, "other.db")]
    done = dqlab("sync", "runs/steps")
    assert done.returncode == 0, done.stderr
    assert "runs/mlflow.db) has all of it" in done.stdout
    check_complete(uris[0], folder, SMALL)
    for path, uri in ((next((folder / "packs").iterdir()), uris[1]), (folder, uris[0])):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        sync_to_mlflow(path)
        check_complete(uri, folder, SMALL)
    with pytest.raises(RunError, match="is not the folder of a dqlab run or grid"):
        sync_to_mlflow(tmp_path)


@pytest.mark.parametrize(
    ("axis", "name"), [("N", "N"), ("seed", "axis seed"), ("eta (Q)", "eta _Q_"), ("a/b", "a_b"), ("lr.x-1", "lr.x-1")]
)
def test_axes_become_names_that_mlflow_takes(axis: str, name: str) -> None:
    assert axis_parameter(axis) == name


def test_the_digest_of_a_configuration_leaves_out_seeds_and_labels_only() -> None:
    text = "A.x = 1\nExperiment.cell = 'N=2'\nExperiment.seeds = \\\n    (0,\n     1)\nExperiment.task = 'a'\n"
    assert config_digest(text) == config_digest("# made today\nExperiment.task = 'a'\nA.x = 1\nExperiment.seeds = (7,)")
    assert len({config_digest(each) for each in (text, text.replace("= 1", "= 2"), text.replace("'a'", "'b'"))}) == 3


def test_reused_cells_have_runs_below_the_grids(tmp_path: Path) -> None:
    """One each, however often they are sent; one that is gone is left out and told of, the others are not."""
    other, uri = write_grid(tmp_path / "other", SMALL), fresh_store(tmp_path)
    reused = [result.cell for result in SMALL.results[:3]]
    (other / "packs").rename(tmp_path / "storage")
    (other / "packs").symlink_to(tmp_path / "storage")
    folder = write_reusing(tmp_path / "steps", SMALL, other, reused)
    lost = folder_of(other, reused[0])
    lost.rename(tmp_path / "away")
    with pytest.raises(LeftOutError, match=f"{lost} is gone"):
        send_folder(folder, uri, "steps")
    assert len(stored(uri, "cell")) == 3
    (tmp_path / "away").rename(lost)
    for _ in range(2):
        send_folder(folder, uri, "steps")
    (top,), cells = stored(uri, "grid"), stored(uri, "cell")
    by_source = {run.data.tags["reused_from"]: run for run in cells if "reused_from" in run.data.tags}
    assert (len(cells), set(by_source)) == (4, {str(folder_of(other, cell)) for cell in reused})
    run, result = by_source[str(lost)], SMALL.results[0]
    assert run.data.tags["mlflow.parentRunId"] == top.info.run_id
    assert run.data.params == {"N": "2", "seed": "0", "task": result.cell.task}
    assert run.data.metrics == {f"score/{rule}": row["score_mean"] for rule, row in result.summary["selection"].items()}
    assert artifacts(uri, run) >= {"config.gin", "summary.json"}
    assert (states(uri), top.data.tags["finished"]) == ({"FINISHED": 4}, "4")
    assert len(find_runs([top.info.run_id], None, "", uri).runs) == 4


def test_packs_that_are_trained_again_get_new_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set aside, then trained under the same ids; a sender that dies in between leaves none twice."""
    folder, uri = write_grid(tmp_path / "steps", SMALL), fresh_store(tmp_path)
    send_folder(folder, uri, "steps")
    first = {run.info.run_id for run in stored(uri, "cell")}
    (folder / "packs").rename(folder / "packs-until-today")
    again = made_grid(values=(2, 5), tasks=TASKS[:1], seeds=2, score=lambda value, task, seed: 10.0 + seed)
    write_grid(folder, again)
    later = time.time() + 5
    for config in folder.glob("packs/*/*/config.gin"):
        os.utime(config, (later, later))
        (config.parent / "metrics.jsonl").unlink()
    dying = _Client(mlflow_client(uri), "create_run", 3, True)
    with monkeypatch.context() as patch:
        patch.setattr(sync_module, "mlflow_client", lambda uri: dying)
        with pytest.raises(ConnectionError):
            send_folder(folder, uri, "steps")
    send_folder(folder, uri, "steps")
    new = [run for run in stored(uri, "cell") if run.info.run_id not in first]
    scores = [(run.info.status, run.data.metrics["score/last"] - int(run.data.tags["seed"])) for run in new]
    assert scores == [("FINISHED", 10.0)] * 4
    before = dict(os.environ)
    found = find_runs([stored(uri, "grid")[0].info.run_id], None, "", uri)
    assert dict(os.environ) == before
    assert {run["scores"]["last"] - run["seed"] for run in found.runs} == {10.0}, "the last attempt counts"


def test_a_mirror_goes_on_after_damaged_files_and_says_once_what_it_leaves_out(tmp_path: Path) -> None:
    grid = made_grid(values=(2, 5, 10), tasks=TASKS[:1], seeds=3)
    folder, uri = write_grid(tmp_path / "steps", grid), fresh_store(tmp_path)
    damage = [("summary.json", "{}"), ("summary.json", "[]"), ("failure.json", "{}"), ("metrics.jsonl", "{]\n")]
    paths = [folder_of(folder, grid.results[n].cell) / name for n, (name, _) in enumerate(damage)]
    pack = folder_of(folder, grid.results[-1].cell).parent / "run.json"
    whole = {path: path.read_text() for path in (*paths, pack) if path.exists()}
    for path, (_, text) in zip(paths, damage, strict=True):
        path.write_text(text)
    pack.write_text("{}")
    assert not Mirror(folder, "steps").close(patience=300.0), "not all of it was sent"
    (said,) = (folder / "mlflow.log").read_text().splitlines()
    assert [text for text in (f"left out: {paths[0]}", *map(str, paths[1:3]), "And 2 more.") if text not in said] == []
    assert (states(uri), states(uri, "grid")) == ({"FINISHED": 2, "KILLED": 4}, {"FINISHED": 1})
    for path in (*paths, pack):
        path.write_text(whole[path]) if path in whole else path.unlink()
    send_folder(folder, uri, "steps", over=True)
    assert states(uri) == {"FINISHED": 9}


@pytest.mark.parametrize(("kind", "anew"), [("cell", 3 + 4), ("pack", 4 + 4)])
def test_deleted_runs_stay_deleted(kind: str, anew: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, folder = fresh_store(tmp_path), tmp_path / "steps"
    pending = tuple(CellStatus(result.cell) for result in SMALL.results)
    write_grid(folder, replace(SMALL, results=(), pending=pending), state="running")
    send_folder(folder, uri, "steps")
    deleted = stored(uri, kind)[0].info.run_id
    mlflow_client(uri).delete_run(deleted)
    write_grid(folder, SMALL)
    for _ in range(2):
        send_folder(folder, uri, "steps", over=True)
    assert capsys.readouterr().out.count(f"run {deleted} was deleted in MLflow") == 1
    assert states(uri, "grid") + states(uri, "pack") + states(uri) == {"FINISHED": 1 + 2 + 4 - 1}
    (folder / "mlflow.json").unlink()
    send_folder(folder, uri, "steps", over=True)
    assert len(stored(uri, "cell")) == anew, "all of it, anew"


def test_videos_of_a_cell_whose_pack_is_settled(tmp_path: Path) -> None:
    """Each is sent once, and again where it has changed."""
    grid, uri = write_grid(tmp_path / "grid", SMALL), fresh_store(tmp_path)
    first = folder_of(grid, SMALL.results[0].cell)
    assert not is_tracked(first.parent)
    send_folder(grid, uri, "steps", over=True)
    assert is_tracked(first.parent)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    kept = keep_video(tmp_path / "a.mp4", first, 500)
    assert keep_video(kept, first, 500) == kept, "one that lies there already"
    for content in (b"a video", b"another one"):
        kept.write_bytes(content)
        for _ in range(2):
            send_folder(grid, uri, "steps", over=True)
        with_videos = [run for run in stored(uri, "cell") if artifacts(uri, run, "videos")]
        assert [(run.data.tags["cell"], run.data.tags["seed"]) for run in with_videos] == [("N=2", "0")]
        assert artifacts(uri, with_videos[0], "videos") == {"videos/step-000000500.mp4"}
        assert artifact(uri, with_videos[0], "videos/step-000000500.mp4") == content
