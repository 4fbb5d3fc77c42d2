"""Noise schedules: functions from the number of diffusion steps N to the betas (N,), float64, inside (0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dqlab.config.registry import Registry
from dqlab.errors import ConfigError

NoiseSchedule = Callable[[int], Tensor]
noise_schedules: Registry[NoiseSchedule] = Registry(
    "noise_schedule", "How much noise each diffusion step adds.", "DiffusionPolicy.schedule"
)


def build_betas(schedule: str | NoiseSchedule, n_timesteps: int) -> Tensor:
    """The betas (N,) of a registered schedule, checked.

    Raises:
        ConfigError: unknown schedule, N < 1, or betas that are not float64 (N,) strictly inside (0, 1).
    """
    if n_timesteps < 1:
        raise ConfigError(f"A diffusion process needs at least 1 timestep, not {n_timesteps} (n_timesteps).")
    betas = noise_schedules.choose(schedule)(n_timesteps)
    name = getattr(schedule, "__name__", schedule)
    if betas.shape != (n_timesteps,) or betas.dtype != torch.float64:
        raise ConfigError(
            f"Noise schedule '{name}' must give a float64 tensor of shape ({n_timesteps},), "
            f"not {betas.dtype} {tuple(betas.shape)}."
        )
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ConfigError(
            f"Noise schedule '{name}' with N = {n_timesteps} gives betas outside (0, 1): {betas.tolist()}."
        )
    return betas


@noise_schedules.register(
    "vp", source="Xiao et al. 2022 (variance preserving); Diffusion-QL", cites=("xiao2022tackling", "wang2023diffusion")
)
def vp(n_timesteps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Tensor:
    """1 - exp(-beta_min / N - 0.5 (beta_max - beta_min) (2t - 1) / N^2), t = 1..N."""
    n = n_timesteps
    t = torch.arange(1, n + 1, dtype=torch.float64)
    return 1.0 - torch.exp(-beta_min / n - 0.5 * (beta_max - beta_min) * (2 * t - 1) / n**2)


@noise_schedules.register("linear", source="Ho et al. 2020, section 4", cites=("ho2020denoising",))
def linear(n_timesteps: int, beta_start: float = 1e-4, beta_end: float = 2e-2) -> Tensor:
    """N equally spaced betas from beta_start to beta_end."""
    return torch.linspace(beta_start, beta_end, n_timesteps, dtype=torch.float64)


@noise_schedules.register(
    "cosine",
    source="Nichol & Dhariwal 2021, eq. 17, on the official code's grid of N + 1 points",
    cites=("nichol2021improved",),
)
def cosine(n_timesteps: int, s: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """1 - abar(t) / abar(t - 1) with abar = cos^2 of the offset, scaled time; clipped at beta_max."""
    points = n_timesteps + 1
    x = torch.linspace(0, points, points, dtype=torch.float64)
    abar = torch.cos((x / points + s) / (1 + s) * math.pi / 2) ** 2
    return torch.clamp(1 - abar[1:] / abar[:-1], max=beta_max)


@noise_schedules.register(
    "sigmoid", source="Jabri et al. 2022, sigmoid schedule (start -3, end 3, tau 1)", cites=("jabri2023scalable",)
)
def sigmoid(
    n_timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, clip_min: float = 1e-9
) -> Tensor:
    """abar(t) falls from 1 to 0 as a sigmoid's stretch from start / tau to end / tau does, at least clip_min."""
    first, last = (1 / (1 + math.exp(-bound / tau)) for bound in (start, end))
    t = torch.arange(1, n_timesteps + 1, dtype=torch.float64) / n_timesteps
    falling = (last - torch.sigmoid((t * (end - start) + start) / tau)) / (last - first)
    return _from_abar(falling.clamp(clip_min, 1.0))


@noise_schedules.register(
    "sqrt",
    source="Li et al. 2022 (Diffusion-LM), sqrt schedule; the last beta clipped as in its code",
    cites=("li2022diffusionlm",),
)
def sqrt(n_timesteps: int, s: float = 1e-4, beta_max: float = 0.999) -> Tensor:
    """abar(t) = 1 - sqrt(t / N + s), t = 1..N; betas clipped at beta_max, where abar would be negative."""
    t = torch.arange(1, n_timesteps + 1, dtype=torch.float64) / n_timesteps
    return _from_abar(1 - (t + s).sqrt()).clamp(max=beta_max)


@noise_schedules.register(
    "exponential",
    source="Song et al. 2021, VE SDE (sigmas 0.01 to 50); abar = 1 / (1 + sigma^2)",
    cites=("song2021score",),
)
def exponential(n_timesteps: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Tensor:
    """Noise levels sigma / alpha in a geometric sequence from sigma_min to sigma_max (this if N = 1)."""
    low, high = _positive("exponential", sigma_min, sigma_max)
    return _from_sigmas(torch.exp(_rising(n_timesteps, math.log(low), math.log(high))))


@noise_schedules.register(
    "karras", source="Karras et al. 2022 (EDM), eq. 5; abar = 1 / (1 + sigma^2)", cites=("karras2022elucidating",)
)
def karras(n_timesteps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Noise levels sigma / alpha whose rho-th roots rise evenly from sigma_min's to sigma_max's (this if N = 1)."""
    low, high = _positive("karras", sigma_min, sigma_max)
    return _from_sigmas(_rising(n_timesteps, low ** (1 / rho), high ** (1 / rho)) ** rho)


@noise_schedules.register("listed", source="your own", example={"betas": (0.1, 0.2, 0.4, 0.6, 0.8)})
def listed(n_timesteps: int, betas: tuple[float, ...] = ()) -> Tensor:
    """The betas given in the configuration, one a diffusion step, in the order of the forward process."""
    if not all(isinstance(beta, (int, float)) for beta in betas):
        raise ConfigError(f"listed.betas must be numbers, not {betas!r}.")
    if len(betas) != n_timesteps:
        raise ConfigError(
            f"listed.betas has {len(betas)} values, but there are N = {n_timesteps} diffusion steps "
            "(DiffusionPolicy.n_timesteps)."
        )
    return torch.tensor(betas, dtype=torch.float64)


def _from_abar(abar: Tensor) -> Tensor:
    """Betas (N,) of cumulative products abar_1..abar_N; abar_0 is 1."""
    return 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])


def _from_sigmas(sigmas: Tensor) -> Tensor:
    """Betas (N,) of rising noise levels sigma / alpha: 1 - abar_t / abar_{t-1} with abar = 1 / (1 + sigma^2)."""
    squares = sigmas.square()
    return torch.diff(squares, prepend=squares.new_zeros(1)) / (1 + squares)


def _rising(count: int, low: float, high: float) -> Tensor:
    """Equally spaced numbers from low to high; the highest alone if it is one."""
    return torch.linspace(high, low, count, dtype=torch.float64).flip(0)


def _positive(name: str, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The two noise levels, if they are positive and rise."""
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(f"{name}: 0 < sigma_min < sigma_max does not hold for {sigma_min} and {sigma_max}.")
    return sigma_min, sigma_max
