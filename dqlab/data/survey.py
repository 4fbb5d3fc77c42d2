"""One pass over a dataset's rows, and everything that is counted on the way. It need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import ROUNDING, ActionRange, action_bounds_note, stored_bounds
from dqlab.data.formats.base import Columns
from dqlab.data.rows import BLOCK, cuts_of, rows_differ
from dqlab.envs.tasks import Task

ReportRows = Callable[[int], None]
NUMBERS = ("observations", "actions", "rewards", "next_observations")
FLAGS = ("terminals", "timeouts")
RECORDED, BY_LIMIT, UNKNOWN = "recorded", "step limit", "unknown"


@dataclass(frozen=True)
class Survey:
    """What is in a dataset.

    Attributes:
        rows: of all columns.
        dtypes, shapes: of each column, by name.
        values: NaNs, infinities, range of each column of numbers.
        actions, sparse: what was counted of actions, and of rewards.
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
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, ValueTally]
    actions: ActionTally
    sparse: RewardTally
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
        return action_bounds_note(self.actions.extent(self.metadata))


def survey_dataset(
    columns: Columns, task: Task | None = None, on_rows: ReportRows = lambda rows: None, block: int = BLOCK
) -> Survey:
    """Count everything in one pass, `block` rows in memory at a time, and 8 bytes for each row.

    Args:
        columns: the dataset.
        task: whose step limit holds where the dataset does not record where episodes were cut.
        on_rows: called with the rows that are done.
        block: rows.
    """
    pass_ = _Pass(columns, with_step_limit_cuts(columns, task))
    for start in range(0, len(columns), block):
        pass_.add(start, min(start + block, len(columns)))
        on_rows(min(start + block, len(columns)))
    return pass_.result()


def with_step_limit_cuts(columns: Columns, task: Task | None) -> Columns:
    """The columns with D4RL's cuts at the task's step limit, where none are recorded."""
    if columns.timeouts is not None or task is None:
        return columns
    terminals = np.asarray(columns.terminals[0 : len(columns)]).astype(bool)
    return replace(columns, timeouts=cuts_of(terminals, None, task.episode_limit))


