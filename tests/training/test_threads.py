"""The number of CPU threads: by size, within the cores there are; idle ones sleep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from dqlab import machine
from dqlab.machine import cores


@pytest.mark.parametrize(
    ("cores", "rows", "wanted"), [(8, 64, 1), (8, 256, 1), (8, 2048, 2), (2, 10**6, 2), (1, 4096, 1)]
)
def test_threads_by_size(monkeypatch: pytest.MonkeyPatch, cores: int, rows: int, wanted: int) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert machine.threads_for(rows) == wanted


def test_only_the_cores_this_process_may_use_count() -> None:
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("given", "wanted"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_idle_threads_sleep_unless_one_says_otherwise(given: dict[str, str], wanted: str) -> None:
    """Set by the command line before PyTorch, and OpenMP with it, is loaded."""
    code = (
        "import os; from dqlab import cli\n"
        "try:\n    cli.main(['eval', '/nowhere'])\nexcept SystemExit:\n    pass\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted
