"""The transitions of a dataset as arrays, in memory or in files that are mapped."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule, action_blocks
from dqlab.data.formats.base import Columns, boolean_column, float_blocks, float_column
from dqlab.data.formats.reading import write_errors
from dqlab.data.rows import Flags, cuts_of, episode_returns, transition_rows
from dqlab.errors import ConfigError, DataError, nearest_of_few
from dqlab.machine import available_memory, in_words

FloatArray = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]
Allocate = Callable[[Shapes], Mapping[str, FloatArray]]


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


def in_memory(shapes: Shapes) -> Mapping[str, FloatArray]:
    """Arrays of these shapes, not filled."""
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


STD_FLOOR = 1e-3
"""Added to the deviation that states are divided by (Fujimoto & Gu 2021, section 5)."""


def read_transitions(
    columns: Columns,
    episode_limit: int,
    standardise: bool = False,
    actions: ActionRule = AS_IS,
    allocate: Allocate = in_memory,
) -> TransitionArrays:
    """Read all transitions, block by block.

    Args:
        columns: the dataset.
        episode_limit: steps after which an episode is cut, for datasets without `timeouts`.
        standardise: whether states become (s - mean) / (std + 0.001) over the dataset's.
        actions: which ones there may be, and what becomes of them.
        allocate: gives the arrays for the large fields.

    Raises:
        DataError: the dataset is damaged, or has no transition.
    """
    where = columns.where
    terminals = boolean_column(where, "terminals", columns.terminals)
    timeouts = None if columns.timeouts is None else boolean_column(where, "timeouts", columns.timeouts)
    rewards = float_column(where, "rewards", columns.rewards)
    cuts = cuts_of(terminals, timeouts, episode_limit)
    returns = episode_returns(rewards, terminals, cuts)
    keep = transition_rows(columns, cuts)
    if not keep.any():
        raise DataError(f"{where} has no transition: an episode is cut at every row.")
    rewards = rewards[keep]
    fields: Mapping[str, Any] = allocate(_shapes(columns, len(rewards)))
    _read_states(columns, keep, fields)
    for start, block in action_blocks(columns, actions):
        _put_rows(fields["action"], start, block, keep)
    fields["terminal"][:] = terminals[keep]
    mean, std = _standardise(fields["state"], fields["next_state"]) if standardise else ((), ())
    return TransitionArrays(
        **fields, rewards=rewards, returns=returns, rows=len(columns), state_mean=mean, state_std=std
    )


def _shapes(columns: Columns, transitions: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the large fields."""
    state, action = (transitions, columns.observations.shape[1]), (transitions, columns.actions.shape[1])
    return {"state": state, "action": action, "next_state": state, "terminal": (transitions,)}


def _large_bytes(columns: Columns) -> int:
    """Bytes of the large fields, if every row becomes a transition."""
    return 4 * sum(map(math.prod, _shapes(columns, len(columns)).values()))


def _read_states(columns: Columns, keep: Flags, fields: Mapping[str, FloatArray]) -> None:
    """States, and what followed them: recorded, or the next row's."""
    follows = np.append(False, keep[:-1])
    for start, block in float_blocks(columns.where, "observations", columns.observations):
        _put_rows(fields["state"], start, block, keep)
        if columns.next_observations is None:
            _put_rows(fields["next_state"], start, block, follows)
    if columns.next_observations is not None:
        for start, block in float_blocks(columns.where, "next_observations", columns.next_observations):
            _put_rows(fields["next_state"], start, block, keep)


def _put_rows(field: FloatArray, start: int, block: FloatArray, keep: Flags) -> None:
    """Put those of the rows start, start + 1, ... that are kept behind those that were kept before."""
    mask, first = keep[start : start + len(block)], np.count_nonzero(keep[:start])
    kept = block if mask.all() else block[mask]
    field[first : first + len(kept)] = kept


AT_ONCE = 1 << 16
"""Rows of which sums are added up; another number changes them in their last bits."""


def _standardise(state: FloatArray, following: FloatArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, deviation = moments(state)
    shift, scale = mean.astype(np.float32), (deviation + STD_FLOOR).astype(np.float32)
    for states in (state, following):
        for block in _blocks(states):
            block[...] = (block - shift) / scale
    return tuple(shift.tolist()), tuple(scale.tolist())


def moments(rows: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (with n) of the columns (n, S), summed in float64."""
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(rows)) / len(rows)
    square = sum(np.square(block - mean).sum(axis=0) for block in _blocks(rows)) / len(rows)
    return np.asarray(mean), np.sqrt(square)


def _blocks(rows: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]


USABLE = 0.8
"""Share of the free memory that transitions may take."""
SMALL = 32
"""Bytes a row that are in memory at some time whatever is mapped: flags, rewards, their sums."""
WHEN_TO_MAP: dict[str, Callable[[int, int], bool]] = {
    "auto": lambda needed, usable: needed > usable,
    "always": lambda needed, usable: True,
    "never": lambda needed, usable: False,
}
"""Whether transitions are mapped, by the bytes that they take and those that are to be had in memory."""


def check_memory_map(memory_map: str) -> None:
    """See that there is such a choice.

    Raises:
        ConfigError: there is not; the message names those there are.
    """
    if memory_map not in WHEN_TO_MAP:
        known = nearest_of_few(str(memory_map), WHEN_TO_MAP)
        raise ConfigError(f"load_dataset.memory_map cannot be {memory_map!r}. {known}")


def choose_memory(columns: Columns, memory_map: str, folder: Path) -> Allocate | None:
    """What allocates in files, where the transitions are to be mapped; None where they fit into memory.

    Args:
        columns: the dataset.
        memory_map: when to map.
        folder: where the files lie.

    Raises:
        DataError: there is no room for them.
    """
    usable = int(USABLE * available_memory())
    needed = _large_bytes(columns) + SMALL * len(columns)
    maps = WHEN_TO_MAP[memory_map](needed, usable)
    held = SMALL * len(columns) if maps else needed
    if held > usable:
        advice = (
            "Use a smaller dataset." if maps else "Set load_dataset.memory_map='auto', which maps it from the disk."
        )
        raise DataError(
            f"{columns.where}: {len(columns):,} rows take {in_words(held)} of memory, {in_words(usable)} are free. "
            + advice
        )
    return (lambda shapes: _mapped(folder, shapes)) if maps else None


def _mapped(folder: Path, shapes: Shapes) -> Mapping[str, FloatArray]:
    """Arrays in files without a name, whose room is given back with the arrays.

    It is taken beforehand: whoever writes to a map on a full disk dies of a signal.
    """
    needed = in_words(4 * sum(map(math.prod, shapes.values())))
    with write_errors(folder, f"It takes {needed}: free some space, or set load_dataset.map_dir to another place."):
        folder.mkdir(parents=True, exist_ok=True)
        return {name: _map_array(folder, shape) for name, shape in shapes.items()}


def _map_array(folder: Path, shape: tuple[int, ...]) -> FloatArray:
    """An array in a file; batches are drawn from all over it, so that reading ahead would be in vain."""
    with TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        pages: Any = mmap.mmap(file.fileno(), 0)
    if hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(pages, np.float32).reshape(shape)
