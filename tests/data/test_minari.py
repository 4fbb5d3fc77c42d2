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

FORMAT = MinariFormat()
HOPPER = tasks.get("hopper-medium-v2")
OBSERVED = spaces.Box(-np.inf, np.inf, (2,), np.float64)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "store"


def small(name: str, *changes: dict[str, Any], **spaces_given: Any) -> None:
    """A dataset of episodes of three steps, with changes."""
    episode = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.full((3, 1), 0.5, dtype=np.float32),
        "rewards": np.ones(3),
        "terminations": np.zeros(3, dtype=bool),
        "truncations": np.arange(3) == 2,
    }
    buffers = [EpisodeBuffer(**{**episode, **change}) for change in changes]
    create(name, buffers, **{"observation_space": OBSERVED, "action_space": spaces.Box(-1, 1, (1,)), **spaces_given})


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_columns_are_what_minari_iterates(data_format: str) -> None:
    wanted = rows_of(pendulums(data_format=data_format))
    assert all(wanted[ends].any() for ends in ("terminals", "timeouts"))
    columns = FORMAT.read(Path("made/pendulum-v0"))
    assert len(columns) == len(wanted["rewards"])
    for name, column in wanted.items():
        np.testing.assert_array_equal(getattr(columns, name), column, strict=True)
    assert "InvertedPendulum-v4" in columns.metadata["env_spec"]
    assert columns.metadata["environment"] == "InvertedPendulum-v4"


def test_ends_of_episodes_by_hand() -> None:
    """Terminated and truncated at once: terminated. Neither: cut, for the next row is another episode's."""
    both, never = np.arange(3) == 2, np.zeros(3, dtype=bool)
    ends = [{"terminations": both, "truncations": both}, {"terminations": never, "truncations": never}]
    small("made/ends-v0", *ends)
    columns = FORMAT.read(Path("made/ends-v0"))
    assert columns.terminals.tolist() == [*both, *never]
    assert np.asarray(columns.timeouts).tolist() == [*never, *both]
    assert np.asarray(columns.next_observations)[2].tolist() == [6.0, 7.0]


def test_goal_environments_give_their_observation() -> None:
    goal = spaces.Dict({"observation": OBSERVED, "desired_goal": spaces.Box(-1, 1, (3,), np.float64)})
    observations = {"observation": np.arange(8.0).reshape(4, 2), "desired_goal": np.zeros((4, 3))}
    small("made/goal-v0", {"observations": observations}, observation_space=goal)
    columns = FORMAT.read(Path("made/goal-v0"))
    assert columns.observations.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert columns.metadata["observations"] == "the entry 'observation'; left out: desired_goal"


@pytest.mark.parametrize(
    ("what", "space", "said"),
    [
        ("observation", spaces.Box(0, 1, (4, 4), np.float64), r"observations of Box\(shape \(4, 4\)\)"),
        ("observation", spaces.Dict({"image": spaces.Box(0, 1, (2,))}), r"observations of Dict\(image\)"),
        ("action", spaces.Discrete(3), "actions of Discrete"),
    ],
)
def test_what_is_not_flat_is_refused(what: str, space: Any, said: str) -> None:
    small("made/other-v0", **{f"{what}_space": space})
    with pytest.raises(DataError, match=said):
        FORMAT.read(Path("made/other-v0"))


def test_what_is_not_there_damaged_or_of_another_minari(store: Path) -> None:
    def check(error: type[DataError], said: str, name: str = "made/small-v0") -> None:
        with pytest.raises(error, match=said):
            FORMAT.read(Path(name))

    check(DataError, "The store is empty")
    small("made/small-v0", {})
    check(DataError, "Did you mean 'made/small-v0'", "made/smal-v0")
    said, main = (store / "made" / "small-v0" / "data" / name for name in ("metadata.json", "main_data.hdf5"))
    known = said.read_text()
    said.write_text(json.dumps({**json.loads(known), "minari_version": "9.8.7"}))
    check(UnreadError, "does not support the dataset generated by Minari 9.8.7")
    said.write_text(known)
    main.write_bytes(main.read_bytes()[:700])
    check(DataError, "made/small-v0.*cannot be read: it is damaged")


def test_without_minari_one_line(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    done = in_process("data", "info", "minari:made/small-v0")
    refused(done, "error: Minari's datasets need the package minari", "pip install ", "[minari]'")


def hoppers(name: str) -> dict[str, np.ndarray]:
    """Real hoppers; some fall, some are cut after 15 steps."""
    env = gymnasium.make("Hopper-v5", max_episode_steps=15)
    rows = rows_of(create(name, [roll_out(env, seed) for seed in range(5)], env=env))
    assert all(rows[ends].any() for ends in ("terminals", "timeouts"))
    return rows


def test_a_task_of_minaris_knows_its_dataset(store: Path) -> None:
    """`minari` alone; not the default sources, whose error says so; its name in other commands."""
    task = tasks.get("mujoco-hopper-medium-v0")
    with pytest.raises(DataError, match=r"not a task of D4RL's.* one of its own: --set .*'minari:mujoco/hopper/m"):
        load_dataset(task)
    rows = hoppers(task.minari)
    small("made/small-v0", {})
    data = load_dataset(task, "minari")
    wanted = [rows[name] for name in ("observations", "actions", "rewards", "next_observations", "terminals")]
    for field, column in zip(data.fields, wanted, strict=False):  # cut rows are kept: what followed them is known
        np.testing.assert_array_equal(field, column.astype(np.float32))
    known = data.provenance
    assert (known.source, known.path, known.episodes) == ("minari", task.minari, 5)
    assert known.digest == FORMAT.digest(Path(task.minari))
    assert known.is_d4rl is known.stand_in is known.synthetic is False
    assert resolve_dataset(task.name).place == store / task.minari
    listed = {item["name"]: item["note"] for item in list_datasets()["minari"]}
    assert listed[task.name] == f"{len(data)} steps, 5 episodes"
    assert listed["mujoco-hopper-expert-v0"] == "not here"
    assert f"minari:{task.minari}" not in listed
    assert "minari:made/small-v0" in listed
    assert f"{store / task.minari} (" in fetch_dataset(task)
    named = ("d4rl_cache", f"minari:{task.minari}")
    assert load_dataset(HOPPER, named).provenance.caveat == "not D4RL"
    with pytest.raises(DataError, match="11 wide, walker2d-medium-v2's is 17"):
        load_dataset(tasks.get("walker2d-medium-v2"), named)


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
