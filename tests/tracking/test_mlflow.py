"""Tracking in real MLflow: the local store, and a server that dies in the middle of a run and comes back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, isolated
from made_packs import BROKEN, held, run_pack, write_hold
from mlflow_server import Server
from ray_cluster import until

from dqlab.errors import RunError
from dqlab.tracking.mlflow.sync import send_folder, sync_to_mlflow

Run = Callable[..., subprocess.CompletedProcess[str]]
SETS = [line for line in TINY if not line.startswith("Tracking")]
TRAIN = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--seeds", "0", "1"]


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def journal(folder: Path) -> list[tuple[str, int, float]]:
    """(metric, step, value) of every record of a replica."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted((name, r["step"], value) for r in records for name, value in r["metrics"].items())


def stored(at: Any, run_id: str) -> list[tuple[str, int, float]]:
    """The same, as MLflow has it (final scores by rule apart)."""
    names = at.get_run(run_id).data.metrics
    found = [(m.key, m.step, m.value) for name in names for m in at.get_metric_history(run_id, name)]
    return sorted(item for item in found if item[0] not in FINAL)


FINAL = {f"score/{rule}" for rule in ("last", "best_online", "offline", "mean_last_10")}


def check_complete(at: Any, run: Path) -> None:
    """One run a replica under a parent; every metric once; parameters, tags, artifacts, final scores."""
    facts = json.loads((run / "run.json").read_text())
    experiment = at.get_experiment_by_name("walker2d-medium-expert-v2")
    runs = at.search_runs([experiment.experiment_id])
    children = {r.data.tags["seed"]: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert set(children) == {"0", "1"}
    assert [parent.info.run_id for parent in parents] == [c.data.tags["mlflow.parentRunId"] for c in children.values()][
        :1
    ]
    for seed, child in children.items():
        assert child.info.status == "FINISHED"
        assert stored(at, child.info.run_id) == journal(run / f"seed-{seed}")
        assert child.data.params["DiffusionQL.eta"] == "1.0"
        assert child.data.params["Training.batch_size"] == "8"
        tags = child.data.tags
        assert tags["task"] == "walker2d-medium-expert-v2"
        assert tags["caveat"] == "not D4RL"
        assert tags["data_source"] == "embedded"
        assert tags["data_digest"] == facts["data"]["digest"]
        assert tags["physics"] == "mujoco210"
        assert tags["execution"] == "eager"
        assert tags["version.torch"].startswith("2.")
        assert tags["variant.lr_schedule"] == "cosine"
        artifacts = {item.path for item in at.list_artifacts(child.info.run_id)}
        assert artifacts >= {"config.gin", "curve.png", "summary.json", "checkpoints", "best_score_online.txt"}
        summary = json.loads((run / f"seed-{seed}" / "summary.json").read_text())
        for rule, row in summary["selection"].items():
            assert child.data.metrics[f"score/{rule}"] == row["score_mean"]


def test_local_store_beside_the_runs(dqlab: Run, tmp_path: Path) -> None:
    done = dqlab(*TRAIN, "--steps", "40", "--out", "runs/one", "--set", *SETS)
    assert done.returncode == 0, done.stderr
    assert "MLflow:         dqlab ui runs/one\n" in done.stdout
    at = client(f"sqlite:///{tmp_path}/runs/mlflow.db")
    check_complete(at, tmp_path / "runs" / "one")
    again = dqlab("sync", "runs/one")  # sends nothing twice
    assert "has all of it" in again.stdout
    check_complete(at, tmp_path / "runs" / "one")


def test_a_killed_run_is_shown_as_killed_until_it_is_resumed(dqlab: Run, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    args = [*TRAIN, *write_hold(tmp_path), "--steps", "60", "--out", "runs/one", "--set", *SETS]
    args += ["Training.checkpoint_seconds=0.0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dqlab.cli", *args],
        cwd=tmp_path,
        env=isolated(tmp_path) | held(30, tmp_path / "never"),
        stdout=subprocess.DEVNULL,
    )
    until(lambda: (run / "seed-1" / "metrics.jsonl").exists() and (run / "checkpoint.safetensors").exists())
    process.kill()
    process.wait()
    until(lambda: (run / "mlflow.json").exists() and '"KILLED"' in (run / "mlflow.json").read_text())
    at = client(f"sqlite:///{tmp_path}/runs/mlflow.db")
    sent = json.loads((run / "mlflow.json").read_text())
    assert at.get_run(sent["runs"]["seed-1"]["run"]).info.status == "KILLED"
    assert dqlab(*args, "--resume").returncode == 0
    again = json.loads((run / "mlflow.json").read_text())
    ids = {key: known["run"] for key, known in sent["runs"].items()}
    assert {key: known["run"] for key, known in again["runs"].items()} == ids, "the resumed run is the same MLflow run"
    for name, child in list(ids.items())[1:]:
        clocks = {"train/updates_per_second"}  # a clock's figures differ the second time
        values = [item for item in stored(at, child) if item[0] not in clocks]
        assert sorted(set(values)) == [item for item in journal(run / name) if item[0] not in clocks]
        assert at.get_run(child).info.status == "FINISHED"


def test_a_failed_cell_is_shown_as_failed(tmp_path: Path) -> None:
    """The others are complete, and each has its own scalars; the parent's score is theirs."""
    run = tmp_path / "run"
    few = "Training.steps=10", "Training.eval_every=10", "Training.evaluate_untrained=False"
    finished = run_pack(run, BROKEN, *few)
    for _ in range(2):  # nothing is done twice
        send_folder(run, f"sqlite:///{tmp_path}/mlflow.db", "packs", over=True)
    at, sent = client(f"sqlite:///{tmp_path}/mlflow.db"), json.loads((run / "mlflow.json").read_text())
    parent, *runs = [at.get_run(known["run"]) for known in sent["runs"].values()]
    runs = {run.data.tags["dqlab.key"]: run for run in runs}
    assert {name: child.info.status for name, child in runs.items()} == {
        "cell-a": "FINISHED",
        "cell-x": "FAILED",
        "cell-c": "FINISHED",
    }
    assert "became NaN" in runs["cell-x"].data.tags["failure"]
    assert "failure" not in runs["cell-a"].data.tags
    assert [(r.data.params["DiffusionQL.eta"], r.data.tags["cell"]) for r in (runs["cell-a"], runs["cell-c"])] == [
        ("0.5", "eta=0.5"),
        ("2.0", "eta=2.0"),
    ]
    scores = [s["selection"]["last"] for s in finished.summaries.values()]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["score/last"] == pytest.approx(sum(score["score_mean"] for score in scores) / 2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.fresh_start
def test_a_server_that_dies_never_stops_training(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    env = {"MLFLOW_TRACKING_URI": server.uri, **held(50, tmp_path / "dead")}
    command = [sys.executable, "-m", "dqlab.cli", *TRAIN, *write_hold(tmp_path), "--steps", "100", "--out", "run"]
    command += ["--set", *SETS, "Tracking.patience=3.0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=isolated(tmp_path) | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def something_has_arrived() -> bool:
        known = json.loads((run / "mlflow.json").read_text()) if (run / "mlflow.json").exists() else {}
        return any(run["records"] for run in known.get("runs", {}).values())

    until(something_has_arrived)
    server.kill()
    (tmp_path / "dead").touch()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Later: dqlab sync run" in errors
    said = [re.sub("0x[0-9a-f]+", "", line[9:]) for line in (run / "mlflow.log").read_text().splitlines()]
    assert all(one != next_one for one, next_one in pairwise(said))  # whatever the number of attempts
    assert "not sent" in (run / "mlflow.log").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RunError, match="could not be sent"):
        sync_to_mlflow(run)
    server.start()
    assert sync_to_mlflow(run)[1] == server.uri
    check_complete(client(server.uri), run)
