"""A denoiser: an ordinary module for one network; dqlab stacks, compiles and trains it."""

import torch
from torch import Tensor, nn

from dqlab.networks import denoisers
from dqlab.networks.denoiser import SinusoidalEmbedding


@denoisers.register("dqlab_plugin_film", source="Perez et al. 2018 (FiLM), eq. 2")
class DqlabPluginFilm(nn.Module):
    """State and timestep scale and shift the features of the noisy action, layer by layer.

    Args:
        state_dim, action_dim: S and A.
        hidden_dim: width of the hidden layers.
        time_dim: width of the timestep's embedding.
        n_layers: hidden layers.
    """

    def __init__(
        self, state_dim: int, action_dim: int, hidden_dim: int = 128, time_dim: int = 16, n_layers: int = 2
    ) -> None:
        super().__init__()
        self.time_embedding = SinusoidalEmbedding(time_dim)
        self.first = nn.Linear(action_dim, hidden_dim)
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(n_layers))
        self.modulations = nn.ModuleList(nn.Linear(time_dim + state_dim, 2 * hidden_dim) for _ in range(n_layers))
        self.last = nn.Linear(hidden_dim, action_dim)

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        """Predicted noise (B, A) in noisy actions (B, A) at timesteps t (B,), int64, in states (B, S)."""
        condition = torch.cat([self.time_embedding(t.to(state.dtype)), state], dim=-1)
        x = self.first(noisy_action)
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            scale, shift = modulation(condition).chunk(2, dim=-1)
            x = nn.functional.silu(layer(x) * (1 + scale) + shift)
        out: Tensor = self.last(x)
        return out
