"""Our figures are rliable's, to the last bits: same points, same intervals from the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_grids import made_grid
from rliable import library, metrics

from dqlab.analysis.resampling import SEED, Bootstrap, numpys_generator
from dqlab.analysis.settings import Report
from dqlab.analysis.statistics import BOUNDS, METRICS, Analysis, analyse, win_matrix

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


def equals(ours: Any, point: float, bounds: np.ndarray) -> None:
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
    for place, metric in enumerate(METRICS):
        ours = analysis.figure("last", metric).loc[LABELS[name]]
        equals(ours, points[name][place], bounds[name][:, place])


def test_means_are_the_published_ones(analysis: Analysis) -> None:
    for name, scores in PUBLISHED.items():
        for task, published in zip(TASKS, scores, strict=True):
            assert analysis.figure("last", "mean", task).point[LABELS[name]] == pytest.approx(published)
    assert analysis.figure("last", "mean").point["N=Diffusion-QL"] == pytest.approx(791.2 / 9)


def test_probability_of_improvement(analysis: Analysis) -> None:
    both = [matrix("Diffusion-QL"), matrix("IQL")]
    with numpys_generator(SEED):
        points, bounds = library.get_interval_estimates(
            {"it": both}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=REPS
        )
    equals(analysis.figure("last", "probability").loc["N=Diffusion-QL"], points["it"][0], bounds["it"][:, 0])


def test_probability_of_improvement_with_ties_and_other_numbers_of_runs() -> None:
    rng = np.random.default_rng(0)
    for runs in ((5, 5), (3, 7)):
        ours, others = (rng.integers(0, 4, (count, 3)).astype(float) for count in runs)
        expected = metrics.probability_of_improvement(ours, others)
        found = Bootstrap(100, 0.95).of_pairs({"it": win_matrix(ours, others)})["it"]
        assert found[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_profiles(analysis: Analysis, name: str) -> None:
    profiles = analysis.profiles[(analysis.profiles.rule == "last") & (analysis.profiles.setting == LABELS[name])]
    with numpys_generator(SEED):
        shares, bounds = library.create_performance_profile(
            {name: matrix(name)}, profiles.threshold.to_numpy(), reps=REPS
        )
    assert pytest.approx(np.stack([shares[name], *bounds[name]])) == profiles[BOUNDS].to_numpy().T


def test_confidence_is_passed_on() -> None:
    narrow, wide = (
        Bootstrap(REPS, confidence).of_each({"it": matrix("BC")}, lambda drawn: drawn.mean(axis=(0, 1)))["it"]
        for confidence in (0.5, 0.99)
    )
    with numpys_generator(SEED):
        _, bounds = library.get_interval_estimates(
            {"it": matrix("BC")}, lambda x: np.array([x.mean()]), reps=REPS, confidence_interval_size=0.99
        )
    assert wide[1:] == pytest.approx(bounds["it"][:, 0])
    assert wide[1] < narrow[1] < narrow[2] < wide[2]
