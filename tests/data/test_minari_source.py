"""Minari's datasets as training data: from the store, or fetched from a server of the Hub's kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import ROOT, isolated
from hub_server import Hub, running

minari = pytest.importorskip("minari")
from made_minari import create, roll_out, rows_of  # noqa: E402

from dqlab.data import load_dataset  # noqa: E402
from dqlab.data.convert import fetch_dataset  # noqa: E402
from dqlab.data.download import no_downloads  # noqa: E402
from dqlab.data.formats.minari import MinariFormat  # noqa: E402
from dqlab.data.locate import list_datasets, resolve_dataset  # noqa: E402
from dqlab.data.sources import find_dataset  # noqa: E402
from dqlab.envs import tasks  # noqa: E402
from dqlab.errors import ConfigError, DataError  # noqa: E402

HOPPER = tasks.get("hopper-medium-v2")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "store"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def hoppers(name: str) -> dict[str, np.ndarray]:
    """Real hoppers; some fall, some are cut after 15 steps."""
    env = gymnasium.make("Hopper-v4", max_episode_steps=15)
    rows = rows_of(create(name, [roll_out(env, seed) for seed in range(5)], env=env))
    assert rows["timeouts"].any()
    assert rows["terminals"].any()
    return rows


def test_a_task_of_minaris_knows_its_dataset(store: Path) -> None:
    """`minari` alone; not the default sources, whose error says so; its name in other commands."""
    task = tasks.get("mujoco-hopper-medium-v0")
    with pytest.raises(
        DataError, match=r"not a task of D4RL's.* It has one of its own: --set .*'minari:mujoco/hopper/m"
    ):
        load_dataset(task)
    env = gymnasium.make("Hopper-v5", max_episode_steps=15)
    rows = rows_of(create(task.minari, [roll_out(env, seed) for seed in range(3)], env=env))
    data = load_dataset(task, "minari")
    np.testing.assert_array_equal(data.reward, rows["rewards"].astype(np.float32))
    assert (data.provenance.source, data.provenance.path) == ("minari", task.minari)
    assert resolve_dataset(task.name).place == store / task.minari
    listed = {item["name"]: item for item in list_datasets()["minari"]}
    assert listed[task.name]["note"] == f"{len(data)} steps, 3 episodes"
    assert listed["mujoco-hopper-expert-v0"]["note"] == "not here"
    assert f"minari:{task.minari}" not in listed
    assert f"{store / task.minari} (" in fetch_dataset(task)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transitions_and_where_they_are_from() -> None:
    rows = hoppers("made/hopper-v2")
    data = load_dataset(HOPPER, ("d4rl_cache", "minari:made/hopper-v2"))
    assert len(data) == len(rows["rewards"])  # cut rows are kept: what followed them is known
    np.testing.assert_array_equal(data.state, rows["observations"].astype(np.float32))
    np.testing.assert_array_equal(data.next_state, rows["next_observations"].astype(np.float32))
    np.testing.assert_array_equal(data.action, rows["actions"])
    np.testing.assert_array_equal(data.reward, rows["rewards"].astype(np.float32))
    np.testing.assert_array_equal(data.terminal, rows["terminals"].astype(np.float32))
    known = data.provenance
    assert (known.source, known.path) == ("minari", "made/hopper-v2")
    assert known.digest == MinariFormat().digest(Path("made/hopper-v2"))
    assert known.is_d4rl is known.stand_in is known.synthetic is False
    assert known.caveat == "not D4RL"
    assert known.episodes == 5
    with pytest.raises(DataError, match="11 wide, the task's is 17"):
        load_dataset(tasks.get("walker2d-medium-v2"), ("minari:made/hopper-v2",))


def test_no_id() -> None:
    with pytest.raises(ConfigError, match="wants a dataset's id"):
        load_dataset(HOPPER, ("minari",))


def test_planning_fetches_nothing() -> None:
    with no_downloads() as refused:
        found = find_dataset(HOPPER, ("minari:made/absent-v0", "embedded"))
    assert (found.source, found.stand_in) == ("embedded", True)
    assert refused == ["minari:made/absent-v0"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fetched_by_minari(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    hoppers("made/hopper-v2")
    served = tmp_path / "hub"
    shutil.copytree(store / "made", served / "made")
    (served / "made" / "namespace_metadata.json").write_text(json.dumps({"datasets": ["made/hopper-v2"]}))
    digest = MinariFormat().digest(Path("made/hopper-v2"))
    shutil.rmtree(store)
    command = [sys.executable, "-m", "dqlab", "data", "download", "hopper-medium-v2", "--from", "minari:made/hopper-v2"]
    with running(Hub(served)) as url:
        env = isolated(tmp_path) | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"MINARI_DATASETS_PATH": str(store)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"hopper-medium-v2: {store / 'made/hopper-v2'} (")
    assert MinariFormat().digest(Path("made/hopper-v2")) == digest


def test_a_server_that_minari_does_not_know_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_REMOTE", "nowhere://farama")
    with pytest.raises(DataError, match=r"minari: Minari cannot fetch 'made/far-v0': 'nowhere'\. Put your copy into"):
        load_dataset(HOPPER, ("minari:made/far-v0",))
