"""The diffusion process by its identities; schedules, strides, predictions and weights by their formulas."""

from __future__ import annotations

import math

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
CASES = st.tuples(st.sampled_from(FREE), st.integers(1, 30))


@given(case=CASES)
def test_posterior_is_the_conditional_of_the_forward_process(case: tuple[str, int]) -> None:
    """Bayes: precision of x_{t-1} given x_0 and x_t is 1/(1 - abar_{t-1}) + alpha_t/beta_t (t > 0)."""
    process = Process.from_betas(build_betas(*case))
    first = process.posterior_std[0], process.mean_from_start[0], process.mean_from_x[0]
    assert first == pytest.approx((1e-10, 1.0, 0.0), rel=1e-6, abs=1e-12), "no noise is left"
    for t in range(1, process.n_timesteps):
        beta, previous = process.betas[t], process.alphas_cumprod[t - 1]
        precision = 1 / (1 - previous) + (1 - beta) / beta
        assert process.posterior_std[t] ** 2 == pytest.approx(1 / precision, rel=1e-6)
        x0, x = 0.3, -0.7
        mean = (math.sqrt(previous) * x0 / (1 - previous) + math.sqrt(1 - beta) * x / beta) / precision
        got = process.posterior_mean(torch.tensor(x0, dtype=torch.float64), torch.tensor(x, dtype=torch.float64), t)
        assert float(got) == pytest.approx(mean, rel=1e-6, abs=1e-9)


@given(case=CASES)
def test_start_from_inverts_diffuse(case: tuple[str, int]) -> None:
    process = Process.from_betas(build_betas(*case))
    start, eps = torch.linspace(-1, 1, 6).double().view(2, 3), torch.linspace(2, -2, 6).double().view(2, 3)
    for t in range(process.n_timesteps):
        x = process.diffuse(start, torch.full((2,), t), eps)
        assert torch.allclose(process.start_from(x, t, eps), start, atol=1e-9)
        assert torch.allclose(process.start_from(x, torch.full((2,), t), eps), start, atol=1e-9)


def test_scales_and_noise_levels() -> None:
    process = Process.from_betas(torch.tensor([0.2, 0.5], dtype=torch.float64))  # abar = 0.8, 0.4
    assert [process.alpha(t) for t in (0, 1)] == pytest.approx([math.sqrt(0.8), math.sqrt(0.4)])
    assert [process.sigma(t) for t in (0, 1)] == pytest.approx([math.sqrt(0.2), math.sqrt(0.6)])
    assert [process.snr(t) for t in (0, 1)] == pytest.approx([4.0, 2 / 3])
    assert [process.log_snr(t) for t in (0, 1)] == pytest.approx([math.log(2), 0.5 * math.log(2 / 3)])


@given(case=CASES, data=st.data())
def test_a_respaced_process_adds_the_same_noise(case: tuple[str, int], data: st.DataObject) -> None:
    process = Process.from_betas(build_betas(*case))
    times = data.draw(st.sets(st.integers(0, process.n_timesteps - 1), min_size=1))
    short = process.respaced(sorted(times, reverse=True))
    assert short.n_timesteps == len(times)
    assert short.alphas_cumprod == tuple(process.alphas_cumprod[t] for t in sorted(times))
    survived = [math.prod(1 - beta for beta in short.betas[: k + 1]) for k in range(len(times))]
    assert survived == pytest.approx(list(short.alphas_cumprod), rel=1e-9)
    assert process.respaced(range(process.n_timesteps)) is process, "rounding must not touch the usual chain"


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
    with pytest.raises(
        ConfigError, match=r"listed.betas must be DiffusionPolicy.n_timesteps = 5 numbers, not \(0.1, 0.25\)"
    ):
        build_betas("listed", 5)
    gin.parse_config("listed.betas = (0.1, 1.25)")
    with pytest.raises(ConfigError, match=r"inside \(0, 1\), not torch.float64 \["):
        build_betas("listed", 2)
    gin.parse_config("listed.betas = ('a', 'b')")
    with pytest.raises(ConfigError, match="n_timesteps = 2 numbers"):
        build_betas("listed", 2)


def test_mistakes_in_schedules_are_named() -> None:
    with pytest.raises(ConfigError, match="at least 1 timestep"):
        build_betas("vp", 0)
    with pytest.raises(ConfigError, match=r"inside \(0, 1\), not torch.float64 \["):
        build_betas(lambda n: torch.full((n,), 1.5, dtype=torch.float64), 3)
    with pytest.raises(ConfigError, match="3 float64 betas .* not torch.float32"):
        build_betas(lambda n: torch.full((n,), 0.5), 3)


