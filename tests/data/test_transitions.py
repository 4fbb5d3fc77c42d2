"""How rows become transitions: against D4RL's rules and a plain loop, by hand, and on real rows; their rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, Run, bindings
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.data import Batch, Transitions
from dqlab.data.formats.arrays import D4RL
from dqlab.data.formats.base import Columns, check_task
from dqlab.data.rewards import as_is, cql_antmaze, reward_transforms
from dqlab.data.transitions import q_learning_view
from dqlab.envs import tasks
from dqlab.errors import DataError

ORIGIN = {"source": "test", "path": "-", "digest": "-", "is_d4rl": False}
ENDS = st.lists(st.sampled_from(["", "", "", "", "terminal", "timeout"]), min_size=3, max_size=50)
view_of = partial(q_learning_view, episode_limit=1000, transform=as_is, origin=ORIGIN)


def recorded(ends: list[str], with_next: bool = False, masked: bool = False) -> Columns:
    """Row i has state (i, -i), action i and reward i + 1."""
    n = len(ends)
    rows = np.arange(n, dtype=np.float32)
    states = np.stack([rows, -rows], 1)
    flags = {kind: np.array([end == kind for end in ends]) for kind in ("terminal", "timeout")}
    following = states + 0.5 if with_next else None
    masks = np.arange(n) % 7 != 3 if masked else None
    return Columns(states, rows[:, None], rows + 1, flags["terminal"], flags["timeout"], following, masks=masks)


def cut_by(rows: Columns, limit: int) -> Columns:
    """The rows with the timeouts that D4RL's `qlearning_dataset` counts where none are recorded."""
    timeouts, step = np.zeros(len(rows), bool), 0
    for row in range(len(rows)):
        timeouts[row] = step == limit - 1
        step = 0 if timeouts[row] else 1 if rows.terminals[row] else step + 1
    return replace(rows, timeouts=timeouts)


def looped(rows: Columns, chunk: int, next_action: bool) -> list[tuple[Any, ...]]:
    """Transitions, fields as in `Batch`, as one would write them down row by row."""
    made, n = [], len(rows)
    assert rows.timeouts is not None
    over = rows.terminals | rows.timeouts
    for first in range(n - chunk + 1):
        steps, last = range(first, first + chunk), first + chunk - 1
        unknown = rows.next_observations is None and (rows.timeouts[last] or last == n - 1)
        if over[first:last].any() or unknown:
            continue
        solved = [row for row in steps if rows.masks is not None and not rows.masks[row]]
        terminal = bool(rows.terminals[last] or solved)
        following = range(last + 1, last + 1 + chunk)
        action = np.zeros(chunk * rows.actions.shape[1])
        if next_action and not terminal:
            if following[-1] >= n or over[last : following[-1]].any():
                continue
            action = rows.actions[following].reshape(-1)
        rewards = [0.0 if solved and row > solved[0] else rows.rewards[row] for row in steps]
        known = rows.observations[last + 1] if rows.next_observations is None else rows.next_observations[last]
        made.append(
            (rows.observations[first], rows.actions[steps].reshape(-1), rewards, known, float(terminal), action)
        )
    return made


def check_against(rows: Columns, view: Callable[..., Transitions], chunk: int = 1, next_action: bool = False) -> Any:
    """The view is that of a loop over the rows, or refused where there is no transition."""
    expected = looped(rows, chunk, next_action)
    if not expected:
        with pytest.raises(DataError, match="has no transition"):
            view(chunk=chunk, next_action=next_action)
        return None
    found = view(chunk=chunk, next_action=next_action)
    assert len(found) == found.provenance.transitions == len(expected)
    assert (found.next_action is None) == (not next_action)
    for name, field, values in zip(Batch._fields, found.fields, zip(*expected, strict=True), strict=True):
        if field is not None:
            assert field.numpy().tolist() == np.array(values, np.float32).reshape(field.shape).tolist(), name
    return found


@settings(max_examples=150)
@given(ends=ENDS, chunk=st.integers(1, 4), with_next=st.booleans(), masked=st.booleans(), next_action=st.booleans())
def test_transitions_are_those_of_a_loop(
    ends: list[str], chunk: int, with_next: bool, masked: bool, next_action: bool
) -> None:
    rows = recorded(ends, with_next, masked)
    check_against(rows, partial(view_of, rows), chunk, next_action)


@settings(max_examples=20)
@given(ends=ENDS, limit=st.integers(2, 9))
def test_unrecorded_cuts_are_counted_as_d4rls_loop_does(ends: list[str], limit: int) -> None:
    rows = recorded(ends)
    check_against(cut_by(rows, limit), partial(view_of, replace(rows, timeouts=None), episode_limit=limit))


@pytest.mark.parametrize("name", ["walker2d_medium-v2", "hopper_medium-v2", "halfcheetah_medium-v2", "pen-human-v1"])
def test_real_rows(shared: Path, name: str) -> None:
    path, task = shared / "d4rl-excerpts" / f"{name}.hdf5", tasks.get(name.replace("_", "-"))
    rows = D4RL().read(path)
    check_task(rows, task)
    for chunk, next_action in ((5, False), (1, True), (5, True)):
        check_against(rows, partial(view_of, rows), chunk, next_action)
    view = check_against(rows, partial(view_of, rows))
    if name != "pen-human-v1":
        with h5py.File(path) as file:
            own = file["next_observations"][()]  # inside an episode the file's own column must agree
        kept = np.flatnonzero(~rows.timeouts[:-1])  # type: ignore[index]
        inside = ~rows.terminals[kept]
        assert np.array_equal(view.next_state.numpy()[inside], own[kept][inside])
        assert 30 < task.score(view.provenance.return_mean) < 80  # D4RL's medium policies


