"""`dqlab doctor`: every check on this machine, and faults for real."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import Run
from packaging.requirements import Requirement

from dqlab.cli import main
from dqlab.envs.physics import modern_inertia
from dqlab.machine import run_isolated
from dqlab.tools import doctor
from dqlab.tools.doctor import EXACT, DoctorFinding, device_finding, largest_error, unmet_requirements

WELL = {"packages", "PyTorch", "D4RL physics", "runs", "D4RL cache"}


def test_one_screen_on_this_machine(dqlab: Run) -> None:
    done = dqlab("doctor", env={"COLUMNS": "100"})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    for name in ("OpenGL", "Ray", "MLflow", "Adroit, kitchen", "ONNX"):
        assert any(line[8:].startswith(name) for line in lines), name
    for name in WELL:
        assert any(line.startswith(f"ok      {name}") for line in lines), done.stdout
    assert "All that dqlab train needs works here" in done.stdout


BROKEN = {
    "D4RL cache": ("symbolic links", "D4RL_DATASET_DIR"),
    "D4RL physics": ("MUJOCO_GL: nonsense", "unset MUJOCO_GL"),
    "MLflow": ("http://***@", "dqlab sync"),
}


def test_faults_are_told_with_their_fixes(dqlab: Run, tmp_path: Path) -> None:
    """Each is one line, nothing hangs, and the exit code says that training would fail."""
    (tmp_path / "d4rl").symlink_to(tmp_path / "d4rl")  # cannot be read, not even by root
    env = {"MLFLOW_TRACKING_URI": "http://ann:s3cret@127.0.0.1:9", "MUJOCO_GL": "nonsense", "CXX": ""}
    done = dqlab("doctor", "--json", env=env | {"PATH": str(tmp_path / "empty")})
    assert done.returncode == 1, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    known = json.loads(done.stdout)
    found = {item["name"]: item for item in known["findings"]}
    assert known["can_train"] is False
    assert {name for name, item in found.items() if item["needed"]} == WELL
    assert (found["compiler"]["state"], found["PyTorch"]["state"]) == ("missing", "ok")
    for name, (text, fix) in BROKEN.items():
        assert found[name]["state"] == "broken", found[name]
        assert text in found[name]["text"]
        assert fix in found[name]["fix"]


def test_physics_other_than_2_1_0_show() -> None:
    steps, error = largest_error()
    assert (steps, error < EXACT) == (5, True)
    assert largest_error(modern_inertia)[1] > 1e-3


def test_a_check_may_crash_hang_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> DoctorFinding:
        raise ValueError("odd machine")

    fine = ("b", "fine", False, lambda: DoctorFinding("ok", "yes"))
    monkeypatch.setattr(doctor, "CHECKS", [("a", "fails", True, fail), fine])
    found = [(item.name, item.state, item.needed, item.text) for item in doctor.examine_machine()]
    assert found == [("fails", "broken", True, "ValueError: odd machine"), ("fine", "ok", False, "yes")]
    assert not doctor.report_machine()
    sleep = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert run_isolated("import os; os.kill(os.getpid(), 11)", timeout=10).trouble == "it crashed (SIGSEGV)"
    began = time.monotonic()
    assert run_isolated(sleep, timeout=0.5).trouble == "no answer within 0 s"
    assert time.monotonic() - began < 40
    assert run_isolated("raise OSError('no disk')", timeout=10).trouble == "OSError: no disk"
    assert run_isolated("import sys; print(sys.argv[1])", "a", timeout=10).output == "a\n"


def test_what_a_machine_may_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Headers, OpenGL's libraries, D4RL's files; devices are told, and versions held against what is asked for."""
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'fatal error: Python.h: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    missing = dict.fromkeys(("__EGL_VENDOR_LIBRARY_DIRS", "__EGL_VENDOR_LIBRARY_FILENAMES"), "/nonexistent")
    for name, value in {**missing, "CXX": str(broken), "MUJOCO_GL": "egl"}.items():
        monkeypatch.setenv(name, value)
    found, drawn = doctor.toolchain(), doctor.opengl()
    assert (found.state, "Python.h" in found.text, "python3-dev" in found.fix) == ("broken", True, True)
    assert (drawn.state, "libegl1" in drawn.fix) == ("broken", True)
    (tmp_path / "hopper_medium-v2.hdf5").write_bytes(b"x")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert "1 of" in doctor.d4rl_cache().text
    monkeypatch.setenv("D4RL_DATASET_DIR", str(broken))
    assert doctor.d4rl_cache().state == "broken"  # a file, not a folder
    gpu = {"name": "NVIDIA X", "capability": "9.0", "free": 70.0, "total": 80.0}
    known = device_finding({"version": "2.6", "cuda": "12.4", "devices": [gpu, gpu]})
    assert known.text == "2.6, built for CUDA 12.4; 2 x CUDA: NVIDIA X (70 of 80 GiB free, compute capability 9.0)"
    assert known.state == "ok"
    wanted = [Requirement(text) for text in ("numpy<1", "no-such-package", "gin-config")]
    outside = f"numpy {version('numpy')} (wanted <1)"
    assert unmet_requirements(wanted) == (["no-such-package is not installed"], [outside])


def test_a_package_without_which_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dqlab.tools.doctor", None)
    assert main(["doctor"]) == 2
    assert "dqlab train cannot work here yet" in capsys.readouterr().err
