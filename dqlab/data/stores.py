"""Where the fields of transitions are put, block after block: into memory, or into flat files that are then mapped."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

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
