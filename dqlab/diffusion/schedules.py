"""Noise schedules, functions from the number of diffusion steps N to the betas (N,), float64, inside (0, 1); strides:
which of the N trained timesteps a sampler of fewer steps visits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dqlab.config.registry import Registry
from dqlab.diffusion.process import Process, betas_of
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
    fits = betas.shape == (n_timesteps,) and betas.dtype == torch.float64
    if not (fits and bool(((betas > 0) & (betas < 1)).all())):
        name, given = getattr(schedule, "__name__", schedule), f"{betas.dtype} {betas.tolist()}"
        raise ConfigError(f"Noise schedule '{name}' must give {n_timesteps} float64 betas inside (0, 1), not {given}.")
    return betas


@noise_schedules.register(
    "vp", source="Xiao et al. 2022 (variance preserving); Diffusion-QL", cites=("xiao2022tackling", "wang2023diffusion")
)
def vp(n_timesteps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Tensor:
    """1 - exp(-beta_min / N - 0.5 (beta_max - beta_min) (2t - 1) / N^2), t = 1..N."""
    t = torch.arange(1, n_timesteps + 1, dtype=torch.float64)
    return 1.0 - torch.exp(-beta_min / n_timesteps - 0.5 * (beta_max - beta_min) * (2 * t - 1) / n_timesteps**2)


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
    "sigmoid", source="Jabri et al. 2023, sigmoid schedule (start -3, end 3, tau 1)", cites=("jabri2023scalable",)
)
def sigmoid(
    n_timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, clip_min: float = 1e-9
) -> Tensor:
    """abar(t) falls from 1 to 0 as a sigmoid's stretch from start / tau to end / tau does, at least clip_min."""
    first, last = (1 / (1 + math.exp(-bound / tau)) for bound in (start, end))
    t = torch.arange(1, n_timesteps + 1, dtype=torch.float64) / n_timesteps
    falling = (last - torch.sigmoid((t * (end - start) + start) / tau)) / (last - first)
    return betas_of(falling.clamp(clip_min, 1.0))


@noise_schedules.register(
    "sqrt",
    source="Li et al. 2022 (Diffusion-LM), sqrt schedule; the last beta clipped as in its code",
    cites=("li2022diffusionlm",),
)
def sqrt(n_timesteps: int, s: float = 1e-4, beta_max: float = 0.999) -> Tensor:
    """abar(t) = 1 - sqrt(t / N + s), t = 1..N; betas clipped at beta_max, where abar would be negative."""
    t = torch.arange(1, n_timesteps + 1, dtype=torch.float64) / n_timesteps
    return betas_of(1 - (t + s).sqrt()).clamp(max=beta_max)


