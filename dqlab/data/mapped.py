"""Transitions that do not fit into memory: written once as flat files, then mapped.

A folder holds `state.f32`, `action.f32`, `next_state.f32`, `terminal.f32`, `rewards.f32` (as recorded), `returns.f64`
and `facts.json`; it appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dqlab.data.arrays import (
    AT_ONCE,
    FloatArray,
    Shapes,
    Store,
    TransitionArrays,
    TransitionOptions,
    in_memory,
    shapes_of,
    write_transitions,
)
from dqlab.data.formats.base import Columns
from dqlab.data.formats.errors import reading_error, write_errors
from dqlab.errors import ConfigError, DataError, nearest_of_few
from dqlab.machine import available_disk, available_memory, in_words

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


def _large_bytes(columns: Columns) -> int:
    """Bytes of the large fields, if every row becomes a transition."""
    widths = (shape[1:] or (1,) for shape in shapes_of(columns, len(columns)).values())
    return 4 * len(columns) * sum(width for (width,) in widths)


LAYOUT = 2
FACTS = "facts.json"
MAP_ADVICE = "Free some space, or set load_dataset.map_dir to another place."


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
    with write_errors(folder, MAP_ADVICE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent):
            if not folder.exists():
                _write_folder(columns, options, folder)
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
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        _write_files(columns, options, temporary, folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_disk(folder: Path, needed: int) -> None:
    free = available_disk(folder)
    if needed > free:
        raise DataError(
            f"Cannot map into {folder}: it takes {in_words(needed)}, {in_words(free)} are free. {MAP_ADVICE}"
        )


def _write_files(columns: Columns, options: TransitionOptions, folder: Path, target: Path) -> None:
    """Write the files of `target` into a folder that takes its place later."""
    stores: dict[str, OnDisk] = {}

    def make_stores(shapes: Shapes) -> Mapping[str, OnDisk]:
        _check_disk(target, 4 * sum(int(np.prod(shape)) for shape in shapes.values()))
        folder.mkdir()
        stores.update({name: OnDisk(shape, folder / f"{name}.f32") for name, shape in shapes.items()})
        return stores

    try:
        small = write_transitions(columns, options, make_stores)
        for store in stores.values():
            store.close()
    finally:
        for store in stores.values():
            store.drop()
    facts = {"rows": small["rows"], "shapes": {name: store.shape for name, store in stores.items()}}
    facts |= {name: small[name] for name in ("state_mean", "state_std")}
    _write_synced(folder / "rewards.f32", small["rewards"])
    _write_synced(folder / "returns.f64", small["returns"])
    _write_synced(folder / FACTS, json.dumps(facts).encode())


def _write_synced(path: Path, data: Any) -> None:
    """A small file, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(memoryview(data).cast("B"))
        file.flush()
        os.fsync(file.fileno())


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


class OnDisk(Store):
    """A field as a flat file, in the machine's byte order.

    It is written with `write`, not through a map: on a full disk a map's writer dies of a signal.
    """

    def __init__(self, shape: tuple[int, ...], path: Path) -> None:
        super().__init__(shape)
        self.path = path
        self._file: BinaryIO = path.open("w+b")

    def append(self, rows: FloatArray) -> None:
        self._file.write(_bytes(rows))

    def blocks(self) -> Iterator[FloatArray]:
        for start in range(0, self.shape[0], AT_ONCE):
            yield self._block(start)

    def rewrite(self, change: Callable[[FloatArray], FloatArray]) -> None:
        for start in range(0, self.shape[0], AT_ONCE):
            block = np.ascontiguousarray(change(self._block(start)), dtype=np.float32)
            self._file.seek(start * self._row_bytes)
            self._file.write(_bytes(block))

    def close(self) -> None:
        """Flush the file to the disk and close it."""
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

    def _block(self, start: int) -> FloatArray:
        count = min(AT_ONCE, self.shape[0] - start)
        block: FloatArray = np.empty((count, *self.shape[1:]), dtype=np.float32)
        self._file.seek(start * self._row_bytes)
        self._file.readinto(_bytes(block))  # type: ignore[attr-defined]
        return block


def _bytes(rows: FloatArray) -> Any:
    flat: Any = np.ascontiguousarray(rows)
    return memoryview(flat).cast("B")
