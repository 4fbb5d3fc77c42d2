"""Minari's datasets: read as Minari reads them; as training data, from the store or fetched from the Hub's like."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import ROOT, Run, isolated, refused
from gymnasium import spaces
from hub_server import Hub, running

minari = pytest.importorskip("minari")
from made_minari import create, pendulums, roll_out, rows_of  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402

from dqlab.data import load_dataset  # noqa: E402
from dqlab.data.download import no_downloads  # noqa: E402
from dqlab.data.formats.base import UnreadError  # noqa: E402
from dqlab.data.formats.minari import MinariFormat  # noqa: E402
from dqlab.data.locate import fetch_dataset, list_datasets, resolve_dataset  # noqa: E402
from dqlab.data.sources import find_dataset  # noqa: E402
from dqlab.envs import tasks  # noqa: E402
from dqlab.errors import ConfigError, DataError  # noqa: E402

NAMES = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
FORMAT = MinariFormat()
HOPPER = tasks.get("hopper-medium-v2")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "store"


def one_episode(length: int = 3, **changes: Any) -> EpisodeBuffer:
    arrays = {
        "observations": np.arange(2.0 * (length + 1)).reshape(length + 1, 2),
        "actions": np.full((length, 1), 0.5, dtype=np.float32),
        "rewards": np.ones(length),
        "terminations": np.zeros(length, dtype=bool),
        "truncations": np.arange(length) == length - 1,
    }
    return EpisodeBuffer(**{**arrays, **changes})


SPACES = {
    "observation_space": spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "action_space": spaces.Box(-1, 1, (1,), np.float32),
}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_columns_are_what_minari_iterates(data_format: str) -> None:
    wanted = rows_of(pendulums(data_format=data_format))
    assert wanted["terminals"].any()
    assert wanted["timeouts"].any()
    columns = FORMAT.read(Path("made/pendulum-v0"))
    assert len(columns) == len(wanted["rewards"])
    for name in NAMES:
        column = getattr(columns, name)
        assert column.dtype == wanted[name].dtype
        np.testing.assert_array_equal(column, wanted[name])
    assert "InvertedPendulum-v4" in columns.metadata["env_spec"]


def test_ends_of_episodes_by_hand() -> None:
    """Terminated and truncated at once: terminated. Neither: cut, for the next row is another episode's."""
    flags = {"terminations": np.array([False, True]), "truncations": np.array([False, True])}
    never = {"terminations": np.zeros(2, dtype=bool), "truncations": np.zeros(2, dtype=bool)}
    create("made/ends-v0", [one_episode(2, **flags), one_episode(2, **never)], **SPACES)
    columns = FORMAT.read(Path("made/ends-v0"))
    assert columns.terminals.tolist() == [False, True, False, False]
    assert np.asarray(columns.timeouts).tolist() == [False, False, False, True]
    assert np.asarray(columns.next_observations)[1].tolist() == [4.0, 5.0]


def test_goal_environments_give_their_observation() -> None:
    goal = {"observation": SPACES["observation_space"], "desired_goal": spaces.Box(-1, 1, (3,), np.float64)}
    observations = {"observation": np.arange(8.0).reshape(4, 2), "desired_goal": np.zeros((4, 3))}
    buffer = one_episode(3, observations=observations)
    create("made/goal-v0", [buffer], **{**SPACES, "observation_space": spaces.Dict(goal)})
    columns = FORMAT.read(Path("made/goal-v0"))
    assert columns.observations.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert columns.metadata["observations"] == "the entry 'observation'; left out: desired_goal"


REFUSED = {
    "images": ({"observation_space": spaces.Box(0, 1, (4, 4), np.float64)}, r"observations of Box\(shape \(4, 4\)\)"),
    "numbers": ({"observation_space": spaces.Discrete(3)}, "observations of Discrete"),
    "choices": ({"action_space": spaces.Discrete(3)}, "actions of Discrete"),
    "other entries": ({"observation_space": spaces.Dict({"image": spaces.Box(0, 1, (2,))})}, r"Dict\(image\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_flat_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    create("made/other-v0", [], **{**SPACES, **changes})
    with pytest.raises(DataError, match=message):
        FORMAT.read(Path("made/other-v0"))


def test_what_is_not_there_damaged_or_of_another_minari(store: Path) -> None:
    with pytest.raises(DataError, match="The store is empty"):
        FORMAT.read(Path("made/pendulum-v0"))
    create("made/small-v0", [one_episode()], **SPACES)
    with pytest.raises(DataError, match="Did you mean 'made/small-v0'"):
        FORMAT.read(Path("made/smal-v0"))
    data = store / "made" / "small-v0" / "data"
    known = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**known, "minari_version": "9.8.7"}))
    with pytest.raises(UnreadError, match=r"does not support the dataset generated by Minari 9.8.7"):
        FORMAT.read(Path("made/small-v0"))
    (data / "metadata.json").write_text(json.dumps(known))
    main = data / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:700])
    with pytest.raises(DataError, match=r"made/small-v0.*cannot be read"):
        FORMAT.read(Path("made/small-v0"))


