"""The diffusion process by its identities; schedules, strides, predictions and weights by their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gin
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqlab.diffusion import Process, noise_schedules
from dqlab.diffusion.predictions import Prediction, loss_weightings, predictions
from dqlab.diffusion.sampling import DDIM, DPMSolverPP
from dqlab.diffusion.schedules import build_betas, visited_timesteps
from dqlab.errors import ConfigError
from dqlab.tools.conformance.diffusion import even_process

FREE = [entry.name for entry in noise_schedules if not entry.example]
PROCESSES = st.builds(
    lambda name, n: Process.from_betas(build_betas(name, n)), st.sampled_from(FREE), st.integers(1, 30)
)


@given(process=PROCESSES)
def test_posterior_is_the_conditional_of_the_forward_process(process: Process) -> None:
    """Bayes: precision of x_{t-1} given x_0 and x_t is 1/(1 - abar_{t-1}) + alpha_t/beta_t (t > 0)."""
    first = process.posterior_std[0], process.mean_from_start[0], process.mean_from_x[0]
    assert first == pytest.approx((1e-10, 1.0, 0.0), rel=1e-6, abs=1e-12), "no noise is left"
    x0, x = torch.tensor(0.3).double(), torch.tensor(-0.7).double()
    for t in range(1, process.n_timesteps):
        beta, previous = process.betas[t], process.alphas_cumprod[t - 1]
        precision = 1 / (1 - previous) + (1 - beta) / beta
        assert process.posterior_std[t] ** 2 == pytest.approx(1 / precision, rel=1e-6)
        mean = (math.sqrt(previous) * x0 / (1 - previous) + math.sqrt(1 - beta) * x / beta) / precision
        assert float(process.posterior_mean(x0, x, t)) == pytest.approx(float(mean), rel=1e-6, abs=1e-9)


@given(process=PROCESSES, data=st.data())
def test_a_respaced_process_adds_the_same_noise(process: Process, data: st.DataObject) -> None:
    times = data.draw(st.sets(st.integers(0, process.n_timesteps - 1), min_size=1))
    short = process.respaced(sorted(times, reverse=True))
    assert short.alphas_cumprod == tuple(process.alphas_cumprod[t] for t in sorted(times))
    survived = [math.prod(1 - beta for beta in short.betas[: k + 1]) for k in range(len(times))]
    assert survived == pytest.approx(list(short.alphas_cumprod), rel=1e-9)
    assert process.respaced(range(process.n_timesteps)) is process, "rounding must not touch the usual chain"


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


COSINE = [math.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (0.0, 0.5, 1.0)]  # abar on 0, 1.5, 3 of 3
BETAS = {
    "vp": [1 - math.exp(-exponent) for exponent in (0.218, 0.614, 1.010, 1.406, 1.802)],  # 0.02 + 0.198 (2t - 1)
    "linear": [1e-4, 0.01005, 2e-2],
    "cosine": [1 - COSINE[1] / COSINE[0], 0.999],  # the last beta is clipped
    "sqrt": [math.sqrt(0.5001), 0.999],  # abar_2 would be negative
    "listed": [0.1, 0.25],
}


@pytest.mark.parametrize("name", BETAS)
def test_betas_by_hand(name: str) -> None:
    gin.parse_config("listed.betas = (0.1, 0.25)")
    assert build_betas(name, len(BETAS[name])).tolist() == pytest.approx(BETAS[name], abs=1e-12)


LOW, HIGH = 0.002 ** (1 / 7), 80 ** (1 / 7)
LEVELS = {"exponential": [0.01, 0.5**0.5, 50.0], "karras": [(LOW + i / 4 * (HIGH - LOW)) ** 7 for i in range(5)]}
"""Noise levels sigma / alpha."""
SURVIVED = {
    **{name: [1 / (1 + sigma**2) for sigma in levels] for name, levels in LEVELS.items()},
    "sigmoid": [*((logistic(3) - logistic(x)) / (logistic(3) - logistic(-3)) for x in (-1.5, 0.0, 1.5)), 1e-9],
    "sqrt": [1 - math.sqrt(t / 10 + 1e-4) for t in range(1, 10)] + [0.001 * (1 - math.sqrt(0.9 + 1e-4))],
}


@pytest.mark.parametrize("name", SURVIVED)
def test_what_survives_by_formulas(name: str) -> None:
    """abar_1..abar_N; of noise levels the largest one alone where N = 1."""
    found = torch.cumprod(1 - build_betas(name, len(SURVIVED[name])), 0)
    assert found.tolist() == pytest.approx(SURVIVED[name], rel=1e-6)
    if name in LEVELS:
        assert float(1 - build_betas(name, 1)) == pytest.approx(SURVIVED[name][-1], rel=1e-9)


SCHEDULES: list[tuple[str, Any, int, str]] = [
    ("listed.betas = (0.1, 1.25)", "listed", 2, r"inside \(0, 1\), not torch.float64 \["),
    ("listed.betas = ('a', 'b')", "listed", 2, "n_timesteps = 2 numbers"),
    ("noise_schedule.exponential.sigma_min = 90.0", "exponential", 5, "sigma_min < sigma_max"),
    ("", "vp", 0, "at least 1 timestep"),
    ("", lambda n: torch.full((n,), 0.5), 3, "3 float64 betas .* not torch.float32"),
]


@pytest.mark.parametrize(("binding", "schedule", "n", "message"), SCHEDULES)
def test_mistakes_in_schedules_are_named(binding: str, schedule: Any, n: int, message: str) -> None:
    gin.parse_config(binding)
    with pytest.raises(ConfigError, match=message):
        build_betas(schedule, n)


def test_visited_timesteps_by_hand() -> None:
    process = Process.from_betas(build_betas("linear", 101))
    assert visited_timesteps("uniform", process, 5) == (100, 75, 50, 25, 0)
    assert visited_timesteps("quadratic", process, 6) == (100, 64, 36, 16, 4, 0)
    assert visited_timesteps("quadratic", process, 1) == (100,)
    crowded = Process.from_betas(build_betas("linear", 6))  # by the square 0, 0.31, 1.25, 2.8, 5: 0 twice
    assert visited_timesteps("quadratic", crowded, 5) == (5, 3, 2, 1, 0)


@pytest.mark.parametrize(
    ("stride", "process"),
    [("log_snr", even_process(41)), ("karras", Process.from_betas(build_betas("karras", 41)))],
    ids=["log_snr", "karras"],
)
def test_strides_are_uniform_where_their_scale_rises_evenly(stride: str, process: Process) -> None:
    """Of the logarithm of the signal-to-noise ratio, and of the seventh root of sigma / alpha."""
    assert visited_timesteps(stride, process, 9) == visited_timesteps("uniform", process, 9)
    elsewhere = Process.from_betas(build_betas("vp", 41))
    assert visited_timesteps(stride, elsewhere, 9) != visited_timesteps("uniform", elsewhere, 9)


SAMPLERS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (DDIM, {"steps": 6}, r"DDIM.steps must be at most DiffusionPolicy.n_timesteps = 5, not 6"),
    (DDIM, {"steps": 3, "stride": "quadratc"}, "Did you mean 'quadratic'"),
    (DDIM, {"steps": 3, "stride": lambda *_: (4, 4, 0)}, r"3 strictly falling timesteps from 4 to 0, not \(4, 4, 0\)"),
    (DDIM, {"eta": 1.5}, "eta must be between 0 and 1"),
    (DPMSolverPP, {"order": 4}, "order must be 1, 2 or 3"),
]


@pytest.mark.parametrize(("make", "fields", "message"), SAMPLERS)
def test_mistakes_in_samplers_and_strides_are_named(
    make: Callable[..., Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**fields).times(Process.from_betas(build_betas("vp", 5)))


TWO_STEPS = Process.from_betas(torch.tensor([0.1, 0.6], dtype=torch.float64))  # abar = 0.9, 0.36; SNR = 9, 0.5625


def made(name: str) -> Prediction:
    return predictions.get(name)()


def test_predictions_by_hand() -> None:
    """Of a velocity its targets; starts by x = 1 and an output of 0.5 at abar = 0.36: alpha = 0.6, sigma = 0.8."""
    start, eps = torch.tensor([[0.5], [-1.0]]).double(), torch.tensor([[2.0], [0.25]]).double()
    velocity = made("v").target(TWO_STEPS, start, eps, torch.tensor([0, 1]))
    wanted = [math.sqrt(0.9) * 2.0 - math.sqrt(0.1) * 0.5, 0.6 * 0.25 + 0.8 * 1.0]
    assert velocity[:, 0].tolist() == pytest.approx(wanted)
    x, output = torch.ones(1, 1).double(), torch.full((1, 1), 0.5).double()
    for name, value in {"eps": (1 - 0.8 * 0.5) / 0.6, "x0": 0.5, "v": 0.6 - 0.8 * 0.5}.items():
        assert float(made(name).start(TWO_STEPS, x, 1, output)) == pytest.approx(value)


WEIGHTS = {
    "uniform": {"eps": [1, 1], "x0": [1, 1], "v": [1, 1]},
    "min_snr": {"eps": [5 / 9, 1], "x0": [5, 0.5625], "v": [5 / 10, 0.5625 / 1.5625]},
    "snr": {"eps": [1, 1], "x0": [9, 0.5625], "v": [9 / 10, 0.5625 / 1.5625]},
    "truncated_snr": {"eps": [1, 1 / 0.5625], "x0": [9, 1], "v": [9 / 10, 1 / 1.5625]},
    "snr_plus_one": {"eps": [10 / 9, 1.5625 / 0.5625], "x0": [10, 1.5625], "v": [1, 1]},
}
"""At SNR 9 and 0.5625."""


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_weights_by_hand(weighting: str) -> None:
    for prediction, wanted in WEIGHTS[weighting].items():
        weights = loss_weightings.get(weighting)().weights(made(prediction), TWO_STEPS)
        assert weights == pytest.approx(wanted), prediction


def test_gamma_is_a_setting() -> None:
    gin.parse_config("MinSNR.gamma = 2")
    assert loss_weightings.get("min_snr")().weights(made("x0"), TWO_STEPS) == pytest.approx([2, 0.5625])
    gin.parse_config("MinSNR.gamma = 0")
    with pytest.raises(ConfigError, match="gamma must be positive"):
        loss_weightings.get("min_snr")()
