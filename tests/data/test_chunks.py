"""Transitions of several steps, and of the action that follows: against a plain loop over rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.algorithms import algorithms
from dqlab.data import Batch, Transitions
from dqlab.data.formats.base import Columns
from dqlab.data.formats.hdf5 import D4RL
from dqlab.data.rewards import as_is, cql_antmaze
from dqlab.data.transitions import q_learning_view
from dqlab.errors import DataError
from dqlab.policies.base import Dims
from dqlab.training import Pack

ORIGIN = {"source": "test", "path": "-", "digest": "-", "is_d4rl": False}
LIMIT = 1000
ENDS = st.lists(st.sampled_from(["", "", "", "", "terminal", "timeout"]), min_size=3, max_size=50)


def recorded(ends: list[str], with_next: bool, masked: bool = False) -> Columns:
    n = len(ends)
    rows = np.arange(n, dtype=np.float32)
    states = np.stack([rows, -rows], 1)
    flags = {kind: np.array([end == kind for end in ends]) for kind in ("terminal", "timeout")}
    following = states + 0.5 if with_next else None
    masks = np.arange(n) % 7 != 3 if masked else None
    return Columns(states, rows[:, None], rows + 1, flags["terminal"], flags["timeout"], following, masks=masks)


def looped(rows: Columns, chunk: int, next_action: bool) -> list[dict[str, Any]]:
    """Transitions as one would write them down row by row."""
    made, n = [], len(rows)
    assert rows.timeouts is not None
    for first in range(n):
        steps: list[int] = []
        for row in range(first, min(first + chunk, n)):
            steps.append(row)
            if rows.terminals[row] or rows.timeouts[row]:
                break
        last = steps[-1]
        unknown = rows.next_observations is None and (rows.timeouts[last] or last == n - 1)
        if len(steps) < chunk or unknown:
            continue
        solved = [row for row in steps if rows.masks is not None and not rows.masks[row]]
        terminal = bool(rows.terminals[last] or solved)
        following = range(last + 1, last + 1 + chunk)
        action = np.zeros(chunk * rows.actions.shape[1])
        if next_action and not terminal:
            if following[-1] >= n or any(
                rows.terminals[row] or rows.timeouts[row] for row in range(last, following[-1])
            ):
                continue
            action = np.concatenate([rows.actions[row] for row in following])
        made.append(
            {
                "state": rows.observations[first],
                "action": np.concatenate([rows.actions[row] for row in steps]),
                "reward": [0.0 if solved and row > solved[0] else rows.rewards[row] for row in steps],
                "next_state": (
                    rows.observations[last + 1] if rows.next_observations is None else rows.next_observations[last]
                ),
                "terminal": float(terminal),
                "next_action": action,
            }
        )
    return made


def check_against_loop(rows: Columns, chunk: int, next_action: bool) -> Transitions | None:
    expected = looped(rows, chunk, next_action)
    if not expected:
        with pytest.raises(DataError, match="has no transition"):
            q_learning_view(rows, LIMIT, as_is, ORIGIN, chunk=chunk, next_action=next_action)
        return None
    view = q_learning_view(rows, LIMIT, as_is, ORIGIN, chunk=chunk, next_action=next_action)
    assert len(view) == view.provenance.transitions == len(expected)
    for name in ("state", "action", "reward", "next_state", "terminal", *(["next_action"] if next_action else [])):
        wanted = np.array([each[name] for each in expected], dtype=np.float32)
        assert getattr(view, name).numpy().tolist() == wanted.reshape(getattr(view, name).shape).tolist(), name
    assert next_action or view.next_action is None
    return view


@settings(max_examples=150)
@given(ends=ENDS, chunk=st.integers(1, 4), with_next=st.booleans(), masked=st.booleans(), next_action=st.booleans())
def test_transitions_are_those_of_a_loop(
    ends: list[str], chunk: int, with_next: bool, masked: bool, next_action: bool
) -> None:
    check_against_loop(recorded(ends, with_next, masked), chunk, next_action)


@pytest.mark.parametrize("name", ["walker2d_medium-v2", "hopper_medium-v2", "pen-human-v1"])
def test_real_rows(shared: Path, name: str) -> None:
    rows = D4RL().read(shared / "d4rl-excerpts" / f"{name}.hdf5")
    for chunk, next_action in ((5, False), (1, True), (5, True)):
        view = check_against_loop(rows, chunk, next_action)
        assert view is not None
        assert view.action.shape[1] == chunk * rows.actions.shape[1]


def test_a_batch_holds_what_was_asked_for() -> None:
    rows = recorded([""] * 9, False)
    view = q_learning_view(rows, LIMIT, cql_antmaze, ORIGIN, chunk=3, next_action=True).to("cpu", torch.float64)
    batch = view.batch(torch.tensor([[0, 2]]))
    assert batch.reward.tolist() == [[[2.0, 6.0, 10.0], [10.0, 14.0, 18.0]]]  # 4 (r - 0.5) of 1, 2, 3 and 3, 4, 5
    assert batch.next_action is not None
    assert batch.next_action.tolist() == [[[3.0, 4.0, 5.0], [5.0, 6.0, 7.0]]]
    assert q_learning_view(rows, LIMIT, as_is, ORIGIN).next_action is None


def test_the_target_of_a_chunk_by_hand() -> None:
    """r_0 + g r_1 + g^2 r_2 + g^3 V(s'), and no value after a terminal step, for replicas of different discounts."""
    make = algorithms.get("td3_bc")
    dims = Dims(2, 3, chunk=3)
    batch = Batch(
        torch.zeros(2, 2, dtype=torch.float64),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]], dtype=torch.float64),
        torch.zeros(2, 2, dtype=torch.float64),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
    )
    pack = Pack([make()], dims, [0], dtype=torch.float64)
    for discount in (0.5, 0.9):

        def target(nets: Any, batch: Batch, discount: float = discount) -> torch.Tensor:
            value = torch.full((2, 1), 8.0, dtype=torch.float64)
            return make().td_loss(nets, batch, value, torch.tensor(discount, dtype=torch.float64))[1]["critic/target_q"]  # type: ignore[attr-defined]

        rows = {**pack.state.parameters, **pack.state.targets}
        found = pack.map(target, rows, Batch(*(None if each is None else each[None] for each in batch)))  # type: ignore[arg-type]
        returns = 1 + 2 * discount + 4 * discount**2
        assert float(found) == pytest.approx(returns + 8 * discount**3 / 2, abs=1e-12)  # the mean of two rows
