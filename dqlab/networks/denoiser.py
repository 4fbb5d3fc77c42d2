"""Denoisers: modules `forward(noisy_action (B, A), t (B,), state (B, S)) -> (B, A)`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dqlab.config.fields import check_counts
from dqlab.config.registry import Registry
from dqlab.errors import ConfigError
from dqlab.networks.activations import Activation
from dqlab.networks.mlp import mlp

denoisers: Registry[Callable[..., nn.Module]] = Registry(
    "denoiser",
    "The network that reads a noisy action, its timestep and the state, and gives what `prediction` says.",
    "DiffusionPolicy.denoiser",
)


class SinusoidalEmbedding(nn.Module):
    """Timestep embedding (B,) -> (B, width): sines, then cosines, of geometric frequencies (Vaswani et al. 2017).

    Args:
        width: even.
        endpoint: whether the last frequency is 1 / 10000 itself; if not, the next one would be.
    """

    def __init__(self, width: int, endpoint: bool = True) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ConfigError(f"A time embedding (time_dim) must be even and at least 4 wide, not {width!r}.")
        half = width // 2
        exponents = torch.arange(half, dtype=torch.float64) / (half - 1 if endpoint else half)
        self.register_buffer("frequencies", torch.exp(-math.log(10000.0) * exponents), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps, 0..N-1 (or a flow's times), given in the network's floating dtype."""
        angles = t.unsqueeze(-1) * self.frequencies.to(t.dtype)  # type: ignore[operator]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConcatDenoiser(nn.Module, ABC):
    """A denoiser that begins with one linear layer of [noisy action, time embedding, state].

    Subclasses give that layer, the time embedding, and the rest. What of the first layer does not depend on the noisy
    action is computed once a chain.
    """

    @property
    @abstractmethod
    def first(self) -> nn.Linear:
        """The first layer."""

    @abstractmethod
    def embed(self, t: Tensor) -> Tensor:
        """Time embedding (B, T) of timesteps (B,) in the network's floating dtype."""

    @abstractmethod
    def rest(self, hidden: Tensor) -> Tensor:
        """Predicted noise (B, A) from the first layer's output (B, hidden)."""

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self.rest(self.enter(noisy_action, t, state))

    def enter(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        """The first layer's output (B, hidden)."""
        hidden: Tensor = self.first(torch.cat([noisy_action, self.embed(t.to(state.dtype)), state], dim=-1))
        return hidden

    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """What a whole chain of denoising steps shares: the first layer's share of states and timesteps.

        The first layer is linear, so it is a sum over its inputs; only the noisy action's share changes with the step.

        Args:
            state: (B, S).
            timesteps: all those that the chain may visit, (N,) int64.

        Returns:
            For every timestep the first layer's output without the noisy action, N times (B, hidden); and the layer's
            weight for the noisy action, (hidden, A).
        """
        time = self.embed(timesteps.to(state.dtype))
        widths = [time.shape[-1], state.shape[-1]]
        weights = torch.split(self.first.weight, [self.first.in_features - sum(widths), *widths], dim=1)
        of_action, of_time, of_state = weights
        share = nn.functional.linear(state, of_state, self.first.bias)
        shares = share + nn.functional.linear(time, of_time).unsqueeze(1)
        return shares.unbind(), of_action

    def denoise(self, noisy_action: Tensor, index: int, prepared: tuple[tuple[Tensor, ...], Tensor]) -> Tensor:
        shares, of_action = prepared
        return self.rest(torch.addmm(shares[index], noisy_action, of_action.t()))


@denoisers.register("mlp", source="Diffusion-QL's official code", cites=("wang2023diffusion",))
class MLPDenoiser(ConcatDenoiser):
    """The paper's denoiser: [noisy action, time embedding, state] through three hidden layers with Mish.

    Args:
        state_dim, action_dim: S and A.
        hidden_dim: width of the hidden layers.
        time_dim: width of the time embedding; its own two layers are 2 * time_dim and time_dim wide. If 1, the time
            itself enters, without layers of its own.
        depth: number of the hidden layers.
        activation: a name from the `activation` registry, or a factory.
        layer_norm: LayerNorm before each hidden layer's activation.
        time_endpoint: whether the embedding's frequencies end at 1 / 10000, as in Diffusion-QL's code, or would in one
            step more, as in those of guided diffusion and EDP.
        time_active: the second of the time embedding's layers is activated, too, as in flow-rl's networks.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden_dim: int = 256,
        time_dim: int = 16,
        depth: int = 3,
        activation: Activation = "mish",
        layer_norm: bool = False,
        time_endpoint: bool = True,
        time_active: bool = False,
    ) -> None:
        super().__init__()
        check_counts("MLPDenoiser", hidden_dim=hidden_dim, time_dim=time_dim, depth=depth)
        self.time_mlp = None
        if time_dim > 1:
            self.time_embedding = SinusoidalEmbedding(time_dim, time_endpoint)
            embedded = [time_dim, 2 * time_dim, time_dim]
            self.time_mlp = mlp(embedded, end_active=time_active, activation=activation)
        widths = [action_dim + time_dim + state_dim] + depth * [hidden_dim]
        self.mid_layer = mlp(widths, end_active=True, activation=activation, layer_norm=layer_norm)
        self.final_layer = nn.Linear(hidden_dim, action_dim)

    @property
    def first(self) -> nn.Linear:
        layer = self.mid_layer[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def embed(self, t: Tensor) -> Tensor:
        """Sines and cosines through two layers, (B, time_dim); or the time itself."""
        if self.time_mlp is None:
            return t.unsqueeze(-1)
        embedded: Tensor = self.time_mlp(self.time_embedding(t))
        return embedded

    def rest(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.final_layer(self.mid_layer[1:](hidden))
        return out
