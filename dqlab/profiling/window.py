"""Which updates of a run are timed, and which are recorded.

A log or an evaluation between two updates would be in the trace, and in the time: a window never goes over one.
"""

from __future__ import annotations

from collections.abc import Callable

from dqlab.noise import CHUNK

WARM_UP = 20
"""Updates before anything is measured, in which libraries and allocators settle."""
MOST = 50
"""Updates measured."""
LONGEST = 1.5
"""Seconds that the recorded updates may take without the profiler: what bounds the trace's size."""

NextStop = Callable[[int], int]
"""From a step to the next one at which something is logged or evaluated."""


def timed_window(step: int, steps: int, next_stop: NextStop) -> range:
    """The steps that are timed without the profiler: 50 after the warm-up of 20, fewer in a short run.

    Args:
        step: updates done.
        steps: updates in all.
        next_stop: see `NextStop`.

    Returns:
        Empty where fewer than three updates are left: one each to warm up, to time, and to record.
    """
    left = steps - step
    warm_up = min(WARM_UP, left // 3)
    count = min(MOST, left // 3)
    return _undisturbed(step + warm_up, step + warm_up + count, next_stop)


def recorded_window(step: int, steps: int, seconds: float, next_stop: NextStop) -> range:
    """The steps that are recorded: 50 around the next drawing of noise, fewer if they are slow or the run is short.

    Args:
        step, steps, next_stop: as for `timed_window`.
        seconds: of an update.
    """
    count = max(1, min(MOST, steps - step, int(LONGEST / seconds)))
    drawing = _next_drawing(step)
    first = min(max(step, drawing - count // 2), steps - count)
    return _undisturbed(first, first + count, next_stop)


def draws_noise(window: range) -> bool:
    """Whether the noise of the next 100 steps is drawn in a window."""
    return _next_drawing(window.start) in window


def _next_drawing(step: int) -> int:
    return -(-step // CHUNK) * CHUNK


def _undisturbed(first: int, last: int, next_stop: NextStop) -> range:
    """The longest part of the steps from `first` to before `last` without a stop inside; where the noise is drawn."""
    parts = [range(first, first)]
    while first < last:
        stop = min(next_stop(first), last)
        parts.append(range(first, stop))
        first = stop
    return max(parts, key=lambda part: (len(part), draws_noise(part), part.start))
