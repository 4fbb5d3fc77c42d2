"""Diffusion policies: a conditional diffusion model of actions given states (Diffusion-QL, section 3); and EDM."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dqlab.config.fields import PositiveFloat, PositiveInt, check_field
from dqlab.diffusion import Process, samplers
from dqlab.diffusion.predictions import LossWeighting, Prediction, loss_weightings, predictions
from dqlab.diffusion.process import device_constants
from dqlab.diffusion.sampling import ChainNoise, Denoise, Sampler
from dqlab.diffusion.schedules import NoiseSchedule, build_betas, karras
from dqlab.errors import ConfigError
from dqlab.networks import denoisers
from dqlab.networks.denoiser import prepared_denoiser
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec, integers, normal, uniform
from dqlab.policies.base import Dims, Policy, add_prefix, policies, strip_prefix


class ChainPolicy(Policy):
    """A policy whose actions a sampler draws by a chain of denoising steps."""

    denoiser: str | Callable[..., nn.Module]
    sampler: str | Callable[[], Sampler]

    @property
    @abstractmethod
    def process(self) -> Process:
        """The diffusion process that a chain reverses."""

    @cached_property
    def resolved_sampler(self) -> Sampler:
        return samplers.choose(self.sampler)()

    def build(self, dims: Dims) -> nn.Module:
        return denoisers.choose(self.denoiser)(dims.state, dims.action)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """x_N `start` (B, A), and `noise` (., B, A) in the order of use, unless the sampler needs none."""
        draws = self.resolved_sampler.draws(self.process)
        steps = {"noise": normal(draws, batch, dims.action)} if draws else {}
        return {"start": normal(batch, dims.action), **steps}

    def run_chain(self, data: Denoise, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A) of a chain with these data predictions, in states (B, S)."""
        start = noise["start"]
        chain = ChainNoise(start, noise.get("noise", start.new_empty(0, *start.shape)))
        return self.resolved_sampler(data, self.process, state, chain, dims.max_action)


@policies.register(
    "diffusion", source="Diffusion-QL, section 3; Ho et al. 2020", cites=("wang2023diffusion", "ho2020denoising")
)
@dataclass(frozen=True)
class DiffusionPolicy(ChainPolicy):
    """Actions by denoising Gaussian noise.

    Attributes:
        n_timesteps: N, diffusion steps in training.
        schedule, denoiser: names from their registries, or the components themselves.
        sampler, prediction, weighting: likewise, or factories: how a chain is run, what is predicted, steps' weights.
    """

    n_timesteps: PositiveInt = 5
    schedule: str | NoiseSchedule = "vp"
    denoiser: str | Callable[..., nn.Module] = "mlp"
    sampler: str | Callable[[], Sampler] = "ddpm"
    prediction: str | Callable[[], Prediction] = "eps"
    weighting: str | Callable[[], LossWeighting] = "uniform"

    @cached_property
    def process(self) -> Process:
        return Process.from_betas(build_betas(self.schedule, self.n_timesteps))

    @cached_property
    def resolved_prediction(self) -> Prediction:
        return predictions.choose(self.prediction)()

    @cached_property
    def loss_weights(self) -> tuple[float, ...]:
        """Weight of each timestep's squared error."""
        return loss_weightings.choose(self.weighting)().weights(self.resolved_prediction, self.process)

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Uniform timesteps t (B,), the noise eps (B, A), and as `denoiser_*` what the denoiser needs in training."""
        own = {"t": integers(self.n_timesteps, batch), "eps": normal(batch, dims.action)}
        # made to be asked; not on the device without values, for which PyTorch imports its compiler: seconds of a start
        with torch.random.fork_rng(devices=[]):
            denoiser: Any = self.build(dims)
        wanted = denoiser.training_noise(batch) if hasattr(denoiser, "training_noise") else {}
        return {**own, **add_prefix("denoiser", wanted)}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Weighted squared errors (B,) of what is predicted, means over action dimensions (Ho et al. 2020, eq. 14)."""
        return self.denoise(network, state, action, noise)[0]

    def reconstruct(
        self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """The losses (B,), and one-step estimates of x_0 (B, A) by the same forward pass (EDP, section 4.1).

        No gradient passes where they are clipped to the action range: at late timesteps, mostly, where x_0 magnifies
        the output by up to 1 / sqrt(abar).
        """
        losses, noisy, output = self.denoise(network, state, action, noise)
        start = self.resolved_prediction.start(self.process, noisy, noise["t"], output)
        return losses, start.clamp(-dims.max_action, dims.max_action)

    def denoise(self, network: Network, state: Tensor, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,), noisy actions (B, A), and the denoiser's output (B, A) for them."""
        t, eps = noise["t"], noise["eps"]
        noisy = self.process.diffuse(action, t, eps)
        target = self.resolved_prediction.target(self.process, action, eps, t)
        if hasattr(network.module, "train_forward"):
            output = network.call("train_forward", noisy, t, state, strip_prefix("denoiser", noise))
        else:
            output = network(noisy, t, state)
        if output.shape != target.shape:
            gives = f"{type(network.module).__name__} gives {tuple(output.shape)} for actions {tuple(target.shape)}"
            raise ConfigError(f"The denoiser {gives}; it must give the same shape.")
        losses = (output - target).square().mean(dim=-1)
        if set(self.loss_weights) != {1.0}:
            losses = losses * device_constants(self.loss_weights, losses.dtype, losses.device)[t]
        return losses, noisy, output

    def sample(
        self, network: Network, dims: Dims, state: Tensor, noise: Noise, visited: list[Tensor] | None = None
    ) -> Tensor:
        """Actions (B, A) for states (B, S), differentiable through the chain; the denoiser's inputs go to `visited`."""
        output = chain_denoiser(network, state, self.resolved_sampler.times(self.process))

        def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
            if visited is not None:
                visited.append(x)
            return self.resolved_prediction.start(self.process, x, t, output(x, t, state))

        return self.run_chain(denoise, dims, state, noise)


@policies.register(
    "edm",
    source="Karras et al. 2022, eq. 5 and 7, table 1; noise levels in training: DTQL (Chen, Wang, Zhou 2024)",
    cites=("karras2022elucidating", "chen2024diffusion"),
)
@dataclass(frozen=True)
class EDMPolicy(ChainPolicy):
    """Actions by denoising a + sigma * eps, where the data prediction is c_skip * x + c_out * network(c_in * x, ...).

    So the network's input and target have variance 1 at every noise level sigma, if actions have that of `sigma_data`.

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

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        def data(x: Tensor, t: int, state: Tensor) -> Tensor:
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            return self.denoise(network, state, x / alpha, torch.full_like(x[:, :1], sigma / alpha))

        return self.run_chain(data, dims, state, noise)


def chain_denoiser(network: Network, state: Tensor, times: Sequence[int]) -> Denoise:
    """The denoiser of one chain from these states (B, S): `(x (B, A), t, state) -> output (B, A)`."""
    places = {t: index for index, t in enumerate(sorted(times))}
    shared = prepared_denoiser(network, state, device_constants(tuple(places), torch.int64, state.device))

    def denoise(x: Tensor, t: int, given: Tensor) -> Tensor:
        if given is state and t in places:
            return shared(x, places[t])
        return network(x, torch.full((x.shape[0],), t, device=x.device, dtype=torch.int64), given)

    return denoise
