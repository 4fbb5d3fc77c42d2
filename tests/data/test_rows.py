"""Both readers of a dataset's rows, in memory and block by block, find the same transitions."""

from __future__ import annotations

import numpy as np
import pytest

from dqlab.data.arrays import TransitionOptions, in_memory
from dqlab.data.formats.base import Columns
from dqlab.data.rows import episode_blocks, transition_blocks, transition_rows


def columns(timeouts: bool, following: bool, rows: int = 23) -> Columns:
    rng = np.random.default_rng(rows)
    terminals = np.arange(rows) % 7 == 6
    return Columns(
        rng.normal(size=(rows, 3)).astype(np.float32),
        rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rng.normal(size=rows).astype(np.float32),
        terminals,
        timeouts=np.arange(rows) % 5 == 4 if timeouts else None,
        next_observations=rng.normal(size=(rows, 3)).astype(np.float32) if following else None,
    )


@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("timeouts", [False, True])
def test_both_readers_agree(timeouts: bool, following: bool, block: int) -> None:
    given = columns(timeouts, following)
    arrays, blocks = in_memory(given, TransitionOptions(1000)), list(transition_blocks(given, block))
    for ours, theirs in (
        ("state", "observations"),
        ("action", "actions"),
        ("rewards", "rewards"),
        ("next_state", "next_observations"),
        ("terminal", "terminals"),
    ):
        np.testing.assert_array_equal(getattr(arrays, ours), np.concatenate([getattr(each, theirs) for each in blocks]))
    assert sum(map(len, episode_blocks(given))) == len(arrays.rewards)


def test_the_rule_by_hand() -> None:
    cuts = np.array([False, True, False, False])
    plain, known = columns(False, False, rows=4), columns(False, True, rows=4)
    assert transition_rows(plain, cuts).tolist() == [True, False, True, False]
    assert transition_rows(plain, cuts[1:3], start=1).tolist() == [False, True]
    assert transition_rows(known, cuts).all()
