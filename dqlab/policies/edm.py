"""EDM (Karras et al. 2022): a diffusion policy with a preconditioned network, trained at continuous noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dqlab.config.fields import PositiveFloat, PositiveInt, check_field
from dqlab.diffusion import Process, samplers
from dqlab.diffusion.sampling import ChainNoise, Sampler
from dqlab.diffusion.schedules import karras
from dqlab.networks import denoisers
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec, normal, uniform
from dqlab.policies.base import Dims, Policy, policies


@policies.register(
    "edm",
    source="Karras et al. 2022, eq. 5 and 7, table 1; noise levels in training: DTQL (Chen, Wang, Zhou 2024)",
    cites=("karras2022elucidating", "chen2024diffusion"),
)
@dataclass(frozen=True)
class EDMPolicy(Policy):
    """Actions by denoising a + sigma * eps, where the data prediction is c_skip * x + c_out * network(c_in * x, ...).

    With these coefficients the network's input and its target have variance 1 at every noise level sigma, if actions
    have that of `sigma_data`.

    Attributes:
        denoiser: a name from the `denoiser` registry, or the component itself; its time is log(sigma) / 4.
        sampler: a name from the `sampler` registry, or a factory.
        n_steps: noise levels that a sample visits, between the two below as in `karras`.
        sigma_data: standard deviation of actions.
        sigma_min, sigma_max: the noise levels.
        spread: in training log(sigma) is logistic around log(sigma_data) with this scale, within the two.
        clips_loss: whether the loss is that of a data prediction clipped to the action range, as in DTQL's code.
    """

    denoiser: str | Callable[..., nn.Module] = "mlp"
    sampler: str | Callable[[], Sampler] = "heun"
    n_steps: PositiveInt = 10
    sigma_data: PositiveFloat = 0.5
    sigma_min: PositiveFloat = 0.002
    sigma_max: float = 80.0
    spread: PositiveFloat = 0.5
    clips_loss: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(self.sigma_min < self.sigma_max, self, "sigma_min", "below sigma_max")

    @cached_property
    def process(self) -> Process:
        """The noise levels that a sample visits, as a process of x / sqrt(1 + sigma^2)."""
        return Process.from_betas(karras(self.n_steps, self.sigma_min, self.sigma_max))

    @cached_property
    def resolved_sampler(self) -> Sampler:
        return samplers.choose(self.sampler)()

    def build(self, dims: Dims) -> nn.Module:
        return denoisers.choose(self.denoiser)(dims.state, dims.action)

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """`level` (B,), the share of noise levels below each row's, and the noise eps (B, A)."""
        return {"level": uniform(batch), "eps": normal(batch, dims.action)}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors (B,) of the data prediction, over c_out^2, means over action dimensions (eq. 8)."""
        sigma = self.training_sigma(noise["level"]).unsqueeze(-1)
        start = self.denoise(network, state, action + sigma * noise["eps"], sigma)
        if self.clips_loss:
            start = start.clamp(-dims.max_action, dims.max_action)
        return ((start - action) / self._scales(sigma)[1]).square().mean(dim=-1)

    def training_sigma(self, level: Tensor) -> Tensor:
        """Noise levels, below which a share `level` (...) of those in training lies: log-logistic, truncated."""
        middle = math.log(self.sigma_data)
        ends = [(math.log(sigma) - middle) / self.spread for sigma in (self.sigma_min, self.sigma_max)]
        low, high = (1 / (1 + math.exp(-end)) for end in ends)
        return torch.exp(torch.logit(low + (high - low) * level) * self.spread + middle)

    def denoise(self, network: Network, state: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The data prediction (B, A) for x = a + sigma * eps (B, A) at noise levels (B, 1)."""
        c_skip, c_out, c_in = self._scales(sigma)
        return c_skip * x + c_out * network(c_in * x, sigma.log().squeeze(-1) / 4, state)

    def _scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in of noise levels (table 1)."""
        total = sigma.square() + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt()

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """x at the highest noise level, scaled, `start` (B, A), and `noise` (., B, A) if the sampler needs it."""
        draws = self.resolved_sampler.draws(self.process)
        steps = {"noise": normal(draws, batch, dims.action)} if draws else {}
        return {"start": normal(batch, dims.action), **steps}

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) for states (B, S), by the chosen sampler; differentiable through the chain."""

        def data(x: Tensor, t: int, state: Tensor) -> Tensor:
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            return self.denoise(network, state, x / alpha, torch.full_like(x[:, :1], sigma / alpha))

        chain = ChainNoise(noise["start"], noise.get("noise", noise["start"].new_empty(0, *noise["start"].shape)))
        return self.resolved_sampler(data, self.process, state, chain, dims.max_action)
