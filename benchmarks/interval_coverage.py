"""How often a 95% interval over few seeds holds the true value: `python benchmarks/interval_coverage.py` prints the
table of docs/statistics.md.

Grids are drawn from known distributions of scores; every one gets its intervals as a report does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from dqlab.analysis.resampling import Bootstrap, interquartile_mean, mean_score

Array = NDArray[np.float64]
SEEDS, TASKS = (2, 3, 5, 10, 20), (1, 3, 9)
RUNS_FOR_TRUTH = 1_000_000


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Deviation 5 points."""
    return 5.0 * rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Most runs near the best score, few far below: exponential, deviation 10 points, skewness -2."""
    return 10.0 - 10.0 * rng.exponential(size=shape)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {"normal": normal, "skewed": skewed}


def scores(name: str, shape: tuple[int, int, int], rng: np.random.Generator) -> Array:
    """(seeds, tasks, grids); the tasks' levels lie evenly between 40 and 110 points, a single one's at 75."""
    tasks = shape[1]
    levels = np.linspace(40.0, 110.0, tasks) if tasks > 1 else np.array([75.0])
    return levels[:, None] + DISTRIBUTIONS[name](rng, shape)


def both(drawn: Array) -> Array:
    """IQM and mean."""
    return np.stack([interquartile_mean(drawn), mean_score(drawn)])


def coverage(name: str, seeds: int, tasks: int, grids: int, reps: int) -> Array:
    """The shares of grids whose intervals of IQM and mean hold the true value."""
    rng = np.random.default_rng([seeds, tasks])
    truth = both(scores(name, (RUNS_FOR_TRUTH // tasks, tasks, 1), rng))[:, 0]
    drawn = scores(name, (seeds, tasks, grids), rng)
    intervals = Bootstrap(reps, 0.95).of_each({grid: drawn[..., grid] for grid in range(grids)}, both)
    held = [(low <= truth) & (truth <= high) for _, low, high in intervals.values()]
    return np.mean(held, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grids", type=int, default=2000)
    parser.add_argument("--reps", type=int, default=2000)
    options = parser.parse_args()
    print("| tasks | seeds | " + " | ".join(f"{name}: IQM | {name}: mean" for name in DISTRIBUTIONS) + " |")
    print("|---|---|" + "---|---|" * len(DISTRIBUTIONS))
    for tasks, seeds in product(TASKS, SEEDS):
        shares = [
            share for name in DISTRIBUTIONS for share in coverage(name, seeds, tasks, options.grids, options.reps)
        ]
        print(f"| {tasks} | {seeds} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
