"""MLflow's own pages, in a real browser, on a grid as it is recorded: what `dqlab ui` opens."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import isolated, refused
from made_folders import write_grid
from made_grids import TASKS, made_grid
from mlflow_stores import fresh_store

from dqlab.errors import RunError
from dqlab.tracking.mlflow.client import all_runs, free_port, mlflow_client, serve_ui, store_of
from dqlab.tracking.mlflow.sync import send_folder

GRID = made_grid(values=(2, 10), tasks=TASKS[:1], seeds=2)
PATIENCE = 120_000  # milliseconds; the pages are large, and the machine may be busy
CELLS = "searchFilter=tags.kind%20%3D%20%27cell%27"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a recorded grid."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    uri = fresh_store(runs)
    send_folder(write_grid(runs / "steps-1", GRID, records=20), uri, "steps")
    return runs


@pytest.fixture(scope="module")
def server(recorded: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`dqlab ui` in the folder above the runs, once it answers; its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dqlab", "ui", "--port", "28500"],
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
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said
        assert str(recorded / "mlflow.db") in said
        wait_until(lambda: answers(found[0]), "MLflow does not answer")
        yield process, found[0]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def answers(address: str) -> bool:
    with suppress(OSError):
        return bool(urllib.request.urlopen(f"{address}/health", timeout=1))
    return False


def wait_until(met: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while not met():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


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


def test_a_store_is_found_beside_the_runs(recorded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(recorded.parent)
    uri = f"sqlite:///{recorded}/mlflow.db"
    grid = recorded / "steps-1"
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


@pytest.mark.parametrize(("option", "value"), [("--port", "70000"), ("--port", "-1"), ("--port", "0"), ("--host", "")])
def test_a_port_or_host_that_is_none(option: str, value: str, recorded: Path, in_process: Any) -> None:
    refused(in_process("ui", str(recorded), option, value), f"dqlab: error: {option} ")


def test_a_server_is_only_named(in_process: Any) -> None:
    assert in_process("ui", "https://mlflow.example.org").stdout == "MLflow: https://mlflow.example.org\n"


def test_a_taken_port_is_passed_over_and_a_foreign_host_refused(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) <= port + 100
    for host in ("192.0.2.1", "no.such.host.", "a" * 70):
        with pytest.raises(RunError, match="can be used"):
            free_port(host, 5000)
    with pytest.raises(RunError, match="There is no MLflow store"):
        serve_ui(f"sqlite:///{tmp_path}/no.db", "127.0.0.1", 5000)


def test_the_server_ends_with_the_command(server: tuple[subprocess.Popen[str], str]) -> None:
    """As a terminal's Ctrl-C ends it. The last test: others want the server."""
    process, address = server
    os.killpg(process.pid, signal.SIGINT)
    process.wait(PATIENCE / 1000)
    wait_until(lambda: not answers(address), "MLflow is still listening")
