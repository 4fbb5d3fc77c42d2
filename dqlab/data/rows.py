"""How a dataset's rows become transitions, of one step or several, and where episodes end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Columns

Flags = NDArray[np.bool_]


def cuts_of(terminals: Flags, timeouts: Flags | None, episode_limit: int | None) -> Flags:
    """Rows (n,) at which an episode was cut short: as recorded, or else by its step limit; none where neither is known.

    Without `timeouts` that is D4RL's rule, as its `qlearning_dataset` counts steps: the counter is 0 on the first row
    and after a cut, but 1 on the row after a terminal.
    """
    if timeouts is not None:
        return timeouts
    cuts = np.zeros(len(terminals), dtype=bool)
    if episode_limit is None:
        return cuts
    start, count = 0, 0
    for end in [*np.flatnonzero(terminals).tolist(), len(terminals) - 1]:
        first = start + episode_limit - 1 - count
        cuts[first : end + 1 : episode_limit] = True
        start, count = end + 1, 0 if cuts[end] else 1
    return cuts


def transition_rows(columns: Columns, cuts: Flags) -> Flags:
    """Which rows (n,) become transitions.

    Where next observations are recorded, every row i becomes (o_i, a_i, r_i, o'_i, terminal_i). Elsewhere, as in D4RL's
    `qlearning_dataset`, it becomes (o_i, a_i, r_i, o_{i+1}, terminal_i), but for the last row, which nothing follows,
    and for rows at which an episode was cut: there o_{i+1} belongs to the next episode.

    Args:
        columns: the dataset.
        cuts: whether an episode was cut at each row (n,).
    """
    if columns.next_observations is not None:
        return np.ones_like(cuts)
    keep = ~cuts
    keep[-1] = False
    return keep


def first_rows(keep: Flags, ends: Flags, valueless: Flags, chunk: int, next_action: bool) -> NDArray[np.intp]:
    """The rows at which transitions of several steps, or with the action that follows, begin.

    Args:
        keep, ends, valueless: which rows (n,) are transitions, end an episode, and bootstrap nothing.
        chunk, next_action: as in `q_learning_view`.
    """
    starts = ~_leads_to(~keep, chunk) & ~_leads_to(ends, chunk - 1)
    if next_action:
        last = np.arange(len(ends)) == len(ends) - 1  # whatever it says, nothing follows it
        starts &= _leads_to(valueless, chunk) | ~_leads_to(ends | last, 2 * chunk - 1)
    return np.flatnonzero(starts)


def _leads_to(flags: Flags, steps: int) -> Flags:
    """Whether one of that many rows from each row (n,) on is flagged, or there are not as many."""
    count = np.concatenate([[0], np.cumsum(flags)])
    last = np.arange(len(flags)) + steps
    return np.asarray((last > len(flags)) | (count[np.minimum(last, len(flags))] > count[:-1]))


def episode_returns(rewards: NDArray[np.float32], terminals: Flags, cuts: Flags) -> NDArray[np.float64]:
    """Undiscounted return of every episode that ends within the rows (of the only one, if none does)."""
    ends = np.flatnonzero(terminals | cuts)
    if len(ends) == 0:
        ends = np.array([len(rewards) - 1])
    totals = np.cumsum(rewards, dtype=np.float64)[ends]
    return np.diff(totals, prepend=0.0)
