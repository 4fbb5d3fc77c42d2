"""Which rows are transitions, and which of them make an episode."""

from __future__ import annotations

import numpy as np
import pytest

from dqlab.data.arrays import read_transitions
from dqlab.data.formats.base import Columns
from dqlab.data.rows import transition_episodes, transition_rows


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


@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("timeouts", [False, True])
def test_arrays_and_episodes_are_the_same_transitions(timeouts: bool, following: bool) -> None:
    given = columns(timeouts, following)
    terminals, cuts = np.asarray(given.terminals), np.asarray(given.timeouts if timeouts else np.zeros(23, bool))
    arrays, episodes = read_transitions(given, 1000), transition_episodes(given, terminals, cuts)
    rows = np.concatenate(episodes)
    np.testing.assert_array_equal(arrays.rewards, np.asarray(given.rewards)[rows])
    np.testing.assert_array_equal(arrays.state, np.asarray(given.observations)[rows])
    assert all((np.diff(episode) == 1).all() for episode in episodes)
    assert not any(terminals[episode[:-1]].any() or cuts[episode[:-1]].any() for episode in episodes)


def test_the_rule_by_hand() -> None:
    cuts, none = np.array([False, True, False, False]), np.zeros(4, bool)
    plain, known = columns(False, False, rows=4), columns(False, True, rows=4)
    assert transition_rows(plain, cuts).tolist() == [True, False, True, False]
    assert transition_rows(known, cuts).all()
    assert [rows.tolist() for rows in transition_episodes(plain, none, cuts)] == [[0], [2]]
    assert [rows.tolist() for rows in transition_episodes(known, none, cuts)] == [[0], [1], [2], [3]]
