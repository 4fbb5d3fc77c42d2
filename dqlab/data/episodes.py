"""Episodes within a dataset's rows: where they are cut, and what they return."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


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