def test_episodes_and_masks_by_hand() -> None:
    """Rewards 1..6; a mask of 0 in row 1, inside of an episode that is cut at row 3: nothing is bootstrapped there."""
    ended = view_of(recorded(["", "", "terminal", "", "timeout", ""])).provenance
    assert (ended.episodes, ended.return_min, ended.return_max) == (2, 1 + 2 + 3, 4 + 5)
    rows = recorded(["", "", "", "timeout", "", ""])
    view = view_of(replace(rows, masks=np.array([1.0, 0, 1, 1, 1, 1])))
    assert view.terminal.tolist() == [0, 1, 0, 0]
    assert view.next_state[:, 0].tolist() == [1, 2, 3, 5]
    assert (view.provenance.episodes, view.provenance.return_mean) == (1, 1 + 2 + 3 + 4)
    chunks = view_of(replace(rows, masks=np.arange(6) != 1), chunk=2)
    assert chunks.terminal.tolist() == [1, 1]  # of rows 0 and 1, 1 and 2; what row 2 got came after the end
    assert chunks.reward.tolist() == [[1, 2], [2, 0]]
    over = replace(rows, terminals=np.arange(6) == 0, masks=np.ones(6))  # what has ended is not followed by row 1
    assert view_of(over).terminal.tolist() == [1, 0, 0, 0]


def test_standardised_states_by_hand() -> None:
    """States 1 and 3: mean 2, deviation 1, floor 0.001; next states by the same numbers."""
    states, other, flag = np.array([[1.0], [3.0]]), np.zeros((2, 1)), np.zeros(2)
    data = view_of(Columns(states, other, flag, flag, next_observations=states + 2), standardise=True)
    assert data.state.flatten().tolist() == pytest.approx([-1 / 1.001, 1 / 1.001])
    assert data.next_state.flatten().tolist() == pytest.approx([1 / 1.001, 3 / 1.001])
    assert data.provenance.state_mean == (2.0,)
    assert data.provenance.state_std == pytest.approx((1.001,))


def test_an_evaluation_sees_states_as_training_did(in_process: Run, tmp_path: Path) -> None:
    """`dqlab eval` repeats the recorded return; without the recorded numbers it would not."""
    given = bindings("load_dataset.standardise_states=True", "Experiment.algorithm='td3_bc'", diffusion=False)
    quick = str(ROOT / "gin" / "quickstart.gin")
    trained = in_process("train", "--gin", quick, "--steps", "20", "--out", "run", "-q", *given)
    assert trained.returncode == 0, trained.stderr
    recorded = json.loads((tmp_path / "run" / "seed-0" / "summary.json").read_text())
    wanted = f"{recorded['selection']['last']['return_mean']:.1f}"
    assert wanted in in_process("eval", "run").stdout
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["data"] |= {"state_mean": [], "state_std": []}
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    assert wanted not in in_process("eval", "run").stdout


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
    if name in ("standardise", "iql_locomotion"):
        with pytest.raises(DataError, match="cannot be used"):
            reward_transforms.get(name)(np.ones(4, dtype=np.float32), np.ones(2))


def test_batches_are_gathered_per_replica() -> None:
    rows = recorded([""] * 9)
    view = view_of(rows, transform=cql_antmaze, chunk=3, next_action=True).to("cpu", torch.float64)
    batch = view.batch(torch.tensor([[0, 2], [1, 1]]))
    assert batch.reward[0].tolist() == [[2.0, 6.0, 10.0], [10.0, 14.0, 18.0]]  # 4 (r - 0.5) of 1, 2, 3 and 3, 4, 5
    assert batch.next_action is not None
    assert batch.next_action[0].tolist() == [[3.0, 4.0, 5.0], [5.0, 6.0, 7.0]]
    assert batch.state.shape == (2, 2, 2)


def test_a_device_without_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqlab.data.transitions.free_memory", lambda device: 10)
    with pytest.raises(DataError, match=r"takes .* as torch.float64, cpu has .* free"):
        view_of(recorded([""] * 5)).to("cpu", torch.float64)


@settings(max_examples=50)
@given(ends=ENDS, chunk=st.integers(1, 4), next_action=st.booleans())
def test_cuts_that_next_observations_show(ends: list[str], chunk: int, next_action: bool) -> None:
    """Next observations are the next row's, but for where an episode ends: the same as if cuts had been recorded."""
    rows = recorded([*ends[:-1], ends[-1] or "timeout"])
    assert rows.timeouts is not None
    over = (rows.terminals | rows.timeouts)[:, None]
    following = np.where(over, rows.observations + 0.5, np.roll(rows.observations, -1, axis=0))
    rows = replace(rows, next_observations=following)
    check_against(rows, partial(view_of, replace(rows, timeouts=None)), chunk, next_action)
