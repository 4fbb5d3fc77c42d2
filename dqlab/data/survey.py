"""Everything that is counted of a dataset's rows. Flags and rewards are in memory, all else a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import ROUNDING, ActionRange, action_bounds_note, stored_bounds
from dqlab.data.formats.base import COLUMN_NAMES, Columns
from dqlab.data.rows import cuts_of, rows_differ, transition_rows
from dqlab.envs.tasks import Task

Array = NDArray[Any]
Flags = NDArray[np.bool_]
ReportRows = Callable[[int], None]
NUMBERS = ("observations", "actions", "rewards", "next_observations")
FLAGS = ("terminals", "timeouts")
RECORDED, BY_LIMIT, UNKNOWN = "recorded", "step limit", "unknown"
BLOCK = 65_536
"""Rows that are read at a time."""


@dataclass(frozen=True)
class Survey:
    """What is in a dataset.

    Attributes:
        rows, transitions: how many, and how many of the rows become transitions.
        follows: whether it is recorded what followed each row.
        dtypes, shapes: of each column, by name.
        values: NaNs, infinities, range of each column of numbers.
        saturation: share (A,) of the actions larger than 0.99.
        action_range: how far actions reach, with what the dataset says of them.
        rewards: the different ones, if they are few.
        unrewarded_terminals: terminal rows with reward 0.
        terminals, timeouts, both: rows flagged so, and rows flagged as both.
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
    values: Mapping[str, ValueTally]
    saturation: NDArray[np.float64]
    action_range: ActionRange
    rewards: tuple[float, ...]
    unrewarded_terminals: int
    terminals: int
    timeouts: int
    both: int
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


def survey_dataset(
    columns: Columns, task: Task | None = None, on_rows: ReportRows = lambda rows: None, block: int = BLOCK
) -> Survey:
    """Count everything, `block` rows of the wide columns in memory at a time, and some 30 bytes for each row.

    Args:
        columns: the dataset.
        task: whose step limit holds where the dataset does not record where episodes were cut.
        on_rows: called with the rows that are done.
        block: rows.
    """
    known = {name: column for name in COLUMN_NAMES if (column := getattr(columns, name)) is not None}
    flags = {name: known[name][:] for name in FLAGS if name in known}
    rewards, terminals = columns.rewards[:], flags["terminals"].astype(bool)
    recorded = flags["timeouts"].astype(bool) if "timeouts" in flags else None
    timeouts = cuts_of(terminals, recorded, task.episode_limit if task else None)
    ends = terminals | timeouts
    values = {name: ValueTally(int(np.prod(known[name].shape[1:]))) for name in NUMBERS if name in known}
    width, hashes, breaks = columns.actions.shape[1], [], 0
    saturated, outside, low, high = np.zeros(width), 0, np.full(width, np.inf), np.full(width, -np.inf)
    for start in range(0, len(columns), block):
        stop = min(start + block, len(columns))
        rows = {name: known[name][start:stop] for name in values if name != "rewards"} | {
            "rewards": rewards[start:stop]
        }
        for name, tally in values.items():
            tally.add(start, rows[name])
        size = np.abs(rows["actions"])
        saturated += (size > SATURATED).sum(axis=0)
        outside += int((size > 1.0 + ROUNDING).any(axis=1).sum())
        low, high = np.fmin(low, rows["actions"].min(axis=0)), np.fmax(high, rows["actions"].max(axis=0))
        hashes.append(row_hashes(rows["observations"], rows["actions"], rows["rewards"]))
        if "next_observations" in rows:
            following = np.concatenate([rows["observations"][1:], columns.observations[stop : stop + 1]])
            count = len(following)
            breaks += int((rows_differ(following, rows["next_observations"][:count]) & ~ends[start:stop][:count]).sum())
        on_rows(stop)
    lengths, returns = _episodes(rewards, ends)
    different = np.unique(rewards)
    return Survey(
        rows=len(columns),
        transitions=int(transition_rows(columns, timeouts).sum()),
        follows=columns.next_observations is not None,
        dtypes={name: str(column.dtype) for name, column in known.items()},
        shapes={name: tuple(column.shape) for name, column in known.items()},
        values=values,
        saturation=saturated / max(1, len(columns)),
        action_range=ActionRange(outside, low, high, stored_bounds(columns.metadata)),
        rewards=tuple(different.tolist()) if len(different) <= MOST_REWARDS else (),
        unrewarded_terminals=int((terminals & (rewards == 0)).sum()),
        terminals=int(terminals.sum()),
        timeouts=int(timeouts.sum()),
        both=int((terminals & timeouts).sum()),
        odd_flags={name: int(((column != 0) & (column != 1)).sum()) for name, column in flags.items()},
        cuts=RECORDED if recorded is not None else BY_LIMIT if task else UNKNOWN,
        lengths=lengths,
        returns=returns,
        unfinished=len(columns) - int(lengths.sum()),
        duplicates=repeated_rows(np.concatenate(hashes)),
        breaks=breaks,
        metadata=columns.metadata,
    )


def _episodes(rewards: Array, ends: Flags) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Length and undiscounted return of each episode that ends; what is not finite stays in its episode."""
    last = np.flatnonzero(ends)
    if not len(last):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    returns = np.add.reduceat(rewards[: last[-1] + 1].astype(np.float64), np.append(0, last[:-1] + 1))
    return np.diff(last, prepend=-1), returns


class ValueTally:
    """NaNs, infinities and range of a column, dimension by dimension."""

    def __init__(self, width: int) -> None:
        self.nans = self.infinities = self.bad_rows = 0
        self.first_bad = -1
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, start: int, block: Array) -> None:
        """Count rows [start, start + n)."""
        table = block.reshape(len(block), -1).astype(np.result_type(block.dtype, np.float32), copy=False)
        finite = np.isfinite(table)
        if not finite.all():
            self._count_bad(start, table, finite)
        self.low = np.minimum(self.low, np.min(table, axis=0, where=finite, initial=np.inf))
        self.high = np.maximum(self.high, np.max(table, axis=0, where=finite, initial=-np.inf))

    def _count_bad(self, start: int, table: Array, finite: NDArray[np.bool_]) -> None:
        bad = np.flatnonzero(~finite.all(axis=1))
        self.first_bad = self.first_bad if self.bad_rows else start + int(bad[0])
        self.bad_rows += len(bad)
        self.nans += (nans := int(np.isnan(table).sum()))
        self.infinities += int((~finite).sum()) - nans


ODD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, 6.4)."""


def row_hashes(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash (n,) of each row of several columns (n, ...), taken as float32, as training sees them.

    Multiplicative hashing, word by word, each step one to one: rows that differ in one word have different hashes, and
    of n different rows about n^2 / 2^65 pairs share one.
    """
    with np.errstate(over="ignore"):
        tables = [column.reshape(len(column), -1).astype(np.float32) + np.float32(0) for column in columns]  # -0 is 0
    words = np.ascontiguousarray(np.concatenate(tables, axis=1).view(np.uint32).T)
    hashes = np.full(words.shape[1], ODD)
    for word in words:
        hashes ^= word
        hashes *= ODD
        hashes ^= hashes >> np.uint64(32)
    return hashes


def repeated_rows(hashes: NDArray[np.uint64]) -> int:
    """How many rows are a repetition of an earlier one."""
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
