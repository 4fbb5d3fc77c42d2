"""The forward process q(x_t | x_0) and its posterior q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 4, 6, 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def _table(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients as a tensor, kept so that an update copies nothing to the device."""
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
        alphas = 1 - betas
        abar = torch.cumprod(alphas, 0)
        abar_prev = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        variance = betas * (1 - abar_prev) / (1 - abar)
        columns = (
            betas,
            abar,
            (1 / abar).sqrt(),
            (1 / abar - 1).sqrt(),
            betas * abar_prev.sqrt() / (1 - abar),
            (1 - abar_prev) * alphas.sqrt() / (1 - abar),
            variance.clamp(min=1e-20).sqrt(),
        )
        return cls(*(tuple(column.tolist()) for column in columns))

    @property
    def n_timesteps(self) -> int:
        """N, the number of diffusion steps used in training."""
        return len(self.betas)

    def diffuse(self, start: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t (B, A) for x_0 (B, A), timesteps t (B,) in 0..N-1 and noise eps (B, A) (eq. 4)."""
        abar = _table(self.alphas_cumprod, start.dtype, start.device)[t].unsqueeze(-1)
        return abar.sqrt() * start + (1 - abar).sqrt() * eps

    def start_from(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        """The x_0 that x_t and a predicted eps stand for."""
        return self.start_from_x[t] * x - self.start_from_eps[t] * eps

    def posterior_mean(self, start: Tensor, x: Tensor, t: int) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        return self.mean_from_start[t] * start + self.mean_from_x[t] * x
