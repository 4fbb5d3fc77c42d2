"""Transitions out of rows, as D4RL's `qlearning_dataset` makes them, without its loop and without a second copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqlab.data.blocks import flags, float_blocks, floats
from dqlab.data.bounds import ActionRule, action_blocks
from dqlab.data.episodes import Flags, cuts_of, episode_returns
from dqlab.data.formats.base import Columns
from dqlab.data.stores import Rows, Store
from dqlab.errors import DataError


class Fields(NamedTuple):
    """The large fields of n transitions: state (n, S), action (n, A), next_state (n, S), terminal (n,)."""

    state: Store
    action: Store
    next_state: Store
    terminal: Store


@dataclass(frozen=True)
class Outline:
    """What is small about the rows of a dataset.

    Attributes:
        keep: rows (n,) that become transitions.
        terminals: (n,), the environment ended the episode here.
        rewards: of the transitions.
        returns: of the episodes.
    """

    keep: Flags
    terminals: Flags
    rewards: Rows
    returns: NDArray[np.float64]

    @property
    def transitions(self) -> int:
        """How many."""
        return len(self.rewards)


def outline_of(columns: Columns, episode_limit: int) -> Outline:
    """Which rows become transitions, and what the episodes return.

    Where next observations are known, every row becomes one. Otherwise row i < n - 1 becomes (o_i, a_i, r_i, o_{i+1},
    terminal_i), but for rows at which an episode was cut: there o_{i+1} belongs to the next episode.

    Args:
        columns: the dataset.
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.

    Raises:
        DataError: a flag or reward is not finite; no row becomes a transition.
    """
    where = columns.where
    terminals = flags(where, "terminals", columns.terminals)
    timeouts = None if columns.timeouts is None else flags(where, "timeouts", columns.timeouts)
    rewards = floats(where, "rewards", columns.rewards)
    cuts = cuts_of(terminals, timeouts, episode_limit)
    returns = episode_returns(rewards, terminals, cuts)
    keep = np.ones_like(cuts) if columns.next_observations is not None else ~cuts
    keep[-1] &= columns.next_observations is not None
    if not keep.any():
        raise DataError(f"{where} has no transition: an episode is cut at every row.")
    return Outline(keep, terminals, rewards[keep], returns)


def fill(columns: Columns, outline: Outline, into: Fields, actions: ActionRule) -> None:
    """Write the transitions' large fields, block by block, actions by their rule.

    Raises:
        DataError: a value is NaN or infinite; the message names its row. Or actions are not as the rule wants them.
        OSError: there is no room.
    """
    keep, last = outline.keep, np.append(False, outline.keep[:-1])
    for start, block in float_blocks(columns.where, "observations", columns.observations):
        into.state.append(_kept(block, keep[start:]))
        if columns.next_observations is None:  # what follows the row before
            into.next_state.append(_kept(block, last[start:]))
    if columns.next_observations is not None:
        for start, block in float_blocks(columns.where, "next_observations", columns.next_observations):
            into.next_state.append(_kept(block, keep[start:]))
    for start, block in action_blocks(columns, actions):
        into.action.append(_kept(block, keep[start:]))
    for piece in _pieces(outline.terminals[keep]):
        into.terminal.append(piece.astype(np.float32))


def _kept(block: Rows, keep: Flags) -> Rows:
    mask = keep[: len(block)]
    return block if mask.all() else block[mask]


def _pieces(values: Flags, size: int = 1 << 20) -> Iterator[Flags]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
