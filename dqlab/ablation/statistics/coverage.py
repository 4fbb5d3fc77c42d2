"""How often a 95% interval over few seeds held the true value, in simulated grids."""

from __future__ import annotations

COVERED = 92  # per cent: an interval of 95% that does so is taken as one

COVERAGE: dict[tuple[int, int], tuple[int, int]] = {
    (1, 2): (47, 51),
    (1, 3): (70, 76),
    (1, 5): (77, 91),
    (1, 10): (85, 93),
    (1, 20): (90, 95),
    (3, 2): (65, 73),
    (3, 3): (74, 84),
    (3, 5): (80, 90),
    (3, 10): (87, 93),
    (3, 20): (92, 94),
    (9, 2): (75, 79),
    (9, 3): (85, 87),
    (9, 5): (90, 93),
    (9, 10): (92, 93),
    (9, 20): (93, 95),
}
"""(tasks, seeds) -> per cent of grids, from the worst to the best of two metrics (IQM, mean) and two distributions of
scores (normal, skewed). From benchmarks/interval_coverage.py; docs/statistics.md has the whole table."""


def simulated(tasks: int, seeds: int) -> tuple[int, int] | None:
    """Tasks and seeds of the largest simulated grid that is not larger than this one; None below all of them."""
    smaller = [grid for grid in COVERAGE if grid[0] <= tasks and grid[1] <= seeds]
    return max(smaller, default=None)
