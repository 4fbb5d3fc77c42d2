"""Samplers: an action from noise with the trained denoiser; pure functions of injected randomness.

A sampler knows data predictions only (`DiffusionPolicy` turns what its denoiser predicts into one) and may visit fewer
timesteps than there are in training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, UnitFloat, check_field, check_fields
from dqlab.config.registry import Registry
from dqlab.diffusion.process import Process
from dqlab.diffusion.schedules import Stride, strides, visited_timesteps

Denoise = Callable[[Tensor, int, Tensor], Tensor]  # (x_t (B, A), timestep of training, state (B, S)) -> x_0 (B, A)
DataPrediction = Callable[[Tensor, int], Tensor]  # (x (B, A), timestep of those visited) -> x_0 (B, A), clipped


@dataclass(frozen=True)
class ChainNoise:
    """Standard normals of a sampling chain: x_N `start` (B, A), and `steps` (`Sampler.draws`, B, A) in order of use."""

    start: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Sampler(ABC):
    """How x_0 is reached from x_N. Subclasses are frozen dataclasses whose fields gin can set.

    Attributes:
        steps: K, timesteps visited; 0 for all N of training.
        stride: a name from the `stride` registry: which ones, where they are fewer than N.
    """

    steps: NonNegativeInt = 0
    stride: str | Stride = "uniform"

    def __post_init__(self) -> None:
        check_fields(self)
        strides.choose(self.stride)

    def times(self, process: Process) -> tuple[int, ...]:
        """The K timesteps of training that are visited, falling from N-1.

        Raises:
            ConfigError: there are fewer than `steps`; or the stride is unknown or wrong.
        """
        trained = process.n_timesteps
        check_field(self.steps <= trained, self, "steps", f"at most DiffusionPolicy.n_timesteps = {trained}")
        return visited_timesteps(self.stride, process, self.steps or trained)

    def draws(self, process: Process) -> int:
        """How many standard normals (B, A) a chain needs besides its start: none."""
        return 0

    def __call__(
        self, denoise: Denoise, process: Process, state: Tensor, noise: ChainNoise, max_action: float
    ) -> Tensor:
        """Actions (B, A) in [-max_action, max_action] for states (B, S); the gradient flows through the whole chain.

        Args:
            denoise: the data prediction; clipped here to the action range.
            process: the process the denoiser was trained with.
            state: (B, S).
            noise: as many steps as `draws` says.
            max_action: bound of the action range.
        """
        times = self.times(process)

        def data(x: Tensor, t: int) -> Tensor:
            return denoise(x, times[-1 - t], state).clamp(-max_action, max_action)

        return self.chain(data, process.respaced(times), noise).clamp(-max_action, max_action)

    @abstractmethod
    def chain(self, data: DataPrediction, process: Process, noise: ChainNoise) -> Tensor:
        """x_0 (B, A), where `process` has the visited timesteps only, numbered 0..K-1, and `data` takes these."""


samplers: Registry[Callable[[], Sampler]] = Registry(
    "sampler", "How an action is drawn from noise with the trained denoiser.", "DiffusionPolicy.sampler"
)


@samplers.register("ddpm", source="Ho et al. 2020, algorithm 2, with x_0 clipped", cites=("ho2020denoising",))
@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling: each step draws from the posterior q(x_{t-1} | x_t, x_0)."""

    def draws(self, process: Process) -> int:
        return self.steps or process.n_timesteps  # that of the last step, t = 0, is not used

    def std(self, process: Process, t: int) -> float:
        """Standard deviation of the noise of the step from x_t: the posterior's."""
        return process.posterior_std[t]

    def chain(self, data: DataPrediction, process: Process, noise: ChainNoise, bound: float | None = None) -> Tensor:
        """The posterior mean, plus a standard deviation times noise except at the end; clipped to +-bound, if any."""
        x = noise.start
        for order, t in enumerate(reversed(range(process.n_timesteps))):
            x = process.posterior_mean(data(x, t), x, t)
            if t > 0:
                x = x + self.std(process, t) * noise.steps[order]
            if bound is not None:
                x = x.clamp(-bound, bound)
        return x


@samplers.register(
    "ddpm_large",
    source="Ho et al. 2020, section 3.2 (sigma_t^2 = beta_t), with x_0 clipped",
    cites=("ho2020denoising",),
)
@dataclass(frozen=True)
class DDPMLarge(DDPM):
    """Ancestral sampling with noise of variance beta_t, the larger of the two bounds of the true one's."""

    def std(self, process: Process, t: int) -> float:
        return math.sqrt(process.betas[t])


