"""Noise schedules against numbers worked out from their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqlab.diffusion.schedules import build_betas, noise_schedules
from dqlab.errors import ConfigError

NAMES = noise_schedules.names()

# 0.1/5 + 0.5 * 9.9 * (2t - 1) / 25 = 0.02 + 0.198 (2t - 1), t = 1..5
VP_EXPONENTS = [0.218, 0.614, 1.010, 1.406, 1.802]


def test_vp_by_hand() -> None:
    expected = [1 - math.exp(-exponent) for exponent in VP_EXPONENTS]
    assert build_betas("vp", 5).tolist() == pytest.approx(expected, abs=1e-12)


def test_vp_keeps_the_integral_of_its_continuous_process() -> None:
    """The product of 1 - beta is exp(-beta_min - (beta_max - beta_min) / 2), whatever N."""
    for n in (1, 2, 5, 50):
        assert float((1 - build_betas("vp", n)).prod()) == pytest.approx(math.exp(-0.1 - 4.95), rel=1e-12)


def test_linear_by_hand() -> None:
    assert build_betas("linear", 3).tolist() == pytest.approx([1e-4, 0.01005, 2e-2], abs=1e-12)


def test_cosine_by_hand() -> None:
    """N = 2: abar on 0, 1.5, 3 of 3; the last beta is clipped at 0.999."""
    bar = [math.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (0.0, 0.5, 1.0)]
    assert build_betas("cosine", 2).tolist() == pytest.approx([1 - bar[1] / bar[0], 0.999], abs=1e-12)


@given(name=st.sampled_from(NAMES), n=st.integers(1, 200))
def test_every_schedule_stays_inside_the_unit_interval(name: str, n: int) -> None:
    betas = build_betas(name, n)
    assert betas.shape == (n,)
    assert betas.dtype == torch.float64
    assert bool(((betas > 0) & (betas < 1)).all())


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="at least 1 timestep"):
        build_betas("vp", 0)
    with pytest.raises(ConfigError, match="outside"):
        build_betas(lambda n: torch.full((n,), 1.5, dtype=torch.float64), 3)
    with pytest.raises(ConfigError, match="float64"):
        build_betas(lambda n: torch.full((n,), 0.5), 3)
