"""Actions between [-1, 1] and an environment's own bounds; a dimension whose bounds are equal has one action only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def from_unit(actions: Array, low: Array, high: Array) -> Array:
    """Actions (..., A) in [-1, 1] as what they stand for in [low, high], in float64."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return np.asarray(actions * (0.5 * (high - low)) + 0.5 * (high + low))


def to_unit(actions: Array, low: Array, high: Array) -> Array:
    """Actions (..., A) in [low, high] as numbers in [-1, 1], in float64; 0 where both bounds are the same."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    span = high - low
    return np.asarray(np.where(span > 0, 2.0 * (actions - low) / np.where(span > 0, span, 1.0) - 1.0, 0.0))
