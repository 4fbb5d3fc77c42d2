"""Benchmark sessions in a real pytest: what `measure` does, what reaches MLflow, and what `history.py compare` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import history
import pytest
from conftest import ROOT, isolated
from history import compare_benchmarks, machine_kind, read_benchmarks, send_benchmarks, uri_or_default
from mlflow_stores import fresh_store

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
    fresh_store(tmp_path / "runs")
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


OTHER = "another CPU, 64 cores"


def benchmark(name: str, median: float, ratio: float, **parameters: Any) -> dict[str, Any]:
    """One benchmark of a session, as pytest-benchmark and benchmarks/conftest.py write it."""
    work = parameters.get("replicas", 1)
    extra = {**parameters, "work": work, "per_second": work / median, "threads": 1}
    extra |= {"ratio": ratio, "baseline_seconds": median * ratio}
    stats = {"median": median, "mean": median, "stddev": 0.0, "min": median, "iqr": 0.0, "rounds": 5, "outliers": "0;0"}
    return {"name": name, "fullname": f"benchmarks/test_it.py::{name}", "extra_info": extra, "stats": stats}


def session(path: Path, day: int, *benchmarks: dict[str, Any], machine: str | None = None) -> Path:
    """Write the document of one session, on this kind of machine unless another is named."""
    facts = {
        "kind": machine or machine_kind(),
        "cpu": "some CPU",
        "gpu": "",
        "cores": 2,
        "versions": {"torch": "2.9.0"},
    }
    document = {
        "dqlab": {"session": f"session-{day}", "machine": facts},
        "datetime": f"2026-01-{day:02}T12:00:00+00:00",
        "commit_info": {"id": f"{day:02}" * 20, "dirty": False},
        "benchmarks": list(benchmarks),
    }
    path.write_text(json.dumps(document))
    return path


def bench(*args: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["history.py", *map(str, args)])
        return history.main()


def ratios(folder: Path, *values: float, machine: str | None = None) -> list[Path]:
    """A session a day, in each of which one benchmark has one of these ratios."""
    prefix = "other" if machine else "this"
    return [
        session(folder / f"{prefix}-{day}.json", day, benchmark("test_it", 0.01, ratio, replicas=1), machine=machine)
        for day, ratio in enumerate(values, 1)
    ]


def test_a_planted_regression_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ratios(tmp_path, 1.2, 1.5, 1.4, 1.2)
    assert bench("compare", *files) == 0
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "10.0 ms" in line]
    assert [line.split()[2] for line in lines] == ["010101010", "020202020", "030303030", "040404040"]
    assert "WORSE: 20% below the best, 1.50x" in lines[-1]
    assert output.count("WORSE") == 1
    assert "1 of 1 benchmarks got worse by more than 10%" in output
    assert bench("compare", *reversed(files), "--fail") == 1, "the order of the files does not matter"


@pytest.mark.parametrize(
    ("values", "code"),
    [((1.5, 1.36), 0), ((1.5, 1.34), 1), ((1.5, 1.2, 1.5), 0), ((1.5,), 0), ((1.0, 2.0), 0)],
    ids=["within the tolerance", "beyond it", "noise", "alone", "progress"],
)
def test_what_counts_as_worse(values: tuple[float, ...], code: int, tmp_path: Path) -> None:
    assert bench("compare", *ratios(tmp_path, *values), "--fail") == code


def test_kinds_of_machine_and_parameters_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [*ratios(tmp_path, 3.0, machine=OTHER), *ratios(tmp_path, 1.0, 1.0)]
    assert bench("compare", *files, "--fail") == 0
    assert OTHER not in capsys.readouterr().out
    assert bench("compare", *files, "--fail", "--machine", "all") == 0
    assert {OTHER, machine_kind()} <= set(capsys.readouterr().out.splitlines())
    assert bench("compare", *files, "--machine", OTHER) == 0
    assert machine_kind() not in capsys.readouterr().out.splitlines()
    small = session(tmp_path / "1.json", 1, benchmark("test_it", 0.01, 2.0, batch=64))
    large = session(tmp_path / "2.json", 2, benchmark("test_it", 0.01, 1.0, batch=256))
    assert bench("compare", small, large, "--fail") == 0


def test_only_the_last_measurements_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("compare", *ratios(tmp_path, *[1.0] * 14)) == 0
    output = capsys.readouterr().out
    assert output.count("1.00x") == 10
    assert "(4 earlier)" in output


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "odd.json").write_text('{"benchmarks": []}')
    for said, files in {
        "pytest benchmarks/ --mlflow": [],
        OTHER: ratios(tmp_path, 1.0, machine=OTHER),
        "cannot be read": ["missing.json"],
        "holds no benchmarks of dqlab": ["odd.json"],
        "holds no benchmarks": [session(tmp_path / "empty.json", 1)],
    }.items():
        assert bench("compare", *files) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "runs").exists(), "looking makes nothing"


def test_figures_as_text() -> None:
    """Three digits; a dash for what was not measured."""
    seconds = {2.0: "2.00 s", 123.4: "123 s", 4321.0: "4320 s", 0.0123: "12.3 ms", 0.9999: "1.00 s", 3e-9: "3.00 ns"}
    counts = {0.238: "0.238", 17.0: "17.0", 999.7: "1.00 k", 12658.0: "12.7 k", 3.2e11: "320 G"}
    assert {value: history.format_seconds(value) for value in seconds} == seconds
    assert {value: history.format_count(value) for value in counts} == counts
    assert (history.format_times(1.5234), history.format_share(0.1234)) == ("1.52x", "12.3%")
    assert history.benchmark_cells(None, {}) == ["-"] * 4
