"""Runs in real MLflow: killed runs, failed cells, a server that dies and comes back, stores in files."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, Run, isolated, refused
from made_folders import write_run
from made_packs import held, write_hold
from mlflow_stores import fresh_store
from ray_cluster import until

from dqlab.errors import RunError
from dqlab.tracking.mlflow.client import mlflow_client, store_of, store_path, store_uri, tracking_uri
from dqlab.tracking.mlflow.mirror import sync_to_mlflow
from dqlab.tracking.mlflow.sync import send_folder


class Server:
    """A real MLflow tracking server on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder, self.store = folder, fresh_store(folder, "server.db")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = [
            "--backend-store-uri",
            self.store,
            "--artifacts-destination",
            str(self.folder / "art"),
        ]
        command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


SETS = ["--set", *(line for line in TINY if not line.startswith("Tracking"))]
TRAIN = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--seeds", "0", "1", "--steps", "40"]
CLOCK = "train/updates_per_second"
FINAL = {f"score/{rule}" for rule in ("last", "best_online", "offline", "mean_last_10")}
TAGS = {"task": "walker2d-medium-expert-v2", "caveat": "not D4RL", "data_source": "embedded", "physics": "mujoco210"}
TAGS |= {"execution": "eager", "variant.lr_schedule": "cosine"}