@noise_schedules.register(
    "exponential",
    source="Song et al. 2021, VE SDE (sigmas 0.01 to 50); abar = 1 / (1 + sigma^2)",
    cites=("song2021score",),
)
def exponential(n_timesteps: int, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Tensor:
    """Noise levels sigma / alpha in a geometric sequence from sigma_min to sigma_max (this if N = 1)."""
    return _between_levels("exponential", n_timesteps, sigma_min, sigma_max, math.log, torch.exp)


@noise_schedules.register(
    "karras", source="Karras et al. 2022 (EDM), eq. 5; abar = 1 / (1 + sigma^2)", cites=("karras2022elucidating",)
)
def karras(n_timesteps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Noise levels sigma / alpha whose rho-th roots rise evenly from sigma_min's to sigma_max's (this if N = 1)."""
    return _between_levels(
        "karras", n_timesteps, sigma_min, sigma_max, lambda sigma: sigma ** (1 / rho), lambda root: root**rho
    )


@noise_schedules.register("listed", source="your own", example={"betas": (0.1, 0.2, 0.4, 0.6, 0.8)})
def listed(n_timesteps: int, betas: tuple[float, ...] = ()) -> Tensor:
    """The betas given in the configuration, one a diffusion step, in the order of the forward process."""
    if len(betas) != n_timesteps or not all(isinstance(beta, (int, float)) for beta in betas):
        raise ConfigError(f"listed.betas must be DiffusionPolicy.n_timesteps = {n_timesteps} numbers, not {betas!r}.")
    return torch.tensor(betas, dtype=torch.float64)


def _between_levels(
    name: str, count: int, low: float, high: float, scale: Callable[[float], float], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """Betas (N,) of noise levels sigma / alpha that rise evenly in a scale: 1 - abar_t / abar_{t-1}, where abar is
    1 / (1 + sigma^2)."""
    if not 0 < low < high:
        raise ConfigError(f"{name}: 0 < sigma_min < sigma_max does not hold for {low} and {high}.")
    squares = back(torch.linspace(scale(high), scale(low), count, dtype=torch.float64).flip(0)).square()
    return torch.diff(squares, prepend=squares.new_zeros(1)) / (1 + squares)


Stride = Callable[[Process, int], tuple[int, ...]]
strides: Registry[Stride] = Registry("stride", "Which timesteps a sampler of fewer steps visits.", "DDIM.stride")


def visited_timesteps(stride: str | Stride, process: Process, steps: int) -> tuple[int, ...]:
    """The timesteps that a registered stride visits, strictly falling, checked.

    Raises:
        ConfigError: unknown stride; or it gives other than `steps` falling timesteps from N-1 to 0 (N-1 if one).
    """
    last = process.n_timesteps - 1
    if steps == process.n_timesteps:
        return tuple(reversed(range(steps)))
    times = tuple(strides.choose(stride)(process, steps))
    ends = (last, 0) if steps > 1 else (last, last)
    falling = all(later < earlier for earlier, later in pairwise(times))
    if len(times) != steps or (times[0], times[-1]) != ends or not falling:
        raise ConfigError(
            f"Stride '{stride}' must give {steps} strictly falling timesteps from {last} to {ends[1]}, not {times}."
        )
    return times


@strides.register("uniform", source="Song et al. 2021 (DDIM), appendix D.2 (linear)", cites=("song2021denoising",))
def uniform_stride(process: Process, steps: int) -> tuple[int, ...]:
    """Timesteps equally far apart, rounded."""
    return _evenly(process, steps, float)


@strides.register("quadratic", source="Song et al. 2021 (DDIM), appendix D.2 (quadratic)", cites=("song2021denoising",))
def quadratic_stride(process: Process, steps: int) -> tuple[int, ...]:
    """Timesteps whose square roots are equally far apart: more of them where there is little noise."""
    return _evenly(process, steps, lambda t: t**0.5)


@strides.register("log_snr", source="Lu et al. 2022 (DPM-Solver), uniform steps of lambda", cites=("lu2022dpmsolver",))
def log_snr_stride(process: Process, steps: int) -> tuple[int, ...]:
    """Timesteps equally far apart in lambda = log(alpha / sigma), the nearest trained ones."""
    return _evenly(process, steps, lambda t: -process.log_snr(t))


@strides.register(
    "karras",
    source="Karras et al. 2022 (EDM), eq. 5, between the process's own noise levels",
    cites=("karras2022elucidating",),
)
def karras_stride(process: Process, steps: int, rho: float = 7.0) -> tuple[int, ...]:
    """Timesteps equally far apart in the rho-th root of sigma / alpha, the nearest trained ones."""
    return _evenly(process, steps, lambda t: (process.sigma(t) / process.alpha(t)) ** (1 / rho))


def _evenly(process: Process, steps: int, rising: Callable[[int], float]) -> tuple[int, ...]:
    """Timesteps, falling, whose values of a rising function are nearest to equally spaced ones, made distinct.

    Where several are nearest to the same timestep, the later ones move on towards more noise.
    """
    count = process.n_timesteps
    values = np.array([rising(t) for t in range(count)])
    step = (values[-1] - values[0]) / max(steps - 1, 1)
    wanted, found = values[0] + np.arange(steps - 1) * step, list[int]()
    nearest = np.abs(values[:, None] - wanted).argmin(axis=0)  # of two equally near ones, the lower
    for index, t in enumerate(nearest.tolist()):
        found.append(min(max(t, found[-1] + 1 if found else 0), count - steps + index))
    return (count - 1, *reversed(found))
