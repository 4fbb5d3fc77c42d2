"""Minari's datasets: read as Minari reads them, written so that Minari reads them, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from gymnasium import spaces

minari = pytest.importorskip("minari")
from made_minari import create, pendulums, rows_of  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402

from dqlab.data.formats.base import Columns  # noqa: E402
from dqlab.data.formats.minari import MinariFormat  # noqa: E402
from dqlab.data.formats.minari_store import is_whole, local_ids  # noqa: E402
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
    with FORMAT.open(Path("made/pendulum-v0")) as columns:
        assert len(columns) == len(wanted["rewards"])
        for name in NAMES:
            column = getattr(columns, name)
            assert column.shape == wanted[name].shape
            assert column.dtype == wanted[name].dtype
            np.testing.assert_array_equal(column[0 : len(columns)], wanted[name])
            np.testing.assert_array_equal(column[2:17:3], wanted[name][2:17:3])
            assert column[5:5].shape == (0, *wanted[name].shape[1:])
        assert "InvertedPendulum-v4" in columns.metadata["env_spec"]


def test_ends_of_episodes_by_hand() -> None:
    """Terminated and truncated at once: terminated. Neither: cut, for the next row is another episode's."""
    flags = {"terminations": np.array([False, True]), "truncations": np.array([False, True])}
    never = {"terminations": np.zeros(2, dtype=bool), "truncations": np.zeros(2, dtype=bool)}
    create("made/ends-v0", [one_episode(2, **flags), one_episode(2, **never)], **SPACES)
    with FORMAT.open(Path("made/ends-v0")) as columns:
        assert columns.terminals[0:4].tolist() == [False, True, False, False]
        assert columns.timeouts[0:4].tolist() == [False, False, False, True]  # type: ignore[index]
        assert columns.next_observations[0:4].tolist()[1] == [4.0, 5.0]  # type: ignore[index]


def test_goal_environments_give_their_observation() -> None:
    space = spaces.Dict(
        {"observation": SPACES["observation_space"], "desired_goal": spaces.Box(-1, 1, (3,), np.float64)}
    )
    observations = {"observation": np.arange(8.0).reshape(4, 2), "desired_goal": np.zeros((4, 3))}
    buffer = one_episode(3, observations=observations)
    create("made/goal-v0", [buffer], observation_space=space, action_space=SPACES["action_space"])
    with FORMAT.open(Path("made/goal-v0")) as columns:
        assert columns.observations[0:3].tolist() == [[0, 1], [2, 3], [4, 5]]
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
    with pytest.raises(DataError, match=message), FORMAT.open(Path("made/other-v0")):
        pass


def test_what_is_not_there_or_damaged(store: Path) -> None:
    with pytest.raises(DataError, match="The store is empty"), FORMAT.open(Path("made/pendulum-v0")):
        pass
    create("made/small-v0", [one_episode()], **SPACES)
    with pytest.raises(DataError, match="Did you mean 'made/small-v0'"), FORMAT.open(Path("made/smal-v0")):
        pass
    with pytest.raises(DataError, match="no id of a Minari dataset"), FORMAT.open(Path("small")):
        pass
    main = store / "made" / "small-v0" / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:700])
    with pytest.raises(DataError, match=r"made/small-v0.*cannot be read"), FORMAT.open(Path("made/small-v0")):
        pass
    main.unlink()
    assert not is_whole(store / "made" / "small-v0")
    assert local_ids() == []


def test_written_sets_are_minaris(store: Path) -> None:
    wanted = rows_of(pendulums(description="a test", author={"B", "A"}))
    with FORMAT.open(Path("made/pendulum-v0")) as columns:
        more = {**columns.metadata, "policy": "random"}
        given = Columns(**{name: getattr(columns, name) for name in NAMES}, metadata=more)
        FORMAT.write(Path("made/deep/copy-v3"), given)
    copy = minari.load_dataset("made/deep/copy-v3")
    for name, array in rows_of(copy).items():
        np.testing.assert_array_equal(array, wanted[name])
    assert copy.total_episodes == 6
    assert copy.env_spec.id == "InvertedPendulum-v4"
    assert copy.recover_environment().observation_space.shape == (4,)
    assert copy.storage.metadata["author"] == {"A", "B"}
    assert set(minari.list_local_datasets()) == {"made/pendulum-v0", "made/deep/copy-v3"} == set(local_ids())
    with FORMAT.open(Path("made/deep/copy-v3")) as columns:
        assert columns.metadata["policy"] == "random"
        assert columns.metadata["description"] == "a test"
        assert columns.metadata["dataset_id"] == "made/deep/copy-v3"
    assert FORMAT.digest(Path("made/pendulum-v0")) != FORMAT.digest(Path("made/deep/copy-v3"))
    assert FORMAT.digest(Path("made/deep/copy-v3")) == FORMAT.digest(Path("made/deep/copy-v3"))