class _Pass:
    """The tallies of one pass."""

    def __init__(self, columns: Columns, cut: Columns) -> None:
        self._given, self._columns = columns, cut
        names = [name for name in (*NUMBERS, *FLAGS) if getattr(columns, name) is not None]
        self._known = {name: getattr(columns, name) for name in names}
        self._values = {n: ValueTally(int(np.prod(self._known[n].shape[1:]))) for n in NUMBERS if n in self._known}
        self._odd = dict.fromkeys((name for name in FLAGS if name in self._known), 0)
        self._actions, self._episodes, self._sparse = (
            ActionTally(columns.actions.shape[1]),
            EpisodeTally(),
            RewardTally(),
        )
        self._counts = {"terminals": 0, "timeouts": 0, "both": 0, "breaks": 0}
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, start: int, stop: int) -> None:
        block = {name: column[start:stop] for name, column in self._known.items()}
        for name, values in self._values.items():
            values.add(start, block[name])
        for name in self._odd:
            self._odd[name] += int(((block[name] != 0) & (block[name] != 1)).sum())
        terminals = block["terminals"].astype(bool)
        cut = self._columns.timeouts
        timeouts = np.zeros_like(terminals) if cut is None else cut[start:stop].astype(bool)
        self._actions.add(block["actions"])
        self._sparse.add(block["rewards"], terminals)
        self._episodes.add(block["rewards"], terminals | timeouts)
        self._hashes.append(row_hashes(block["observations"], block["actions"], block["rewards"]))
        counted = {"terminals": terminals, "timeouts": timeouts, "both": terminals & timeouts}
        counted["breaks"] = self._breaks(block, stop, terminals | timeouts)
        for name, flags in counted.items():
            self._counts[name] += int(flags.sum())

    def _breaks(self, block: Mapping[str, NDArray[Any]], stop: int, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows (n,) of which the next observation is another than the next row's, though the episode goes on."""
        if "next_observations" not in block:
            return np.zeros_like(ends)
        following = np.concatenate([block["observations"][1:], self._columns.observations[stop : stop + 1]])
        own = block["next_observations"][: len(following)]
        return rows_differ(following, own) & ~ends[: len(following)]

    def result(self) -> Survey:
        cuts = (
            RECORDED
            if self._given.timeouts is not None
            else BY_LIMIT
            if self._columns.timeouts is not None
            else UNKNOWN
        )
        return Survey(
            rows=len(self._given),
            dtypes={name: str(column.dtype) for name, column in self._known.items()},
            shapes={name: tuple(column.shape) for name, column in self._known.items()},
            values=self._values,
            actions=self._actions,
            sparse=self._sparse,
            odd_flags=self._odd,
            cuts=cuts,
            lengths=self._episodes.lengths,
            returns=self._episodes.returns,
            unfinished=self._episodes.open_rows,
            duplicates=repeated_rows(np.concatenate(self._hashes)),
            metadata=self._given.metadata,
            **self._counts,
        )


Array = NDArray[Any]
SATURATED = 0.99
"""Actions of larger size count as saturated."""
MOST_REWARDS = 16
"""As many different rewards are told apart."""


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


class ActionTally:
    """How much of the actions lies at or beyond the bounds."""

    def __init__(self, width: int) -> None:
        self.rows, self.rows_outside = 0, 0
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self._saturated = np.zeros(width, dtype=np.int64)

    def add(self, block: Array) -> None:
        """Count more actions (n, A)."""
        size = np.abs(block)
        self.rows += len(block)
        self._saturated += (size > SATURATED).sum(axis=0)
        self.rows_outside += int((size > 1.0 + ROUNDING).any(axis=1).sum())
        self.low, self.high = np.fmin(self.low, block.min(axis=0)), np.fmax(self.high, block.max(axis=0))

    def extent(self, metadata: Mapping[str, str]) -> ActionRange:
        """The range that was counted, with what the dataset says of its actions."""
        return ActionRange(self.rows_outside, self.low, self.high, stored_bounds(metadata))

    @property
    def saturation(self) -> NDArray[np.float64]:
        """Share (A,) of the actions larger than 0.99."""
        return self._saturated / max(1, self.rows)


class EpisodeTally:
    """Lengths and returns of episodes; one may go on from block to block."""

    def __init__(self) -> None:
        self._lengths: list[Array] = []
        self._returns: list[Array] = []
        self.open_rows, self._open_return = 0, 0.0

    def add(self, rewards: Array, ends: NDArray[np.bool_]) -> None:
        """Rewards (n,), and whether an episode ends at each row (n,)."""
        rewards, last = np.asarray(rewards, dtype=np.float64), np.flatnonzero(ends)
        done = int(last[-1]) + 1 if len(last) else 0
        if done:
            starts = np.concatenate([[0], last[:-1] + 1])
            returns, lengths = np.add.reduceat(rewards[:done], starts), np.diff(last, prepend=-1)
            returns[0] += self._open_return
            lengths[0] += self.open_rows
            self._returns.append(returns)
            self._lengths.append(lengths)
            self.open_rows, self._open_return = 0, 0.0
        self.open_rows += len(rewards) - done
        self._open_return += float(rewards[done:].sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each finished episode."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._lengths])

    @property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each finished episode."""
        return np.concatenate([np.zeros(0), *self._returns])


class RewardTally:
    """Whether there are few different rewards, and how they go with the terminals."""

    def __init__(self) -> None:
        self.different: set[float] = set()
        self.rewarded_terminals = self.rewarded = 0

    @property
    def binary(self) -> bool:
        """Rewards are 0 or 1, both."""
        return self.different == {0.0, 1.0}

    def add(self, rewards: Array, terminals: NDArray[np.bool_]) -> None:
        if len(self.different) <= MOST_REWARDS:
            self.different |= set(np.unique(rewards)[: MOST_REWARDS + 1].tolist())
        self.rewarded += int((rewards != 0).sum())
        self.rewarded_terminals += int(((rewards != 0) & terminals).sum())


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
