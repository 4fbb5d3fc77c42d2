"""How a dataset's rows become transitions: the rule, and transitions block by block or episode by episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Columns

Array = NDArray[Any]
Flags = NDArray[np.bool_]


def transition_rows(columns: Columns, cuts: Flags, start: int = 0) -> Flags:
    """Which of the rows start, start + 1, ... become transitions, (m,).

    Where next observations are recorded, every row i becomes (o_i, a_i, r_i, o'_i, terminal_i). Elsewhere, as in D4RL's
    `qlearning_dataset`, it becomes (o_i, a_i, r_i, o_{i+1}, terminal_i), but for the last row, which nothing follows,
    and for rows at which an episode was cut: there o_{i+1} belongs to the next episode.

    Args:
        columns: the dataset.
        cuts: whether an episode was cut at each of these rows (m,).
        start: the first of them.
    """
    if columns.next_observations is not None:
        return np.ones_like(cuts)
    keep = ~cuts
    if start + len(cuts) == len(columns):
        keep[-1] = False
    return keep


def cuts_of(terminals: Flags, timeouts: Flags | None, episode_limit: int) -> Flags:
    """Rows (n,) at which an episode was cut short: as recorded, or by its step limit where that is not recorded."""
    return timeouts if timeouts is not None else _cuts_by_limit(terminals, episode_limit)


def episode_returns(rewards: NDArray[np.float32], terminals: Flags, cuts: Flags) -> NDArray[np.float64]:
    """Undiscounted return of every episode that ends within the rows (of the only one, if none does)."""
    ends = np.flatnonzero(terminals | cuts)
    if len(ends) == 0:
        ends = np.array([len(rewards) - 1])
    totals = np.cumsum(rewards, dtype=np.float64)[ends]
    return np.diff(totals, prepend=0.0)


def _cuts_by_limit(terminals: Flags, limit: int) -> Flags:
    """D4RL's rule for files without `timeouts`, as its `qlearning_dataset` counts steps.

    Its counter is 0 on the first row and after a cut, but 1 on the row after a terminal.
    """
    cuts = np.zeros(len(terminals), dtype=bool)
    start, count = 0, 0
    for end in [*np.flatnonzero(terminals).tolist(), len(terminals) - 1]:
        first = start + limit - 1 - count
        cuts[first : end + 1 : limit] = True
        start, count = end + 1, 0 if cuts[end] else 1
    return cuts


@dataclass(frozen=True)
class TransitionBlock:
    """Transitions (s, a, r, s', terminal), in order.

    Attributes:
        observations (n, S), actions (n, A), rewards (n,), next_observations (n, S), terminals (n,): as recorded.
        timeouts (n,): the episode goes no further here, though the environment had not ended it.
    """

    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array
    terminals: NDArray[np.bool_]
    timeouts: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rewards)

    def __getitem__(self, rows: Any) -> TransitionBlock:
        return TransitionBlock(*(getattr(self, item.name)[rows] for item in fields(self)))

    @staticmethod
    def joined(parts: list[TransitionBlock]) -> TransitionBlock:
        """One after the other."""
        columns = ([getattr(part, item.name) for part in parts] for item in fields(TransitionBlock))
        return TransitionBlock(*(np.concatenate(column) for column in columns))


BLOCK = 65_536
"""Rows that are in memory at a time."""


def transition_blocks(columns: Columns, block: int = BLOCK) -> Iterator[TransitionBlock]:
    """The transitions of all rows that are one (`transition_rows`), a block of rows at a time.

    Cuts are those that the columns record. Where next observations are recorded, an episode also ends where the next
    row's observation is another.
    """
    read = _followed_by_rows if columns.next_observations is None else _followed_as_recorded
    last = len(columns) - (columns.next_observations is None)
    for start in range(0, last, block):
        found, cuts = read(columns, start, min(start + block, last))
        found = found[transition_rows(columns, cuts, start)]
        if len(found):
            yield found


def episode_blocks(columns: Columns) -> Iterator[TransitionBlock]:
    """All transitions, an episode at a time."""
    held: list[TransitionBlock] = []
    for part in transition_blocks(columns):
        ends = np.flatnonzero(part.terminals | part.timeouts) + 1
        for start, end in zip([0, *ends], ends, strict=False):
            yield TransitionBlock.joined([*held, part[start:end]])
            held = []
        if (rest := part[ends[-1] if len(ends) else 0 :]) and len(rest):
            held.append(rest)
    if held:
        yield TransitionBlock.joined(held)


def _followed_as_recorded(columns: Columns, start: int, stop: int) -> tuple[TransitionBlock, Flags]:
    assert columns.next_observations is not None
    states, following = columns.observations[start : stop + 1], columns.next_observations[start:stop]
    terminals = columns.terminals[start:stop].astype(bool)
    cuts = columns.timeouts[start:stop].astype(bool) if columns.timeouts is not None else np.zeros_like(terminals)
    breaks = np.ones(stop - start, dtype=bool)  # after the last row of all
    compared = len(states) - 1 if len(states) > stop - start else stop - start - 1
    breaks[:compared] = rows_differ(following[:compared], states[1 : compared + 1])
    found = TransitionBlock(
        states[: stop - start],
        columns.actions[start:stop],
        columns.rewards[start:stop],
        following,
        terminals,
        (cuts | breaks) & ~terminals,
    )
    return found, cuts


def _followed_by_rows(columns: Columns, start: int, stop: int) -> tuple[TransitionBlock, Flags]:
    states = columns.observations[start : stop + 1]
    terminals = columns.terminals[start:stop].astype(bool)
    cuts = (
        columns.timeouts[start : stop + 1].astype(bool) if columns.timeouts is not None else np.zeros(len(states), bool)
    )
    followed = cuts[1:].copy()
    followed[-1] |= stop == len(columns) - 1
    found = TransitionBlock(
        states[:-1],
        columns.actions[start:stop],
        columns.rewards[start:stop],
        states[1:],
        terminals,
        followed & ~terminals,
    )
    return found, cuts[:-1]


def rows_differ(one: Array, other: Array) -> Flags:
    """Rows (n,) of two tables (n, S) that differ; NaN is equal to NaN."""
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.asarray(~same.all(axis=1))
