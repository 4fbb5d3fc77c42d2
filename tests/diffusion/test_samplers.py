"""Samplers: steps worked out on paper, identities between them, and their orders of convergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dqlab.diffusion import Process
from dqlab.diffusion.sampling import DDIM, DDPM, IDQLDDPM, ChainNoise, DPMSolverPP, Heun, Sampler
from dqlab.diffusion.schedules import build_betas
from dqlab.tools.conformance.diffusion import MEAN, STD, error_of, even_process, exact_denoiser, limit_moments

STATE = torch.zeros(1, 1)
HALVES = Process.from_betas(torch.tensor([0.5, 0.5], dtype=torch.float64))  # abar = 0.5, 0.25


def last_order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Of convergence, between the last two: K timesteps have K - 1 intervals."""
    return math.log(errors[-2] / errors[-1]) / math.log((steps[-1] - 1) / (steps[-2] - 1))


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


def test_dpm_solver_of_order_two_is_its_algorithm() -> None:
    """Lu et al. 2022, algorithm 2, third line: D = (1 + 1 / 2r) D_0 - 1 / 2r D_1, written out for three timesteps."""
    process, answers = Process.from_alphas_cumprod([0.9, 0.5, 0.1]), list[float]()
    lam, predicted = [process.log_snr(t) for t in range(3)], [0.3, -0.2, 0.5]

    def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
        answers.append(float(x))
        return torch.full_like(x, predicted[t])

    DPMSolverPP(order=2)(denoise, process, STATE, noise_of(0.7), 1.0)
    h1, h0 = lam[1] - lam[2], lam[0] - lam[1]
    x1 = process.sigma(1) / process.sigma(2) * 0.7 - process.alpha(1) * (math.exp(-h1) - 1) * 0.5
    r = h1 / h0
    slope = (1 + 1 / (2 * r)) * -0.2 - 1 / (2 * r) * 0.5
    x0 = process.sigma(0) / process.sigma(1) * x1 - process.alpha(0) * (math.exp(-h0) - 1) * slope
    assert answers == pytest.approx([0.7, x1, x0])


@pytest.mark.parametrize("stride", ["uniform", "quadratic"])
@pytest.mark.parametrize("schedule", ["vp", "linear", "cosine", "karras"])
def test_identities_between_samplers(schedule: str, stride: str) -> None:
    """DPM-Solver++ of order 1 is DDIM with eta = 0; DDIM with eta = 1 is DDPM, drawn the same way."""
    process = Process.from_betas(build_betas(schedule, 50))
    denoise, noise = exact_denoiser(process), ChainNoise(torch.randn(4, 3).double(), torch.randn(50, 4, 3).double())
    pairs = [(DPMSolverPP(order=1), DDIM(), 1e-12), (DDIM(eta=1.0), DDPM(), 1e-7)]
    for steps in (0, 1, 7):
        for *samplers, tolerance in pairs:
            one, other = (replace(sampler, steps=steps, stride=stride) for sampler in samplers)
            found, wanted = (each(denoise, process, torch.zeros(4, 1), noise, 1.0) for each in (one, other))
            assert torch.allclose(found, wanted, rtol=0, atol=tolerance)


GRIDS = (17, 33, 65, 129)
ORDERS: list[tuple[Sampler, float]] = [
    *((sampler, 1) for sampler in (DDIM(), DDIM(eta=0.5), DDPM())),
    (DPMSolverPP(order=2), 2),
    (DPMSolverPP(order=3), 3),
    (Heun(), 2),
]


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
def test_orders_of_convergence(sampler: Sampler, order: float) -> None:
    """On timesteps evenly spaced in lambda, against the exact solution of a Gaussian target."""
    errors = [error_of(sampler, even_process(n)) for n in GRIDS]
    assert last_order(GRIDS, errors) == pytest.approx(order, abs=0.15)


def test_the_exact_solution_is_one() -> None:
    """A chain of many small steps of either kind ends where the closed form says, and that is the target."""
    process = even_process(1500, high=5.0)
    for sampler in (Heun(), DDIM()):
        assert error_of(sampler, process) < 2e-3
    for stochastic in (False, True):
        assert float((limit_moments(process, stochastic) - torch.stack([MEAN, STD])).abs().max()) < 5e-3


@pytest.mark.parametrize("sampler", [DDIM(), DDPM(), DPMSolverPP(), Heun()], ids=str)
def test_fewer_steps_of_a_fine_training_process(sampler: Sampler) -> None:
    """1000 timesteps of Ho et al., of which 8 to 128 are visited."""
    process = Process.from_betas(build_betas("linear", 1000))
    steps = (8, 16, 32, 64, 128)
    errors = [error_of(replace(sampler, steps=k, stride="log_snr"), process) for k in steps]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.04
    assert last_order(steps, errors) > 0.85


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
