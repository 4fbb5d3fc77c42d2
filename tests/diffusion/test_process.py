"""The diffusion process against its defining identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqlab.diffusion import Process, noise_schedules
from dqlab.diffusion.schedules import build_betas

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