def rows(**changes: Any) -> Columns:
    """Five rows of D4RL's layout: an episode that ends after two, one that is cut at its third."""
    arrays: dict[str, Any] = {
        "observations": np.arange(10, dtype=np.float32).reshape(5, 2),
        "actions": np.linspace(-1, 1, 5, dtype=np.float32)[:, None],
        "rewards": np.arange(5, dtype=np.float32),
        "terminals": np.array([0, 1, 0, 0, 0], dtype=bool),
        "timeouts": np.array([0, 0, 0, 0, 1], dtype=bool),
    }
    return Columns(**{**arrays, **changes})


def test_rows_of_d4rl_by_hand() -> None:
    """Row 4 gives its observation only; row 1 ends its episode, followed, as in D4RL's view, by row 2."""
    FORMAT.write(Path("made/rows-v0"), rows())
    first, second = minari.load_dataset("made/rows-v0").iterate_episodes()
    assert first.observations.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert first.terminations.tolist() == [False, True]
    assert first.truncations.tolist() == [False, False]
    assert second.observations.tolist() == [[4, 5], [6, 7], [8, 9]]
    assert second.rewards.tolist() == [2, 3]
    assert second.terminations.tolist() == [False, False]
    assert second.truncations.tolist() == [False, True]


def test_rows_that_do_not_follow_on_end_an_episode() -> None:
    own = rows()
    shuffled = np.asarray(own.observations)[::-1].copy()
    FORMAT.write(Path("made/loose-v0"), rows(next_observations=shuffled, terminals=np.zeros(5, bool), timeouts=None))
    found = rows_of(minari.load_dataset("made/loose-v0"))
    np.testing.assert_array_equal(found["observations"], own.observations)
    np.testing.assert_array_equal(found["next_observations"], shuffled)


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests/data")
from pathlib import Path
import numpy as np
from dqlab.data.formats.base import Columns
from dqlab.data.formats.minari import MinariFormat

class Slow(np.ndarray):
    def __getitem__(self, rows):
        if isinstance(rows, slice):
            os.kill(os.getppid(), signal.SIGKILL)
        return np.asarray(super().__getitem__(rows))

n = 200_000
column = lambda *shape: np.zeros((n, *shape), dtype=np.float32)
ends = np.arange(n) % 1000 == 999
columns = Columns(column(2), column(1), column().view(Slow), ends, np.zeros(n, bool))
MinariFormat().write(Path("made/slow-v0"), columns)
"""


def test_killed_while_writing(store: Path) -> None:
    create("made/slow-v0", [one_episode()], **SPACES)
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert minari.load_dataset("made/slow-v0").total_steps == 3
    assert len(os.listdir(store / "made")) == 3  # the hidden half, the old set, its namespace's file
    assert list(minari.list_local_datasets()) == ["made/slow-v0"] == local_ids()
    FORMAT.write(Path("made/slow-v0"), rows())
    assert minari.load_dataset("made/slow-v0").total_steps == 4
    assert sorted(os.listdir(store / "made")) == ["namespace_metadata.json", "slow-v0"]


def test_no_room(mounted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = mounted("256k")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(disk))
    FORMAT.write(Path("small-v0"), rows())
    n = 600
    arrays = {"observations": np.zeros((n, 2)), "actions": np.zeros((n, 1)), "rewards": np.zeros(n)}
    short = rows(**arrays, terminals=np.arange(n) % 10 == 9, timeouts=None)
    with pytest.raises(DataError, match="Cannot write the Minari dataset 'small-v0'.*Free some space"):
        FORMAT.write(Path("small-v0"), short)
    assert os.listdir(disk) == ["small-v0"]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(DataError, match="Cannot write the Minari dataset 'small-v0'.*Read-only"):
        FORMAT.write(Path("small-v0"), rows())
    assert minari.load_dataset("small-v0").total_steps == 4
    assert os.listdir(disk) == ["small-v0"]


def test_without_minari_one_line(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    done = in_process("data", "info", "minari:made/small-v0")
    assert done.returncode == 2
    assert done.stderr.startswith("dqlab: error: Minari's datasets need the package minari")
    assert "pip install 'dqlab[minari]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_written_of_metadata_and_of_no_rows(store: Path) -> None:
    with pytest.raises(DataError, match="no row has a next observation"):
        FORMAT.write(Path("made/empty-v0"), rows(timeouts=np.ones(5, dtype=bool)))
    assert local_ids() == []
    FORMAT.write(Path("made/rows-v0"), rows(metadata={"note": "ü", "total_steps": "9"}))
    known = json.loads((store / "made/rows-v0/data/metadata.json").read_text())
    assert known["total_steps"] == 4
    assert known["dqlab"] == {"note": "ü"}
