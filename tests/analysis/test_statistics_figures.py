"""Metrics, tests and corrections: by hand, by properties, by simulation."""

from __future__ import annotations

import importlib.util
from itertools import product
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dqlab.analysis import resampling
from dqlab.analysis.cautions import COVERAGE, ENOUGH, simulated_coverage
from dqlab.analysis.resampling import (
    Bootstrap,
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
    sign_flip_tests,
)
from dqlab.analysis.statistics import METRICS, aggregates_of, win_matrix

BOOTSTRAP = Bootstrap(100, 0.95)
matrices = arrays(
    float,
    st.tuples(st.integers(2, 5), st.integers(1, 4)),
    elements=st.floats(-20, 120).map(lambda score: round(score, 1)),
)


def test_metrics_by_hand() -> None:
    scores = np.array([[0.0, 10.0, 100.0], [20.0, 30.0, 120.0]])
    assert interquartile_mean(scores) == (10 + 20 + 30 + 100) / 4
    assert mean_score(scores) == pytest.approx(280 / 6)
    assert median_score(scores) == 20.0  # of the tasks' means 10, 20, 110
    assert optimality_gap(scores) == pytest.approx(1 - (0 + 0.1 + 1 + 0.2 + 0.3 + 1) / 6)


def test_wins_by_hand() -> None:
    ours, others = np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]])
    assert win_matrix(ours, others)[..., 0].tolist() == [[0.5, 0.0], [1.0, 0.0]]


@given(matrices, st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_order_of_seeds_changes_no_point(scores: np.ndarray, order: int) -> None:
    shuffled = scores[np.random.default_rng(order).permutation(len(scores))]
    for metric in (interquartile_mean, mean_score, median_score, optimality_gap):
        assert metric(shuffled) == pytest.approx(metric(scores))


@given(matrices, st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_a_shift_of_scores_shifts_figures_and_intervals(scores: np.ndarray, shift: float) -> None:
    before, after = (aggregates_of({"it": item}, BOOTSTRAP)["it"] for item in (scores, scores + shift))
    assert list(METRICS)[:3] == ["iqm", "mean", "median"]
    assert after[:, :3] == pytest.approx(before[:, :3] + shift, abs=1e-9)


@given(matrices)
@settings(max_examples=50, deadline=None)
def test_an_interval_holds_its_point(scores: np.ndarray) -> None:
    figures = dict(zip(METRICS, aggregates_of({"it": scores}, BOOTSTRAP)["it"].T, strict=True))
    for metric in ("mean", "optimality_gap"):
        point, low, high = figures[metric]
        assert low - 1e-9 <= point <= high + 1e-9


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
    worst, best = COVERAGE[1, 3]
    assert all(worst - 5 <= 100 * share <= best + 5 for share in shares)


def test_two_runs_hold_the_median_between_them_half_of_the_time(simulation: ModuleType) -> None:
    assert simulation.coverage("normal", 2, 1, 2000, 500) == pytest.approx(0.5, abs=0.04)


def test_coverage_of_the_next_smaller_grid() -> None:
    assert simulated_coverage(9, 25) == (9, 20)
    assert simulated_coverage(5, 7) == (3, 5)
    assert simulated_coverage(1, 1) is None