@samplers.register(
    "idql_ddpm",
    source="Hansen-Estruch et al. 2023 (IDQL), official code; Ho et al. 2020, section 3.2",
    cites=("hansenestruch2023idql", "ho2020denoising"),
)
@dataclass(frozen=True)
class IDQLDDPM(DDPMLarge):
    """Ancestral sampling with noise of variance beta_t that clips each x_t, not the data prediction."""

    def __call__(
        self, denoise: Denoise, process: Process, state: Tensor, noise: ChainNoise, max_action: float
    ) -> Tensor:
        times = self.times(process)
        return self.chain(lambda x, t: denoise(x, times[-1 - t], state), process.respaced(times), noise, max_action)


@samplers.register("ddim", source="Song et al. 2021, eq. 12 and 16", cites=("song2021denoising",))
@dataclass(frozen=True)
class DDIM(Sampler):
    """Implicit sampling: deterministic for eta = 0, DDPM for eta = 1.

    Attributes:
        eta: share of the posterior's noise that is added, 0..1.
    """

    eta: UnitFloat = 0.0

    def draws(self, process: Process) -> int:
        return (self.steps or process.n_timesteps) - 1 if self.eta else 0

    def chain(self, data: DataPrediction, process: Process, noise: ChainNoise) -> Tensor:
        """x_{t-1} = alpha_{t-1} x_0 + sqrt(sigma_{t-1}^2 - s^2) eps + s noise; the data prediction at the end."""
        x = noise.start
        for order, t in enumerate(reversed(range(1, process.n_timesteps))):
            std = self.eta * process.posterior_std[t]
            of_eps = math.sqrt(max(process.sigma(t - 1) ** 2 - std**2, 0.0)) / process.sigma(t)
            start = data(x, t)
            x = of_eps * x + (process.alpha(t - 1) - of_eps * process.alpha(t)) * start
            if self.eta:
                x = x + std * noise.steps[order]
        return data(x, 0)


@samplers.register(
    "dpm_solver_pp",
    source="Lu et al. 2022 (DPM-Solver++), algorithm 2 (order 2); order 3 integrates the quadratic",
    cites=("lu2022dpmsolverpp",),
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
    quadratic_weight: NonNegativeFloat = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(1 <= self.order <= 3, self, "order", "1, 2 or 3")

    def chain(self, data: DataPrediction, process: Process, noise: ChainNoise) -> Tensor:
        """Exact in lambda = log(alpha / sigma) but for the data prediction, a polynomial of degree order - 1.

        `known` are the data predictions at t, t + 1, ..., as many as the order is.
        """
        x, known = noise.start, [data(noise.start, process.n_timesteps - 1)]
        for t in reversed(range(1, process.n_timesteps)):
            step = process.log_snr(t - 1) - process.log_snr(t)
            weight = -process.alpha(t - 1) * math.expm1(-step)
            x = (process.sigma(t - 1) / process.sigma(t)) * x + weight * known[0]
            if len(known) > 1:
                r0 = (process.log_snr(t) - process.log_snr(t + 1)) / step
                slope = (known[0] - known[1]) / r0
            if len(known) == 2:
                x = x + 0.5 * weight * slope
            elif len(known) == 3:
                r1 = (process.log_snr(t + 1) - process.log_snr(t + 2)) / step
                bend = (slope - (known[1] - known[2]) / r1) / (r0 + r1)
                first = math.expm1(-step) / step + 1
                second = self.quadratic_weight * (1 - 2 * first / step)
                x = x + process.alpha(t - 1) * (first * (slope + r0 * bend) + second * bend)
            known = [data(x, t - 1), *known][: self.order]
        return known[0]


@samplers.register("heun", source="Karras et al. 2022 (EDM), algorithm 1", cites=("karras2022elucidating",))
@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method for x / alpha as a function of sigma / alpha; two denoiser calls a step, one in the last."""

    def chain(self, data: DataPrediction, process: Process, noise: ChainNoise) -> Tensor:
        """An Euler step, corrected by the slope at its end; the last, to sigma = 0, gives the data prediction."""
        scaled = noise.start / process.alpha(process.n_timesteps - 1)
        for t in reversed(range(1, process.n_timesteps)):
            now, then = (process.sigma(i) / process.alpha(i) for i in (t, t - 1))
            slope = (scaled - data(process.alpha(t) * scaled, t)) / now
            end = scaled + (then - now) * slope
            correction = (end - data(process.alpha(t - 1) * end, t - 1)) / then
            scaled = scaled + (then - now) * 0.5 * (slope + correction)
        return data(process.alpha(0) * scaled, 0)
