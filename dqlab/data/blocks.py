"""Columns read block by block: values checked and converted as they pass, never a whole column twice in memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqlab.data.formats.base import Column
from dqlab.errors import DataError

BLOCK = 4 << 20


def block_rows(column: Column) -> int:
    """Rows that are read at once: about 4 MiB of them, and whole chunks where the column is stored in chunks."""
    width = max(1, prod(column.shape[1:]) * int(column.dtype.itemsize))
    rows = max(1, BLOCK // width)
    chunks = getattr(column, "chunks", None)
    at_once = int(chunks[0]) if chunks else 1
    return max(1, rows // at_once) * at_once


def raw_blocks(column: Column) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row and values of one block after the other."""
    step, rows = block_rows(column), column.shape[0]
    for start in range(0, rows, step):
        yield start, column[start : min(start + step, rows)]


def float_blocks(where: str, name: str, column: Column) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The same as float32, all values finite.

    Args:
        where: what messages call the dataset.
        name: of the column.
        column: of real numbers.

    Raises:
        DataError: a value is NaN, infinite or too large for float32; the message names its row.
    """
    for start, block in raw_blocks(column):
        with np.errstate(over="ignore"):
            values = block.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            _raise_not_finite(where, name, start, values)
        yield start, values


def flag_blocks(where: str, name: str, column: Column) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """The same as booleans: whether a number is other than 0.

    Raises:
        DataError: a value is NaN or infinite; the message names its row.
    """
    for start, block in raw_blocks(column):
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            _raise_not_finite(where, name, start, block)
        yield start, block.astype(bool, copy=False)


def floats(where: str, name: str, column: Column) -> NDArray[np.float32]:
    """A whole column as float32, checked likewise."""
    values = np.empty(column.shape, dtype=np.float32)
    for start, block in float_blocks(where, name, column):
        values[start : start + len(block)] = block
    return values


def flags(where: str, name: str, column: Column) -> NDArray[np.bool_]:
    """A whole column as booleans, checked likewise."""
    values = np.empty(column.shape, dtype=bool)
    for start, block in flag_blocks(where, name, column):
        values[start : start + len(block)] = block
    return values


def _raise_not_finite(where: str, name: str, start: int, block: NDArray[Any]) -> None:
    bad = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
    row = start + int(np.argmax(bad))
    raise DataError(f"{where}: '{name}' has a NaN or infinite value in row {row}. Repair or drop such rows.")
