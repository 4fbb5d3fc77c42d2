"""What is counted of a dataset: by hand, and against plain loops."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqlab.data.bounds import ActionRange
from dqlab.data.formats.base import Columns
from dqlab.data.locate import describe_values
from dqlab.data.survey import Survey, ValueCounts, find_faults, repeated_rows
from dqlab.envs import tasks

HOPPER = tasks.get("hopper-medium-v2")


def made(rows: int = 40, seed: int = 0, width: int = 11, **changes: Any) -> Columns:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "observations": rng.normal(size=(rows, width)).astype(np.float32),
        "actions": rng.uniform(-0.9, 0.9, size=(rows, 3)).astype(np.float32),
        "rewards": rng.normal(size=rows),
        "terminals": np.arange(rows) % 20 == 19,
        "timeouts": np.arange(rows) % 20 == 9,
    }
    return Columns(**{**arrays, **changes})


def test_counts_by_hand() -> None:
    """Six rows: an episode of three that returns 6, one of two that is cut and returns 20, one row of another."""
    rows = Columns(
        np.array([[0.0], [1.0], [2.0], [1.0], [np.nan], [5.0]]),
        np.array([[1.0, 0.0], [0.995, 0.5], [-1.0, 0.2], [0.995, 0.5], [0.0, 0.0], [0.3, -1.5]]),
        np.array([1.0, 2.0, 3.0, 2.0, 18.0, np.inf]),
        np.array([0, 0, 1, 0, 0, 0], dtype=bool),
        np.array([0, 0, 0, 0, 1, 0], dtype=bool),
    )
    found = Survey(rows)
    assert found.counts == "6 rows, 4 transitions, 2 episodes"
    assert (found.unfinished, found.cuts) == (1, "recorded")
    assert repeated_rows(rows.observations, rows.actions, rows.rewards) == 1  # rows 1 and 3
    assert found.lengths.tolist() == [3, 2]
    assert found.returns.tolist() == [6.0, 20.0]
    assert ActionRange(rows).rows_outside == 1
    values = ValueCounts(rows.observations)
    assert (values.nans, values.infinities, values.bad_rows.tolist()) == (1, 0, [4])
    assert (values.low.tolist(), values.high.tolist()) == ([0.0], [5.0])
    assert ValueCounts(rows.rewards).infinities == 1


def test_distribution_by_hand() -> None:
    found = describe_values(np.array([1.0, 2.0, 3.0, np.nan, 6.0]))
    assert found["mean"] == 3.0
    assert found["std"] == pytest.approx((14 / 4) ** 0.5)
    assert [found[name] for name in ("min", "quartile_1", "median", "quartile_3", "max")] == [1, 1.75, 2.5, 3.75, 6]
    assert describe_values(np.array([np.nan])) == {}


@given(
    ends=st.lists(st.sampled_from(["", "", "terminal", "timeout", "both"]), min_size=1, max_size=40),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_loops_agree(ends: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = len(ends)
    terminals = np.array([end in ("terminal", "both") for end in ends])
    timeouts = np.array([end in ("timeout", "both") for end in ends])
    rewards = rng.integers(-3, 3, n).astype(float)
    columns = Columns(rng.integers(0, 2, (n, 1)), rng.integers(-1, 2, (n, 1)), rewards, terminals, timeouts)
    found = Survey(columns)
    returns, lengths, total, length = [], [], 0.0, 0
    for row in range(n):
        total, length = total + rewards[row], length + 1
        if ends[row]:
            returns.append(total)
            lengths.append(length)
            total, length = 0.0, 0
    assert found.returns.tolist() == returns
    assert found.lengths.tolist() == lengths
    assert found.unfinished == length
    seen = {(int(o[0]), int(a[0]), r) for o, a, r in zip(columns.observations, columns.actions, rewards, strict=True)}  # type: ignore[call-overload]
    assert repeated_rows(columns.observations, columns.actions, columns.rewards) == n - len(seen)
    assert found.both == ends.count("both")


def test_repeated_rows() -> None:
    """Minus zero is zero, NaNs are alike, and one changed bit makes another row."""
    row = np.arange(30, dtype=np.float32)[None]
    changed = np.repeat(row, 30, axis=0)
    np.fill_diagonal(changed, np.nextafter(np.diag(changed), np.float32(np.inf)))
    assert repeated_rows(np.concatenate([row, changed, row])) == 1
    assert repeated_rows(np.array([[0.0], [-0.0], [1.0], [np.nan], [np.nan]])) == 2
    assert repeated_rows(np.arange(300_000, dtype=np.float32)) == 0


def test_step_limit_where_cuts_are_not_recorded() -> None:
    """An episode without an end is cut by the task's limit, as D4RL counts."""
    columns = made(2500, timeouts=None, terminals=np.zeros(2500, dtype=bool))
    found = Survey(columns, HOPPER)
    assert found.lengths.tolist() == [1000, 1000]
    assert found.unfinished == 500
    assert found.cuts == "step limit"
    assert Survey(columns).cuts == "unknown"


