"""Grids in real MLflow: nested runs, readable parameters, and mirrors and servers that are killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_folders import (
    begin_cell,
    fail_cell,
    finish_cell,
    folder_of,
    write_grid,
    write_pack,
    write_reusing,
    write_state,
)
from made_grids import TASKS, made_grid
from mlflow_stores import fresh_store
from ray_cluster import until

from dqlab.analysis.finished_runs import find_runs
from dqlab.analysis.results import FAILED, CellStatus, GridResults
from dqlab.errors import RunError
from dqlab.runs.evaluate import keep_video
from dqlab.tracking.folders import LeftOutError
from dqlab.tracking.mlflow import sync as sync_module
from dqlab.tracking.mlflow.client import all_runs, mlflow_client
from dqlab.tracking.mlflow.mirror import Mirror, is_tracked, sync_to_mlflow
from dqlab.tracking.mlflow.sync import send_folder
from dqlab.tracking.mlflow.tree import axis_parameter, config_digest

SMALL = made_grid(values=(2, 5), tasks=TASKS[:1], seeds=2)


def stored(uri: str) -> dict[str, list[Any]]:
    """Runs of the experiment by kind."""
    client = mlflow_client(uri)
    experiment = client.get_experiment_by_name("steps")
    found: dict[str, list[Any]] = {"grid": [], "pack": [], "cell": []}
    for run in all_runs(client, [experiment.experiment_id]) if experiment else []:
        found[run.data.tags["kind"]].append(run)
    return found


def history(uri: str, run: Any) -> Counter[tuple[str, int, float]]:
    client = mlflow_client(uri)
    points = (m for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name))
    return Counter((m.key, m.step, m.value) for m in points)


def journal(folder: Path) -> Counter[tuple[str, int, float]]:
    """What MLflow must have of a finished cell: every record and every rule's score, once."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    points = Counter((name, r["step"], value) for r in records for name, value in r["metrics"].items())
    selection = json.loads((folder / "summary.json").read_text())["selection"]
    return points + Counter((f"score/{rule}", row["step"], row["score_mean"]) for rule, row in selection.items())


def check_complete(uri: str, folder: Path, grid: GridResults) -> None:
    """Every run once, nested, finished, with all of its metrics."""
    found = stored(uri)
    assert len(found["grid"]) == 1
    assert len(found["pack"]) == len(grid.labels) * len(grid.tasks)
    top, packs = found["grid"][0], {run.info.run_id: run for run in found["pack"]}
    assert {run.data.tags["mlflow.parentRunId"] for run in packs.values()} == {top.info.run_id}
    by_place = {(run.data.tags["cell"], run.data.tags["task"], run.data.tags["seed"]): run for run in found["cell"]}
    assert len(found["cell"]) == len(by_place) == len(grid.results)
    for result in grid.results:
        run = by_place[result.cell.label, result.cell.task, str(result.cell.seed)]
        pack = packs[run.data.tags["mlflow.parentRunId"]]
        assert pack.data.tags["pack"] == folder_of(folder, grid, result.cell).parent.name
        assert history(uri, run) == journal(folder_of(folder, grid, result.cell))
    assert {run.info.status for kind in found.values() for run in kind} == {"FINISHED"}
    progress = mlflow_client(uri).get_metric_history(top.info.run_id, "finished_cells")
    assert sorted(point.value for point in progress) == list(range(1, len(grid.results) + 1))


