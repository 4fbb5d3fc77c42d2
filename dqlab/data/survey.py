"""Everything that is counted of a dataset's rows, all of which are in memory for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dqlab.data.bounds import ROUNDING, ActionRange, action_bounds_note, stored_bounds
from dqlab.data.formats.base import Columns, whole_columns
from dqlab.data.rows import cuts_of, rows_differ, transition_rows
from dqlab.envs.tasks import Task

Array = NDArray[Any]
Flags = NDArray[np.bool_]
NUMBERS = ("observations", "actions", "rewards", "next_observations")
FLAGS = ("terminals", "timeouts", "masks")
RECORDED, BY_LIMIT, UNKNOWN = "recorded", "step limit", "unknown"


@dataclass(frozen=True)
class Survey:
    """What is in a dataset.

    Attributes:
        rows, transitions: how many, and how many of the rows become transitions.
        follows: whether it is recorded what followed each row.
        dtypes, shapes: of each column, by name.
        values: what is counted of each column of numbers.
        saturation: share (A,) of the actions larger than 0.99.
        action_range: how far actions reach, with what the dataset says of them.
        rewards: the different ones, if they are few.
        unrewarded_terminals: terminal rows with reward 0.
        terminals, timeouts, both: rows flagged so, and rows flagged as both.
        masked: rows with a mask of 0, from which nothing is bootstrapped.
        odd_flags: by column, rows whose flag is neither 0 nor 1.
        cuts: where the cuts of episodes are known from: `recorded`, `step limit`, or `unknown`.
        lengths, returns: of every episode that ends.
        unfinished: rows after the last end.
        duplicates: rows whose observation, action and reward an earlier row has.
        breaks: rows inside of episodes whose next observation is not the next row's.
        metadata: what is said of the set.
    """

    rows: int
    transitions: int
    follows: bool
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, ValueCounts]
    saturation: NDArray[np.float64]
    action_range: ActionRange
    rewards: tuple[float, ...]
    unrewarded_terminals: int
    terminals: int
    timeouts: int
    both: int
    masked: int
    odd_flags: Mapping[str, int]
    cuts: str
    lengths: NDArray[np.int64]
    returns: NDArray[np.float64]
    unfinished: int
    duplicates: int
    breaks: int
    metadata: Mapping[str, str]

    @property
    def actions_note(self) -> str:
        """What is said of actions outside of [-1, 1]; empty where there are none."""
        return action_bounds_note(self.action_range)

    @property
    def counts(self) -> str:
        """Rows, transitions and episodes that end, as text."""
        return f"{self.rows:,} rows, {self.transitions:,} transitions, {len(self.lengths):,} episodes"


MOST_REWARDS = 16
"""As many different rewards are told apart."""
SATURATED = 0.99
"""Actions of larger size count as saturated."""


def survey_dataset(columns: Columns, task: Task | None = None) -> Survey:
    """Count everything.

    Args:
        columns: the dataset.
        task: whose step limit holds where the dataset does not record where episodes were cut.
    """
    known = whole_columns(columns)
    actions, rewards, following = known["actions"], known["rewards"], known.get("next_observations")
    terminals = known["terminals"].astype(bool)
    recorded = known["timeouts"].astype(bool) if "timeouts" in known else None
    timeouts = cuts_of(terminals, recorded, task.episode_limit if task else None)
    ends = terminals | timeouts
    lengths, returns = _episodes(rewards, ends)
    different = np.unique(rewards)
    outside = int((np.abs(actions) > 1.0 + ROUNDING).any(axis=1).sum())
    breaks = [] if following is None else rows_differ(known["observations"][1:], following[:-1]) & ~ends[:-1]
    return Survey(
        rows=len(columns),
        transitions=int(transition_rows(columns, timeouts).sum()),
        follows=following is not None,
        dtypes={name: str(column.dtype) for name, column in known.items()},
        shapes={name: column.shape for name, column in known.items()},
        values={name: count_values(known[name]) for name in NUMBERS if name in known},
        saturation=(np.abs(actions) > SATURATED).mean(axis=0),
        action_range=ActionRange(
            outside, np.fmin.reduce(actions), np.fmax.reduce(actions), stored_bounds(columns.metadata)
        ),
        rewards=tuple(different.tolist()) if len(different) <= MOST_REWARDS else (),
        unrewarded_terminals=int((terminals & (rewards == 0)).sum()),
        terminals=int(terminals.sum()),
        timeouts=int(timeouts.sum()),
        both=int((terminals & timeouts).sum()),
        masked=int((known["masks"] == 0).sum()) if "masks" in known else 0,
        odd_flags={name: int(((known[name] != 0) & (known[name] != 1)).sum()) for name in FLAGS if name in known},
        cuts=RECORDED if recorded is not None else BY_LIMIT if task else UNKNOWN,
        lengths=lengths,
        returns=returns,
        unfinished=len(columns) - int(lengths.sum()),
        duplicates=repeated_rows(known["observations"], actions, rewards),
        breaks=int(np.sum(breaks)),
        metadata=columns.metadata,
    )


def _episodes(rewards: Array, ends: Flags) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Length and undiscounted return of each episode that ends; what is not finite stays in its episode."""
    last = np.flatnonzero(ends)
    if not len(last):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    returns = np.add.reduceat(rewards[: last[-1] + 1].astype(np.float64), np.append(0, last[:-1] + 1))
    return np.diff(last, prepend=-1), returns


@dataclass(frozen=True)
class ValueCounts:
    """NaNs and infinities in a column, the rows that have some, and each dimension's range of all other values."""

    nans: int
    infinities: int
    bad_rows: NDArray[np.int64]
    low: Array
    high: Array


def count_values(column: Array) -> ValueCounts:
    """Count a column (n, ...) of numbers."""
    table = column.reshape(len(column), -1).astype(np.result_type(column.dtype, np.float32), copy=False)
    finite = np.isfinite(table)
    nans = int(np.isnan(table).sum())
    return ValueCounts(
        nans,
        int((~finite).sum()) - nans,
        np.flatnonzero(~finite.all(axis=1)),
        np.min(table, axis=0, where=finite, initial=np.inf),
        np.max(table, axis=0, where=finite, initial=-np.inf),
    )


def repeated_rows(*columns: Array) -> int:
    """How many rows of several columns (n, ...), as float32, repeat an earlier one, by hashes of 64 bits."""
    with np.errstate(over="ignore"):
        tables = [column.reshape(len(column), -1).astype(np.float32) + np.float32(0) for column in columns]  # -0 is 0
    hashes = pd.util.hash_pandas_object(pd.DataFrame(np.concatenate(tables, axis=1)), index=False)
    return int(hashes.duplicated().sum())
