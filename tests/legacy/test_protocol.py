"""The real worker: exact numbers, mistakes answered, deaths told; seeds, goals and ends: test_side_by_side.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from both_stacks import STATES

from dqlab.envs.legacy.backend import Worker, legacy_python
from dqlab.errors import StackError

pytestmark = pytest.mark.legacy


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker(legacy_python(), program=STATES)
    yield made
    made.close()


def test_it_is_the_original_stack(worker: Worker) -> None:
    wanted = {"mujoco": "2.1.0", "gym": "0.23.1", "d4rl": "1.1", "mujoco-py": "2.1.2.14"}
    assert wanted.items() <= worker.versions.items()


def test_numbers_arrive_as_they_are(worker: Worker) -> None:
    facts = worker.ask("make", task="hopper-medium-v2", count=1)
    assert {"state_dim": 11, "action_dim": 3, "episode_limit": 1000}.items() <= facts.items()
    numbers = [0.1, 1 / 3, np.pi, 5e-324, -0.0, 1e-17, 1.0, 2**-40, -1 / 7, 0.3, 9.999999999999998, 2.0]
    state = {"qpos": numbers[:6], "qvel": numbers[6:]}
    worker.ask("set_state", which=[0], states=[state])
    assert worker.ask("get_state", which=[0])["states"] == [state]


MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown request": ("fly", {}, "AttributeError: .* 'fly'"),
    "missing field": ("step", {"which": [0]}, "TypeError: .* 'actions'"),
    "action too short": ("step", {"which": [0], "actions": [[0.0]]}, "an action is not 3 finite numbers"),
    "action not finite": ("step", {"which": [0], "actions": [[np.nan, 0.0, 0.0]]}, "not 3 finite numbers"),
    "state too short": ("set_state", {"which": [0], "states": [{"qpos": [], "qvel": []}]}, "6 and 6 numbers"),
    "no such task": ("make", {"task": "chess-v0", "count": 1}, "chess"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_and_it_goes_on(worker: Worker, mistake: str) -> None:
    do, fields, expected = MISTAKES[mistake]
    worker.ask("make", task="hopper-medium-v2", count=1)
    with pytest.raises(StackError, match=expected):
        worker.ask(do, **fields)
    worker.ask("make", task="hopper-medium-v2", count=1)
    assert worker.ask("get_state", which=[0])["states"]


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_worker_that_was_killed() -> None:
    worker = Worker(legacy_python())
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(StackError, match=r"(has ended at|before) 'make' \(exit code -9\)"):
        worker.ask("make", task="hopper-medium-v2", count=1)
    with pytest.raises(StackError):
        worker.ask("make", task="hopper-medium-v2", count=1)


def test_a_worker_that_hangs_is_ended() -> None:
    worker = Worker(legacy_python(), answer_seconds=0.5)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(StackError, match=r"has not answered 'make' within 0\.5 seconds"):
        worker.ask("make", task="hopper-medium-v2", count=1)
    assert gone(worker.pid)


ORPHAN = """
import time
from dqlab.envs.legacy.backend import Worker, legacy_python
worker = Worker(legacy_python())
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_no_orphan_when_dqlab_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())  # type: ignore[union-attr]
        assert not gone(pid, 0.2)
        parent.kill()
    assert gone(pid)
