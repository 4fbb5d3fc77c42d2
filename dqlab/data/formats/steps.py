"""The transitions in a dataset's rows, block by block and episode by episode, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Columns

BLOCK = 65_536
"""Rows that are in memory at a time."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Steps:
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

    def __getitem__(self, rows: Any) -> Steps:
        return Steps(*(getattr(self, item.name)[rows] for item in fields(self)))

    @staticmethod
    def joined(parts: list[Steps]) -> Steps:
        """One after the other."""
        columns = ([getattr(part, item.name) for part in parts] for item in fields(Steps))
        return Steps(*(np.concatenate(column) for column in columns))


def steps(columns: Columns, block: int = BLOCK) -> Iterator[Steps]:
    """The transitions of all rows that are one, a block of rows at a time.

    Where next observations are recorded, every row is one; an episode also ends where the next row's observation is
    another. Elsewhere, as in D4RL's `qlearning_dataset`: what follows a row is the next row's observation, and rows at
    which an episode was cut, and the last row, are none.
    """
    find = _as_in_d4rl if columns.next_observations is None else _recorded
    last = len(columns) - (columns.next_observations is None)
    for start in range(0, last, block):
        found = find(columns, start, min(start + block, last))
        if len(found):
            yield found


def episodes(columns: Columns) -> Iterator[Steps]:
    """The same, an episode at a time."""
    held: list[Steps] = []
    for part in steps(columns):
        ends = np.flatnonzero(part.terminals | part.timeouts) + 1
        for start, end in zip([0, *ends], ends, strict=False):
            yield Steps.joined([*held, part[start:end]])
            held = []
        if (rest := part[ends[-1] if len(ends) else 0 :]) and len(rest):
            held.append(rest)
    if held:
        yield Steps.joined(held)


def _recorded(columns: Columns, start: int, stop: int) -> Steps:
    assert columns.next_observations is not None
    states, following = columns.observations[start : stop + 1], columns.next_observations[start:stop]
    terminals = columns.terminals[start:stop].astype(bool)
    timeouts = columns.timeouts[start:stop].astype(bool) if columns.timeouts is not None else np.zeros_like(terminals)
    breaks = np.ones(stop - start, dtype=bool)  # after the last row of all
    compared = len(states) - 1 if len(states) > stop - start else stop - start - 1
    breaks[:compared] = _differ(following[:compared], states[1 : compared + 1])
    return Steps(
        states[: stop - start],
        columns.actions[start:stop],
        columns.rewards[start:stop],
        following,
        terminals,
        (timeouts | breaks) & ~terminals,
    )


def _as_in_d4rl(columns: Columns, start: int, stop: int) -> Steps:
    states = columns.observations[start : stop + 1]
    terminals = columns.terminals[start:stop].astype(bool)
    cuts = (
        columns.timeouts[start : stop + 1].astype(bool) if columns.timeouts is not None else np.zeros(len(states), bool)
    )
    followed = cuts[1:].copy()
    followed[-1] |= stop == len(columns) - 1
    found = Steps(
        states[:-1],
        columns.actions[start:stop],
        columns.rewards[start:stop],
        states[1:],
        terminals,
        followed & ~terminals,
    )
    return found[~cuts[:-1]]


def _differ(one: Array, other: Array) -> NDArray[np.bool_]:
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.asarray(~same.all(axis=1))
