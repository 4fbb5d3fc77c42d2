"""Minari's datasets: read as Minari reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

minari = pytest.importorskip("minari")
from made_minari import create, pendulums, rows_of  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402

from dqlab.data.formats.minari import MinariFormat  # noqa: E402
from dqlab.data.formats.reading import UnreadError  # noqa: E402
from dqlab.errors import DataError  # noqa: E402

Run = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
FORMAT = MinariFormat()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def one_episode(length: int = 3, **changes: Any) -> EpisodeBuffer:
    last = np.arange(length) == length - 1
    arrays = {
        "observations": np.arange(2.0 * (length + 1)).reshape(length + 1, 2),
        "actions": np.full((length, 1), 0.5, dtype=np.float32),
        "rewards": np.ones(length),
        "terminations": np.zeros(length, dtype=bool),
        "truncations": last,
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
    space = spaces.Dict(
        {"observation": SPACES["observation_space"], "desired_goal": spaces.Box(-1, 1, (3,), np.float64)}
    )
    observations = {"observation": np.arange(8.0).reshape(4, 2), "desired_goal": np.zeros((4, 3))}
    buffer = one_episode(3, observations=observations)
    create("made/goal-v0", [buffer], observation_space=space, action_space=SPACES["action_space"])
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


def test_what_is_not_there_or_damaged(store: Path) -> None:
    with pytest.raises(DataError, match="The store is empty"):
        FORMAT.read(Path("made/pendulum-v0"))
    create("made/small-v0", [one_episode()], **SPACES)
    with pytest.raises(DataError, match="Did you mean 'made/small-v0'"):
        FORMAT.read(Path("made/smal-v0"))
    main = store / "made" / "small-v0" / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:700])
    with pytest.raises(DataError, match=r"made/small-v0.*cannot be read"):
        FORMAT.read(Path("made/small-v0"))


def test_a_dataset_of_another_minari(store: Path) -> None:
    create("made/small-v0", [one_episode()], **SPACES)
    metadata = store / "made" / "small-v0" / "data" / "metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "minari_version": "9.8.7"}))
    with pytest.raises(UnreadError, match=r"does not support the dataset generated by Minari 9.8.7"):
        FORMAT.read(Path("made/small-v0"))


def test_without_minari_one_line(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    done = in_process("data", "info", "minari:made/small-v0")
    assert done.returncode == 2
    assert done.stderr.startswith("dqlab: error: Minari's datasets need the package minari")
    assert "pip install 'dqlab[minari]'" in done.stderr
    assert done.stderr.count("\n") == 1