DAMAGE = {
    "'rewards' has 1 NaN.*first in row 39": {"rewards": np.r_[np.zeros(39), np.nan]},
    "4 wide, hopper-medium-v2's is 11": {"observations": np.zeros((40, 4))},
    "'terminals' is neither 0 nor 1 in 40": {"terminals": np.full(40, 0.5)},
}
NOTES = {
    r"outside of \[-1, 1\]: they reach from -1.01": {"actions": np.full((40, 3), -1.01)},
    "2 row.s. are both terminal and timeout": {"timeouts": np.arange(40) % 20 == 19},
    "no episode ends": {"terminals": np.zeros(40), "timeouts": np.zeros(40)},
    "the last 10 row.s. belong to an episode": {"terminals": np.arange(40) == 10},
    "all rewards are 1": {"rewards": np.ones(40)},
    "1 of 2 terminal row.s. have reward 0": {"rewards": np.arange(40) % 40 == 19},
    "never changes in dim.* 1$": {"actions": np.repeat(np.linspace(-1, 1, 40)[:, None], 3, 1) * [1, 0, 1]},
    "38 row": {"observations": np.zeros((40, 11)), "actions": np.zeros((40, 3)), "rewards": np.arange(40) % 2},
    "36 row.s. inside of episodes": {"next_observations": np.zeros((40, 11))},
}


@pytest.mark.parametrize("message", [*DAMAGE, *NOTES])
def test_findings(message: str) -> None:
    damage, notes = find_faults(Survey(replace(made(), **{**DAMAGE, **NOTES}[message]), HOPPER))
    assert [bool(re.search(message, text)) for text in damage].count(True) == (message in DAMAGE)
    assert [bool(re.search(message, text)) for text in notes].count(True) == (message in NOTES)


def test_too_long_episodes() -> None:
    columns = made(1200, terminals=np.arange(1200) == 1199, timeouts=np.zeros(1200, dtype=bool))
    _, (said,) = find_faults(Survey(columns, HOPPER))
    assert said == "1 episode(s) are longer than hopper-medium-v2's limit of 1,000 steps, up to 1,200"


def test_terminals_that_may_be_timeouts() -> None:
    """As in data whose two flags have been swapped."""
    ends = np.arange(2000) % 1000 == 999
    swapped = made(2000, terminals=ends, timeouts=np.zeros(2000, dtype=bool))
    _, (said,) = find_faults(Survey(swapped, HOPPER))
    assert said.startswith("every episode is terminal at hopper-medium-v2's limit of 1,000 steps")
    assert find_faults(Survey(made(2000, terminals=np.zeros(2000, dtype=bool), timeouts=ends), HOPPER)) == ([], [])


def test_what_is_sound_has_no_faults() -> None:
    assert find_faults(Survey(made(), HOPPER)) == ([], [])
