"""The transitions of a dataset as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule, unit_actions
from dqlab.data.formats.base import Columns, boolean_column, float_column
from dqlab.data.rows import cuts_of, episode_returns, transition_rows
from dqlab.errors import DataError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TransitionArrays:
    """Arrays of n transitions, rewards as recorded.

    Attributes:
        state (n, S), action (n, A), next_state (n, S), terminal (n,), rewards (n,): float32.
        returns: of the episodes.
        rows: of the dataset.
        state_mean, state_std: what states were standardised by, (S,) each; empty where they are as recorded.
    """

    state: FloatArray
    action: FloatArray
    next_state: FloatArray
    terminal: FloatArray
    rewards: FloatArray
    returns: NDArray[np.float64]
    rows: int
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()


STD_FLOOR = 1e-3
"""Added to the deviation that states are divided by (Fujimoto & Gu 2021, section 5)."""


def read_transitions(
    columns: Columns, episode_limit: int, standardise: bool = False, actions: ActionRule = AS_IS
) -> TransitionArrays:
    """All transitions of a dataset.

    Args:
        columns: the dataset.
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        standardise: whether states become (s - mean) / (std + 0.001) over the dataset's.
        actions: which ones there may be, and what becomes of them.

    Raises:
        DataError: a value is NaN or infinite, actions are not as their rule wants them, or there is no transition.
    """
    where, following = columns.where, columns.next_observations
    terminals = boolean_column(where, "terminals", columns.terminals)
    timeouts = None if columns.timeouts is None else boolean_column(where, "timeouts", columns.timeouts)
    rewards = float_column(where, "rewards", columns.rewards)
    cuts = cuts_of(terminals, timeouts, episode_limit)
    keep = transition_rows(columns, cuts)
    if not keep.any():
        raise DataError(f"{where} has no transition: an episode is cut at every row.")
    states = float_column(where, "observations", columns.observations)
    state = states[keep]
    if following is None:
        next_state = states[1:][keep[:-1]]
    else:
        next_state = float_column(where, "next_observations", following)[keep]
    mean, std = _standardise(state, next_state) if standardise else ((), ())
    return TransitionArrays(
        state,
        unit_actions(columns, actions)[keep],
        next_state,
        terminals[keep].astype(np.float32),
        rewards[keep],
        episode_returns(rewards, terminals, cuts),
        len(columns),
        mean,
        std,
    )


AT_ONCE = 1 << 16
"""Rows of which sums are added up; another number changes them in their last bits."""


def _standardise(state: FloatArray, following: FloatArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, deviation = moments(state)
    shift, scale = mean.astype(np.float32), (deviation + STD_FLOOR).astype(np.float32)
    for states in (state, following):
        states[...] = (states - shift) / scale
    return tuple(shift.tolist()), tuple(scale.tolist())


def moments(rows: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (with n) of the columns (n, S), summed in float64."""
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(rows)) / len(rows)
    square = sum(np.square(block - mean).sum(axis=0) for block in _blocks(rows)) / len(rows)
    return np.asarray(mean), np.sqrt(square)


def _blocks(rows: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]
