"""The diffusion process and the DDPM sampler against their defining identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqlab.diffusion.process import Process
from dqlab.diffusion.samplers import ChainNoise, ddpm
from dqlab.diffusion.schedules import build_betas, noise_schedules

CASES = st.tuples(st.sampled_from(noise_schedules.names()), st.integers(1, 30))


@given(case=CASES)
def test_posterior_is_the_conditional_of_the_forward_process(case: tuple[str, int]) -> None:
    """Bayes: precision of x_{t-1} given x_0 and x_t is 1/(1 - abar_{t-1}) + alpha_t/beta_t (t > 0)."""
    process = Process.from_betas(build_betas(*case))
    for t in range(1, process.n_timesteps):
        beta, previous = process.betas[t], process.alphas_cumprod[t - 1]
        precision = 1 / (1 - previous) + (1 - beta) / beta
        assert process.posterior_std[t] ** 2 == pytest.approx(1 / precision, rel=1e-6)
        x0, x = 0.3, -0.7
        mean = (math.sqrt(previous) * x0 / (1 - previous) + math.sqrt(1 - beta) * x / beta) / precision
        got = process.posterior_mean(torch.tensor(x0, dtype=torch.float64), torch.tensor(x, dtype=torch.float64), t)
        assert float(got) == pytest.approx(mean, rel=1e-6, abs=1e-9)


@given(case=CASES)
def test_the_first_step_has_no_noise_left(case: tuple[str, int]) -> None:
    process = Process.from_betas(build_betas(*case))
    assert process.posterior_std[0] == pytest.approx(1e-10)
    assert process.mean_from_start[0] == pytest.approx(1.0)
    assert process.mean_from_x[0] == pytest.approx(0.0, abs=1e-12)


@given(case=CASES)
def test_start_from_inverts_diffuse(case: tuple[str, int]) -> None:
    process = Process.from_betas(build_betas(*case))
    start, eps = torch.linspace(-1, 1, 6).double().view(2, 3), torch.linspace(2, -2, 6).double().view(2, 3)
    for t in range(process.n_timesteps):
        x = process.diffuse(start, torch.full((2,), t), eps)
        assert torch.allclose(process.start_from(x, t, eps), start, atol=1e-9)


def test_ddpm_by_hand() -> None:
    """N = 2 with betas 0.5, 0.5 and a denoiser that says eps = 0: two steps worked out on paper."""
    process = Process.from_betas(torch.tensor([0.5, 0.5], dtype=torch.float64))
    noise = ChainNoise(torch.tensor([[0.4]]).double(), torch.tensor([[[1.0]], [[9.0]]]).double())
    action = ddpm(lambda x, t, s: torch.zeros_like(x), process, torch.zeros(1, 1), noise, 1.0)
    x0 = 0.4 / math.sqrt(0.25)  # 0.8, inside the range
    mean = 0.5 * math.sqrt(0.5) / 0.75 * x0 + 0.5 * math.sqrt(0.5) / 0.75 * 0.4
    x1 = mean + math.sqrt(0.5 * 0.5 / 0.75) * 1.0
    assert float(action) == pytest.approx(min(x1 / math.sqrt(0.5), 1.0))  # the last noise, 9.0, is not used


def test_gradient_flows_through_the_whole_chain() -> None:
    process = Process.from_betas(build_betas("vp", 5))
    weights = [torch.tensor(0.1, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    noise = ChainNoise(torch.full((1, 2), 0.1).double(), torch.full((5, 1, 2), 0.01).double())
    action = ddpm(lambda x, t, s: weights[t] * x, process, torch.zeros(1, 1), noise, 10.0)
    gradients = torch.autograd.grad(action.sum(), weights)
    assert all(float(gradient) != 0 for gradient in gradients)
