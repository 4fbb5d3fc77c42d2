"""The D4RL reader: against D4RL's own loop, on real rows, and on every kind of damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.data.formats.base import Columns, check_widths
from dqlab.data.formats.hdf5 import D4RL
from dqlab.data.rewards import as_is, reward_transforms
from dqlab.data.rows import cuts_of, episode_returns
from dqlab.data.transitions import q_learning_view
from dqlab.envs import tasks
from dqlab.errors import DataError

ORIGIN = {"source": "test", "path": "-", "digest": "-", "is_d4rl": False}


def read_d4rl(path: Path, states: int | None = None, actions: int | None = None) -> Columns:
    """All rows in memory, as wide as a task's, once all values are checked."""
    columns = D4RL().read(path)
    check_widths(columns, states, actions)
    q_learning_view(columns, 1000, as_is, ORIGIN)
    return columns


def d4rl_loop(rows: Columns, limit: int) -> list[int]:
    """Rows that D4RL's `qlearning_dataset` keeps, as its documented rules go row by row."""
    kept, step = [], 0
    for i in range(len(rows) - 1):
        cut = bool(rows.timeouts[i]) if rows.timeouts is not None else step == limit - 1
        if cut:
            step = 0
            continue
        if rows.terminals[i]:
            step = 0
        kept.append(i)
        step += 1
    return kept


def recorded(terminals: list[bool], timeouts: list[bool] | None) -> Columns:
    n = len(terminals)
    rows = np.arange(n, dtype=np.float32)
    cuts = None if timeouts is None else np.array(timeouts)
    return Columns(np.stack([rows, rows], 1), np.stack([rows], 1), rows, np.array(terminals), cuts)


@settings(max_examples=20)
@given(
    ends=st.lists(st.sampled_from(["", "", "", "terminal", "timeout"]), min_size=2, max_size=60),
    with_timeouts=st.booleans(),
    limit=st.integers(2, 9),
)
def test_the_view_is_what_d4rls_loop_gives(ends: list[str], with_timeouts: bool, limit: int) -> None:
    timeouts = [end == "timeout" for end in ends] if with_timeouts else None
    rows = recorded([end == "terminal" for end in ends], timeouts)
    kept = d4rl_loop(rows, limit)
    if not kept:
        return
    view = q_learning_view(rows, limit, as_is, ORIGIN)
    assert view.reward.tolist() == [float(i) for i in kept]
    assert view.next_state[:, 0].tolist() == [float(i + 1) for i in kept]
    assert view.terminal.tolist() == [float(rows.terminals[i]) for i in kept]


def test_returns_by_hand() -> None:
    """Rewards 0..5, a terminal at row 2, a timeout at row 4; row 5 belongs to no finished episode."""
    rows = recorded([False, False, True, False, False, False], [False, False, False, False, True, False])
    cuts = cuts_of(rows.terminals, rows.timeouts, 1000)
    assert episode_returns(rows.rewards, rows.terminals, cuts).tolist() == [0 + 1 + 2, 3 + 4]


def test_masks_by_hand() -> None:
    """A mask of 0 in row 1, inside of an episode that is cut at row 3: nothing is bootstrapped, nothing ends."""
    rows = recorded([False] * 6, [False, False, False, True, False, False])
    view = q_learning_view(replace(rows, masks=np.array([1.0, 0, 1, 1, 1, 1])), 1000, as_is, ORIGIN)
    assert view.terminal.tolist() == [0, 1, 0, 0]
    assert view.next_state[:, 0].tolist() == [1, 2, 3, 5]
    assert (view.provenance.episodes, view.provenance.return_mean) == (1, 0 + 1 + 2 + 3)
    chunks = q_learning_view(replace(rows, masks=np.arange(6) != 1), 1000, as_is, ORIGIN, chunk=2)
    assert chunks.terminal.tolist() == [1, 1]  # of rows 0 and 1, 1 and 2; what row 2 got came after the end
    assert chunks.reward.tolist() == [[0, 1], [1, 0]]
    ended = replace(rows, terminals=np.arange(6) == 0, masks=np.ones(6))  # what has ended is not followed by row 1
    assert q_learning_view(ended, 1000, as_is, ORIGIN).terminal.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("robot", ["walker2d", "hopper", "halfcheetah"])
def test_real_rows(shared: Path, robot: str) -> None:
    task = tasks.get(f"{robot}-medium-v2")
    rows = read_d4rl(shared / "d4rl-excerpts" / f"{robot}_medium-v2.hdf5", task.state_dim, task.action_dim)
    view = q_learning_view(rows, task.episode_limit, as_is, ORIGIN)
    kept = d4rl_loop(rows, task.episode_limit)
    assert len(view) == len(kept)
    with h5py.File(shared / "d4rl-excerpts" / f"{robot}_medium-v2.hdf5") as file:
        own = file["next_observations"][()][kept]  # inside an episode the file's own column must agree
    ends = view.terminal.bool().numpy()
    assert np.abs(view.next_state.numpy() - own)[~ends].max() == 0
    assert 30 < task.score(view.provenance.return_mean) < 80  # D4RL's medium policies


def test_another_robots_file(d4rl_file: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="'observations' is 11 wide"):
        read_d4rl(d4rl_file(observations=np.zeros((60, 11), dtype=np.float32)), 17, 6)


def test_truncated_file(d4rl_file: Callable[..., Path]) -> None:
    path = d4rl_file()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated or not an HDF5 file"):
        read_d4rl(path)


def test_columns_of_width_one_are_fine(d4rl_file: Callable[..., Path]) -> None:
    rows = read_d4rl(d4rl_file(rewards=np.ones((60, 1)), terminals=np.zeros((60, 1))), 17, 6)
    assert rows.rewards.shape == rows.terminals.shape == (60,)


REWARDS, RETURNS = np.array([1.0, 2.0, 6.0], dtype=np.float32), np.array([3.0, 6.0])
TRANSFORMED = {
    "none": [1.0, 2.0, 6.0],
    "standardise": [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5],  # mean 3, variance (4 + 1 + 9) / 2
    "iql_antmaze": [0.0, 1.0, 5.0],
    "iql_locomotion": [1000 / 3, 2000 / 3, 2000.0],
    "cql_antmaze": [2.0, 6.0, 22.0],
    "antmaze": [1.5, 3.5, 11.5],
}


@pytest.mark.parametrize("name", reward_transforms.names())
def test_reward_transforms_by_hand(name: str) -> None:
    result = reward_transforms.get(name)(REWARDS, RETURNS)
    assert result.dtype == np.float32
    assert result.tolist() == pytest.approx(TRANSFORMED[name], rel=1e-6)


def test_transforms_that_cannot_work_say_so() -> None:
    for name in ("standardise", "iql_locomotion"):
        with pytest.raises(DataError, match="cannot be used"):
            reward_transforms.get(name)(np.ones(4, dtype=np.float32), np.ones(2))


def test_batches_are_gathered_per_replica() -> None:
    view = q_learning_view(recorded([False] * 5, [False] * 5), 1000, as_is, ORIGIN)
    batch = view.batch(torch.tensor([[0, 3], [2, 2]]))
    assert batch.reward.tolist() == [[0.0, 3.0], [2.0, 2.0]]
    assert batch.state.shape == (2, 2, 2)


def test_a_device_without_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    data = q_learning_view(recorded([False] * 5, [False] * 5), 1000, as_is, ORIGIN)
    monkeypatch.setattr("dqlab.data.transitions.free_memory", lambda device: 10)
    with pytest.raises(DataError, match=r"takes .* as torch.float64, cpu has .* free"):
        data.to("cpu", torch.float64)
