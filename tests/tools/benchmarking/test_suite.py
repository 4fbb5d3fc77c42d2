"""The benchmarks themselves run: a few of them, untimed, and the checks for a GPU at tiny sizes on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, isolated
from mocked_machine import Machine
from ray_cluster import until

PATH = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
FEW = "not jax and not ddpm_large and ((ddpm and eager) or (update and K1-eager) or (reading and gzip) or batch)"


def run(folder: Path, *command: str) -> str:
    kept = {name: value for name, value in isolated(folder).items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, "PYTHONPATH": PATH}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(folder: Path, *args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {**isolated(folder), **env, "PYTHONPATH": f"{env['PYTHONPATH']}{os.pathsep}{PATH}"}
    command = [sys.executable, "-m", "gpu", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


def test_benchmarks(tmp_path: Path) -> None:
    options = ("-p", "no:cacheprovider", "--quick", "--benchmark-disable", "--mlflow")
    said = run(tmp_path, sys.executable, "-m", "pytest", "benchmarks/", *options, "-k", FEW)
    assert "5 passed" in said
    assert "Nothing was measured" in said


def test_the_products_own_door_comes_first(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--smoke", "--only", "door", "--out", str(tmp_path))
    run(tmp_path, sys.executable, "-m", "gpu", *options)
    found = json.loads((tmp_path / "results.json").read_text())["door"]
    steps = ["train, killed at its first checkpoint", "train --resume", "eval", "the same without a kill"]
    assert list(found) == [*steps, "section took"]
    assert found["the same without a kill"]["difference"] == 0.0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file() and path.stem != "errors") == [
        *("door.log", "results.json", "results.md")
    ]
    assert found["train --resume"]["updates/s"] > 0
    assert found["eval"]["execution"] == "eager"


def test_nothing_is_measured_behind_a_shut_door(tmp_path: Path) -> None:
    """On a card without memory training cannot start: the figures that were there stay, no other section is begun."""
    (tmp_path / "results.json").write_text('{"machine": {"gpu": "a card"}}')
    machine = Machine(lambda *args, env: call(tmp_path, *args, env=env), tmp_path)
    done = machine("--only", "door,correctness", "--out", str(tmp_path))
    assert done.returncode == 3, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == ["machine", "door", "correctness"]
    assert found["correctness"] == {"not begun": "an earlier one failed"}
    assert "this card has none" in found["door"]["train, killed at its first checkpoint"]["error"]


def test_what_was_measured_survives(tmp_path: Path) -> None:
    """Killed with -9 after the first of the figures; the sections before it are whole."""
    command = [sys.executable, "-m", "gpu", "--device", "cpu", "--smoke", "--modes", "eager"]
    command += ["--only", "machine,details,figures", "--out", str(tmp_path)]
    environment = {**isolated(tmp_path), "PYTHONPATH": PATH}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, start_new_session=True)
    results = tmp_path / "results.json"
    until(lambda: results.exists() and "alone, eager" in results.read_text(), 500)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = json.loads(results.read_text())
    assert found["machine"]["copy"]["GB/s"] > 0
    assert found["details"]["sampler, N=2, B=4, eager"]["ratio"] > 0
    assert found["figures"]["alone, eager"]["ratio"] > 0
    assert "kernels an update" in (tmp_path / "said").read_text()


def test_how_time_is_shared_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections by their budgets: 20 s of correctness' 90 and waits' 20; with all, each has what its budget says."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
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
