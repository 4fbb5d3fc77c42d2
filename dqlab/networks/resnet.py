"""IDQL's residual denoiser, and dropout whose masks are made from injected noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dqlab.config.fields import check_counts
from dqlab.errors import ConfigError
from dqlab.networks.activations import Activation, activations
from dqlab.networks.denoiser import ConcatDenoiser, denoisers
from dqlab.networks.mlp import mlp
from dqlab.noise import Noise, NoiseSpec, uniform


class FourierFeatures(nn.Module):
    """Learned time features (B,) -> (B, width): cosines, then sines, of 2 pi w t; w is from N(0, 0.2^2) at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ConfigError(f"Fourier features (time_dim) must be even and at least 2 wide, not {width!r}.")
        self.frequencies = nn.Parameter(0.2 * torch.randn(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        """Features of times, given in the network's floating dtype."""
        angles = 2 * math.pi * t.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResidualBlock(nn.Module):
    """x + W2 activation(W1 LayerNorm(dropout(x))), the hidden layer `expansion` times as wide."""

    def __init__(self, width: int, expansion: int, activation: Activation, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.layers = mlp([width, expansion * width, width], activation=activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = x + self.layers(self.norm(x if mask is None else x * mask))
        return out


def dropout_mask(noise: Tensor, rate: float) -> Tensor:
    """Inverted dropout (Srivastava et al. 2014): 0 with probability `rate`, else 1 / (1 - rate).

    Args:
        noise: uniform in [0, 1), any shape.
        rate: in [0, 1).
    """
    return (noise >= rate).to(noise.dtype) / (1 - rate)


@denoisers.register(
    "ln_resnet",
    source="Hansen-Estruch et al. 2023 (IDQL), LN_Resnet; details of its official code",
    cites=("hansenestruch2023idql",),
)
class LNResnet(ConcatDenoiser):
    """IDQL's residual MLP: blocks of dropout, LayerNorm, a layer four times as wide, and back.

    Time is embedded by learned Fourier features and a perceptron of two layers, 2 * time_dim wide. Without dropout
    `forward` is what IDQL evaluates; `train_forward` is what it trains.

    Args:
        state_dim, action_dim: S and A.
        hidden_dim: width of the residual stream.
        n_blocks: residual blocks.
        time_dim: Fourier features.
        dropout: rate of the dropout at the start of each block, in [0, 1).
        activation: a name from the `activation` registry, or a factory.
        norm_eps: added to LayerNorm's variance; IDQL's code has 1e-6.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden_dim: int = 256,
        n_blocks: int = 3,
        time_dim: int = 64,
        dropout: float = 0.1,
        activation: Activation = "mish",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_counts("LNResnet", hidden_dim=hidden_dim, n_blocks=n_blocks, time_dim=time_dim)
        if not 0 <= dropout < 1:
            raise ConfigError(f"LNResnet.dropout must be at least 0 and below 1, not {dropout!r}.")
        if not norm_eps > 0:
            raise ConfigError(f"LNResnet.norm_eps must be positive, not {norm_eps!r}.")
        self.dropout = dropout
        self.features = FourierFeatures(time_dim)
        self.time_mlp = mlp([time_dim, 2 * time_dim, 2 * time_dim], activation=activation)
        self.first_layer = nn.Linear(action_dim + 2 * time_dim + state_dim, hidden_dim)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_dim, 4, activation, norm_eps) for _ in range(n_blocks))
        self.final_layer = nn.Linear(hidden_dim, action_dim)
        self.activation = activations.choose(activation)()

    @property
    def first(self) -> nn.Linear:
        return self.first_layer

    def embed(self, t: Tensor) -> Tensor:
        """Fourier features through two layers, (B, 2 * time_dim)."""
        embedded: Tensor = self.time_mlp(self.features(t))
        return embedded

    def rest(self, hidden: Tensor, masks: Tensor | None = None) -> Tensor:
        """The blocks, an activation, and the last layer; dropout's masks (n_blocks, B, hidden), if there is dropout."""
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, None if masks is None else masks[index])
        out: Tensor = self.final_layer(self.activation(hidden))
        return out

    def training_noise(self, batch: int) -> dict[str, NoiseSpec]:
        """Uniform numbers `dropout` (n_blocks, B, hidden); nothing where the rate is 0."""
        shape = (len(self.blocks), batch, self.first_layer.out_features)
        return {"dropout": uniform(*shape)} if self.dropout else {}

    def train_forward(self, noisy_action: Tensor, t: Tensor, state: Tensor, noise: Noise) -> Tensor:
        """Predicted noise (B, A) with dropout by the noise that `training_noise` asks for."""
        masks = dropout_mask(noise["dropout"], self.dropout) if self.dropout else None
        return self.rest(self.enter(noisy_action, t, state), masks)
