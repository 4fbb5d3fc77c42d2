"""Times on a device."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from measuring import Call, Stopwatch
from subjects import synchronizer

ROUNDS = 5


def watch(device: str) -> Stopwatch:
    """A stopwatch that waits for the device."""
    return Stopwatch(synchronizer(device))


def median_seconds(call: Call, device: str) -> float:
    """Median seconds of a call over five rounds, warmed up."""
    stopwatch = watch(device)
    calls = stopwatch.calls_a_round(call)
    return statistics.median(stopwatch.seconds(call, calls) for _ in range(ROUNDS))


def alternating(calls: dict[str, tuple[Call, int]], device: str) -> dict[str, float]:
    """Median seconds of each call, in rounds in which they take turns; each is done as often in a row as is said."""
    stopwatch = watch(device)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, (call, repeats) in calls.items():
            found[name].append(stopwatch.seconds(call, repeats))
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def timed(make: Callable[[], object], device: str) -> tuple[object, float]:
    """What `make` makes, and the seconds that it takes."""
    made: list[object] = []
    seconds = watch(device).seconds(lambda: made.append(make()))
    return made[0], seconds
