"""The conditional variational autoencoder of BCQ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveFloat
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec, normal
from dqlab.policies.base import Dims, policies
from dqlab.policies.gaussian import PerceptronPolicy, squash

LOG_STD_MIN, LOG_STD_MAX = -4.0, 15.0


@policies.register("cvae", source="Fujimoto et al. 2019 (BCQ) and its code", cites=("fujimoto2019off",))
@dataclass(frozen=True)
class CVAEPolicy(PerceptronPolicy):
    """Actions decoded from a Gaussian latent, trained as a conditional variational autoencoder.

    As in BCQ's code the reconstruction error is a mean over action dimensions and the KL divergence a mean (not a
    sum) over latent dimensions; the encoder's log standard deviation is clamped to [-4, 15]; the decoder is squashed.

    Attributes:
        latent_dim: L; 0 for twice the action's dimensions.
        kl_weight: of the KL divergence.
        latent_clip: latents are clipped to +- this to sample.
    """

    hidden_dim: int = 750
    latent_dim: NonNegativeInt = 0
    kl_weight: NonNegativeFloat = 0.5
    latent_clip: PositiveFloat = 0.5

    def latents(self, dims: Dims) -> int:
        """L, how many latent dimensions there are."""
        return self.latent_dim or 2 * dims.action

    def build(self, dims: Dims) -> nn.Module:
        latents = self.latents(dims)
        encoder = self.perceptron(dims.state + dims.action, 2 * latents)
        return nn.ModuleDict({"encoder": encoder, "decoder": self.perceptron(dims.state + latents, dims.action)})

    def encode(self, network: Network, dims: Dims, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, L) of the latent, given states (B, S) and actions (B, A)."""
        mean, log_std = network.part("encoder")(torch.cat([state, action], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def decode(self, network: Network, dims: Dims, state: Tensor, latent: Tensor) -> Tensor:
        """Actions (B, A) for states (B, S) and latents (B, L)."""
        return squash(network.part("decoder")(torch.cat([state, latent], dim=-1)), dims.max_action)

    def loss_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Standard normal `latent` (B, L)."""
        return {"latent": normal(batch, self.latents(dims))}

    def losses(self, network: Network, dims: Dims, state: Tensor, action: Tensor, noise: Noise) -> Tensor:
        """Squared errors of the reconstruction plus kl_weight * KL (B,), means over action and latent dimensions."""
        mean, log_std = self.encode(network, dims, state, action)
        latent = mean + log_std.exp() * noise["latent"]
        error = (self.decode(network, dims, state, latent) - action).square().mean(dim=-1)
        return error + self.kl_weight * kl_to_standard(mean, log_std).mean(dim=-1)

    def sample_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Standard normal `latent` (B, L)."""
        return {"latent": normal(batch, self.latents(dims))}

    def sample(self, network: Network, dims: Dims, state: Tensor, noise: Noise) -> Tensor:
        """Actions (B, A), decoded from clipped latents."""
        return self.decode(network, dims, state, noise["latent"].clamp(-self.latent_clip, self.latent_clip))


def kl_to_standard(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), number by number (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
