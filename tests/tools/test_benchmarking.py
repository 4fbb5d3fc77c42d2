"""Benchmarks: how two callables are timed, what a session in a real pytest sends to MLflow, what `history.py compare`
says; and that the benchmarks themselves run, the checks for a GPU at tiny sizes on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import history
import pytest
import torch
from conftest import ROOT, Done, isolated
from history import FIGURES, BenchmarkError, machine_kind, send_benchmarks, uri_or_default
from measuring import Measure, Stopwatch, figures_of, full_precision, measure_peak
from mlflow_stores import fresh_store
from mocked_machine import Machine
from ray_cluster import until


def environment(folder: Path, **more: str) -> dict[str, str]:
    """With this copy of dqlab and the benchmarks, not inside pytest-xdist."""
    kept = {name: value for name, value in isolated(folder).items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]), **more}


def python(*args: str, env: dict[str, str], cwd: Path = ROOT) -> Done:
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


def test_figures_by_hand() -> None:
    """A round in which the machine was busy (3.0 against 9.0) changes no ratio."""
    known = {"work": 4, "per_second": 2.0, "ratio": 3.0, "baseline_seconds": 8.0}
    known |= {"flops": 10.0, "flops_per_second": 5.0, "peak": 50.0, "peak_share": 0.1}
    assert figures_of([1.0, 2.0, 3.0], [2.0, 8.0, 9.0], work=4, flops=10.0, peak=50.0) == known
    assert figures_of([0.5], [], work=1, flops=None, peak=None) == {"work": 1, "per_second": 2.0}
    assert Stopwatch(clock=lambda: 0.0).calls_a_round(lambda: None) == 10_000, "a clock that stands"


def test_a_parameter_is_not_called_like_a_figure(benchmark: Any) -> None:
    with pytest.raises(BenchmarkError, match="cannot be called ratio"):
        Measure(benchmark, lambda *_: None)(lambda: None, parameters={"ratio": 2})


@pytest.mark.parametrize("chosen", ["highest", "high"])
def test_the_peak_is_measured_once_in_full_precision(chosen: str) -> None:
    """And what was chosen is put back. cuBLAS asks for `allow_tf32`, which must agree with the overall setting."""
    torch.set_float32_matmul_precision(chosen)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        with full_precision():
            assert torch.backends.cuda.matmul.allow_tf32 is False
            assert torch.get_float32_matmul_precision() == "highest"
        assert 1e8 < measure_peak("cpu") < 1e14
        assert measure_peak("cpu") == measure_peak("cpu")
        assert torch.get_float32_matmul_precision() == chosen
        assert torch.backends.cuda.matmul.allow_tf32 is before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch before 2.9")
def test_precision_that_was_chosen_by_backend_is_put_back() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with full_precision():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


TINY = """
import pytest
import torch
from measuring import Measure

matrix = torch.ones(64, 64)

def test_update(measure):
    figures = measure(
        lambda: matrix @ matrix,
        baseline=lambda: matrix @ matrix @ matrix,
        parameters={"part": "update", "replicas": 2, "mode": "eager", "device": "cpu"},
        work=2,
        flops=2.0 * 64**3,
    )
    assert 0 < figures["peak_share"]

def test_lonely(measure):
    measure(lambda: sum(range(1000)), parameters={"part": "data", "rows": 1000})

def test_plain(benchmark):
    benchmark.pedantic(lambda: sum(range(1000)), rounds=3)

def test_order(benchmark):
    now, order, noted = [0.0], [], []

    def work(name, seconds):
        order.append(name)
        now[0] += seconds

    measure = Measure(benchmark, lambda *row: noted.append(row), lambda: now[0])
    calls = lambda: work("c", 0.02), lambda: work("b", 0.065)
    figures = measure(*calls, {"part": "x"}, work=6, synchronize=lambda: work("|", 0.01), warmup=2)
    assert "".join(order) == "bcbc" + "|c||b|" + 5 * "|b|||c|"  # warm-up, how many calls a round, five rounds
    assert figures["ratio"] == pytest.approx(2.5)
    assert figures["per_second"] == pytest.approx(200)
    assert figures["baseline_seconds"] == pytest.approx(0.075)
    assert benchmark.extra_info == {"part": "x", **figures}
    assert benchmark.stats.stats.rounds == 5
    assert [(name, median) for name, median, _ in noted] == [(benchmark.fullname, pytest.approx(0.03))]

