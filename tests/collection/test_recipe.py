"""`dqlab collect` with the real trainer on a budget of seconds: end to end, again, and where it cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, isolated

from dqlab.data.d4rl import read_d4rl
from dqlab.envs.making import make_env
from dqlab.envs.tasks import tasks

pytest.importorskip("stable_baselines3")

BUDGET = [
    "BehaviourTraining.steps=2048",
    "BehaviourTraining.checkpoint_every=1024",
    "BehaviourTraining.n_envs=4",
    "Collection.episodes=3",
    "Collection.ranking_episodes=2",
    "Collection.medium_scores=(-10.0, 100.0)",
    "Collection.expert_scores=(-10.0, 100.0)",
]


def collect(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    args = ["collect", "--gin", str(ROOT / "gin" / "collect_hopper.gin"), "--out", "out", "--set", *BUDGET, *more]
    command = [sys.executable, "-m", "dqlab.cli", *args]
    return subprocess.run(command, cwd=folder, env=isolated(folder), capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected")
    done = collect(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_set_is_d4rls_layout_with_provenance(collected: Path) -> None:
    path = collected / "out" / "hopper-medium-expert-mini.hdf5"
    rows = read_d4rl(path, 11, 3)
    assert rows.timeouts is not None
    assert int((rows.terminals | rows.timeouts).sum()) == 6
    assert np.abs(rows.actions).max() <= 1.0
    with h5py.File(path) as file:
        notes = {name: file[f"metadata/{name}"][()].decode() for name in file["metadata"]}
    assert "mujoco210" in notes["environment"]
    assert "Collection.episodes = 3" in notes["config"]
    assert "3 episodes" in notes["medium_policy"]


def test_recorded_rewards_are_the_environments(collected: Path) -> None:
    """The first transition follows from the documented seed and the recorded action."""
    rows = read_d4rl(collected / "out" / "hopper-medium-expert-mini.hdf5", 11, 3)
    env = make_env(tasks.get("hopper-medium-v2"))
    seed = int(np.random.SeedSequence(0).generate_state(3)[0])
    first, _ = env.reset(seed=seed)
    assert np.allclose(first, rows.observations[0], atol=1e-6)
    second, reward, _, _, _ = env.step(rows.actions[0])
    assert np.allclose(second, rows.observations[1], atol=1e-5)
    assert reward == pytest.approx(float(rows.rewards[0]), abs=1e-5)


def test_a_second_call_reuses_what_is_trained(collected: Path) -> None:
    out = collected / "out"
    trained = {path: path.stat().st_mtime_ns for path in (out / "behaviour").rglob("*.zip")}
    ranking = json.loads((out / "ranking.json").read_text())
    before = read_d4rl(out / "hopper-medium-expert-mini.hdf5")
    assert collect(collected).returncode == 0
    assert trained == {path: path.stat().st_mtime_ns for path in (out / "behaviour").rglob("*.zip")}
    assert ranking == json.loads((out / "ranking.json").read_text())
    after = read_d4rl(out / "hopper-medium-expert-mini.hdf5")
    assert np.array_equal(before.observations, after.observations), "the same seeds, the same episodes"


def test_mistakes_are_one_line(collected: Path) -> None:
    other = collect(collected, "BehaviourTraining.seed=9")
    assert other.returncode == 2
    assert "trained with other settings" in other.stderr
    none = collect(collected, "Collection.expert_scores=(85.0, 150.0)")
    assert none.returncode == 2
    assert "No expert policy: no checkpoint scores between 85 and 150" in none.stderr
    assert "Traceback" not in other.stderr + none.stderr
