"""An environment's actions: between [-1, 1] and its own bounds, and made to fit its Box.

A dimension whose bounds are equal has one action only. Light: readers of datasets rescale actions without Gymnasium.
"""

from __future__ import annotations

from collections.abc import Callable
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


def fit_action(low: Array, high: Array, dtype: Any = None) -> Callable[[Any], Array]:
    """What makes an action (A,) one of a Box: clipped into its bounds and, if a dtype is given, of that dtype."""
    if dtype is None:
        return lambda action: np.minimum(np.maximum(action, low), high)
    if np.issubdtype(dtype, np.integer):
        return lambda action: np.rint(np.minimum(np.maximum(action, low), high)).astype(dtype)
    return lambda action: np.minimum(np.maximum(action, low), high).astype(dtype)
