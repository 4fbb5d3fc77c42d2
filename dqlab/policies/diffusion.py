"""The diffusion policy: a conditional diffusion model of actions given states (Diffusion-QL, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from dqlab.config.fields import PositiveInt
from dqlab.diffusion import Process, samplers
from dqlab.diffusion.predictions import LossWeighting, Prediction, loss_weightings, predictions
from dqlab.diffusion.process import device_constants
from dqlab.diffusion.sampling import ChainNoise, Denoise, Sampler
from dqlab.diffusion.schedules import NoiseSchedule, build_betas
from dqlab.errors import ConfigError
from dqlab.networks import denoisers
from dqlab.networks.stacking import Network, probe_module
from dqlab.noise import Noise, NoiseSpec, integers, normal
from dqlab.policies.base import Dims, Policy, add_prefix, policies, strip_prefix


@policies.register(
    "diffusion", source="Diffusion-QL, section 3; Ho et al. 2020", cites=("wang2023diffusion", "ho2020denoising")
)
@dataclass(frozen=True)
class DiffusionPolicy(Policy):
    """Actions by denoising Gaussian noise.

    Attributes:
        n_timesteps: N, diffusion steps in training.
        schedule, denoiser: names from their registries, or the components themselves.
        sampler, prediction, weighting: names from their registries, or factories: how a chain is run, what the
            denoiser predicts, and how much each timestep counts in its loss.
    """

    n_timesteps: PositiveInt = 5
    schedule: str | NoiseSchedule = "vp"
    denoiser: str | Callable[..., nn.Module] = "mlp"
    sampler: str | Callable[[], Sampler] = "ddpm"
    prediction: str | Callable[[], Prediction] = "eps"
    weighting: str | Callable[[], LossWeighting] = "uniform"

    @cached_property
    def process(self) -> Process:
        """The diffusion process of the chosen schedule."""
        return Process.from_betas(build_betas(self.schedule, self.n_timesteps))

    @cached_property
    def resolved_sampler(self) -> Sampler:
        return samplers.choose(self.sampler)()

    @cached_property
    def resolved_prediction(self) -> Prediction:
        return predictions.choose(self.prediction)()

    @cached_property
    def loss_weights(self) -> tuple[float, ...]:
        """Weight of each timestep's squared error."""
        return loss_weightings.choose(self.weighting)().weights(self.resolved_prediction, self.process)

    def build(self, dims: Dims) -> nn.Module:
        return denoisers.choose(self.denoiser)(dims.state, dims.action)

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Uniform timesteps t (B,), the noise eps (B, A), and as `denoiser_*` what the denoiser needs in training."""
        own = {"t": integers(self.n_timesteps, batch), "eps": normal(batch, dims.action)}
        denoiser: Any = probe_module(partial(self.build, dims))
        wanted = denoiser.training_noise(batch) if hasattr(denoiser, "training_noise") else {}
        return {**own, **add_prefix("denoiser", wanted)}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Weighted squared errors (B,) of what is predicted, means over action dimensions (Ho et al. 2020, eq. 14)."""
        return self.denoise(network, state, action, noise)[0]

    def reconstruct(
        self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """The losses, and the actions that the same forward pass stands for (Kang et al. 2023, EDP, section 4.1).

        Args:
            network, dims, state, action, noise: those of `losses`.

        Returns:
            Losses (B,), and the one-step estimates of x_0 (B, A), clipped to the action range. No gradient passes where
            they are clipped: late timesteps, where x_0 magnifies the output by up to 1 / sqrt(abar), mostly are.
        """
        losses, noisy, output = self.denoise(network, state, action, noise)
        start = self.resolved_prediction.start(self.process, noisy, noise["t"], output)
        return losses, start.clamp(-dims.max_action, dims.max_action)

    def denoise(self, network: Network, state: Tensor, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,), noisy actions (B, A), and the denoiser's output (B, A) for them."""
        t, eps = noise["t"], noise["eps"]
        noisy = self.process.diffuse(action, t, eps)
        target = self.resolved_prediction.target(self.process, action, eps, t)
        output = train_forward(network, noisy, t, state, strip_prefix("denoiser", noise))
        if output.shape != target.shape:
            name, shape, wanted = type(network.module).__name__, tuple(output.shape), tuple(target.shape)
            raise ConfigError(f"The denoiser {name} gives {shape} for actions {wanted}; it must give the same shape.")
        return self._weighted((output - target).square().mean(dim=-1), t), noisy, output

    def _weighted(self, losses: Tensor, t: Tensor) -> Tensor:
        """Losses (B,) times the weights of their timesteps, if there are any."""
        if set(self.loss_weights) == {1.0}:
            return losses
        return losses * device_constants(self.loss_weights, losses.dtype, losses.device)[t]

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """x_N `start` (B, A), and `noise` (., B, A) in the order of use, unless the sampler needs none."""
        draws = self.resolved_sampler.draws(self.process)
        steps = {"noise": normal(draws, batch, dims.action)} if draws else {}
        return {"start": normal(batch, dims.action), **steps}

    def sample(
        self,
        network: Network,
        dims: Dims,
        state: Tensor,
        noise: Noise,
        visited: list[Tensor] | None = None,
    ) -> Tensor:
        """Actions (B, A) for states (B, S), by the chosen sampler; differentiable through the chain.

        Every noisy action (B, A) that the denoiser is asked about is appended to `visited`.
        """
        start = noise["start"]
        output = chain_denoiser(network, state, self.resolved_sampler.times(self.process))

        def denoise(x: Tensor, t: int, state: Tensor) -> Tensor:
            if visited is not None:
                visited.append(x)
            return self.resolved_prediction.start(self.process, x, t, output(x, t, state))

        chain = ChainNoise(start, noise.get("noise", start.new_empty(0, *start.shape)))
        return self.resolved_sampler(denoise, self.process, state, chain, dims.max_action)


def train_forward(network: Network, noisy: Tensor, t: Tensor, state: Tensor, noise: Noise) -> Tensor:
    """The denoiser's output (B, A) in training: by its `train_forward`, with the noise it asked for, if it has one."""
    if not hasattr(network.module, "train_forward"):
        return network(noisy, t, state)
    output: Tensor = network.call("train_forward", noisy, t, state, noise)
    return output


def chain_denoiser(network: Network, state: Tensor, times: Sequence[int]) -> Denoise:
    """The denoiser of one chain from these states (B, S): `(x (B, A), t, state) -> output (B, A)`.

    A denoiser with `prepare` and `denoise` (see `MLPDenoiser`) does once a chain what does not depend on x, for the
    timesteps that the chain visits.
    """

    def direct(x: Tensor, t: int, state: Tensor) -> Tensor:
        return network(x, torch.full((x.shape[0],), t, device=x.device, dtype=torch.int64), state)

    if not hasattr(network.module, "prepare"):
        return direct
    places = {t: index for index, t in enumerate(sorted(times))}
    prepared = network.call("prepare", state, device_constants(tuple(places), torch.int64, state.device))

    def shared(x: Tensor, t: int, given: Tensor) -> Tensor:
        output: Tensor = network.call("denoise", x, places[t], prepared) if given is state else direct(x, t, given)
        return output

    return shared
