"""Intervals by rliable's stratified bootstrap, for many settings at once.

rliable resamples one matrix of scores at a time. Here it resamples the places of a matrix instead, and what lies at
these places is looked up in all matrices of that shape together. Every matrix gets the interval that rliable gives
to it alone, from the same draws; the loop over repetitions runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
Key = TypeVar("Key")
SEED = 0
LARGEST = 2**23  # numbers kept at a time: 64 MiB


@dataclass(frozen=True)
class Interval:
    """A statistic's values, and their bounds, each of the same shape; no bounds where there is one run only."""

    point: Array
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap over runs, stratified by task.

    Attributes:
        reps: repetitions.
        confidence: of the intervals.
    """

    reps: int
    confidence: float

    def of_each(self, scores: Mapping[Key, Array], statistic: Statistic) -> dict[Key, Interval]:
        """Intervals of a statistic of each item's scores.

        Args:
            scores: key -> (runs, tasks, ...); runs are resampled for every task by itself, what lies behind
                these two axes goes with its run.
            statistic: (runs, tasks, ..., columns) -> (..., columns), column by column.
        """
        return self._grouped(scores, statistic, self._resampled)

    def of_pairs(self, wins: Mapping[Key, Array]) -> dict[Key, Interval]:
        """Intervals of the mean of (runs of one, runs of the other, tasks), both sides' runs resampled independently.

        Source: rliable's bootstrap of the probability of improvement (StratifiedIndependentBootstrap).
        """
        return self._grouped(wins, lambda stack: stack.mean(axis=(0, 1, 2)), self._resampled_pairs)

    def _grouped(
        self, items: Mapping[Key, Array], statistic: Statistic, resampled: Callable[[Array, Statistic], Interval]
    ) -> dict[Key, Interval]:
        found: dict[Key, Interval] = {}
        for shape in dict.fromkeys(item.shape for item in items.values()):
            keys = [key for key, item in items.items() if item.shape == shape]
            for some in _portions(keys, max(1, LARGEST // (self.reps * _values(shape, statistic)))):
                interval = resampled(np.stack([items[key] for key in some], axis=-1), statistic)
                found |= {key: _column(interval, place) for place, key in enumerate(some)}
        return {key: found[key] for key in items}

    def _resampled(self, stack: Array, statistic: Statistic) -> Interval:
        runs, tasks = stack.shape[:2]
        if runs < 2:
            return Interval(statistic(stack))
        rows = stack.reshape(runs * tasks, *stack.shape[2:])
        return self._interval(_places(runs, tasks), lambda places: statistic(rows[places]))

    def _resampled_pairs(self, stack: Array, statistic: Statistic) -> Interval:
        ours, others, tasks, _ = stack.shape
        if min(ours, others) < 2:
            return Interval(statistic(stack))
        rows = stack.reshape(ours * others * tasks, -1)

        def mean(first: NDArray[Any], second: NDArray[Any]) -> Array:
            places = (first // tasks)[:, None] * others * tasks + second[None]
            weights = np.bincount(places.ravel(), minlength=len(rows)) / places.size
            result: Array = weights @ rows
            return result

        return self._interval([_places(ours, tasks), _places(others, tasks)], mean)

    def _interval(self, places: Any, function: Callable[..., Array]) -> Interval:
        from rliable.library import get_interval_estimates

        shape = function(*places).shape if isinstance(places, list) else function(places).shape
        with numpys_generator(SEED):
            points, bounds = get_interval_estimates(
                {"all": places},
                lambda *drawn: function(*drawn).ravel(),
                reps=self.reps,
                confidence_interval_size=self.confidence,
            )
        return Interval(points["all"].reshape(shape), *bounds["all"].reshape(2, *shape))


@contextmanager
def numpys_generator(seed: int) -> Iterator[None]:
    """numpy's global generator, which rliable draws from, seeded; afterwards it is as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def _places(runs: int, tasks: int) -> NDArray[Any]:
    return np.arange(runs * tasks).reshape(runs, tasks)


def _values(shape: tuple[int, ...], statistic: Statistic) -> int:
    """How many values a statistic has for one item."""
    return statistic(np.zeros((*shape, 1))).size


def _portions(keys: list[Key], size: int) -> Iterator[list[Key]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _column(interval: Interval, place: int) -> Interval:
    bounds = (None if bound is None else bound[..., place] for bound in (interval.low, interval.high))
    return Interval(interval.point[..., place], *bounds)


TRIMMED = 0.25
FULL_SCORE = 100.0


def mean_score(scores: Array) -> Array:
    """The mean over runs and tasks."""
    result: Array = scores.mean(axis=(0, 1))
    return result


def interquartile_mean(scores: Array) -> Array:
    """The interquartile mean: of the middle half of all runs on all tasks together."""
    runs = np.sort(scores.reshape(-1, *scores.shape[2:]), axis=0)
    cut = int(TRIMMED * len(runs))
    result: Array = runs[cut : len(runs) - cut].mean(axis=0)
    return result


def median_score(scores: Array) -> Array:
    """The median over tasks of the mean over runs."""
    result: Array = np.median(scores.mean(axis=0), axis=0)
    return result


def optimality_gap(scores: Array) -> Array:
    """By how much scores/100 stay below 1 on average; what is above 1 counts as 1."""
    return 1.0 - mean_score(np.minimum(scores / FULL_SCORE, 1.0))
