"""Our figures are rliable's, to the last bits: same points, same intervals from the same draws."""

from __future__ import annotations

import numpy as np
import pytest
from made_grids import made_grid
from rliable import library, metrics

from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import analyse
from dqlab.analysis.statistics.analysis import Analysis, Band, Estimate
from dqlab.analysis.statistics.bootstrap import SEED, Bootstrap, numpys_generator
from dqlab.analysis.statistics.comparisons import win_matrix

REPS = 150
PUBLISHED = {  # Diffusion-QL's Table 1, gym tasks: mean scores of five seeds
    "BC": (42.6, 52.9, 75.3, 36.6, 18.1, 26.0, 55.2, 52.5, 107.5),
    "IQL": (47.4, 66.3, 78.3, 44.2, 94.7, 73.9, 86.7, 91.5, 109.6),
    "Diffusion-QL": (51.1, 90.5, 87.0, 47.8, 101.3, 95.5, 96.8, 111.1, 110.1),
}
TASKS = tuple(f"task-{place}" for place in range(9))
OFFSETS = (-4.5, 2.0, 0.0, 3.5, -1.0)  # sum to 0
LABELS = {name: f"N={name}" for name in PUBLISHED}


def score(value: object, task: str, seed: int) -> float:
    place = TASKS.index(task)
    return PUBLISHED[str(value)][place] + OFFSETS[(seed + place) % 5] * (1 + place % 3)


def matrix(name: str) -> np.ndarray:
    return np.array([[score(name, task, seed) for task in TASKS] for seed in range(5)])


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(made_grid(tuple(PUBLISHED), TASKS, 5, score), Report(reps=REPS))


def equals(ours: Estimate, point: float, bounds: np.ndarray) -> None:
    assert (ours.point, ours.low, ours.high) == pytest.approx((point, *bounds), rel=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_aggregates(analysis: Analysis, name: str) -> None:
    def func(scores: np.ndarray) -> np.ndarray:
        gap = metrics.aggregate_optimality_gap(scores / 100)
        return np.array(
            [metrics.aggregate_iqm(scores), metrics.aggregate_mean(scores), metrics.aggregate_median(scores), gap]
        )

    with numpys_generator(SEED):
        points, bounds = library.get_interval_estimates({name: matrix(name)}, func, reps=REPS)
    ours = analysis.rules["last"].aggregates[LABELS[name]]
    for place, figure in enumerate((ours.iqm, ours.mean, ours.median, ours.optimality_gap)):
        equals(figure, points[name][place], bounds[name][:, place])


def test_means_are_the_published_ones(analysis: Analysis) -> None:
    rows = {(row.label, row.task): row for row in analysis.rules["last"].per_task}
    for name, scores in PUBLISHED.items():
        for task, published in zip(TASKS, scores, strict=True):
            row = rows[LABELS[name], task]
            assert row.mean is not None
            assert row.mean.point == pytest.approx(published)
    assert analysis.rules["last"].aggregates["N=Diffusion-QL"].mean.point == pytest.approx(791.2 / 9)


def test_probability_of_improvement(analysis: Analysis) -> None:
    both = [matrix("Diffusion-QL"), matrix("IQL")]
    with numpys_generator(SEED):
        points, bounds = library.get_interval_estimates(
            {"it": both}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=REPS
        )
    equals(analysis.rules["last"].comparisons.rows["N=Diffusion-QL"].probability, points["it"][0], bounds["it"][:, 0])


def test_probability_of_improvement_with_ties_and_other_numbers_of_runs() -> None:
    rng = np.random.default_rng(0)
    for runs in ((5, 5), (3, 7)):
        ours, others = (rng.integers(0, 4, (count, 3)).astype(float) for count in runs)
        expected = metrics.probability_of_improvement(ours, others)
        found = Bootstrap(100, 0.95).of_pairs({"it": win_matrix(ours, others)})["it"]
        assert found.point == pytest.approx(expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_profiles(analysis: Analysis, name: str) -> None:
    profiles = analysis.rules["last"].profiles
    with numpys_generator(SEED):
        shares, bounds = library.create_performance_profile(
            {name: matrix(name)}, np.array(profiles.thresholds), reps=REPS
        )
    band: Band = profiles.shares[LABELS[name]]
    assert band.point == pytest.approx(shares[name])
    assert np.array([band.low, band.high]) == pytest.approx(bounds[name])


def test_confidence_is_passed_on() -> None:
    narrow, wide = (
        Bootstrap(REPS, confidence).of_each({"it": matrix("BC")}, lambda drawn: drawn.mean(axis=(0, 1)))["it"]
        for confidence in (0.5, 0.99)
    )
    with numpys_generator(SEED):
        _, bounds = library.get_interval_estimates(
            {"it": matrix("BC")}, lambda x: np.array([x.mean()]), reps=REPS, confidence_interval_size=0.99
        )
    assert (wide.low, wide.high) == pytest.approx(tuple(bounds["it"][:, 0]))
    assert wide.low < narrow.low < narrow.high < wide.high
