"""The transitions of a dataset as arrays: which there are, standardised or not, written field by field into stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule, action_blocks
from dqlab.data.formats.base import Columns, boolean_column, float_blocks, float_column
from dqlab.data.rows import Flags, cuts_of, episode_returns, transition_rows
from dqlab.errors import DataError

FloatArray = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TransitionOptions:
    """Which view of the rows is wanted.

    Attributes:
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        standardised: whether states become (s - mean) / (std + floor) over the dataset's (Fujimoto & Gu, section 5).
        floor: added to the deviation.
        actions: which ones there may be, and what becomes of them.
    """

    episode_limit: int
    standardised: bool = False
    floor: float = 1e-3
    actions: ActionRule = AS_IS


@dataclass(frozen=True)
class TransitionArrays:
    """Arrays of n transitions, rewards as recorded.

    Attributes:
        state (n, S), action (n, A), next_state (n, S), terminal (n,), rewards (n,): float32; may be read-only.
        returns: of the episodes.
        rows: of the dataset.
        state_mean, state_std: what states were standardised by, (S,) each; empty where they are as recorded.
        folder: where they are mapped from; None where they are in memory.
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
    folder: Path | None = None


def in_memory(columns: Columns, options: TransitionOptions) -> TransitionArrays:
    """The transitions as arrays in memory.

    Raises:
        DataError: the dataset is damaged, or has no transition.
    """
    stores: dict[str, InMemory] = {}

    def make_stores(shapes: Shapes) -> Mapping[str, InMemory]:
        stores.update({name: InMemory(shape) for name, shape in shapes.items()})
        return stores

    small = write_transitions(columns, options, make_stores)
    large: dict[str, Any] = {name: store.array for name, store in stores.items()}
    return TransitionArrays(**large, **small)


def write_transitions(
    columns: Columns, options: TransitionOptions, make_stores: Callable[[Shapes], Mapping[str, Store]]
) -> dict[str, Any]:
    """Write the large fields of all transitions into stores; returns the other fields of `TransitionArrays`.

    Args:
        columns: the dataset.
        options: which transitions.
        make_stores: gives a store for each of the fields that `shapes_of` names.

    Raises:
        DataError: a value is NaN or infinite, no row becomes a transition, or actions are not as their rule wants them.
        OSError: there is no room.
    """
    where = columns.where
    terminals = boolean_column(where, "terminals", columns.terminals)
    timeouts = None if columns.timeouts is None else boolean_column(where, "timeouts", columns.timeouts)
    rewards = float_column(where, "rewards", columns.rewards)
    cuts = cuts_of(terminals, timeouts, options.episode_limit)
    returns = episode_returns(rewards, terminals, cuts)
    keep = transition_rows(columns, cuts)
    if not keep.any():
        raise DataError(f"{where} has no transition: an episode is cut at every row.")
    rewards = rewards[keep]
    stores = make_stores(shapes_of(columns, len(rewards)))
    _write_states(columns, keep, stores)
    for start, block in action_blocks(columns, options.actions):
        stores["action"].append(_kept(block, keep[start:]))
    for piece in _pieces(terminals[keep]):
        stores["terminal"].append(piece.astype(np.float32))
    mean, std = _standardise(stores["state"], stores["next_state"], options.floor) if options.standardised else ((), ())
    return {"rewards": rewards, "returns": returns, "rows": len(columns), "state_mean": mean, "state_std": std}


def shapes_of(columns: Columns, transitions: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the large fields, by name."""
    state, action = columns.observations.shape[1], columns.actions.shape[1]
    widths: dict[str, tuple[int, ...]] = {"state": (state,), "action": (action,), "next_state": (state,)}
    return {name: (transitions, *width) for name, width in {**widths, "terminal": ()}.items()}


def _write_states(columns: Columns, keep: Flags, stores: Mapping[str, Store]) -> None:
    """States, and what followed them: recorded, or the next row's."""
    last = np.append(False, keep[:-1])
    for start, block in float_blocks(columns.where, "observations", columns.observations):
        stores["state"].append(_kept(block, keep[start:]))
        if columns.next_observations is None:  # what follows the row before
            stores["next_state"].append(_kept(block, last[start:]))
    if columns.next_observations is not None:
        for start, block in float_blocks(columns.where, "next_observations", columns.next_observations):
            stores["next_state"].append(_kept(block, keep[start:]))


def _kept(block: FloatArray, keep: Flags) -> FloatArray:
    mask = keep[: len(block)]
    return block if mask.all() else block[mask]


def _pieces(values: Flags, size: int = 1 << 20) -> Iterator[Flags]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _standardise(state: Store, following: Store, floor: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, deviation = moments(state)
    shift, scale = mean.astype(np.float32), (deviation + floor).astype(np.float32)
    for states in (state, following):
        states.rewrite(lambda block: (block - shift) / scale)
    return tuple(shift.tolist()), tuple(scale.tolist())


AT_ONCE = 1 << 16
"""Rows of a block when a stored field is gone through again, wherever it is: sums then are equal to the last bit."""


class Store(ABC):
    """A field (n, ...) of float32 that is written from its first row to its last.

    Args:
        shape: of the whole field.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    @abstractmethod
    def append(self, rows: FloatArray) -> None:
        """Write the next rows.

        Raises:
            OSError: there is no room.
        """

    @abstractmethod
    def blocks(self) -> Iterator[FloatArray]:
        """All rows again, in blocks, once they are written."""

    @abstractmethod
    def rewrite(self, change: Callable[[FloatArray], FloatArray]) -> None:
        """Replace every block by what a function makes of it."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be written."""


class InMemory(Store):
    """A field as an array."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.array: FloatArray = np.empty(shape, dtype=np.float32)
        self._filled = 0

    def append(self, rows: FloatArray) -> None:
        self.array[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def blocks(self) -> Iterator[FloatArray]:
        for start in range(0, len(self.array), AT_ONCE):
            yield self.array[start : start + AT_ONCE]

    def rewrite(self, change: Callable[[FloatArray], FloatArray]) -> None:
        for block in self.blocks():
            block[...] = change(block)

    def close(self) -> None:
        """Nothing to do."""


def moments(store: Store) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (with n) of a field's columns, summed in float64."""
    rows = store.shape[0]
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in store.blocks()) / rows
    square = sum(np.square(block - mean).sum(axis=0) for block in store.blocks()) / rows
    return np.asarray(mean), np.sqrt(square)
