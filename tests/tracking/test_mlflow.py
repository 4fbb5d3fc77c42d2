"""Runs in real MLflow: killed runs, failed cells, a server that dies and comes back, stores in files, and its pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, Run, isolated, refused
from made_folders import write_grid, write_run
from made_grids import TASKS, made_grid
from made_packs import held, write_hold
from mlflow_stores import answers, fresh_store, history, journal
from ray_cluster import until

from dqlab.errors import RunError
from dqlab.tracking.mlflow.client import (
    RUNS_PAGE,
    all_runs,
    mlflow_client,
    page_of,
    store_of,
    store_path,
    store_uri,
    tracking_uri,
)
from dqlab.tracking.mlflow.sync import send_folder, sync_to_mlflow


class Server:
    """A real MLflow tracking server on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.uri, self.log = f"http://127.0.0.1:{self.port}", folder / "server.log"
        self.places = [
            "--backend-store-uri",
            fresh_store(folder, "server.db"),
            "--artifacts-destination",
            folder / "art",
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", *self.places, "--port", self.port, "--workers", "1"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until(lambda: answers(self.uri))

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


SETS = ["--set", *(line for line in TINY if not line.startswith("Tracking"))]
TRAIN = ["train", "--gin", str(ROOT / "gin" / "quickstart.gin"), "--seeds", "0", "1", "--steps", "40"]
CLOCK = "train/updates_per_second"
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


def check_complete(at: Any, run: Path, resumed: bool = False) -> None:
    """One run a replica under a parent; every metric once; parameters, tags, artifacts.

    Of a run that was killed and resumed, what was recorded twice is there twice, with other times.
    """
    facts = json.loads((run / "run.json").read_text())
    runs = at.search_runs([at.get_experiment_by_name(TAGS["task"]).experiment_id])
    children = {r.data.tags["seed"]: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert set(children) == {"0", "1"}
    for seed, child in children.items():
        assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == ("FINISHED", parent.info.run_id)
        both = [history(at, child), journal(run / f"seed-{seed}")]
        if resumed:
            both = [Counter({point for point in points if point[0] != CLOCK}) for points in both]
        assert both[0] == both[1]
        assert child.data.params.items() >= {"DiffusionQL.eta": "1.0", "Training.batch_size": "8"}.items()
        assert child.data.tags.items() >= {**TAGS, "data_digest": facts["data"]["digest"]}.items()
        assert child.data.tags["version.torch"].startswith("2.")
        artifacts = {item.path for item in at.list_artifacts(child.info.run_id)}
        assert artifacts >= {"config.gin", "curve.png", "summary.json", "checkpoints", "best_score_online.txt"}


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
    assert re.search(r"\nMLflow:         (/.*/)?dqlab ui runs/one\n", done.stdout), "as it can be typed there"
    assert {key: known["run"] for key, known in sent_of(run).items()} == ids
    assert "has all of it" in in_process("sync", "runs/one").stdout
    check_complete(at, run, resumed=True)


def test_a_failed_cell_is_shown_as_failed(tmp_path: Path) -> None:
    """The others are complete, and each has its own scalars; the parent's score is theirs."""
    uri, run = fresh_store(tmp_path), write_run(tmp_path / "run", seeds=(0, 1, 2))
    facts, replica = json.loads((run / "run.json").read_text()), {"points": {}, "set": {"DiffusionQL.eta": 0.5}}
    facts["replicas"] = {f"seed-{n}": {"seed": n, "cell": f"eta={n}", **replica} for n in range(3)}
    (run / "run.json").write_text(json.dumps(facts))
    (run / "seed-1" / "summary.json").unlink()
    failure = {"kind": "diverged", "reason": "the loss became NaN", "step": 10}
    (run / "seed-1" / "failure.json").write_text(json.dumps(failure))
    for _ in range(2):  # nothing is done twice
        send_folder(run, uri, "packs", over=True)
    parent, *runs = [mlflow_client(uri).get_run(known["run"]) for known in sent_of(run).values()]
    assert [child.info.status for child in runs] == ["FINISHED", "FAILED", "FINISHED"]
    assert [child.data.tags.get("failure") for child in runs] == [None, "diverged: the loss became NaN", None]
    own = [(child.data.params["DiffusionQL.eta"], child.data.tags["cell"]) for child in runs]
    assert own == [("0.5", f"eta={n}") for n in range(3)]
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
        until(lambda: sum(file.stat().st_size for file in tmp_path.rglob("mlflow.db")))  # the first table is there
        os.kill(process.pid, signal.SIGKILL)
    assert not path.exists()
    assert mlflow_client(store_uri(path)).search_experiments()
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_two_that_make_a_store_at_once(tmp_path: Path) -> None:
    both = [begin(tmp_path, "sync", str(write_run(tmp_path / "runs" / name))) for name in "ab"]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b", "mlflow.db", "mlartifacts"}


def test_a_run_in_a_folder_with_an_odd_name(in_process: Run, tmp_path: Path) -> None:
    """Its store and artifacts are beside it and nowhere else; in time also where its experiment had been deleted."""
    folder = tmp_path / "50% gr\u00f6\u00dfe?b#c%20d"
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
    restore = f"`mlflow experiments restore -x {experiment.experiment_id}`"
    done = in_process("sync", f"{folder.name}/run")
    refused(done, f"experiment '{experiment.name}' is deleted. Restore it", restore)
    at.restore_experiment(experiment.experiment_id)
    assert in_process("sync", f"{folder.name}/run").returncode == 0
    assert len(at.search_runs([experiment.experiment_id])) == 2 * len(runs)


GRID = made_grid(values=(2, 10), tasks=TASKS[:1], seeds=2)
PATIENCE = 120_000  # milliseconds; the pages are large, and the machine may be busy
CELLS = "searchFilter=tags.kind%20%3D%20%27cell%27"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a recorded grid."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    uri = fresh_store(runs)
    send_folder(write_grid(runs / "steps-1", GRID), uri, "steps")
    return runs


@pytest.fixture(scope="module")
def server(recorded: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`dqlab ui` in the folder above the runs, once it answers; its process and its address. Its port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "dqlab", "ui", "--port", str(port)],
            cwd=recorded.parent,
            env=isolated(recorded.parent),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
            assert found, said
            assert port < int(found[1]) <= port + 100
            assert str(recorded / "mlflow.db") in said
            until(lambda: answers(found[0]))
            yield process, found[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def page(server: tuple[Any, str]) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1700, "height": 1000}, base_url=server[1])
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def test_the_pages_of_a_grid(page: Any, recorded: Path) -> None:
    """Packs are listed with their cells below them; curves are grouped by the axis; cells are compared by it."""
    client = mlflow_client(f"sqlite:///{recorded}/mlflow.db")
    experiment = client.get_experiment_by_name("steps").experiment_id
    runs = all_runs(client, [experiment])
    packs, cells = ([run for run in runs if run.data.tags["kind"] == kind] for kind in ("pack", "cell"))

    def visit(route: str) -> None:
        page.goto("about:blank")  # a route of the single-page application, from the start
        page.goto(f"/#/{route}", wait_until="domcontentloaded")

    def named(run: Any) -> Any:
        return page.get_by_text(run.data.tags["mlflow.runName"], exact=True).first

    visit(f"experiments/{experiment}/runs?{CELLS}")
    page.get_by_text("Training runs").first.wait_for()
    for pack in packs:
        page.locator("[role=row]", has=named(pack)).locator("button").first.click()
    for cell in cells:
        named(cell).wait_for()

    visit(f"experiments/{experiment}/runs?compareRunsMode=CHART&{CELLS}")
    page.get_by_text("Group by").first.click()
    page.get_by_role("menuitemcheckbox", name="N", exact=True).first.click()
    page.keyboard.press("Escape")
    for value in ("2", "10"):
        page.get_by_text(f"{value} (eval/score_mean)").first.wait_for()

    two = [next(run for run in cells if run.data.params["N"] == value) for value in ("2", "10")]
    ids = ",".join(f"%22{run.info.run_id}%22" for run in two)
    visit(f"compare-runs?runs=[{ids}]&experiments=[%22{experiment}%22]")
    for run in two:
        named(run).wait_for()
    row = page.locator("tr", has=page.get_by_text("N", exact=True)).first
    row.wait_for(state="attached")
    assert re.findall(r"\d+", row.inner_text()) == ["2", "10"]
    page.get_by_text("score/last").first.wait_for(state="attached")

    visit(page_of(str(recorded / "steps-1"), f"sqlite:///{recorded}/mlflow.db").removeprefix("/#/"))
    page.get_by_text("steps-1", exact=True).first.wait_for()
    assert page_of(str(recorded), f"sqlite:///{recorded}/mlflow.db") == RUNS_PAGE


def test_a_store_is_found_beside_the_runs(recorded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(recorded.parent)
    uri, grid = f"sqlite:///{recorded}/mlflow.db", recorded / "steps-1"
    for place in (None, "runs", str(grid), str(next((grid / "packs").iterdir())), uri):
        assert store_of(place) == uri
    other = fresh_store(tmp_path / "runs" / "newer")
    os.utime(tmp_path / "runs" / "newer" / "mlflow.db", (2e9, 2e9))
    fresh_store(tmp_path / "runs")
    assert store_of(str(tmp_path)) == other, "the one that was written last"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert store_of(None) == "http://team:5000"
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"there is no mlflow\.db"):
        store_of(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--port", "70000"], "--port must be from 1 to 65535, not 70000."),
        (["--port", "0"], "--port must be"),
        (["--host", ""], "--host is empty."),
        *((["--host", host], "can be used") for host in ("192.0.2.1", "no.such.host.", "a" * 70)),
        (["sqlite:///no.db"], "There is no MLflow store no.db"),
    ],
)
def test_what_cannot_be_shown(args: list[str], said: str, recorded: Path, in_process: Any) -> None:
    refused(in_process("ui", *([str(recorded)] if args[0].startswith("-") else []), *args), said)


def test_a_server_is_only_named(in_process: Any) -> None:
    assert in_process("ui", "https://mlflow.example.org").stdout == f"MLflow: https://mlflow.example.org{RUNS_PAGE}\n"


def test_the_server_ends_with_the_command(server: tuple[subprocess.Popen[str], str]) -> None:
    """As a terminal's Ctrl-C ends it. The last test: others want the server."""
    process, address = server
    os.killpg(process.pid, signal.SIGINT)
    process.wait(PATIENCE / 1000)
    until(lambda: not answers(address))
