"""benchmarks/conftest.py in real pytest sessions: what `measure` does, and what reaches MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, isolated
from history import compare_benchmarks, machine_kind, read_benchmarks, send_benchmarks, uri_or_default

TINY = """
import pytest
import torch

matrix = torch.ones(64, 64)

@pytest.mark.parametrize("n", [1, 2])
def test_update(measure, n):
    figures = measure(
        lambda: [matrix @ matrix for _ in range(n)],
        baseline=lambda: [matrix @ matrix for _ in range(30 * n)],
        parameters={"part": "update", "replicas": n, "mode": "eager", "device": "cpu"},
        work=n,
        flops=2.0 * 64**3 * n,
    )
    assert figures["ratio"] > 2
    assert 0 < figures["peak_share"]

def test_lonely(measure):
    measure(lambda: sum(range(1000)), parameters={"part": "data", "rows": 1000})

def test_plain(benchmark):
    benchmark.pedantic(lambda: sum(range(1000)), rounds=3)
"""

ORDER = """
from measuring import Measure

def test_order(benchmark):
    now, order, noted = [0.0], [], []

    def work(name, seconds):
        order.append(name)
        now[0] += seconds

    measure = Measure(benchmark, lambda *row: noted.append(row), lambda: now[0])
    figures = measure(lambda: work("c", 0.03), lambda: work("b", 0.075), {"part": "x"}, work=6, warmup=2)
    assert "".join(order) == "bcbc" + "cb" + "bcbcbcbcbc"  # warm-up, how many calls a round, five rounds
    assert figures["ratio"] == pytest.approx(2.5)
    assert figures["per_second"] == pytest.approx(200)
    assert figures["baseline_seconds"] == pytest.approx(0.075)
    assert benchmark.extra_info == {"part": "x", **figures}
    assert benchmark.stats.stats.rounds == 5
    assert [(name, median) for name, median, _ in noted] == [(benchmark.fullname, pytest.approx(0.03))]

def test_inner_calls(benchmark):
    now = [0.0]

    def work():
        now[0] += 0.004

    Measure(benchmark, lambda *row: None, lambda: now[0])(work)
    assert benchmark.stats.iterations > 1
    assert benchmark.stats.stats.total * benchmark.stats.iterations < 1.0  # real seconds, divided by the calls
"""


def run_pytest(folder: Path, content: str, *args: str, uri: str = "") -> subprocess.CompletedProcess[str]:
    """A real session in a folder, with this copy of dqlab, not inside pytest-xdist."""
    (folder / "test_tiny.py").write_text(content)
    kept = {name: value for name, value in isolated(folder).items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", *args, "test_tiny.py"]
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, **({"MLFLOW_TRACKING_URI": uri} if uri else {}), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def recorded(at: Any) -> tuple[list[Any], dict[str, Any]]:
    """Parent runs, and the others by the benchmark's short name."""
    runs = at.search_runs([at.get_experiment_by_name("benchmarks").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    by_name = {run.data.tags["benchmark"].rpartition("::")[2]: run for run in children}
    assert len(by_name) == len(children)
    return parents, by_name


def check_complete(at: Any, file: Path) -> None:
    """Every figure of the session's JSON, tags, and artifacts are in MLflow, once."""
    document = json.loads(file.read_text())
    (parent,), children = recorded(at)
    assert set(children) == {item["name"] for item in document["benchmarks"]}
    assert [item.path for item in at.list_artifacts(parent.info.run_id)] == [file.name]
    for item in document["benchmarks"]:
        run = children[item["name"]]
        metrics, tags = run.data.metrics, run.data.tags
        assert run.info.status == "FINISHED"
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["benchmark"] == item["fullname"]
        assert tags["machine"] == machine_kind()
        for name in ("median", "mean", "stddev", "min", "iqr", "rounds"):
            assert metrics[name] == item["stats"][name]
        alone = json.loads(Path(at.download_artifacts(run.info.run_id, "benchmark.json")).read_text())
        assert alone["benchmarks"] == [item]
    update = children["test_update[2]"]
    extra = {item["name"]: item["extra_info"] for item in document["benchmarks"]}["test_update[2]"]
    for name in ("ratio", "baseline_seconds", "work", "per_second", "flops", "flops_per_second", "peak", "peak_share"):
        assert update.data.metrics[name] == extra[name]
    assert update.data.tags.items() >= {"part": "update", "replicas": "2", "mode": "eager", "device": "cpu"}.items()
    assert update.data.params == {"part": "update", "replicas": "2", "mode": "eager", "device": "cpu"}
    assert {"cpu", "gpu", "cores", "threads", "git_commit", "session", "when"} <= set(update.data.tags)
    for name in ("torch", "numpy", "python", "dqlab", "cuda"):
        assert update.data.tags[f"version.{name}"]
    assert "ratio" not in children["test_lonely"].data.metrics


DISABLED = """
calls = []

def test_it(measure):
    assert measure(lambda: calls.append("c"), lambda: calls.append("b")) == {}
    assert calls == ["b", "c"]
"""


def test_disabled_benchmarks_run_once_and_send_nothing(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, DISABLED, "--benchmark-disable", "--mlflow")
    assert done.returncode == 0, done.stdout
    assert "Nothing was measured" in done.stdout


def test_a_dead_server_costs_a_line_and_the_figures_are_sent_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidate and baseline alternate (`test_order`); nothing is sent twice."""
    dead = "http://127.0.0.1:9"
    done = run_pytest(tmp_path, TINY + ORDER, "--mlflow", "--benchmark-json=also.json", uri=dead)
    assert done.returncode == 0, done.stdout
    table = done.stdout.partition("dqlab benchmarks ==")[2]
    assert all(word in table for word in ("test_update[1]", "median", "per second", "ratio", "of peak"))
    (kept,) = (tmp_path / "runs" / "benchmarks").glob("*/*.json")
    assert json.loads(kept.read_text())["dqlab"] == json.loads((tmp_path / "also.json").read_text())["dqlab"]
    assert sum(f"history.py send {kept}" in line for line in done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stdout + done.stderr
    command = [sys.executable, str(ROOT / "benchmarks" / "history.py"), "send", str(kept)]
    sent = subprocess.run(command, cwd=tmp_path, env=isolated(tmp_path), capture_output=True, text=True, timeout=240)
    assert (sent.returncode, "has all of it" in sent.stdout) == (0, True), sent.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = uri_or_default(None)
    check_complete(client(store), kept)
    assert (tmp_path / "runs" / "mlartifacts").is_dir()
    send_benchmarks(kept, store)
    check_complete(client(store), kept)
    capsys.readouterr()
    assert compare_benchmarks(read_benchmarks([], "this")) == 0
    said = capsys.readouterr().out
    assert "test_update[2]  part=update, replicas=2, mode=eager, device=cpu" in said
    assert "0 of 6 benchmarks" in said
