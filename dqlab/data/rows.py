"""What a dataset's transitions are made of, as arrays."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule, action_blocks
from dqlab.data.formats.base import Columns, boolean_column, float_blocks, float_column
from dqlab.errors import DataError

Rows = NDArray[np.float32]
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
    def append(self, rows: Rows) -> None:
        """Write the next rows.

        Raises:
            OSError: there is no room.
        """

    @abstractmethod
    def blocks(self) -> Iterator[Rows]:
        """All rows again, in blocks, once they are written."""

    @abstractmethod
    def rewrite(self, change: Callable[[Rows], Rows]) -> None:
        """Replace every block by what a function makes of it."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be written."""


class InMemory(Store):
    """A field as an array."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.array: Rows = np.empty(shape, dtype=np.float32)
        self._filled = 0

    def append(self, rows: Rows) -> None:
        """Copy the rows to their place."""
        self.array[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def blocks(self) -> Iterator[Rows]:
        """Views of the array."""
        for start in range(0, len(self.array), AT_ONCE):
            yield self.array[start : start + AT_ONCE]

    def rewrite(self, change: Callable[[Rows], Rows]) -> None:
        """In place."""
        for block in self.blocks():
            block[...] = change(block)

    def close(self) -> None:
        """Nothing to do."""


class OnDisk(Store):
    """A field as a flat file, in the machine's byte order.

    It is written with `write`, not through a map: on a full disk a map's writer dies of a signal.
    """

    def __init__(self, shape: tuple[int, ...], path: Path) -> None:
        super().__init__(shape)
        self.path = path
        self._file: BinaryIO = path.open("w+b")

    def append(self, rows: Rows) -> None:
        """Write them behind the others."""
        self._file.write(_bytes(rows))

    def blocks(self) -> Iterator[Rows]:
        """Read from the file."""
        for start in range(0, self.shape[0], AT_ONCE):
            yield self._block(start)

    def rewrite(self, change: Callable[[Rows], Rows]) -> None:
        """Block by block, read and written over."""
        for start in range(0, self.shape[0], AT_ONCE):
            block = np.ascontiguousarray(change(self._block(start)), dtype=np.float32)
            self._file.seek(start * self._row_bytes)
            self._file.write(_bytes(block))

    def close(self) -> None:
        """Have the file on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def drop(self) -> None:
        """Close the file, whatever is in it."""
        with contextlib.suppress(OSError):  # what could not be written is tried again
            self._file.close()

    @property
    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.shape[1:], dtype=np.int64))

    def _block(self, start: int) -> Rows:
        count = min(AT_ONCE, self.shape[0] - start)
        block: Rows = np.empty((count, *self.shape[1:]), dtype=np.float32)
        self._file.seek(start * self._row_bytes)
        self._file.readinto(_bytes(block))  # type: ignore[attr-defined]
        return block


def _bytes(rows: Rows) -> Any:
    flat: Any = np.ascontiguousarray(rows)
    return memoryview(flat).cast("B")


def moments(store: Store) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (with n) of a field's columns, summed in float64."""
    rows = store.shape[0]
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in store.blocks()) / rows
    square = sum(np.square(block - mean).sum(axis=0) for block in store.blocks()) / rows
    return np.asarray(mean), np.sqrt(square)


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


class LargeFields(NamedTuple):
    """The large fields of n transitions: state (n, S), action (n, A), next_state (n, S), terminal (n,)."""

    state: Store
    action: Store
    next_state: Store
    terminal: Store


@dataclass(frozen=True)
class SmallFields:
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


def outline_of(columns: Columns, episode_limit: int) -> SmallFields:
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
    terminals = boolean_column(where, "terminals", columns.terminals)
    timeouts = None if columns.timeouts is None else boolean_column(where, "timeouts", columns.timeouts)
    rewards = float_column(where, "rewards", columns.rewards)
    cuts = cuts_of(terminals, timeouts, episode_limit)
    returns = episode_returns(rewards, terminals, cuts)
    keep = np.ones_like(cuts) if columns.next_observations is not None else ~cuts
    keep[-1] &= columns.next_observations is not None
    if not keep.any():
        raise DataError(f"{where} has no transition: an episode is cut at every row.")
    return SmallFields(keep, terminals, rewards[keep], returns)


def fill_fields(columns: Columns, outline: SmallFields, into: LargeFields, actions: ActionRule) -> None:
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


@dataclass(frozen=True)
class TransitionView:
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

    state: Rows
    action: Rows
    next_state: Rows
    terminal: Rows
    rewards: Rows
    returns: NDArray[np.float64]
    rows: int
    state_mean: tuple[float, ...] = ()
    state_std: tuple[float, ...] = ()
    folder: Path | None = None


def shapes_of(columns: Columns, transitions: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the large fields, by name."""
    state, action = columns.observations.shape[1], columns.actions.shape[1]
    widths: dict[str, tuple[int, ...]] = {"state": (state,), "action": (action,), "next_state": (state,)}
    return {name: (transitions, *width) for name, width in {**widths, "terminal": ()}.items()}


def in_memory(columns: Columns, view: TransitionView) -> TransitionArrays:
    """The transitions as arrays in memory.

    Raises:
        DataError: the dataset is damaged, or has no transition.
    """
    outline = outline_of(columns, view.episode_limit)
    stores = {name: InMemory(shape) for name, shape in shapes_of(columns, outline.transitions).items()}
    mean, std = write_fields(columns, outline, view, LargeFields(**stores))
    arrays = {name: store.array for name, store in stores.items()}
    small = {"rewards": outline.rewards, "returns": outline.returns, "rows": len(columns)}
    return TransitionArrays(**arrays, **small, state_mean=mean, state_std=std)  # type: ignore[arg-type]


def write_fields(
    columns: Columns, outline: SmallFields, view: TransitionView, into: LargeFields
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Write the large fields; returns what states were standardised by, nothing where they are as recorded.

    Raises:
        DataError: the dataset is damaged, or actions are not as the view wants them.
        OSError: there is no room.
    """
    fill_fields(columns, outline, into, view.actions)
    return _standardise(into.state, into.next_state, view.floor) if view.standardised else ((), ())


def _standardise(state: Store, following: Store, floor: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, deviation = moments(state)
    shift, scale = mean.astype(np.float32), (deviation + floor).astype(np.float32)
    for states in (state, following):
        states.rewrite(lambda block: (block - shift) / scale)
    return tuple(shift.tolist()), tuple(scale.tolist())
