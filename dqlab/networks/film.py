"""A denoiser whose layers are modulated by time and state: FiLM in the form of adaLN-zero."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import layer_norm

from dqlab.config.fields import check_counts
from dqlab.networks.activations import Activation, activations
from dqlab.networks.denoiser import SinusoidalEmbedding, denoisers
from dqlab.networks.mlp import mlp


def zero_initialised(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias of 0: at first it gives zeros."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """FiLM of the normalised x: LayerNorm(x) * (1 + scale) + shift, all (B, width); the norm has no weights."""
    return layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class FiLMBlock(nn.Module):
    """x + gate * MLP(modulate(x, scale, shift)); the condition gives gate, scale and shift, which are 0 at first."""

    def __init__(self, width: int, expansion: int, activation: Activation) -> None:
        super().__init__()
        self.modulation = zero_initialised(nn.Linear(width, 3 * width))
        self.layers = mlp([width, expansion * width, width], activation=activation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(condition).chunk(3, dim=-1)
        out: Tensor = x + gate * self.layers(modulate(x, scale, shift))
        return out


@denoisers.register(
    "film_mlp",
    source="Perez et al. 2018 (FiLM); Peebles & Xie 2023 (DiT), section 3.2, adaLN-Zero",
    cites=("perez2018film", "peebles2023scalable"),
)
class FiLMDenoiser(nn.Module):
    """A residual MLP of the noisy action, its layers scaled, shifted and gated by time and state.

    Every block is the identity at first and the output is 0.

    Args:
        state_dim, action_dim: S and A.
        hidden_dim: width of the residual stream and of the condition.
        n_blocks: residual blocks.
        time_dim: width of the sinusoidal time embedding.
        expansion: how many times as wide as the residual stream a block's hidden layer is.
        activation: a name from the `activation` registry, or a factory.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden_dim: int = 256,
        n_blocks: int = 3,
        time_dim: int = 16,
        expansion: int = 1,
        activation: Activation = "mish",
    ) -> None:
        super().__init__()
        check_counts("FiLMDenoiser", hidden_dim=hidden_dim, n_blocks=n_blocks, time_dim=time_dim, expansion=expansion)
        self.time_embedding = SinusoidalEmbedding(time_dim)
        self.time_mlp = mlp([time_dim, hidden_dim, hidden_dim], activation=activation)
        self.state_mlp = mlp([state_dim, hidden_dim, hidden_dim], activation=activation)
        self.activation = activations.choose(activation)()
        self.first_layer = nn.Linear(action_dim, hidden_dim)
        self.blocks = nn.ModuleList(FiLMBlock(hidden_dim, expansion, activation) for _ in range(n_blocks))
        self.modulation = zero_initialised(nn.Linear(hidden_dim, 2 * hidden_dim))
        self.final_layer = zero_initialised(nn.Linear(hidden_dim, action_dim))

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self._rest(noisy_action, self._time(t, state) + self.state_mlp(state))

    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings of the timesteps (N, hidden) and of the states (B, hidden), once a chain."""
        return self._time(timesteps, state), self.state_mlp(state)

    def denoise(self, noisy_action: Tensor, index: int, prepared: tuple[Tensor, Tensor]) -> Tensor:
        time, state = prepared
        return self._rest(noisy_action, time[index] + state)

    def _time(self, t: Tensor, state: Tensor) -> Tensor:
        embedded: Tensor = self.time_mlp(self.time_embedding(t.to(state.dtype)))
        return embedded

    def _rest(self, noisy_action: Tensor, embedding: Tensor) -> Tensor:
        condition = self.activation(embedding)
        x = self.first_layer(noisy_action)
        for block in self.blocks:
            x = block(x, condition)
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        out: Tensor = self.final_layer(modulate(x, scale, shift))
        return out
