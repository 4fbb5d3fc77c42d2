"""`dqlab collect` with the real trainer on a budget of seconds: end to end, again, and where it cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, isolated, refused
from made_collections import arrays, notes

from dqlab.cli import main
from dqlab.config import gin_files
from dqlab.envs import make_env, tasks
from dqlab.errors import DataError
from dqlab.runs import Experiment
from dqlab.runs.build import load_data
from dqlab.tools.collect.recipe import Collection

pytest.importorskip("stable_baselines3")

BUDGET = [
    "BehaviourTraining.steps=2048",
    "BehaviourTraining.checkpoint_every=1024",
    "BehaviourTraining.n_envs=4",
    "Collection.episodes=6",
    "Collection.ranking_episodes=2",
    "Collection.medium_scores=(-10.0, 100.0)",
    "Collection.expert_scores=(-10.0, 100.0)",
]


def command(folder: Path, *more: str) -> list[str]:
    gin = str(ROOT / "gin" / "collect_hopper.gin")
    return ["collect", "--gin", gin, "--out", str(folder / "out"), "--set", *BUDGET, *more]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected")
    assert main(command(folder)) == 0
    return folder


def test_the_set_is_d4rls_layout_with_provenance(collected: Path) -> None:
    path = collected / "out" / "hopper-medium-expert-mini.hdf5"
    rows, said = arrays(path), notes(path)
    assert (rows["observations"].shape[1], rows["actions"].shape[1]) == (11, 3)
    assert int((rows["terminals"] | rows["timeouts"]).sum()) == 6
    assert abs(rows["actions"]).max() <= 1.0
    assert "mujoco210" in said["environment"]
    assert "Collection.episodes = 6" in said["config"]
    assert "3 episodes" in said["description"]


def test_rows_can_be_replayed(collected: Path) -> None:
    """The recorded positions, velocities and action give the recorded next observation and reward."""
    rows = arrays(collected / "out" / "hopper-medium-expert-mini.hdf5")
    env = make_env(tasks.get("hopper-medium-v2"))
    env.reset(seed=0)
    for row in range(0, len(rows["rewards"]), 7):
        env.reset()
        env.unwrapped.set_state(rows["infos/qpos"][row], rows["infos/qvel"][row])
        following, reward, *_ = env.step(rows["actions"][row])
        assert following == pytest.approx(rows["next_observations"][row], abs=1e-5)
        assert reward == pytest.approx(float(rows["rewards"][row]), abs=1e-4)


def test_a_second_call_reuses_what_is_trained(collected: Path) -> None:
    out = collected / "out"
    trained = {path: path.stat().st_mtime_ns for path in (out / "behaviour").rglob("*.zip")}
    ranking = json.loads((out / "ranking.json").read_text())
    before = (out / "hopper-medium-expert-mini.hdf5").read_bytes()
    assert main(command(collected)) == 0
    assert trained == {path: path.stat().st_mtime_ns for path in (out / "behaviour").rglob("*.zip")}
    assert ranking == json.loads((out / "ranking.json").read_text())
    assert (out / "hopper-medium-expert-mini.hdf5").read_bytes() == before, "the same seeds, the same file"


def test_without_the_trainer_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "stable_baselines3.py").write_text("raise ImportError('not installed')")
    words = [sys.executable, "-m", "dqlab", *command(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, env=isolated(tmp_path), capture_output=True, text=True, timeout=600)
    refused(done, "Collecting needs stable-baselines3: pip install ", "[collect]'")
    assert not (tmp_path / "out" / "behaviour").exists()


def test_a_level_that_nothing_reaches_is_told_with_what_there_is(collected: Path) -> None:
    gin_files.load_gin([ROOT / "gin" / "collect_hopper.gin"], [*BUDGET, "Collection.expert_scores=(85.0, 150.0)"])
    with pytest.raises(DataError, match="No expert policy: no checkpoint scores between 85 and 150 .best: .*nearest"):
        Collection().run(collected / "out", log=lambda text: None)


def test_the_set_trains_its_task(collected: Path) -> None:
    source = collected / "out" / "hopper-medium-expert-mini.hdf5"
    sources = f"load_dataset.sources=('file:{source}',)"
    gin_files.load_gin([ROOT / "gin" / "diffql_walker2d.gin"], ["Experiment.task='hopper-medium-expert-v2'", sources])
    data = load_data(Experiment())
    rows = arrays(source)
    assert len(data) == len(rows["rewards"]) - 1 - int(rows["timeouts"][:-1].sum())
