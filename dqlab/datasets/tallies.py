"""What is counted while a dataset's rows pass by, a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import SLACK, Extent, stored_bounds

Array = NDArray[Any]
SATURATED = 0.99
"""Actions of larger size count as saturated."""

MOST_REWARDS = 16
"""As many different rewards are told apart."""


class Values:
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


class Actions:
    """How much of the actions lies at or beyond the bounds."""

    def __init__(self, width: int) -> None:
        self.rows, self.beyond = 0, 0
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self._saturated = np.zeros(width, dtype=np.int64)

    def add(self, block: Array) -> None:
        """Count more actions (n, A)."""
        size = np.abs(block)
        self.rows += len(block)
        self._saturated += (size > SATURATED).sum(axis=0)
        self.beyond += int((size > 1.0 + SLACK).any(axis=1).sum())
        self.low, self.high = np.fmin(self.low, block.min(axis=0)), np.fmax(self.high, block.max(axis=0))

    def extent(self, metadata: Mapping[str, str]) -> Extent:
        """The same, with what the dataset says of its actions."""
        return Extent(self.beyond, self.low, self.high, stored_bounds(metadata))

    @property
    def saturation(self) -> NDArray[np.float64]:
        """Share (A,) of the actions larger than 0.99."""
        return self._saturated / max(1, self.rows)


class Episodes:
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


class Sparse:
    """Whether there are few different rewards, and how they go with the terminals."""

    def __init__(self) -> None:
        self.different: set[float] = set()
        self.rewarded_terminals = self.rewarded = 0

    @property
    def binary(self) -> bool:
        """Rewards are 0 or 1, both."""
        return self.different == {0.0, 1.0}

    def add(self, rewards: Array, terminals: NDArray[np.bool_]) -> None:
        """Count more rows."""
        if len(self.different) <= MOST_REWARDS:
            self.different |= set(np.unique(rewards)[: MOST_REWARDS + 1].tolist())
        self.rewarded += int((rewards != 0).sum())
        self.rewarded_terminals += int(((rewards != 0) & terminals).sum())
