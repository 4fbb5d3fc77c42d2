"""MLflow's stores in files: made whole or not at all, in any folder; deleted experiments, and what was not sent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from dqlab.tracking.mlflow.client import mlflow_client, store_path, store_uri, tracking_uri
from dqlab.tracking.mlflow.ui import store_of

Run = Callable[..., subprocess.CompletedProcess[str]]
SETS = [line for line in TINY if not line.startswith("Tracking")]
TRAIN = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--steps", "20", "-q"]
MAKE = """
import os, sys, time
from dqlab.tracking.mlflow.client import mlflow_client
mlflow_client(sys.argv[1]).search_experiments()
"""


NEVER = MAKE.replace("import os, sys, time", "import os, sys, time\nos.link = lambda *names: time.sleep(600)")
"""A store is made elsewhere, and then linked to its place."""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_store_that_is_cut_off_while_it_is_made(tmp_path: Path, how: signal.Signals) -> None:
    """As at the end of a short run, whose first records have not been sent."""
    path = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", NEVER, store_uri(path)], stderr=subprocess.DEVNULL) as process:
        while not sum(file.stat().st_size for file in tmp_path.rglob("mlflow.db")):  # until the first table is there
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, how)
    assert not path.exists()
    assert mlflow_client(store_uri(path)).search_experiments()
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_two_that_make_a_store_at_once(tmp_path: Path) -> None:
    uri = store_uri(tmp_path / "mlflow.db")
    both = [subprocess.Popen([sys.executable, "-c", MAKE, uri], stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait() for process in both if process.communicate()] == [0, 0]
    assert mlflow_client(uri).search_experiments()
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("name", ["plain", "a b", "50%", "a?b#c%20d", "gr\u00f6\u00dfer"])
def test_addresses(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mlflow.db"
    assert store_path(store_uri(path)) == path
    assert store_path("https://a:b@c/d") is None


def test_a_run_in_a_folder_with_an_odd_name(dqlab: Run, tmp_path: Path) -> None:
    """Its store and artifacts are beside it and nowhere else; in time also where its experiment had been deleted."""
    folder = tmp_path / "a?b#c%20d"
    done = dqlab(*TRAIN, "--out", f"{folder.name}/run", "--set", *SETS)
    assert (done.returncode, done.stderr.count("warning")) == (0, 0), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"run", "mlflow.db", "mlartifacts"}
    assert store_path(store_of(str(folder))) == store_path(tracking_uri(folder / "run")) == folder / "mlflow.db"
    at = mlflow_client(store_uri(folder / "mlflow.db"))
    (experiment,) = [each for each in at.search_experiments() if each.name != "Default"]
    runs = at.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(at.list_artifacts(run.info.run_id) for run in runs)

    at.delete_experiment(experiment.experiment_id)
    (folder / "run" / "mlflow.json").unlink()
    deleted = dqlab("sync", f"{folder.name}/run")
    assert deleted.returncode == 2
    assert f"experiment '{experiment.name}' is deleted. Restore it" in deleted.stderr
    assert f"`mlflow experiments restore -x {experiment.experiment_id}`" in deleted.stderr
    at.restore_experiment(experiment.experiment_id)
    assert dqlab("sync", f"{folder.name}/run").returncode == 0
    assert len(at.search_runs([experiment.experiment_id])) == 2 * len(runs)


def test_what_was_not_sent_is_said_to_quiet_users_too(dqlab: Run, tmp_path: Path) -> None:
    """Once, with the reason; the log does not repeat it at every attempt."""
    nobody = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = dqlab(*TRAIN, "--out", "run", "--set", *SETS, "Tracking.patience=20.0", env=nobody)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "dqlab: warning: MLflow does not have all of it yet (" in done.stderr
    assert "Later: dqlab sync run" in done.stderr
    assert done.stderr.count("MLflow does not have") == 1
    said = [line[9:] for line in (tmp_path / "run" / "mlflow.log").read_text().splitlines()]
    assert [line for line in said if line.startswith("not sent: ")]
    assert len(said) == 1, said