def test_inner_calls(benchmark):
    now = [0.0]

    def work():
        now[0] += 0.001

    Measure(benchmark, lambda *row: None, lambda: now[0])(work)
    assert 20 <= benchmark.stats.iterations <= 40  # 20 ms, and not much more
    assert benchmark.stats.stats.total * benchmark.stats.iterations < 1.0  # real seconds, divided by the calls
"""
PARAMETERS = {"part": "update", "replicas": "2", "mode": "eager", "device": "cpu"}


def check_complete(uri: str, file: Path) -> None:
    """Every figure of the session's JSON, tags, and artifacts are in MLflow, once."""
    from mlflow.tracking import MlflowClient

    at = MlflowClient(tracking_uri=uri)
    document = json.loads(file.read_text())
    runs = at.search_runs([at.get_experiment_by_name("benchmarks").experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = {run.data.tags["benchmark"]: run for run in runs if run is not parent}
    assert len(runs) == 1 + len(children)
    assert set(children) == {item["fullname"] for item in document["benchmarks"]}
    assert [item.path for item in at.list_artifacts(parent.info.run_id)] == [file.name]
    for item in document["benchmarks"]:
        run = children[item["fullname"]]
        metrics, tags = run.data.metrics, run.data.tags
        assert (run.info.status, tags["mlflow.parentRunId"]) == ("FINISHED", parent.info.run_id)
        figures = [item["extra_info"][name] for name in FIGURES if name in item["extra_info"]]
        assert [metrics[name] for name in FIGURES if name in metrics] == figures
        names = ("median", "mean", "stddev", "min", "iqr", "rounds")
        assert [metrics[name] for name in names] == [item["stats"][name] for name in names]
        alone = json.loads(Path(at.download_artifacts(run.info.run_id, "benchmark.json")).read_text())
        assert alone["benchmarks"] == [item]
    update = children["test_tiny.py::test_update"].data
    assert set(FIGURES) - set(update.metrics) == {"memory_ratio"}
    assert update.params == PARAMETERS
    assert {"cpu", "gpu", "cores", "threads", "git_commit", "session", "when", "version.torch"} <= set(update.tags)
    assert update.tags.items() >= {**PARAMETERS, "machine": machine_kind()}.items()


def bench(*args: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["history.py", *map(str, args)])
        return history.main()


def test_a_dead_server_costs_a_line_and_the_figures_are_sent_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidate and baseline alternate (`test_order`); nothing is sent twice."""
    (tmp_path / "test_tiny.py").write_text(TINY)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "--mlflow", "--benchmark-json=also.json"]
    env = environment(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    done = python("-m", "pytest", *options, "test_tiny.py", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    table = done.stdout.partition("dqlab benchmarks ==")[2]
    assert all(word in table for word in ("test_update", "median", "per second", "ratio", "of peak"))
    (kept,) = (tmp_path / "runs" / "benchmarks").glob("*/*.json")
    assert json.loads(kept.read_text())["dqlab"] == json.loads((tmp_path / "also.json").read_text())["dqlab"]
    assert sum(f"history.py send {kept}" in line for line in done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stdout + done.stderr
    fresh_store(tmp_path / "runs")
    sent = python(str(ROOT / "benchmarks" / "history.py"), "send", str(kept), env=environment(tmp_path), cwd=tmp_path)
    assert (sent.returncode, "has all of it" in sent.stdout) == (0, True), sent.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = uri_or_default(None)
    send_benchmarks(kept, store)
    check_complete(store, kept)
    assert (tmp_path / "runs" / "mlartifacts").is_dir()
    capsys.readouterr()
    assert bench("compare") == 0
    said = capsys.readouterr().out
    assert f"test_update  {', '.join(f'{name}={value}' for name, value in PARAMETERS.items())}" in said
    assert "0 of 5 benchmarks" in said


OTHER = "another CPU, 64 cores"


def sessions(folder: Path, *ratios: float, machine: str = "", replicas: int = 1) -> list[Path]:
    """A session's file a day, as pytest-benchmark and benchmarks/conftest.py write it, on this kind of machine or
    another, in each of which one benchmark has one of these ratios."""
    paths = []
    for day, ratio in enumerate(ratios, 1):
        extra = {"replicas": replicas, "work": replicas, "per_second": 100.0 * replicas, "threads": 1}
        stats = {"median": 0.01, "mean": 0.01, "stddev": 0.0, "min": 0.01, "iqr": 0.0, "rounds": 5, "outliers": "0;0"}
        facts = {"kind": machine or machine_kind(), "cpu": "some CPU", "gpu": "", "cores": 2, "versions": {}}
        extra |= {"ratio": ratio, "baseline_seconds": 0.01 * ratio}
        document = {
            "dqlab": {"session": f"session-{day}", "machine": facts},
            "datetime": f"2026-01-{day:02}T12:00:00+00:00",
            "commit_info": {"id": f"{day:02}" * 20, "dirty": False},
            "benchmarks": [{"name": "it", "fullname": "benchmarks/it.py::it", "extra_info": extra, "stats": stats}],
        }
        paths.append(folder / f"{bool(machine)}-{replicas}-{day}.json")
        paths[-1].write_text(json.dumps(document))
    return paths


WORSE = {"within the tolerance": (1.5, 1.36), "noise": (1.5, 1.2, 1.5), "alone": (1.5,), "progress": (1.0, 2.0)}


def test_a_planted_regression_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sessions(tmp_path, 1.2, 1.5, 1.4, 1.2)
    assert bench("compare", *files) == 0
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "10.0 ms" in line]
    assert [line.split()[2] for line in lines] == ["010101010", "020202020", "030303030", "040404040"]
    assert "WORSE: 20% below the best, 1.50x" in lines[-1]
    assert output.count("WORSE") == 1
    assert "1 of 1 benchmarks got worse by more than 10%" in output
    assert bench("compare", *reversed(files), "--fail") == 1, "the order of the files does not matter"
    assert bench("compare", *sessions(tmp_path, 1.5, 1.34), "--fail") == 1
    for why, ratios in WORSE.items():
        assert bench("compare", *sessions(tmp_path, *ratios), "--fail") == 0, why


def test_kinds_of_machine_and_parameters_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And only the last ten measurements are shown."""
    files = [*sessions(tmp_path, 3.0, machine=OTHER), *sessions(tmp_path, *[1.0] * 14)]
    for machine, kinds in (([], {machine_kind()}), (["all"], {OTHER, machine_kind()}), ([OTHER], {OTHER})):
        assert bench("compare", *files, "--fail", *(["--machine", *machine] if machine else [])) == 0
        output = capsys.readouterr().out
        assert {OTHER, machine_kind()} & set(output.splitlines()) == kinds
        assert (output.count("1.00x"), "(4 earlier)" in output) == ((0, False) if kinds == {OTHER} else (10, True))
    assert bench("compare", *sessions(tmp_path, 2.0, replicas=64), files[2], "--fail") == 0


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "odd.json").write_text('{"benchmarks": [{}]}')
    (tmp_path / "empty.json").write_text('{"benchmarks": [], "dqlab": {}}')
    for said, files in {
        "pytest benchmarks/ --mlflow": [],
        OTHER: sessions(tmp_path, 1.0, machine=OTHER),
        "cannot be read": ["missing.json"],
        "odd.json holds no benchmarks of dqlab": ["odd.json"],
        "empty.json holds no benchmarks of dqlab": ["empty.json"],
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


FEW = "not jax and not ddpm_large and ((ddpm and eager) or (update and K1-eager) or (reading and gzip) or batch)"


def test_benchmarks(tmp_path: Path) -> None:
    options = ("-p", "no:cacheprovider", "--quick", "--benchmark-disable", "--mlflow")
    done = python("-m", "pytest", "benchmarks/", *options, "-k", FEW, env=environment(tmp_path))
    assert "5 passed" in done.stdout, done.stdout + done.stderr
    assert "Nothing was measured" in done.stdout


def test_the_products_own_door_comes_first(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--smoke", "--only", "door", "--out", str(tmp_path))
    done = python("-m", "gpu", *options, env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["door"]
    steps = ["train, killed at its first checkpoint", "train --resume", "eval", "the same without a kill"]
    assert list(found) == [*steps, "section took"]
    assert found["the same without a kill"]["difference"] == 0.0
    written = {path.name for path in tmp_path.iterdir() if path.is_file() and path.stem != "errors"}
    assert written == {"door.log", "results.json", "results.md"}
    assert found["train --resume"]["updates/s"] > 0
    assert found["eval"]["execution"] == "eager"


def test_nothing_is_measured_behind_a_shut_door(tmp_path: Path) -> None:
    """On a card without memory training cannot start: the figures that were there stay, no other section is begun."""
    (tmp_path / "results.json").write_text('{"machine": {"gpu": "a card"}}')

    def call(*args: str, env: dict[str, str]) -> Done:
        known = environment(tmp_path)
        path = f"{env['PYTHONPATH']}{os.pathsep}{known['PYTHONPATH']}"
        return python("-m", "gpu", *args, env={**known, **env, "PYTHONPATH": path})

    done = Machine(call, tmp_path)("--only", "door,correctness", "--out", str(tmp_path))
    assert done.returncode == 3, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == ["machine", "door", "correctness"]
    assert found["correctness"] == {"not begun": "an earlier one failed"}
    assert "this card has none" in found["door"]["train, killed at its first checkpoint"]["error"]


def test_what_was_measured_survives(tmp_path: Path) -> None:
    """Killed with -9 after the first of the figures; the sections before it are whole."""
    command = [sys.executable, "-m", "gpu", "--device", "cpu", "--smoke", "--modes", "eager"]
    command += ["--only", "machine,details,figures", "--out", str(tmp_path)]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=said, start_new_session=True)
    results = tmp_path / "results.json"
    until(lambda: results.exists() and "alone, eager" in results.read_text(), 500)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = json.loads(results.read_text())
    assert found["machine"]["copy"]["GB/s"] > 0
    assert found["details"]["sampler, N=2, B=4, eager"]["ratio"] > 0
    assert found["figures"]["alone, eager"]["ratio"] > 0
    assert "kernels an update" in (tmp_path / "said").read_text()


def test_how_time_is_shared_and_counted() -> None:
    """Sections by their budgets: 20 s of correctness' 90 and waits' 20; with all, each has what its budget says."""
    from gpu.__main__ import share
    from gpu.figures import device_time
    from gpu.training import mean_and_half

    assert share(["waits", "correctness"], 220, whole=True) == pytest.approx(40)
    assert share(["correctness"], 180, whole=True) == 180
    assert share(["waits", "training"], 220, whole=False) == 20
    assert share(["training"], 220, whole=False) == 220
    spans = [(10, 4), (12, 1), (13, 3), (18, 2)]  # busy from 10 to 16 and from 18 to 20
    figures = device_time([{"ts": ts, "dur": dur} for ts, dur in reversed(spans)], 2)
    assert figures == {"kernels an update": 2, "us an update": 5, "us busy": 4, "idle share": pytest.approx(0.2)}
    assert mean_and_half([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.303 / 3**0.5))
