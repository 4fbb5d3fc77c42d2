"""Samplers: steps worked out on paper, and their orders of convergence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dqlab.diffusion import Process
from dqlab.diffusion.sampling import DDIM, DDPM, IDQLDDPM, ChainNoise, DPMSolverPP, Heun, Sampler
from dqlab.diffusion.schedules import build_betas
from dqlab.tools.conformance.diffusion import error_of, even_process

STATE = torch.zeros(1, 1)
HALVES = Process.from_betas(torch.tensor([0.5, 0.5], dtype=torch.float64))  # abar = 0.5, 0.25


def noise_of(start: float, *steps: float) -> ChainNoise:
    return ChainNoise(torch.tensor([[start]]).double(), torch.tensor(steps).double().view(-1, 1, 1))


def scaled(x: Tensor, t: int, state: Tensor) -> Tensor:
    """A data prediction: 0.8 x at t = 1, 0.4 x at t = 0."""
    return 0.4 * (t + 1) * x


def test_ddpm_by_hand() -> None:
    """The eps that is predicted is 0, so x_0 = x_t / alpha_t."""
    action = DDPM()(lambda x, t, s: x / HALVES.alpha(t), HALVES, STATE, noise_of(0.4, 1.0, 9.0), 1.0)
    x0 = 0.4 / math.sqrt(0.25)  # 0.8, inside the range
    mean = 0.5 * math.sqrt(0.5) / 0.75 * x0 + 0.5 * math.sqrt(0.5) / 0.75 * 0.4
    x1 = mean + math.sqrt(0.5 * 0.5 / 0.75) * 1.0
    assert float(action) == pytest.approx(min(x1 / math.sqrt(0.5), 1.0))  # the last noise, 9.0, is not used


def test_ddim_by_hand() -> None:
    """x = 1: x_0 = 0.8, eps = (1 - 0.5 * 0.8) / sqrt(0.75); then 0.4 of sqrt(0.5) x_0 + sqrt(0.5) eps."""
    eps = 0.6 / math.sqrt(0.75)
    x = math.sqrt(0.5) * (0.8 + eps)
    assert float(DDIM()(scaled, HALVES, STATE, noise_of(1.0), 10.0)) == pytest.approx(0.4 * x)
    std = 0.5 * math.sqrt((0.5 / 0.75) * (1 - 0.25 / 0.5))  # eq. 16, eta = 0.5
    x = math.sqrt(0.5) * 0.8 + math.sqrt(0.5 - std**2) * eps + std * 0.3
    assert float(DDIM(eta=0.5)(scaled, HALVES, STATE, noise_of(1.0, 0.3), 10.0)) == pytest.approx(0.4 * x)
    x = math.sqrt(0.5) * (0.5 + 0.75 / math.sqrt(0.75))  # in a range of 0.5 x_0 is that, and eps follows from it
    assert float(DDIM()(scaled, HALVES, STATE, noise_of(1.0), 0.5)) == pytest.approx(min(0.4 * x, 0.5))


def test_heun_by_hand() -> None:
    """In y = x / alpha from s = sqrt(3) to 1: an Euler step, the slope there, their mean; then the data prediction."""
    y, s = 2.0, math.sqrt(3)
    slope = (y - 0.8 * 0.5 * y) / s
    end = y + (1 - s) * slope
    corrected = y + (1 - s) * (slope + (end - 0.4 * math.sqrt(0.5) * end)) / 2
    found = Heun()(scaled, HALVES, STATE, noise_of(1.0), 10.0)
    assert float(found) == pytest.approx(0.4 * math.sqrt(0.5) * corrected)


def test_idqls_sampler_adds_the_larger_noise_and_clips_x() -> None:
    """Ho et al. 2020, algorithm 2, as IDQL's code has it: eps as predicted, sqrt(beta) z, x clipped at every step."""
    process = Process.from_betas(build_betas("vp", 5))
    noise = noise_of(0.7, 0.4, -2.0, 1.0, 0.3, 9.0)

    def eps(x: Tensor, t: int) -> Tensor:
        return 1.5 * torch.tanh(3 * x + t)

    x, clipped = noise.start, 0
    for order, t in enumerate(reversed(range(5))):
        beta, abar = process.betas[t], process.alphas_cumprod[t]
        x = (x - beta / math.sqrt(1 - abar) * eps(x, t)) / math.sqrt(1 - beta)
        x = x + (math.sqrt(beta) * noise.steps[order] if t else 0)
        clipped += int((x.abs() > 1).any())
        x = x.clamp(-1, 1)
    assert clipped
    reached = IDQLDDPM()(lambda x, t, _: process.start_from(x, t, eps(x, t)), process, STATE, noise, 1.0)
    assert torch.allclose(reached, x, rtol=0, atol=1e-12)


ORDERS: list[tuple[Sampler, float]] = [
    *((sampler, 1) for sampler in (DDIM(), DDIM(eta=0.5), DDPM())),
    (DPMSolverPP(order=2), 2),
    (DPMSolverPP(order=3), 3),
    (Heun(), 2),
]


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
def test_orders_of_convergence(sampler: Sampler, order: float) -> None:
    """On timesteps evenly spaced in lambda, against the exact solution of a Gaussian target."""
    coarse, fine = (error_of(sampler, even_process(n)) for n in (65, 129))  # of 64 and 128 intervals
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


CALLS: list[tuple[Sampler, int, list[int]]] = [
    (DDPM(steps=3), 3, [8, 4, 0]),
    (DDIM(steps=3), 0, [8, 4, 0]),
    (DDIM(steps=3, eta=0.5), 2, [8, 4, 0]),
    (DPMSolverPP(steps=3), 0, [8, 4, 0]),
    (Heun(steps=3), 0, [8, 4, 4, 0, 0]),
]


@pytest.mark.parametrize(("sampler", "draws", "calls"), CALLS, ids=str)
def test_draws_and_calls_of_the_denoiser(sampler: Sampler, draws: int, calls: list[int]) -> None:
    """One call a step, at the visited timesteps in order; Heun asks twice a step but the last."""
    process, seen = Process.from_betas(build_betas("vp", 9)), list[int]()

    def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
        seen.append(t)
        return x

    sampler(denoise, process, STATE, ChainNoise(torch.zeros(1, 1), torch.zeros(draws, 1, 1)), 1.0)
    assert (sampler.draws(process), seen) == (draws, calls)
    assert replace(sampler, steps=0).draws(process) == (draws and draws + 6)
