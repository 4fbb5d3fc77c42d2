"""The transitions of a dataset as arrays: of one step, or of the several steps of an action chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule, unit_actions
from dqlab.data.formats.base import Columns, boolean_column, float_column
from dqlab.data.rows import Flags, chunk_starts, cuts_of, episode_returns, leads_to, transition_rows
from dqlab.errors import DataError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class TransitionArrays:
    """Arrays of n transitions, rewards as recorded.

    Attributes:
        state (n, S), action (n, A), next_state (n, S), terminal (n,): float32; terminal is 1 where nothing is
            bootstrapped: the environment ended the episode, or a row's mask is 0.
        rewards: of the rows that are transitions by themselves, float32; `chunked` makes the n transitions' of them.
        returns: of the episodes.
        rows: of the dataset.
        next_action: (n, A), what the data did in next_state; None where nothing asked for it.
        steps: each transition's places among `rewards` (n, h), and whether its steps are before its end (n, h); None
            where transitions are single steps.
        state_mean, state_std: what states were standardised by, (S,) each; empty where they are as recorded.
    """

    state: FloatArray
    action: FloatArray
    next_state: FloatArray
    terminal: FloatArray
    rewards: FloatArray
    returns: NDArray[np.float64]
    rows: int
    next_action: FloatArray | None = None
    steps: tuple[NDArray[np.intp], Flags] | None = None
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()

    def chunked(self, rewards: FloatArray) -> FloatArray:
        """Rewards of `rewards`' rows, transformed perhaps, as transitions have them: (n,), or (n, h) of chunks."""
        if self.steps is None:
            return rewards
        places, counts = self.steps
        made = rewards[places] * counts
        return made[:, 0] if made.shape[1] == 1 else made


STD_FLOOR = 1e-3
"""Added to the deviation that states are divided by (Fujimoto & Gu 2021, section 5)."""


def read_transitions(
    columns: Columns,
    episode_limit: int,
    standardise: bool = False,
    actions: ActionRule = AS_IS,
    chunk: int = 1,
    next_action: bool = False,
) -> TransitionArrays:
    """All transitions of a dataset.

    Args:
        columns: the dataset.
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        standardise: whether states become (s - mean) / (std + 0.001) over the transitions'.
        actions: which ones there may be, and what becomes of them.
        chunk: h, steps of a transition (Q-chunking: Li, Zhou, Levine 2025, section 4): its action is h actions, one
            after the other; one begins at every row that h steps of one episode follow.
        next_action: whether transitions have the action, or chunk, that follows. Those that nothing follows, as where
            an episode was cut, are left out; terminal ones stay, with zeros.

    Raises:
        DataError: a value is NaN or infinite, actions are not as their rule wants them, or there is no transition.
    """
    where, following = columns.where, columns.next_observations
    terminals = boolean_column(where, "terminals", columns.terminals)
    timeouts = None if columns.timeouts is None else boolean_column(where, "timeouts", columns.timeouts)
    solved = False if columns.masks is None else ~boolean_column(where, "masks", columns.masks)
    rewards = float_column(where, "rewards", columns.rewards)
    cuts = cuts_of(terminals, timeouts, episode_limit)
    keep, valueless = transition_rows(columns, cuts), terminals | solved
    rows = _first_rows(keep, terminals | cuts, valueless, chunk, next_action)
    if not len(rows):
        why = "an episode is cut at every row" if chunk == 1 else f"no episode has the {chunk} steps of an action chunk"
        raise DataError(f"{where} has no transition: {why}.")
    steps = rows[:, None] + np.arange(chunk)
    states = float_column(where, "observations", columns.observations)
    state = states[rows]
    if following is None:
        next_state = states[rows + chunk]
    else:
        next_state = float_column(where, "next_observations", following)[rows + chunk - 1]
    mean, std = _standardise(state, next_state) if standardise else ((), ())
    all_actions, stops = unit_actions(columns, actions), valueless[steps]
    terminal = stops.any(axis=1)
    plain = chunk == 1 and not next_action
    return TransitionArrays(
        state,
        all_actions[steps].reshape(len(rows), -1),
        next_state,
        terminal.astype(np.float32),
        rewards[keep],
        episode_returns(rewards, terminals, cuts),
        len(columns),
        _next_actions(all_actions, steps + chunk, terminal) if next_action else None,
        None if plain else (np.cumsum(keep)[steps] - 1, np.cumsum(stops, axis=1) - stops == 0),
        mean,
        std,
    )


def _first_rows(keep: Flags, ends: Flags, valueless: Flags, chunk: int, next_action: bool) -> NDArray[np.intp]:
    """The rows at which transitions begin, as `read_transitions` says.

    Args:
        keep, ends, valueless: which rows (n,) are transitions, end an episode, and bootstrap nothing.
        chunk, next_action: as in `read_transitions`.
    """
    starts = keep if chunk == 1 else chunk_starts(keep, ends, chunk)
    if next_action:
        last = np.arange(len(ends)) == len(ends) - 1  # whatever it says, nothing follows it
        starts = starts & (leads_to(valueless, chunk) | ~leads_to(ends | last, 2 * chunk - 1))
    return np.flatnonzero(starts)


def _next_actions(actions: FloatArray, steps: NDArray[np.intp], terminal: Flags) -> FloatArray:
    """The actions (n, h * A) of rows (n, h); zeros where a terminal step came before."""
    chosen = actions[np.minimum(steps, len(actions) - 1)].reshape(len(steps), -1)
    chosen[terminal] = 0.0
    return chosen


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