def test_a_finished_grid_is_recorded_so_that_it_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two tasks."""
    grid = made_grid(values=(2, 5), seeds=2)
    folder, uri = write_grid(tmp_path / "runs" / "steps-1", grid), fresh_store(tmp_path)
    (folder / "report" / "figures").mkdir(parents=True)
    (folder / "report" / "index.html").write_text("a report")
    (folder / "report" / "figures" / "scores.png").write_bytes(b"a figure")
    send_folder(folder, uri, "steps")
    check_complete(uri, folder, grid)
    found, client = stored(uri), mlflow_client(uri)
    cell = next(run for run in found["cell"] if run.data.tags["cell"] == "N=2")
    assert cell.data.params == {"N": "2", "seed": cell.data.tags["seed"], "task": cell.data.tags["task"]}
    listed = {item.path for item in client.list_artifacts(cell.info.run_id)}
    assert listed == {"config.gin", "summary.json", "curve.png"}
    assert cell.data.tags["data_digest"].startswith("digest of")
    pack = next(run for run in found["pack"] if run.info.run_id == cell.data.tags["mlflow.parentRunId"])
    assert pack.data.params == {"N": "2", "task": cell.data.tags["task"], "cells": "2"}, "what its cells share"
    top = found["grid"][0]
    told = {"grid": "steps", "base": "N=2", "cells": "8", "finished": "8", "version.torch": "2.13.0"}
    assert top.data.tags.items() >= told.items()
    assert {item.path for item in client.list_artifacts(top.info.run_id)} == {"grid.gin", "report"}
    (figure,) = client.list_artifacts(top.info.run_id, "report/figures")
    assert figure.path == "report/figures/scores.png"
    noting = _Client(client)
    monkeypatch.setattr(sync_module, "mlflow_client", lambda uri: noting)
    send_folder(folder, uri, "steps")
    assert not noting.asked, "nothing is new, so nothing is asked of MLflow"


def test_a_growing_grid_with_failures_and_a_retry(tmp_path: Path) -> None:
    """Cells run, fail, are tried again and finish; a report that changes is sent again; a dead driver is seen."""
    uri, folder = fresh_store(tmp_path), tmp_path / "runs" / "steps-1"
    first, second, *rest = SMALL.results
    failure = CellStatus(second.cell, FAILED, "diverged", "the loss is not finite")
    pending = tuple(CellStatus(result.cell) for result in rest)
    begun = replace(SMALL, results=(first,), failures=(failure,), pending=pending)
    write_grid(folder, begun, state="running")
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("half")
    send_folder(folder, uri, "steps")
    client, found = mlflow_client(uri), stored(uri)
    by_cell = {(run.data.params["N"], run.data.params["task"], run.data.params["seed"]): run for run in found["cell"]}
    failed = by_cell["2", second.cell.task, "1"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["failure"] == "diverged: the loss is not finite"
    assert {item.path for item in client.list_artifacts(failed.info.run_id)} == {"config.gin", "failure.json"}
    assert by_cell["5", second.cell.task, "1"].info.status == "RUNNING"
    assert found["grid"][0].info.status == "RUNNING"
    send_folder(folder, uri, "steps", over=True)
    assert Counter(run.info.status for run in stored(uri)["cell"]) == {"FINISHED": 1, "FAILED": 1, "KILLED": 2}
    assert stored(uri)["grid"][0].info.status == "KILLED"
    (folder_of(folder, SMALL, second.cell) / "failure.json").unlink()  # it is tried again
    send_folder(folder, uri, "steps")
    again = client.get_run(failed.info.run_id)
    assert again.info.status == "RUNNING"
    assert "failure" not in again.data.tags
    for result in (second, *rest):
        begin_cell(folder, SMALL, result.cell, 5)
        finish_cell(folder, SMALL, result)
    (folder / "report" / "index.html").write_text("the whole report")
    write_state(folder, state="finished")
    send_folder(folder, uri, "steps", over=True)
    check_complete(uri, folder, SMALL)
    top = stored(uri)["grid"][0].info.run_id
    assert Path(client.download_artifacts(top, "report/index.html")).read_text() == "the whole report"


def test_half_a_line_of_a_journal_is_left_for_later(tmp_path: Path) -> None:
    grid = made_grid(values=(2,), tasks=("walker2d-medium-expert-v2",), seeds=1)
    cell = grid.results[0].cell
    folder, uri = tmp_path / "steps", fresh_store(tmp_path)
    write_grid(folder, replace(grid, results=(), pending=(CellStatus(cell),)), state="running")
    begin_cell(folder, grid, cell, 3)
    path = folder_of(folder, grid, cell) / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-20])
    send_folder(folder, uri, "steps")
    assert {step for _, step, _ in history(uri, stored(uri)["cell"][0])} == {1000, 2000}
    path.write_text(whole)
    finish_cell(folder, grid, grid.results[0])
    write_state(folder, state="finished")
    send_folder(folder, uri, "steps")
    check_complete(uri, folder, grid)


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_a_sender_that_dies_at_any_call_leaves_nothing_out_and_nothing_twice(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a call or right after it, that is: the server did it, and the answer was lost."""
    grid = made_grid(values=(2,), seeds=2)
    folder, uri = write_grid(tmp_path / "steps", grid), fresh_store(tmp_path)
    client_of, deaths = mlflow_client, 0
    for die_at, after in ((1, False), (1, True), (2, True), (3, False), (4, True), (6, False)):
        dying = _Client(client_of(uri), call, die_at, after)
        monkeypatch.setattr(sync_module, "mlflow_client", lambda uri, dying=dying: dying)
        try:
            send_folder(folder, uri, "steps")
        except ConnectionError:
            deaths += 1
    monkeypatch.setattr(sync_module, "mlflow_client", client_of)
    assert deaths >= 3
    send_folder(folder, uri, "steps")
    check_complete(uri, folder, grid)


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


