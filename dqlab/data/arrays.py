"""The transitions of a dataset as arrays, in memory, or written once as flat files and mapped from there.

Such a folder holds `state.f32`, `action.f32`, `next_state.f32`, `terminal.f32`, `rewards.f32` (as recorded),
`returns.f64` and `facts.json`; it appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.bounds import AS_IS, ActionRule, action_blocks
from dqlab.data.formats.base import Columns, boolean_column, float_blocks, float_column
from dqlab.data.formats.reading import reading_error, write_errors
from dqlab.data.rows import Flags, cuts_of, episode_returns, transition_rows
from dqlab.errors import ConfigError, DataError, nearest_of_few
from dqlab.files import new_folder
from dqlab.machine import available_memory, in_words

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


def load_or_map(columns: Columns, options: TransitionOptions, memory_map: str, folder: Path) -> TransitionArrays:
    """The transitions, in memory or mapped from a folder.

    Args:
        columns: the dataset.
        options: which of its transitions.
        memory_map: when to map.
        folder: where it is mapped from; written where it is not there yet.

    Raises:
        DataError: the dataset is damaged, has no transition, or there is no room for it.
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
    return map_transitions(columns, options, folder) if maps else in_memory(columns, options)


def in_memory(columns: Columns, options: TransitionOptions) -> TransitionArrays:
    """The transitions as arrays in memory.

    Raises:
        DataError: the dataset is damaged, or has no transition.
    """
    return _read_transitions(
        columns, options, lambda shapes: {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    )


def _read_transitions(
    columns: Columns, options: TransitionOptions, allocate: Callable[[Shapes], Mapping[str, FloatArray]]
) -> TransitionArrays:
    """Read all transitions into arrays that `allocate` gives for the large fields."""
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
    fields: Mapping[str, Any] = allocate(_shapes(columns, len(rewards)))
    _read_states(columns, keep, fields)
    for start, block in action_blocks(columns, options.actions):
        _put_rows(fields["action"], start, block, keep)
    fields["terminal"][:] = terminals[keep]
    mean, std = _standardise(fields["state"], fields["next_state"], options.floor) if options.standardised else ((), ())
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


def _standardise(state: FloatArray, following: FloatArray, floor: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, deviation = moments(state)
    shift, scale = mean.astype(np.float32), (deviation + floor).astype(np.float32)
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


LAYOUT = 2
FACTS = "facts.json"


def map_folder_name(stem: str, digest: str, options: TransitionOptions) -> str:
    """The name of the folder for some transitions of one dataset, known by its digest."""
    key = [
        LAYOUT,
        sys.byteorder,
        digest,
        options.episode_limit,
        options.standardised,
        options.floor,
        astuple(options.actions),
    ]
    return f"{stem}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"


def map_transitions(columns: Columns, options: TransitionOptions, folder: Path) -> TransitionArrays:
    """The transitions, mapped from a folder that is written first where there is none.

    Raises:
        DataError: the dataset is damaged or has no transition; the folder cannot be written, or is damaged.
    """
    needed = in_words(_large_bytes(columns))
    with write_errors(folder, f"It takes {needed}: free some space, or set load_dataset.map_dir to another place."):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent):
            if not folder.exists():
                with new_folder(folder, lambda old: False) as temporary:
                    _write_folder(columns, options, temporary)
        return _open_folder(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time maps into a folder; the others wait, and find what it wrote."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_folder(columns: Columns, options: TransitionOptions, folder: Path) -> None:
    read = _read_transitions(columns, options, partial(_allocate_files, folder))
    shapes = {}
    for name in _shapes(columns, 0):
        field = getattr(read, name)
        field.flush()
        shapes[name] = field.shape
    read.rewards.tofile(folder / "rewards.f32")
    read.returns.tofile(folder / "returns.f64")
    facts = {"rows": read.rows, "shapes": shapes, "state_mean": read.state_mean, "state_std": read.state_std}
    (folder / FACTS).write_text(json.dumps(facts))


def _allocate_files(folder: Path, shapes: Shapes) -> dict[str, FloatArray]:
    """Files as arrays, their room taken beforehand: whoever writes to a map on a full disk dies of a signal."""
    arrays: dict[str, FloatArray] = {}
    for name, shape in shapes.items():
        path = folder / f"{name}.f32"
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        arrays[name] = np.memmap(path, np.float32, "r+", shape=shape)
    return arrays


def _open_folder(folder: Path) -> TransitionArrays:
    try:
        facts = json.loads((folder / FACTS).read_text())
        arrays: dict[str, Any] = {
            name: _map_array(folder / f"{name}.f32", tuple(shape)) for name, shape in facts["shapes"].items()
        }
        rewards = np.fromfile(folder / "rewards.f32", np.float32)
        returns = np.fromfile(folder / "returns.f64", np.float64)
        by: dict[str, Any] = {name: tuple(facts[name]) for name in ("state_mean", "state_std")}
        if not len(rewards) == len(arrays["terminal"]) == len(arrays["state"]):
            raise ValueError("its files are not of one length")
        if not len(returns):
            raise ValueError("returns.f64 is empty")
        return TransitionArrays(
            **arrays, rewards=rewards, returns=returns, rows=int(facts["rows"]), **by, folder=folder
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise reading_error(str(folder), "is damaged", error, "Delete it; it is written again.") from error


def _map_array(path: Path, shape: tuple[int, ...]) -> FloatArray:
    """A read-only array; batches are drawn from all over it, so that reading ahead would be in vain."""
    with path.open("rb") as file:
        pages: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(pages, np.float32).reshape(shape)
