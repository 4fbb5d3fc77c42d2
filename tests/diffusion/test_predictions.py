"""What is predicted and how its errors are weighted, against numbers worked out from the formulas."""

from __future__ import annotations

import math

import gin
import pytest
import torch

from dqlab.diffusion import Process
from dqlab.diffusion.predictions import Prediction, predictions
from dqlab.diffusion.weightings import loss_weightings
from dqlab.errors import ConfigError

PROCESS = Process.from_betas(torch.tensor([0.1, 0.6], dtype=torch.float64))  # abar = 0.9, 0.36; SNR = 9, 0.5625
START, EPS, T = torch.tensor([[0.5], [-1.0]]).double(), torch.tensor([[2.0], [0.25]]).double(), torch.tensor([0, 1])


def made(name: str) -> Prediction:
    return predictions.get(name)()


def test_targets_by_hand() -> None:
    assert made("eps").target(PROCESS, START, EPS, T) is EPS
    assert made("x0").target(PROCESS, START, EPS, T) is START
    velocity = made("v").target(PROCESS, START, EPS, T)
    expected = [math.sqrt(0.9) * 2.0 - math.sqrt(0.1) * 0.5, 0.6 * 0.25 + 0.8 * 1.0]
    assert velocity[:, 0].tolist() == pytest.approx(expected)


def test_starts_by_hand() -> None:
    """x = 1 and an output of 0.5 at abar = 0.36: alpha = 0.6, sigma = 0.8."""
    x, output = torch.ones(1, 1).double(), torch.full((1, 1), 0.5).double()
    expected = {"eps": (1 - 0.8 * 0.5) / 0.6, "x0": 0.5, "v": 0.6 - 0.8 * 0.5}
    for name, value in expected.items():
        assert float(made(name).start(PROCESS, x, 1, output)) == pytest.approx(value)
        assert float(made(name).start(PROCESS, x, torch.tensor([1]), output)) == pytest.approx(value)


WEIGHTS = {
    "uniform": {"eps": [1, 1], "x0": [1, 1], "v": [1, 1]},
    "min_snr": {"eps": [5 / 9, 1], "x0": [5, 0.5625], "v": [5 / 10, 0.5625 / 1.5625]},
    "snr": {"eps": [1, 1], "x0": [9, 0.5625], "v": [9 / 10, 0.5625 / 1.5625]},
    "truncated_snr": {"eps": [1, 1 / 0.5625], "x0": [9, 1], "v": [9 / 10, 1 / 1.5625]},
    "snr_plus_one": {"eps": [10 / 9, 1.5625 / 0.5625], "x0": [10, 1.5625], "v": [1, 1]},
}


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_weights_by_hand(weighting: str) -> None:
    """At SNR 9 and 0.5625."""
    for prediction, wanted in WEIGHTS[weighting].items():
        weights = loss_weightings.get(weighting)().weights(made(prediction), PROCESS)
        assert weights == pytest.approx(wanted), prediction


def test_gamma_is_a_setting() -> None:
    gin.parse_config("MinSNR.gamma = 2")
    assert loss_weightings.get("min_snr")().weights(made("x0"), PROCESS) == pytest.approx([2, 0.5625])
    gin.parse_config("MinSNR.gamma = 0")
    with pytest.raises(ConfigError, match="gamma must be positive"):
        loss_weightings.get("min_snr")()