def test_a_mirror_is_killed(tmp_path: Path) -> None:
    """A real mirror of a grid: kill -9 in the middle, then another one."""
    grid = made_grid(values=(2, 5), tasks=TASKS[:1], seeds=2)
    uri, half = fresh_store(tmp_path / "runs"), len(grid.results) // 2
    folder = write_grid(tmp_path / "runs" / "steps", replace(grid, results=grid.results[:half]), state="running")
    mirror = Mirror(folder, "steps")
    until(lambda: list(folder.glob("packs/*/mlflow.json")))
    os.kill(mirror._process.pid, signal.SIGKILL)
    mirror._process.wait()
    write_grid(folder, replace(grid, results=grid.results[half:]))
    packs = sorted(pack.name for pack in (folder / "packs").iterdir())
    write_state(folder, packs=packs, cells=len(grid.results), finished=len(grid.results))
    assert Mirror(folder, "steps").close(patience=300.0), (folder / "mlflow.log").read_text()
    check_complete(uri, folder, grid)


def test_sync_beside_the_runs_to_another_store_and_back(
    dqlab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_pack_that_never_trained_is_recorded(tmp_path: Path) -> None:
    """Its run.json knows no execution, its cells have no journal and no configuration."""
    grid = made_grid(values=(2,), tasks=("walker2d-medium-expert-v2",), seeds=2)
    cells = [result.cell for result in grid.results]
    folder, uri = tmp_path / "steps", fresh_store(tmp_path)
    write_grid(folder, replace(grid, results=(), pending=tuple(map(CellStatus, cells))), state="incomplete")
    pack = folder / "packs" / "00000000"
    write_pack(pack, cells)
    facts = json.loads((pack / "run.json").read_text())
    del facts["execution"]
    (pack / "run.json").write_text(json.dumps(facts))
    for cell in cells:
        (pack / cell.replica).mkdir()
        fail_cell(folder, grid, CellStatus(cell, FAILED, "crashed", "killed by signal 9"))
    send_folder(folder, uri, "steps", over=True)
    assert {run.info.status for runs in stored(uri).values() for run in runs} == {"FAILED"}


@pytest.mark.parametrize(
    ("axis", "name"), [("N", "N"), ("seed", "axis seed"), ("eta (Q)", "eta _Q_"), ("a/b", "a_b"), ("lr.x-1", "lr.x-1")]
)
def test_axes_become_names_that_mlflow_takes(axis: str, name: str) -> None:
    assert axis_parameter(axis) == name


def test_the_digest_of_a_configuration_leaves_out_seeds_and_labels_only() -> None:
    text = "A.x = 1\nExperiment.cell = 'N=2'\nExperiment.seeds = \\\n    (0,\n     1)\nExperiment.task = 'a'\n"
    assert config_digest(text) == config_digest("# made today\nExperiment.task = 'a'\nA.x = 1\nExperiment.seeds = (7,)")
    assert config_digest(text) != config_digest(text.replace("A.x = 1", "A.x = 2"))
    assert config_digest(text) != config_digest(text.replace("'a'", "'b'"))


def test_reused_cells_have_runs_below_the_grids(tmp_path: Path) -> None:
    """One each, however often they are sent; one that is gone is left out and told of, the others are not."""
    other, uri = write_grid(tmp_path / "other", SMALL), fresh_store(tmp_path)
    reused = [result.cell for result in SMALL.results[:3]]
    (other / "packs").rename(tmp_path / "storage")
    (other / "packs").symlink_to(tmp_path / "storage")
    folder = write_reusing(tmp_path / "steps", SMALL, other, reused)
    lost = folder_of(other, SMALL, reused[0])
    lost.rename(tmp_path / "away")
    with pytest.raises(LeftOutError, match=f"{lost} is gone"):
        send_folder(folder, uri, "steps")
    assert len(stored(uri)["cell"]) == 3
    (tmp_path / "away").rename(lost)
    for _ in range(2):
        send_folder(folder, uri, "steps")
    found = stored(uri)
    by_source = {run.data.tags["reused_from"]: run for run in found["cell"] if "reused_from" in run.data.tags}
    assert (len(found["cell"]), set(by_source)) == (4, {str(folder_of(other, SMALL, cell)) for cell in reused})
    run, result = by_source[str(lost)], SMALL.results[0]
    assert run.data.tags["mlflow.parentRunId"] == found["grid"][0].info.run_id
    assert run.data.params == {"N": "2", "seed": "0", "task": result.cell.task}
    assert run.data.metrics == {f"score/{rule}": row["score_mean"] for rule, row in result.summary["selection"].items()}
    assert {item.path for item in mlflow_client(uri).list_artifacts(run.info.run_id)} >= {"config.gin", "summary.json"}
    assert {run.info.status for run in found["cell"]} == {"FINISHED"}
    progress = mlflow_client(uri).get_metric_history(found["grid"][0].info.run_id, "finished_cells")
    assert sorted(point.value for point in progress) == list(range(1, 5))
    assert len(find_runs([found["grid"][0].info.run_id], None, "", uri).runs) == 4


def test_packs_that_are_trained_again_get_new_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set aside, then trained under the same ids; a sender that dies in between leaves none twice."""
    folder, uri = write_grid(tmp_path / "steps", SMALL), fresh_store(tmp_path)
    send_folder(folder, uri, "steps")
    first = {run.info.run_id for run in stored(uri)["cell"]}
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
    new = [run for run in stored(uri)["cell"] if run.info.run_id not in first]
    assert len(new) == 4
    scores = {(run.info.status, run.data.metrics["score/last"] - int(run.data.tags["seed"])) for run in new}
    assert scores == {("FINISHED", 10.0)}
    before = dict(os.environ)
    found = find_runs([stored(uri)["grid"][0].info.run_id], None, "", uri)
    assert dict(os.environ) == before
    assert {run["scores"]["last"] - run["seed"] for run in found.runs} == {10.0}, "the last attempt counts"


def test_a_grid_that_grows_says_what_it_is_now(tmp_path: Path) -> None:
    folder, uri = write_grid(tmp_path / "steps", SMALL), fresh_store(tmp_path)
    send_folder(folder, uri, "steps")
    write_grid(folder, made_grid(values=(2, 5, 10), tasks=TASKS[:1], seeds=3))
    write_state(folder, gin="a longer grid")
    send_folder(folder, uri, "steps")
    top = stored(uri)["grid"][0]
    assert (top.data.tags["axes"], top.data.tags["seeds"], top.data.tags["cells"]) == ("N: 2, 5, 10", "0, 1, 2", "9")
    assert not top.data.params, "which could not follow"
    assert Path(mlflow_client(uri).download_artifacts(top.info.run_id, "grid.gin")).read_text() == "a longer grid"


def test_a_mirror_goes_on_after_damaged_cells(tmp_path: Path) -> None:
    grid = made_grid(values=(2, 5), tasks=TASKS[:1], seeds=3)
    folder, uri = write_grid(tmp_path / "steps", grid), fresh_store(tmp_path)
    damage = [("summary.json", "{}"), ("summary.json", "[]"), ("failure.json", "{}"), ("metrics.jsonl", "{]\n")]
    paths = [folder_of(folder, grid, grid.results[n].cell) / name for n, (name, _) in enumerate(damage)]
    whole = {path: path.read_text() for path in paths if path.exists()}
    for path, (_, text) in zip(paths, damage, strict=True):
        path.write_text(text)
    with pytest.raises(LeftOutError) as caught:
        send_folder(folder, uri, "steps", over=True)
    assert all(f"{path} is damaged" in str(caught.value) for path in paths[:3])
    assert str(caught.value).endswith("And 1 more.")
    assert Counter(run.info.status for run in stored(uri)["cell"]) == {"FINISHED": 2, "KILLED": 4}
    assert stored(uri)["grid"][0].info.status == "FINISHED"
    for path in paths:
        path.write_text(whole[path]) if path in whole else path.unlink()
    send_folder(folder, uri, "steps", over=True)
    assert Counter(run.info.status for run in stored(uri)["cell"]) == {"FINISHED": 6}


def test_a_mirror_says_once_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, uri = write_grid(tmp_path / "steps", SMALL), fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    broken = folder / "packs" / "00000000" / "run.json"
    broken.write_text("{}")
    assert not Mirror(folder, "steps").close(patience=300.0), "not all of it was sent"
    assert (folder / "mlflow.log").read_text().count(f"left out: {broken} is damaged") == 1
    assert Counter(run.info.status for run in stored(uri)["cell"]) == {"FINISHED": 2}


@pytest.mark.parametrize("text", ["[]", "{}", "{"])
def test_a_damaged_grid_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_grid(tmp_path / "steps", SMALL)
    (folder / "grid.json").write_text(text)
    with pytest.raises(RunError, match=f"{folder}/grid.json is damaged"):
        sync_to_mlflow(folder)


@pytest.mark.parametrize("kind", ["cell", "pack"])
def test_deleted_runs_stay_deleted_and_others_go_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, folder = fresh_store(tmp_path), tmp_path / "steps"
    pending = tuple(CellStatus(result.cell) for result in SMALL.results)
    write_grid(folder, replace(SMALL, results=(), pending=pending), state="running")
    send_folder(folder, uri, "steps")
    deleted = stored(uri)[kind][0].info.run_id
    mlflow_client(uri).delete_run(deleted)
    write_grid(folder, SMALL)
    for _ in range(2):
        send_folder(folder, uri, "steps", over=True)
    assert capsys.readouterr().out.count(f"run {deleted} was deleted in MLflow") == 1
    runs = [run for found in stored(uri).values() for run in found]
    assert (len(runs), {run.info.status for run in runs}) == (1 + 2 + 4 - 1, {"FINISHED"})
    (folder / "mlflow.json").unlink()
    send_folder(folder, uri, "steps", over=True)
    assert len(stored(uri)["cell"]) == (7 if kind == "cell" else 8), "all of it, anew"


def test_videos_of_a_cell_whose_pack_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is sent once, and again where it has changed."""
    results = made_grid(values=(2,), seeds=2)
    grid, uri = write_grid(tmp_path / "grid", results), fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    first = folder_of(grid, results, results.results[0].cell)
    assert not is_tracked(first.parent)
    send_folder(grid, uri, "steps", over=True)
    assert is_tracked(first.parent)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    kept = keep_video(tmp_path / "a.mp4", first, 500)
    assert keep_video(kept, first, 500) == kept, "one that lies there already"
    client = mlflow_client(uri)
    for content in (b"a video", b"another one"):
        kept.write_bytes(content)
        for _ in range(2):
            send_folder(grid, uri, "steps", over=True)
        state = json.loads((first.parent / "mlflow.json").read_text())
        runs = {key.rpartition(" ")[2]: known["run"] for key, known in list(state["runs"].items())[1:]}
        run = runs.pop(first.name)
        assert [item.path for item in client.list_artifacts(run, "videos")] == ["videos/step-000000500.mp4"]
        assert Path(client.download_artifacts(run, "videos/step-000000500.mp4", tmp_path)).read_bytes() == content
        assert not any(client.list_artifacts(other, "videos") for other in runs.values())
