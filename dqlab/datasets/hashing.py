"""Rows that occur more than once, found in 8 bytes a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ODD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, 6.4)."""


def row_hashes(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash (n,) of each row of several columns (n, ...), taken as float32, as training sees them.

    Multiplicative hashing, word by word, each step one to one: rows that differ in one word have different hashes, and
    of n different rows about n^2 / 2^65 pairs share one.
    """
    with np.errstate(over="ignore"):
        tables = [column.reshape(len(column), -1).astype(np.float32) + np.float32(0) for column in columns]  # -0 is 0
    words = np.ascontiguousarray(np.concatenate(tables, axis=1).view(np.uint32).T)
    hashes = np.full(words.shape[1], ODD)
    for word in words:
        hashes ^= word
        hashes *= ODD
        hashes ^= hashes >> np.uint64(32)
    return hashes


def repeats(hashes: NDArray[np.uint64]) -> int:
    """How many rows are a repetition of an earlier one."""
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
