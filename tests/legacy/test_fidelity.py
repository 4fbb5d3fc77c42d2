"""`make fidelity`: its page says what was measured, of both stacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from both_stacks import NEAR, states_near_goals
from conftest import ROOT, isolated
from fidelity import linear_policy


def test_the_policy_by_hand() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 2)) / 2.0
    assert np.allclose(linear_policy(4, 2)(np.eye(4)), np.tanh(weights))


def test_starts_near_goals() -> None:
    ant = {"qpos": [1.0, 2.0, 0.7], "qvel": [0.0], "goal": [30.0, 30.0]}
    near = states_near_goals([ant], np.zeros((1, 3)))[0]
    assert np.hypot(near["goal"][0] - 1.0, near["goal"][1] - 2.0) == pytest.approx(NEAR)
    kitchen = {"qpos": [1.0, 0.0], "qvel": [0.0], "remaining": ["microwave"]}
    moved = states_near_goals([kitchen], np.array([[1.0, 0.0, 0.0, -0.8]]))[0]
    assert moved["qpos"][0] == 1.0
    assert -0.8 <= moved["qpos"][1] <= -0.4
    runner = {"qpos": [0.0], "qvel": [0.0]}
    assert states_near_goals([runner], np.zeros((1, 1))) == [runner]


def make_page(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "fidelity.py"), *args]
    return subprocess.run(command, cwd=folder, env=isolated(folder) | env, capture_output=True, text=True, timeout=500)


def test_without_the_original_stack_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = make_page(tmp_path, "--out", "table.md", DQLAB_LEGACY=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n"), "make legacy" in done.stderr) == (2, 1, True)
    assert not (tmp_path / "table.md").exists()


@pytest.mark.legacy
def test_the_page_of_one_environment(tmp_path: Path) -> None:
    done = make_page(tmp_path, "--robot", "hopper", "--episodes", "2", "--out", "page.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page.md").read_text()
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| hopper")
    ]
    errors = {cells[1]: cells for cells in lines[:3]}
    assert float(errors["gymnasium, mujoco210"][3]) < 1e-12
    assert float(errors["gymnasium, modern"][3]) > 1e-3
    earned = {cells[1]: cells for cells in lines[3:]}
    assert float(earned["gymnasium, mujoco210"][-1]) < 1e-9
    assert "mujoco 2.1.0" in text
    unknown = make_page(tmp_path, "--robot", "hoper", "--out", "other.md")
    assert (unknown.returncode, "Did you mean 'hopper'" in unknown.stderr) == (2, True)