def test_without_minari_one_line(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    done = in_process("data", "info", "minari:made/small-v0")
    refused(done, "error: Minari's datasets need the package minari", "pip install ", "[minari]'")


def hoppers(name: str) -> dict[str, np.ndarray]:
    """Real hoppers; some fall, some are cut after 15 steps."""
    env = gymnasium.make("Hopper-v5", max_episode_steps=15)
    rows = rows_of(create(name, [roll_out(env, seed) for seed in range(5)], env=env))
    assert rows["timeouts"].any()
    assert rows["terminals"].any()
    return rows


def test_a_task_of_minaris_knows_its_dataset(store: Path) -> None:
    """`minari` alone; not the default sources, whose error says so; its name in other commands."""
    task = tasks.get("mujoco-hopper-medium-v0")
    own = r"not a task of D4RL's.* It has one of its own: --set .*'minari:mujoco/hopper/m"
    with pytest.raises(DataError, match=own):
        load_dataset(task)
    rows = hoppers(task.minari)
    data = load_dataset(task, "minari")
    np.testing.assert_array_equal(data.reward, rows["rewards"].astype(np.float32))
    assert (data.provenance.source, data.provenance.path) == ("minari", task.minari)
    assert resolve_dataset(task.name).place == store / task.minari
    listed = {item["name"]: item for item in list_datasets()["minari"]}
    assert listed[task.name]["note"] == f"{len(data)} steps, 5 episodes"
    assert listed["mujoco-hopper-expert-v0"]["note"] == "not here"
    assert f"minari:{task.minari}" not in listed
    assert f"{store / task.minari} (" in fetch_dataset(task)


def test_transitions_and_where_they_are_from() -> None:
    rows = hoppers("made/hopper-v2")
    data = load_dataset(HOPPER, ("d4rl_cache", "minari:made/hopper-v2"))
    wanted = [rows[name] for name in ("observations", "actions", "rewards", "next_observations", "terminals")]
    for field, column in zip(data.fields, wanted, strict=False):  # cut rows are kept: what followed them is known
        np.testing.assert_array_equal(field, column.astype(np.float32))
    known = data.provenance
    assert (known.source, known.path, known.caveat) == ("minari", "made/hopper-v2", "not D4RL")
    assert known.digest == FORMAT.digest(Path("made/hopper-v2"))
    assert known.is_d4rl is known.stand_in is known.synthetic is False
    assert known.episodes == 5
    with pytest.raises(DataError, match="11 wide, the task's is 17"):
        load_dataset(tasks.get("walker2d-medium-v2"), ("minari:made/hopper-v2",))


def test_what_is_not_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an id, while planning, and where Minari does not know the server."""
    with pytest.raises(ConfigError, match="wants a dataset's id"):
        load_dataset(HOPPER, ("minari",))
    with no_downloads() as refused:
        found = find_dataset(HOPPER, ("minari:made/absent-v0", "embedded"))
    assert (found.source, found.stand_in) == ("embedded", True)
    assert refused == ["minari:made/absent-v0"]
    monkeypatch.setenv("MINARI_REMOTE", "nowhere://farama")
    with pytest.raises(DataError, match=r"minari: Minari cannot fetch 'made/far-v0': 'nowhere'\. Put your copy into"):
        load_dataset(HOPPER, ("minari:made/far-v0",))


def test_fetched_by_minari(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    hoppers("made/hopper-v2")
    served = tmp_path / "hub"
    shutil.copytree(store / "made", served / "made")
    (served / "made" / "namespace_metadata.json").write_text(json.dumps({"datasets": ["made/hopper-v2"]}))
    digest = FORMAT.digest(Path("made/hopper-v2"))
    shutil.rmtree(store)
    command = [sys.executable, "-m", "dqlab", "data", "download", "hopper-medium-v2", "--from", "minari:made/hopper-v2"]
    with running(Hub(served)) as url:
        env = isolated(tmp_path) | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"MINARI_DATASETS_PATH": str(store)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"hopper-medium-v2: {store / 'made/hopper-v2'} (")
    assert FORMAT.digest(Path("made/hopper-v2")) == digest
