"""Figures, intervals, tests and corrections: by hand, by simulation, and held to rliable's to the last bits."""

from __future__ import annotations

import importlib.util
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from made_grids import made_grid
from rliable import library, metrics
from statsmodels.stats.multitest import multipletests

from dqlab.analysis import resampling
from dqlab.analysis.cautions import COVERAGE, ENOUGH, simulated_coverage
from dqlab.analysis.resampling import (
    METRICS,
    SEED,
    Bootstrap,
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
    sign_flip_tests,
)
from dqlab.analysis.results import Report
from dqlab.analysis.statistics import BOUNDS, Analysis, aggregates_of, analyse, holm, win_matrix

BOOTSTRAP = Bootstrap(100, 0.95)
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

    np.random.seed(SEED)
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
    np.random.seed(SEED)
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
    np.random.seed(SEED)
    shares, bounds = library.create_performance_profile({name: matrix(name)}, profiles.threshold.to_numpy(), reps=REPS)
    assert pytest.approx(np.stack([shares[name], *bounds[name]])) == profiles[BOUNDS].to_numpy().T


def test_confidence_is_passed_on() -> None:
    narrow, wide = (
        Bootstrap(REPS, confidence).of_each({"it": matrix("BC")}, lambda drawn: drawn.mean(axis=(0, 1)))["it"]
        for confidence in (0.5, 0.99)
    )
    np.random.seed(SEED)
    _, bounds = library.get_interval_estimates(
        {"it": matrix("BC")}, lambda x: np.array([x.mean()]), reps=REPS, confidence_interval_size=0.99
    )
    assert wide[1:] == pytest.approx(bounds["it"][:, 0])
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_metrics_by_hand() -> None:
    scores = np.array([[0.0, 10.0, 100.0], [20.0, 30.0, 120.0]])
    assert interquartile_mean(scores) == (10 + 20 + 30 + 100) / 4
    assert mean_score(scores) == pytest.approx(280 / 6)
    assert median_score(scores) == 20.0  # of the tasks' means 10, 20, 110
    assert optimality_gap(scores) == pytest.approx(1 - (0 + 0.1 + 1 + 0.2 + 0.3 + 1) / 6)


def test_a_setting_has_the_same_interval_alone_and_among_others() -> None:
    rng = np.random.default_rng(0)
    many = {place: rng.normal(size=(5, 2)) for place in range(9)}
    together = aggregates_of(many, BOOTSTRAP)
    for of, item in many.items():
        assert aggregates_of({of: item}, BOOTSTRAP)[of] == pytest.approx(together[of])


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {place: np.random.default_rng(place).normal(size=(4, 2)) for place in range(7)}
    whole = BOOTSTRAP.of_each(many, mean_score)
    monkeypatch.setattr("dqlab.analysis.resampling.LARGEST", 250)
    parts = BOOTSTRAP.of_each(many, mean_score)
    for key, item in whole.items():
        assert parts[key] == pytest.approx(item)


@pytest.mark.parametrize(
    ("differences", "p"),
    [((1, 2, 3), 2 / 8), ((1, 2, -1), 6 / 8), ((0, 0, 0), 1.0), ((-1,) * 10, 2 / 1024), ((5,), 1.0)],
)
def test_sign_flips_by_hand(differences: tuple[float, ...], p: float) -> None:
    test = sign_flip_tests({"it": np.array(differences, float)[:, None]})["it"]
    assert (test.p, test.smallest_p, test.exact) == (p, 2 / 2 ** len(differences), True)


def test_sampled_sign_flips_agree_with_counted_ones() -> None:
    differences = np.random.default_rng(0).normal(0.7, 2.0, size=(17, 1))
    patterns = np.array(list(product((-1.0, 1.0), repeat=17)))
    p = np.mean(np.abs(patterns @ differences) >= abs(differences.sum()) - 1e-9)
    test = sign_flip_tests({"it": differences})["it"]
    assert test.p == pytest.approx(p, abs=5 * np.sqrt(p / resampling.SAMPLED))
    assert (test.exact, test.smallest_p) == (False, 2 / 2**17)


@pytest.mark.parametrize("pairs", [14, 17])
def test_portions_change_no_test(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = {"it": np.random.default_rng(0).normal(0.5, 1.0, size=(pairs, 1))}
    whole = sign_flip_tests(differences)
    monkeypatch.setattr(resampling, "AT_ONCE", 1000)
    assert sign_flip_tests(differences) == whole


@pytest.mark.parametrize("p", [(), (0.02,), (0.04, 0.01, 0.04, 0.6, 1.0), tuple(np.linspace(1, 0.001, 40))])
def test_corrections_are_statsmodels(p: tuple[float, ...]) -> None:
    known = multipletests(p, method="holm")[1].tolist() if p else []
    assert holm(np.array(p, float)).tolist() == known


def test_one_of_twenty_families_without_a_difference_has_a_false_finding() -> None:
    """Three settings that are no better than the base; Holm keeps the chance of any finding below 5%."""
    runs = np.random.default_rng(0).normal(size=(1000, 4, ENOUGH, 1))
    tests = sign_flip_tests({(grid, k): runs[grid, k] - runs[grid, 0] for grid in range(1000) for k in (1, 2, 3)})
    least = [3 * min(tests[grid, k].p for k in (1, 2, 3)) for grid in range(1000)]  # Holm's least
    assert 0.015 < np.mean(np.array(least) <= 0.05) < 0.065


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interval_coverage", ROOT / "benchmarks" / "interval_coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "seeds", "tasks"), [("normal", 20, 3), ("normal", 10, 9), ("skewed", 20, 9)])
def test_intervals_over_enough_runs_hold_the_true_value(
    simulation: ModuleType, name: str, seeds: int, tasks: int
) -> None:
    shares = simulation.coverage(name, seeds, tasks, 500, 1000)
    assert all(0.92 <= share <= 0.98 for share in shares)


def test_intervals_over_few_runs_do_not(simulation: ModuleType) -> None:
    shares = simulation.coverage("skewed", 3, 1, 500, 500)
    worst, best = COVERAGE[1][3]
    assert all(worst - 5 <= 100 * share <= best + 5 for share in shares)


def test_two_runs_hold_the_median_between_them_half_of_the_time(simulation: ModuleType) -> None:
    assert simulation.coverage("normal", 2, 1, 2000, 500) == pytest.approx(0.5, abs=0.04)


def test_coverage_of_the_next_smaller_grid() -> None:
    assert simulated_coverage(9, 25) == (9, 20, 93, 95)
    assert simulated_coverage(5, 7) == (3, 5, 80, 90)
    assert simulated_coverage(1, 1) is None
