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
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from dqlab.data.formats.base import Columns, reading_error
from dqlab.data.rows import (
    LargeFields,
    OnDisk,
    Rows,
    SmallFields,
    TransitionArrays,
    TransitionView,
    in_memory,
    outline_of,
    shapes_of,
    write_fields,
)
from dqlab.errors import ConfigError, DataError, nearest_of_few
from dqlab.machine import available_disk, available_memory, in_words

LAYOUT = 2
FACTS = "facts.json"
ELSEWHERE = "Free some space, or set load_dataset.map_dir to another place."


def map_name(stem: str, digest: str, view: TransitionView) -> str:
    """The name of the folder for one view of one dataset, known by its digest."""
    key = [LAYOUT, sys.byteorder, digest, view.episode_limit, view.standardised, view.floor, astuple(view.actions)]
    return f"{stem}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"


def mapped(columns: Columns, view: TransitionView, folder: Path) -> TransitionArrays:
    """The transitions, mapped from a folder that is written first where there is none.

    Raises:
        DataError: the dataset is damaged or has no transition; the folder cannot be written, or is damaged.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent):
            if not folder.exists():
                _write_folder(columns, view, folder)
        return _opened(folder)
    except OSError as error:
        raise DataError(f"Cannot write {folder}: {error.strerror or error}. {ELSEWHERE}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time maps into a folder; the others wait, and find what it wrote."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_folder(columns: Columns, view: TransitionView, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    outline = outline_of(columns, view.episode_limit)
    shapes = shapes_of(columns, outline.transitions)
    _check_disk(folder, 4 * sum(int(np.prod(shape)) for shape in shapes.values()))
    temporary.mkdir()
    try:
        _write_files(columns, outline, view, temporary, shapes)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_disk(folder: Path, needed: int) -> None:
    free = available_disk(folder)
    if needed > free:
        raise DataError(
            f"Cannot map into {folder}: it takes {in_words(needed)}, {in_words(free)} are free. {ELSEWHERE}"
        )


def _write_files(
    columns: Columns, outline: SmallFields, view: TransitionView, folder: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    stores = {name: OnDisk(shape, folder / f"{name}.f32") for name, shape in shapes.items()}
    try:
        mean, std = write_fields(columns, outline, view, LargeFields(**stores))
        for store in stores.values():
            store.close()
    finally:
        for store in stores.values():
            store.drop()
    facts = {"rows": len(columns), "shapes": shapes, "state_mean": mean, "state_std": std}
    _put(folder / "rewards.f32", outline.rewards)
    _put(folder / "returns.f64", outline.returns)
    _put(folder / FACTS, json.dumps(facts).encode())


def _put(path: Path, data: Any) -> None:
    """A small file, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(memoryview(data).cast("B"))
        file.flush()
        os.fsync(file.fileno())


def _opened(folder: Path) -> TransitionArrays:
    try:
        facts = json.loads((folder / FACTS).read_text())
        arrays: dict[str, Any] = {
            name: _map(folder / f"{name}.f32", tuple(shape)) for name, shape in facts["shapes"].items()
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


def _map(path: Path, shape: tuple[int, ...]) -> Rows:
    """A read-only array; batches are drawn from all over it, so that reading ahead would be in vain."""
    with path.open("rb") as file:
        pages: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(pages, np.float32).reshape(shape)


USABLE = 0.8
"""Share of the free memory that is counted on."""
SMALL = 32
"""Bytes a row that are in memory at some time whatever is mapped: flags, rewards, their sums."""
WHEN_TO_MAP: dict[str, Callable[[int, int], bool]] = {
    "auto": lambda needed, usable: needed > usable,
    "always": lambda needed, usable: True,
    "never": lambda needed, usable: False,
}
"""Whether transitions are mapped, by the bytes that they take and those that are to be had in memory."""


def check_choice(memory_map: str) -> None:
    """See that there is such a choice.

    Raises:
        ConfigError: there is not; the message names those there are.
    """
    if memory_map not in WHEN_TO_MAP:
        known = nearest_of_few(str(memory_map), WHEN_TO_MAP)
        raise ConfigError(f"load_dataset.memory_map cannot be {memory_map!r}. {known}")


def load_or_map(columns: Columns, view: TransitionView, memory_map: str, folder: Path) -> TransitionArrays:
    """The transitions, in memory or mapped from a folder.

    Args:
        columns: the dataset.
        view: of it.
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
    return mapped(columns, view, folder) if maps else in_memory(columns, view)


def _large_bytes(columns: Columns) -> int:
    """Bytes of the large fields, if every row becomes a transition."""
    widths = (shape[1:] or (1,) for shape in shapes_of(columns, len(columns)).values())
    return 4 * len(columns) * sum(width for (width,) in widths)