def test_visited_timesteps_by_hand() -> None:
    process = Process.from_betas(build_betas("linear", 101))
    assert visited_timesteps("uniform", process, 5) == (100, 75, 50, 25, 0)
    assert visited_timesteps("quadratic", process, 6) == (100, 64, 36, 16, 4, 0)
    assert visited_timesteps("quadratic", process, 1) == (100,)


def test_crowded_timesteps_stay_distinct() -> None:
    """Of 6 timesteps, 5 by the square: 0, 0.31, 1.25, 2.8, 5 would give 0 twice."""
    process = Process.from_betas(build_betas("linear", 6))
    assert visited_timesteps("quadratic", process, 5) == (5, 3, 2, 1, 0)


def test_log_snr_is_even_in_lambda() -> None:
    """Where lambda falls evenly with t it is the uniform stride; elsewhere its gaps are even but for rounding."""
    assert visited_timesteps("log_snr", even_process(41), 9) == visited_timesteps("uniform", even_process(41), 9)
    process = Process.from_betas(build_betas("vp", 1000))
    levels = [process.log_snr(t) for t in visited_timesteps("log_snr", process, 11)]
    gaps = torch.tensor(levels).diff()
    assert float(gaps.max() / gaps.min()) < 1.25
    uniform = torch.tensor([process.log_snr(t) for t in visited_timesteps("uniform", process, 11)]).diff()
    assert float(uniform.max() / uniform.min()) > 2


def test_karras_is_even_in_the_root_of_sigma() -> None:
    """The karras schedule's own timesteps are spaced so."""
    process = Process.from_betas(build_betas("karras", 41))
    assert visited_timesteps("karras", process, 9) == visited_timesteps("uniform", process, 9)


def test_mistakes_in_strides_are_named() -> None:
    process = Process.from_betas(build_betas("vp", 5))
    with pytest.raises(ConfigError, match=r"DDIM.steps must be at most DiffusionPolicy.n_timesteps = 5, not 6"):
        DDIM(steps=6).times(process)
    with pytest.raises(ConfigError, match="Did you mean 'quadratic'"):
        DDIM(steps=3, stride="quadratc").times(process)
    with pytest.raises(ConfigError, match=r"must give 3 strictly falling timesteps from 4 to 0, not \(4, 4, 0\)"):
        DDIM(steps=3, stride=lambda process, steps: (4, 4, 0)).times(process)
    for fields, wanted in (
        ({"steps": -1}, "steps must be at least 0"),
        ({"eta": 1.5}, "eta must be between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            DDIM(**fields)
    with pytest.raises(ConfigError, match="order must be 1, 2 or 3"):
        DPMSolverPP(order=4)


TWO_STEPS = Process.from_betas(torch.tensor([0.1, 0.6], dtype=torch.float64))  # abar = 0.9, 0.36; SNR = 9, 0.5625
START, EPS, T = torch.tensor([[0.5], [-1.0]]).double(), torch.tensor([[2.0], [0.25]]).double(), torch.tensor([0, 1])


def made(name: str) -> Prediction:
    return predictions.get(name)()


def test_targets_by_hand() -> None:
    assert made("eps").target(TWO_STEPS, START, EPS, T) is EPS
    assert made("x0").target(TWO_STEPS, START, EPS, T) is START
    velocity = made("v").target(TWO_STEPS, START, EPS, T)
    expected = [math.sqrt(0.9) * 2.0 - math.sqrt(0.1) * 0.5, 0.6 * 0.25 + 0.8 * 1.0]
    assert velocity[:, 0].tolist() == pytest.approx(expected)


def test_starts_by_hand() -> None:
    """x = 1 and an output of 0.5 at abar = 0.36: alpha = 0.6, sigma = 0.8."""
    x, output = torch.ones(1, 1).double(), torch.full((1, 1), 0.5).double()
    expected = {"eps": (1 - 0.8 * 0.5) / 0.6, "x0": 0.5, "v": 0.6 - 0.8 * 0.5}
    for name, value in expected.items():
        assert float(made(name).start(TWO_STEPS, x, 1, output)) == pytest.approx(value)
        assert float(made(name).start(TWO_STEPS, x, torch.tensor([1]), output)) == pytest.approx(value)


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
        weights = loss_weightings.get(weighting)().weights(made(prediction), TWO_STEPS)
        assert weights == pytest.approx(wanted), prediction


def test_gamma_is_a_setting() -> None:
    gin.parse_config("MinSNR.gamma = 2")
    assert loss_weightings.get("min_snr")().weights(made("x0"), TWO_STEPS) == pytest.approx([2, 0.5625])
    gin.parse_config("MinSNR.gamma = 0")
    with pytest.raises(ConfigError, match="gamma must be positive"):
        loss_weightings.get("min_snr")()
