"""Folders that somebody else has made: what is sent of them, where to, and what is said of passwords."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, Run, refused
from made_folders import folder_of, write_grid, write_reusing, write_run, write_state
from made_grids import made_grid
from mlflow_stores import fresh_store

from dqlab.errors import masked
from dqlab.tracking.mlflow.client import all_runs, mlflow_client

SMALL = made_grid(values=(2, 5), seeds=2)
QUICK = str(ROOT / "gin" / "quickstart.gin")
SETS = ["--set", *(line for line in TINY if not line.startswith("Tracking"))]
SECRET = "the secret of this machine"
Listener = tuple[str, list[str]]
USER = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "s3cret"}


@pytest.fixture
def listener() -> Iterator[Listener]:
    """The address of a server, and what it is asked with which credentials; it answers nothing of use."""
    heard: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_error(500)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    server.server_close()


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def sent(folder: Path) -> dict[str, bytes]:
    """Every artifact that lies beside the store, of which none has the secret."""
    found = [path for path in (folder / "mlartifacts").rglob("*") if path.is_file()]
    assert not [path for path in found if SECRET.encode() in path.read_bytes()]
    return {str(path): path.read_bytes() for path in found}


def test_an_address_that_only_a_folder_names(listener: Listener, in_process: Run, tmp_path: Path) -> None:
    """It hears nothing from sync, compare, ui, a resumed run, nor where a store has artifacts; with `--to` it does."""
    uri, heard = listener
    run, grid = write_run(tmp_path / "run"), write_grid(tmp_path / "grid", SMALL)
    change(run / "run.json", mlflow_uri=uri)
    write_state(grid, mlflow_uri=uri)
    for folder in ("run", "grid", "grid/packs/00000000"):
        refused(in_process("sync", folder, env=USER), uri, "MLFLOW_TRACKING_URI", "--to")
    refused(in_process("ui", "run", env=USER), uri)
    assert in_process("compare", "run", env=USER).returncode == 0
    change(run / "run.json", state="running")
    before = (run / "run.json").read_text()
    (tmp_path / "begun").mkdir()  # as a run that was killed before its first record
    (tmp_path / "begun" / "run.json").write_text(before)
    resume = ("train", "--gin", QUICK, "--steps", "10", "--out", "begun", "--resume", *SETS)
    refused(in_process(*resume, env=USER), uri, "MLFLOW_TRACKING_URI")
    assert (tmp_path / "begun" / "run.json").read_text() == before
    place = f"{uri}/api/2.0/mlflow-artifacts/artifacts"
    client = mlflow_client(store := fresh_store(tmp_path))
    tags = {"seed": "0", "config_digest": "x", "task": "", "physics": "", "data_digest": ""}
    theirs = client.create_run(client.create_experiment("theirs", artifact_location=place), tags=tags)
    client.set_terminated(theirs.info.run_id)
    change(write_run(tmp_path / "other") / "run.json", mlflow_experiment="theirs")
    refused(in_process("sync", "other", env=USER), place, "MLFLOW_TRACKING_URI")
    own = {**USER, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    refused(in_process("compare", "--experiment", "theirs", "--uri", store, env=own), place, "MLFLOW_TRACKING_URI")
    assert heard == []
    once = {**USER, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    refused(in_process("sync", "run", "--to", uri, env=once), "could not be sent")
    assert base64.b64encode(b"ann:s3cret").decode() in heard[0], "the user has said it"


@pytest.mark.parametrize("place", ["home", "runs/mlartifacts/../../home", "runs/mlartifacts/link"])
def test_a_store_that_came_with_the_runs_puts_files_nowhere_else(place: str, in_process: Run, tmp_path: Path) -> None:
    uri, run, home = fresh_store(tmp_path / "runs"), write_run(tmp_path / "runs" / "run"), tmp_path / "home"
    home.mkdir()
    (run.parent / "mlartifacts").mkdir()
    (run.parent / "mlartifacts" / "link").symlink_to(home)
    mlflow_client(uri).create_experiment("theirs", artifact_location=f"file://{tmp_path}/{place}")
    change(run / "run.json", mlflow_experiment="theirs")
    refused(in_process("sync", "runs/run", env=USER), place, "MLFLOW_TRACKING_URI")
    assert not list(home.iterdir())


LINKED = ("curve.png", "checkpoints", "metrics.jsonl", "config.gin", "summary.json", "videos")


def test_links_in_a_run_are_not_followed(in_process: Run, tmp_path: Path) -> None:
    """Each seed but the last one has one: what is behind it stays here, all else is sent, and the links are named."""
    uri, seeds = fresh_store(tmp_path / "runs"), range(len(LINKED) + 1)
    run = write_run(tmp_path / "runs" / "run", seeds)
    for seed, name in enumerate(LINKED):
        place, behind = run / f"seed-{seed}" / name, tmp_path / "private" / str(seed) / name
        behind.parent.mkdir(parents=True)
        if place.exists():
            place.rename(behind)
        if name in ("checkpoints", "videos"):
            behind.mkdir(exist_ok=True)
            (behind / "step-000000001.safetensors").write_text(SECRET)
        elif name in ("curve.png", "config.gin"):
            behind.write_text(SECRET)
        place.symlink_to(behind)
    done = in_process("sync", "runs/run")
    refused(done, "runs/run/seed-2/metrics.jsonl is a link", "runs/run/seed-0/curve.png is a link", "not followed")
    assert sent(tmp_path / "runs")
    client = mlflow_client(uri)
    runs = all_runs(client, [item.experiment_id for item in client.search_experiments()])
    by_seed = {run.data.tags["seed"]: run for run in runs if "seed" in run.data.tags}
    assert "train/critic/loss" not in by_seed["2"].data.metrics, "a journal behind a link"
    assert "score/last" not in by_seed["4"].data.metrics, "a summary behind a link"
    last = by_seed[str(seeds[-1])]
    listed = {item.path for item in client.list_artifacts(last.info.run_id)}
    assert (last.info.status, listed) == ("FINISHED", {"checkpoints", "curve.png", "summary.json"})


def test_a_replica_outside_of_its_run_is_refused(in_process: Run, tmp_path: Path) -> None:
    fresh_store(tmp_path / "runs")
    run = write_run(tmp_path / "runs" / "run")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "notes.txt").write_text(SECRET)
    for command, name in {
        "sync": "../../private",
        "compare": "/etc",
        "eval": "x\u001b[31m",
        "runs show": "a\n",
    }.items():
        change(run / "run.json", replicas={name: {"seed": 0, "cell": "", "points": {}, "set": {}}})
        said = refused(in_process(*command.split(), "runs/run"), "run.json is damaged (replicas.")
        assert "\x1b" not in said
    assert sent(tmp_path / "runs") == {}


def test_what_lies_outside_of_a_grid_is_not_sent(in_process: Run, tmp_path: Path) -> None:
    """A pack, a cell and the report that are links, and a reused cell that is none: the rest is sent."""
    fresh_store(tmp_path / "runs")
    cells = [result.cell for result in SMALL.results]
    other = write_grid(tmp_path / "elsewhere", SMALL)
    for text in other.glob("packs/*/*/config.gin"):
        text.write_text(f"A.x = '{SECRET}'\n")
    grid = write_reusing(tmp_path / "runs" / "grid", SMALL, other, [cells[0]])
    folder_of(other, cells[0]).rename(tmp_path / "private")
    write_state(grid, elsewhere={cells[0].id: str(tmp_path / "private")})
    (grid / "report").symlink_to(tmp_path / "private")
    pack, cell = folder_of(grid, cells[2]).parent, folder_of(grid, cells[4])
    for place, there in ((pack, folder_of(other, cells[2]).parent), (cell, folder_of(other, cells[4]))):
        place.rename(tmp_path / f"gone {place.name}")
        place.symlink_to(there)
    refused(in_process("sync", "runs/grid"), "private", f"{pack.name} is a link", "And 1 more")
    assert sum(path.endswith("config.gin") for path in sent(tmp_path / "runs")) == len(cells) - 4
    write_state(grid, packs=["../../../elsewhere/packs/00000000"])
    refused(in_process("sync", "runs/grid"), "grid.json is damaged (packs.0: ")


def test_a_password_is_in_no_file_and_on_no_screen(in_process: Run, tmp_path: Path) -> None:
    """A tracking URI with one, of a server that is not there: train, ablate, sync, compare, ui."""
    uri = "http://ann:s3cret@127.0.0.1:9/?token=s3cret"
    env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "PYTHONPATH": str(Path.cwd())}
    sets = [*SETS, "Training.eval_every=10", "Training.steps=10", "Training.eval_episodes=1", "Tracking.patience=1.0"]
    axes = "Grid.axes = {'eta': {'DiffusionQL.eta': (0.5,)}}\nReport.reps = 100\n"
    (tmp_path / "small.gin").write_text(f"include '{QUICK}'\n{axes}")
    commands = {
        ("train", "--gin", QUICK, "--out", "run", *sets): 0,
        ("ablate", "--grid", "small.gin", "--out", "grid", *sets, "Grid.seeds=(0,)"): 0,
        ("sync", "run"): 2,
        ("sync", "grid"): 2,
        ("compare", "--experiment", "x"): 2,
        ("compare", "--experiment", "x", "--uri", uri): 2,
        ("ui",): 0,
        ("ui", uri): 0,
    }
    for command, code in commands.items():
        done = in_process(*command, env=env)
        assert done.returncode == code, done.stderr
        assert "s3cret" not in done.stdout + done.stderr
        assert command[0] != "train" or "http://***@127.0.0.1:9/?token=***" in done.stdout
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "grid.json", "mlflow.log"} <= {path.name for path in written}
    assert [path for path in written if b"s3cret" in path.read_bytes()] == []


def test_what_is_masked() -> None:
    shown = {
        "https://ann:pw@host:5000/x": "https://***@host:5000/x",
        "postgresql+psycopg2://ann:p/w@host/db": "postgresql+psycopg2://***@host/db",
        "https://token@host, and http://a:b@c": "https://***@host, and http://***@c",
        "mysql://h/db?user=a&password=pw&x=1": "mysql://h/db?user=a&password=***&x=1",
    }
    shown |= {text: text for text in ("sqlite:////home/a@b/mlflow.db", "http://host:5000/a@b")}
    assert {text: masked(text) for text in shown} == shown


@pytest.mark.parametrize(("name", "kind"), [("run.lock", "pipe"), ("run.lock", "link"), ("mlflow.lock", "link")])
def test_a_lock_that_is_no_file(name: str, kind: str, tmp_path: Path, in_process: Any) -> None:
    """A pipe would have no end, and what a link leads to is another's."""
    run, other = write_run(tmp_path / "runs" / "run"), tmp_path / "other"
    other.write_text("mine")
    os.mkfifo(run / name) if kind == "pipe" else (run / name).symlink_to(other)
    refused(in_process("sync", run), f"{name} cannot be locked (")
    assert other.read_text() == "mine"
