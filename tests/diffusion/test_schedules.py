"""Noise schedules against numbers worked out from their formulas."""

from __future__ import annotations

import math

import gin
import pytest
import torch

from dqlab.diffusion.schedules import build_betas
from dqlab.errors import ConfigError


def test_vp_by_hand() -> None:
    """Exponents 0.1/5 + 0.5 * 9.9 * (2t - 1) / 25 = 0.02 + 0.198 (2t - 1), t = 1..5.

    The product of 1 - beta is exp(-beta_min - (beta_max - beta_min) / 2), whatever N.
    """
    expected = [1 - math.exp(-exponent) for exponent in (0.218, 0.614, 1.010, 1.406, 1.802)]
    assert build_betas("vp", 5).tolist() == pytest.approx(expected, abs=1e-12)
    for n in (1, 2, 5, 50):
        assert float((1 - build_betas("vp", n)).prod()) == pytest.approx(math.exp(-0.1 - 4.95), rel=1e-12)


def test_linear_and_cosine_by_hand() -> None:
    """Cosine, N = 2: abar on 0, 1.5, 3 of 3; the last beta is clipped at 0.999."""
    assert build_betas("linear", 3).tolist() == pytest.approx([1e-4, 0.01005, 2e-2], abs=1e-12)
    bar = [math.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (0.0, 0.5, 1.0)]
    assert build_betas("cosine", 2).tolist() == pytest.approx([1 - bar[1] / bar[0], 0.999], abs=1e-12)


def survived(name: str, n: int) -> list[float]:
    """abar_1..abar_N."""
    return torch.cumprod(1 - build_betas(name, n), 0).tolist()


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_sigmoid_by_its_formula() -> None:
    """N = 4: from sigmoid(-3) to sigmoid(3) in quarters; the last is clipped."""
    low, high = logistic(-3), logistic(3)
    bar = [(high - logistic(x)) / (high - low) for x in (-1.5, 0.0, 1.5)]
    assert bar[1] == pytest.approx(0.5)
    assert survived("sigmoid", 4) == pytest.approx([*bar, 1e-9], rel=1e-6)


def test_sqrt_by_hand() -> None:
    """N = 2: abar_1 = 1 - sqrt(0.5001); abar_2 would be negative, so its beta is 0.999."""
    assert build_betas("sqrt", 2).tolist() == pytest.approx([math.sqrt(0.5001), 0.999], abs=1e-12)
    assert survived("sqrt", 10)[:9] == pytest.approx([1 - math.sqrt(t / 10 + 1e-4) for t in range(1, 10)], abs=1e-12)


def test_noise_levels_by_their_formulas() -> None:
    """Exponential, N = 3: sigma = 0.01, sqrt(0.5), 50; the largest one alone where N = 1."""
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    levels = {"exponential": [0.01, 0.5**0.5, 50.0], "karras": [(low + i / 4 * (high - low)) ** 7 for i in range(5)]}
    for name, sigmas in levels.items():
        assert survived(name, len(sigmas)) == pytest.approx([1 / (1 + sigma**2) for sigma in sigmas], rel=1e-9)
        assert survived(name, 1) == pytest.approx([1 / (1 + sigmas[-1] ** 2)], rel=1e-9)
        gin.parse_config(f"noise_schedule.{name}.sigma_min = 90.0")
        with pytest.raises(ConfigError, match="sigma_min < sigma_max"):
            build_betas(name, 5)


def test_listed_betas_are_those_of_the_configuration() -> None:
    gin.parse_config("listed.betas = (0.1, 0.25)")
    assert build_betas("listed", 2).tolist() == [0.1, 0.25]
    with pytest.raises(ConfigError, match=r"listed.betas has 2 values, but there are N = 5"):
        build_betas("listed", 5)
    gin.parse_config("listed.betas = (0.1, 1.25)")
    with pytest.raises(ConfigError, match="outside"):
        build_betas("listed", 2)
    gin.parse_config("listed.betas = ('a', 'b')")
    with pytest.raises(ConfigError, match="must be numbers"):
        build_betas("listed", 2)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="at least 1 timestep"):
        build_betas("vp", 0)
    with pytest.raises(ConfigError, match="outside"):
        build_betas(lambda n: torch.full((n,), 1.5, dtype=torch.float64), 3)
    with pytest.raises(ConfigError, match="float64"):
        build_betas(lambda n: torch.full((n,), 0.5), 3)
