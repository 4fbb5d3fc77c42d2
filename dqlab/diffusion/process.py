"""The forward process q(x_t | x_0) and its posterior q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 4, 6, 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes  # no public call suspends a tracer


@cache  # never dropped: a recorded graph reads them where they lie
def device_constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers (n,) that never change, on the device: the same tensor at every call, so an update copies nothing."""
    with _disable_current_modes():  # type: ignore[no-untyped-call]  # while tracing, new tensors have shapes only
        return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True)
class Process:
    """Coefficients of a discrete diffusion process, one Python float a timestep (index t = 0..N-1).

    Floats, not tensors: a sampler visits the timesteps in a fixed order, so its coefficients are constants
    of the program on every device and in every precision.

    Attributes:
        betas, alphas_cumprod: the schedule and abar_t, the cumulative product of 1 - beta.
        start_from_x, start_from_eps: x_0 = start_from_x * x_t - start_from_eps * eps (eq. 4 solved for x_0).
        mean_from_start, mean_from_x: the posterior mean is mean_from_start * x_0 + mean_from_x * x_t (eq. 7).
        posterior_std: standard deviation of the posterior, its variance floored at 1e-20.
    """

    betas: tuple[float, ...]
    alphas_cumprod: tuple[float, ...]
    start_from_x: tuple[float, ...]
    start_from_eps: tuple[float, ...]
    mean_from_start: tuple[float, ...]
    mean_from_x: tuple[float, ...]
    posterior_std: tuple[float, ...]

    @classmethod
    def from_betas(cls, betas: Tensor) -> Process:
        """The process of a schedule of betas (N,), computed in float64."""
        betas = betas.double()
        return cls._of(betas, torch.cumprod(1 - betas, 0))

    @classmethod
    def from_alphas_cumprod(cls, abar: Sequence[float]) -> Process:
        """The process whose abar_t are these N numbers, which fall inside (0, 1)."""
        with _disable_current_modes():  # type: ignore[no-untyped-call]
            values = torch.tensor(abar, dtype=torch.float64)
            return cls._of(betas_of(values), values)

    @classmethod
    def _of(cls, betas: Tensor, abar: Tensor) -> Process:
        before = torch.cat([abar.new_ones(1), abar[:-1]])
        columns = (
            betas,
            abar,
            (1 / abar).sqrt(),
            (1 / abar - 1).sqrt(),
            betas * before.sqrt() / (1 - abar),
            (1 - before) * (1 - betas).sqrt() / (1 - abar),
            (betas * (1 - before) / (1 - abar)).clamp(min=1e-20).sqrt(),
        )
        return cls(*(tuple(column.tolist()) for column in columns))

    def respaced(self, times: Sequence[int]) -> Process:
        """The process that visits only these timesteps, all different: q(x_t | x_0) stays as it was at each of them.

        Its own timestep k is the k-th lowest of them. It is this process itself if it is all of them.
        """
        return self if len(times) == self.n_timesteps else _respaced(self, tuple(sorted(times)))

    @property
    def n_timesteps(self) -> int:
        """N, the number of diffusion steps used in training."""
        return len(self.betas)

    def alpha(self, t: int) -> float:
        """Scale of x_0 in x_t, sqrt(abar_t)."""
        return math.sqrt(self.alphas_cumprod[t])

    def sigma(self, t: int) -> float:
        """Scale of the noise in x_t, sqrt(1 - abar_t)."""
        return math.sqrt(1 - self.alphas_cumprod[t])

    def snr(self, t: int) -> float:
        """Signal-to-noise ratio abar_t / (1 - abar_t)."""
        return self.alphas_cumprod[t] / (1 - self.alphas_cumprod[t])

    def log_snr(self, t: int) -> float:
        """Half the logarithm of the signal-to-noise ratio, lambda_t = log(alpha_t / sigma_t) (Lu et al. 2022)."""
        return 0.5 * math.log(self.snr(t))

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, each (B, 1), of timesteps (B,)."""
        abar = device_constants(self.alphas_cumprod, like.dtype, like.device)[t].unsqueeze(-1)
        return abar.sqrt(), (1 - abar).sqrt()

    def diffuse(self, start: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t (B, A) for x_0 (B, A), timesteps t (B,) in 0..N-1 and noise eps (B, A) (eq. 4)."""
        alpha, sigma = self.scales(t, start)
        return alpha * start + sigma * eps

    def start_from(self, x: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """The x_0 (B, A) that x_t and a predicted eps (B, A) stand for, at one timestep or at each row's (B,)."""
        return at_timestep(self.start_from_x, t, x) * x - at_timestep(self.start_from_eps, t, x) * eps

    def posterior_mean(self, start: Tensor, x: Tensor, t: int | Tensor) -> Tensor:
        """Mean (B, A) of q(x_{t-1} | x_t, x_0), at one timestep or at each row's (B,)."""
        return at_timestep(self.mean_from_start, t, x) * start + at_timestep(self.mean_from_x, t, x) * x

    def kernel_kl(self, t: int | Tensor, eps: Tensor, other: Tensor) -> Tensor:
        """KL (B,) between two Gaussians p(x_{t-1} | x_t) of variance beta_t, by the eps (B, A) predicted for x_t.

        It is |mean - other mean|^2 / (2 beta_t) with the means of x_0 as it is, not clipped. The KL between whole
        chains is the mean, over chains of the first, of the sum over timesteps.
        """
        pairs = zip(self.betas, self.alphas_cumprod, strict=True)
        weights = tuple(0.5 * beta / ((1 - beta) * (1 - abar)) for beta, abar in pairs)
        return (at_timestep(weights, t, eps) * (eps - other).square()).sum(dim=-1)


@lru_cache(maxsize=256)
def _respaced(process: Process, times: tuple[int, ...]) -> Process:
    return Process.from_alphas_cumprod([process.alphas_cumprod[t] for t in times])


def betas_of(abar: Tensor) -> Tensor:
    """Betas (N,) of cumulative products abar_1..abar_N; abar_0 is 1."""
    return 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])


def at_timestep(values: tuple[float, ...], t: int | Tensor, like: Tensor) -> float | Tensor:
    """The coefficient of one timestep, or those (B, 1) of timesteps (B,), of the type and on the device of a tensor."""
    return values[t] if isinstance(t, int) else device_constants(values, like.dtype, like.device)[t].unsqueeze(-1)
