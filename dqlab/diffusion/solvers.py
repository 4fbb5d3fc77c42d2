"""Deterministic samplers of higher order: solvers of the probability-flow ODE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dqlab.diffusion.process import Process
from dqlab.diffusion.samplers import ChainNoise, Data, Sampler, samplers
from dqlab.fields import require


@samplers.register(
    "dpm_solver_pp", source="Lu et al. 2022 (DPM-Solver++), algorithm 2 (order 2); order 3 integrates the quadratic"
)
@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++, multistep: one denoiser call a step, extrapolating from the data predictions before it.

    Attributes:
        order: 1 (DDIM), 2 or 3; the first steps, which have fewer predictions before them, are of lower order.
        quadratic_weight: of the third order's quadratic term: 1 integrates it exactly; the authors' code, and
            diffusers, have half of that, 0.5.
    """

    order: int = 2
    quadratic_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.order <= 3, self, "order", "1, 2 or 3")
        require(self.quadratic_weight >= 0, self, "quadratic_weight", "at least 0")

    def chain(self, data: Data, process: Process, noise: ChainNoise) -> Tensor:
        """Exact in lambda = log(alpha / sigma) but for the data prediction, a polynomial of degree order - 1."""
        x, known = noise.start, [data(noise.start, process.n_timesteps - 1)]
        for t in reversed(range(1, process.n_timesteps)):
            x = _advance(process, x, t, known, self.quadratic_weight)
            known = [data(x, t - 1), *known][: self.order]
        return known[0]


def _advance(process: Process, x: Tensor, t: int, known: list[Tensor], quadratic_weight: float) -> Tensor:
    """x_{t-1} from x_t and data predictions at t, t+1, ... (as many as the order is)."""
    step = process.log_snr(t - 1) - process.log_snr(t)
    weight = -process.alpha(t - 1) * math.expm1(-step)
    x = (process.sigma(t - 1) / process.sigma(t)) * x + weight * known[0]
    if len(known) == 1:
        return x
    r0 = (process.log_snr(t) - process.log_snr(t + 1)) / step
    slope = (known[0] - known[1]) / r0
    if len(known) == 2:
        return x + 0.5 * weight * slope
    r1 = (process.log_snr(t + 1) - process.log_snr(t + 2)) / step
    bend = (slope - (known[1] - known[2]) / r1) / (r0 + r1)
    first = math.expm1(-step) / step + 1
    second = quadratic_weight * (1 - 2 * first / step)
    return x + process.alpha(t - 1) * (first * (slope + r0 * bend) + second * bend)


@samplers.register("heun", source="Karras et al. 2022 (EDM), algorithm 1")
@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method for x / alpha as a function of sigma / alpha; two denoiser calls a step, one in the last."""

    def chain(self, data: Data, process: Process, noise: ChainNoise) -> Tensor:
        """An Euler step, corrected by the slope at its end; the last, to sigma = 0, gives the data prediction."""
        scaled = noise.start / process.alpha(process.n_timesteps - 1)
        for t in reversed(range(1, process.n_timesteps)):
            now, then = (process.sigma(i) / process.alpha(i) for i in (t, t - 1))
            slope = (scaled - data(process.alpha(t) * scaled, t)) / now
            end = scaled + (then - now) * slope
            correction = (end - data(process.alpha(t - 1) * end, t - 1)) / then
            scaled = scaled + (then - now) * 0.5 * (slope + correction)
        return data(process.alpha(0) * scaled, 0)
