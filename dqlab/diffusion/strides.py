"""Strides: which of the N trained timesteps a sampler of fewer steps visits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise

from dqlab.config.registry import Registry
from dqlab.diffusion.process import Process
from dqlab.errors import ConfigError

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
    values = [rising(t) for t in range(count)]
    step = (values[-1] - values[0]) / max(steps - 1, 1)
    found: list[int] = []
    for index in range(steps - 1):
        free = found[-1] + 1 if found else 0
        found.append(min(max(_nearest(values, values[0] + index * step), free), count - steps + index))
    return (count - 1, *reversed(found))


def _nearest(values: list[float], wanted: float) -> int:
    """Index of the rising value nearest to a number; of two equally near the lower."""
    above = min(bisect_left(values, wanted), len(values) - 1)
    return above - 1 if above and wanted - values[above - 1] <= values[above] - wanted else above
