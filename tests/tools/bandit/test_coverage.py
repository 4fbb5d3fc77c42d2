"""Numbers of action samples, held against what they are by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dqlab.data.sources import make_rows
from dqlab.errors import RunError
from dqlab.tools.bandit import Coverage

LEFT_UP, LEFT_DOWN, RIGHT_UP, BEST = (-0.8, 0.8), (-0.8, -0.8), (0.8, 0.8), (0.8, -0.8)


def test_by_hand() -> None:
    """4 samples at the best mode, 2 upper right, 2 elsewhere: entropy of (2/3, 1/3)."""
    got = Coverage.of(np.array([BEST] * 4 + [RIGHT_UP] * 2 + [(0.0, 0.0), (0.5, -0.8)]))
    assert (got.samples, got.counts) == (8, (0, 0, 2, 4))
    assert got.on_modes == 0.75
    assert got.on_best == 0.5
    assert got.entropy == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert got.entropy_share == pytest.approx(got.entropy / 1.3862943611198906)


def test_equal_modes_have_all_of_log_4() -> None:
    got = Coverage.of(np.array([LEFT_UP, LEFT_DOWN, RIGHT_UP, BEST]))
    assert got.entropy == pytest.approx(math.log(4))
    assert (got.entropy_share, got.on_modes, got.on_best) == (pytest.approx(1.0), 1.0, 0.25)


def test_one_mode_has_none() -> None:
    got = Coverage.of(np.array([BEST] * 3))
    assert (got.entropy, got.entropy_share, got.on_best) == (0.0, 0.0, 1.0)


def test_nothing_on_a_mode() -> None:
    got = Coverage.of(np.zeros((5, 2)))
    assert (got.on_modes, got.entropy, got.on_best, got.counts) == (0.0, 0.0, 0.0, (0, 0, 0, 0))


def test_a_quarter_is_the_radius() -> None:
    """0.25 away is on the mode; the entropy is over near ones only, so far ones leave it as it is."""
    assert Coverage.of(np.array([[0.8, -0.5500001], [0.8, -0.5499]])).counts == (0, 0, 0, 1)
    near, far = [LEFT_UP, BEST], [(0.0, 0.9), (-1.0, -1.0)]
    assert (
        Coverage.of(np.array(near)).entropy == Coverage.of(np.array(near + far)).entropy == pytest.approx(math.log(2))
    )


def test_the_data_cover_all_modes_and_a_gaussian_fitted_to_them_does_not() -> None:
    actions = make_rows(0, 10_000).actions[:-1].astype(float)
    data = Coverage.of(actions)
    assert data.on_modes > 0.9999
    assert data.entropy_share > 0.9999
    rng = np.random.default_rng(0)
    fitted = np.clip(rng.multivariate_normal(actions.mean(0), np.cov(actions.T), 10_000), -1, 1)
    assert 0.03 < Coverage.of(fitted).on_modes < 0.2


@pytest.mark.parametrize("actions", [np.zeros((0, 2)), np.array([[0.0, np.nan]])])
def test_no_samples_or_broken_ones_are_refused(actions: np.ndarray) -> None:
    with pytest.raises(RunError, match="at least one sample, and finite ones"):
        Coverage.of(actions)