def begin(folder: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    """A command under way."""
    command = [sys.executable, "-m", "dqlab", *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=isolated(folder) | env, **streams)  # type: ignore[call-overload]


def sent_of(run: Path) -> dict[str, Any]:
    """What is remembered as sent, by the run's key."""
    return json.loads((run / "mlflow.json").read_text())["runs"] if (run / "mlflow.json").exists() else {}


def journal(folder: Path) -> list[tuple[str, int, float]]:
    """(metric, step, value) of every record of a replica."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted((name, r["step"], value) for r in records for name, value in r["metrics"].items())


def stored(at: Any, run_id: str) -> list[tuple[str, int, float]]:
    """The same, as MLflow has it (final scores by rule apart)."""
    names = set(at.get_run(run_id).data.metrics) - FINAL
    return sorted((m.key, m.step, m.value) for name in names for m in at.get_metric_history(run_id, name))


def check_complete(at: Any, run: Path, resumed: bool = False) -> None:
    """One run a replica under a parent; every metric once; parameters, tags, artifacts, final scores.

    Of a run that was killed and resumed, what was recorded twice is there twice, with other times.
    """
    facts = json.loads((run / "run.json").read_text())
    runs = at.search_runs([at.get_experiment_by_name(TAGS["task"]).experiment_id])
    children = {r.data.tags["seed"]: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert set(children) == {"0", "1"}
    for seed, child in children.items():
        own, found, summary = run / f"seed-{seed}", stored(at, child.info.run_id), run / f"seed-{seed}" / "summary.json"
        assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == ("FINISHED", parent.info.run_id)
        if resumed:
            found = sorted({item for item in found if item[0] != CLOCK})
        assert found == [item for item in journal(own) if not (resumed and item[0] == CLOCK)]
        assert child.data.params["DiffusionQL.eta"] == "1.0"
        assert child.data.params["Training.batch_size"] == "8"
        assert child.data.tags.items() >= {**TAGS, "data_digest": facts["data"]["digest"]}.items()
        assert child.data.tags["version.torch"].startswith("2.")
        artifacts = {item.path for item in at.list_artifacts(child.info.run_id)}
        assert artifacts >= {"config.gin", "curve.png", "summary.json", "checkpoints", "best_score_online.txt"}
        for rule, row in json.loads(summary.read_text())["selection"].items():
            assert child.data.metrics[f"score/{rule}"] == row["score_mean"]


def test_a_killed_run_is_shown_as_killed_until_it_is_resumed(dqlab: Run, in_process: Run, tmp_path: Path) -> None:
    """In the store beside the runs, as the same MLflow run; what is sent again is not there twice."""
    run, uri = tmp_path / "runs" / "one", fresh_store(tmp_path / "runs")
    args = [*TRAIN, *write_hold(tmp_path), "--out", "runs/one", *SETS, "Training.checkpoint_seconds=0.0"]
    process = begin(tmp_path, *args, **held(30, tmp_path / "never"))
    until(lambda: (run / "seed-1" / "metrics.jsonl").exists() and (run / "checkpoint.safetensors").exists())
    process.kill()
    process.communicate()
    until(lambda: "KILLED" in {known["status"] for known in sent_of(run).values()})
    at = mlflow_client(uri)
    ids = {key: known["run"] for key, known in sent_of(run).items()}
    assert at.get_run(ids["seed-1"]).info.status == "KILLED"
    done = dqlab(*args, "--resume")
    assert done.returncode == 0, done.stderr
    assert "MLflow:         dqlab ui runs/one\n" in done.stdout
    assert {key: known["run"] for key, known in sent_of(run).items()} == ids
    check_complete(at, run, resumed=True)
    assert "has all of it" in in_process("sync", "runs/one").stdout
    check_complete(at, run, resumed=True)


def test_a_failed_cell_is_shown_as_failed(tmp_path: Path) -> None:
    """The others are complete, and each has its own scalars; the parent's score is theirs."""
    uri, run = fresh_store(tmp_path), write_run(tmp_path / "run", seeds=(0, 1, 2))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    replica = {"points": {}, "set": {"DiffusionQL.eta": 0.5}}
    facts["replicas"] = {f"seed-{n}": {"seed": n, "cell": f"eta={n}", **replica} for n in range(3)}
    (run / "run.json").write_text(json.dumps(facts))
    (run / "seed-1" / "summary.json").unlink()
    failure = {"kind": "diverged", "reason": "the loss became NaN", "step": 10}
    (run / "seed-1" / "failure.json").write_text(json.dumps(failure))
    for _ in range(2):  # nothing is done twice
        send_folder(run, uri, "packs", over=True)
    at = mlflow_client(uri)
    parent, *runs = [at.get_run(known["run"]) for known in sent_of(run).values()]
    assert [child.info.status for child in runs] == ["FINISHED", "FAILED", "FINISHED"]
    assert [child.data.tags.get("failure") for child in runs] == [None, "diverged: the loss became NaN", None]
    own = [(child.data.params["DiffusionQL.eta"], child.data.tags["cell"]) for child in runs[::2]]
    assert own == [("0.5", "eta=0"), ("0.5", "eta=2")]
    assert (parent.info.status, parent.data.metrics["score/last"]) == ("FINISHED", 51.0)


@pytest.mark.fresh_start
def test_a_server_that_dies_never_stops_training(tmp_path: Path) -> None:
    """A quiet user is told once, and the log does not repeat it at every attempt; `sync` sends the rest."""
    server, run = Server(tmp_path), tmp_path / "run"
    try:
        server.start()
        env = {"MLFLOW_TRACKING_URI": server.uri, **held(30, tmp_path / "dead")}
        args = [*TRAIN, "-q", *write_hold(tmp_path), "--out", "run", *SETS, "Tracking.patience=3.0"]
        process = begin(tmp_path, *args, **env)
        until(lambda: any(known["records"] for known in sent_of(run).values()))
        server.kill()
        (tmp_path / "dead").touch()
        output, errors = process.communicate(timeout=300)
        assert (process.returncode, output) == (0, ""), errors
        assert errors.count("dqlab: warning: MLflow does not have all of it yet (") == 1
        assert "Later: dqlab sync run" in errors
        said = [re.sub("0x[0-9a-f]+", "", line[9:]) for line in (run / "mlflow.log").read_text().splitlines()]
        assert any(line.startswith("not sent: ") for line in said)
        assert all(one != next_one for one, next_one in pairwise(said))  # whatever the number of attempts
        with pytest.raises(RunError, match="set MLFLOW_TRACKING_URI to it"):
            sync_to_mlflow(run)
        with pytest.raises(RunError, match="could not be sent"):
            sync_to_mlflow(run, server.uri)
        server.start()
        before = dict(os.environ)
        assert sync_to_mlflow(run, server.uri)[1] == server.uri
        assert dict(os.environ) == before
        check_complete(mlflow_client(server.uri), run)
    finally:
        server.kill()


NEVER = """
import os, sys, time
os.link = lambda *names: time.sleep(600)
from dqlab.tracking.mlflow.client import mlflow_client
mlflow_client(sys.argv[1]).search_experiments()
"""
"""A store is made elsewhere, and then linked to its place."""


def test_a_store_that_is_cut_off_while_it_is_made(tmp_path: Path) -> None:
    """As at the end of a short run, whose first records have not been sent."""
    path = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", NEVER, store_uri(path)], stderr=subprocess.DEVNULL) as process:
        while not sum(file.stat().st_size for file in tmp_path.rglob("mlflow.db")):  # until the first table is there
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert not path.exists()
    assert mlflow_client(store_uri(path)).search_experiments()
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_two_that_make_a_store_at_once(tmp_path: Path) -> None:
    both = [begin(tmp_path, "sync", str(write_run(tmp_path / "runs" / name))) for name in "ab"]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b", "mlflow.db", "mlartifacts"}


@pytest.mark.parametrize("name", ["plain", "a b", "50%", "a?b#c%20d", "gr\u00f6\u00dfer"])
def test_addresses(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mlflow.db"
    assert store_path(store_uri(path)) == path
    assert store_path("https://a:b@c/d") is None


def test_a_run_in_a_folder_with_an_odd_name(in_process: Run, tmp_path: Path) -> None:
    """Its store and artifacts are beside it and nowhere else; in time also where its experiment had been deleted."""
    folder = tmp_path / "a?b#c%20d"
    write_run(folder / "run")
    assert in_process("sync", f"{folder.name}/run").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"run", "mlflow.db", "mlartifacts"}
    assert store_path(store_of(str(folder))) == store_path(tracking_uri(folder / "run")) == folder / "mlflow.db"
    at = mlflow_client(store_uri(folder / "mlflow.db"))
    (experiment,) = [each for each in at.search_experiments() if each.name != "Default"]
    runs = at.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert any(at.list_artifacts(run.info.run_id) for run in runs)

    at.delete_experiment(experiment.experiment_id)
    (folder / "run" / "mlflow.json").unlink()
    said = f"`mlflow experiments restore -x {experiment.experiment_id}`"
    done = in_process("sync", f"{folder.name}/run")
    refused(done, f"experiment '{experiment.name}' is deleted. Restore it", said)
    at.restore_experiment(experiment.experiment_id)
    assert in_process("sync", f"{folder.name}/run").returncode == 0
    assert len(at.search_runs([experiment.experiment_id])) == 2 * len(runs)
