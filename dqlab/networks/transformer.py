"""A small transformer as a denoiser: tokens are pieces of the noisy action, the state and the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dqlab.config.fields import check_counts
from dqlab.errors import ConfigError
from dqlab.networks.activations import Activation
from dqlab.networks.denoiser import SinusoidalEmbedding, denoisers
from dqlab.networks.mlp import mlp


class SelfAttention(nn.Module):
    """Multi-head self-attention, softmax(q k^T / sqrt(d)) v, of tokens (B, T, width) (Vaswani et al. 2017).

    No biases of q, k and v: softmax ignores that of k, so its gradient would be rounding alone, which Adam enlarges.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.into = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.into(tokens).reshape(*tokens.shape[:2], 3, self.n_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mixed = scores.softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(start_dim=2))


class EncoderBlock(nn.Module):
    """Self-attention, then a perceptron on each token, both residual and normalised before (Xiong et al. 2020)."""

    def __init__(self, width: int, n_heads: int, activation: Activation) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, n_heads)
        self.norm_layers = nn.LayerNorm(width)
        self.layers = mlp([width, 4 * width, width], activation=activation)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm_attention(tokens))
        return tokens + self.layers(self.norm_layers(tokens))


@denoisers.register(
    "transformer", source="Vaswani et al. 2017; Xiong et al. 2020", cites=("vaswani2017attention", "xiong2020layer")
)
class TransformerDenoiser(nn.Module):
    """An encoder over tokens of the noisy action, chunk by chunk, with a token of the time and one of the state.

    Args:
        hidden_dim, n_blocks: width of a token; encoder blocks.
        n_heads: heads of the attention; must divide hidden_dim.
        chunk: neighbouring action dimensions in one token; zeros fill up the last where A leaves a rest.
        time_dim: width of the sinusoidal time embedding.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden_dim: int = 64,
        n_blocks: int = 2,
        n_heads: int = 4,
        chunk: int = 1,
        time_dim: int = 16,
        activation: Activation = "mish",
    ) -> None:
        super().__init__()
        sizes = {"hidden_dim": hidden_dim, "n_blocks": n_blocks, "n_heads": n_heads, "time_dim": time_dim}
        check_counts("TransformerDenoiser", **sizes, chunk=chunk)
        if hidden_dim % n_heads:
            raise ConfigError(f"TransformerDenoiser.hidden_dim={hidden_dim} must be a multiple of n_heads={n_heads}.")
        self.action_dim, self.chunk = action_dim, chunk
        self.time_embedding = SinusoidalEmbedding(time_dim)
        self.time_token = mlp([time_dim, hidden_dim, hidden_dim], activation=activation)
        self.state_token = nn.Linear(state_dim, hidden_dim)
        self.action_token = nn.Linear(chunk, hidden_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(2 + math.ceil(action_dim / chunk), hidden_dim))
        self.blocks = nn.Sequential(*(EncoderBlock(hidden_dim, n_heads, activation) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(hidden_dim)
        self.final_layer = nn.Linear(hidden_dim, chunk)

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self._rest(noisy_action, self._time(t, state), self.state_token(state))

    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the timesteps (N, width) and of the states (B, width), once a chain."""
        return self._time(timesteps, state), self.state_token(state)

    def denoise(self, noisy_action: Tensor, index: int, prepared: tuple[Tensor, Tensor]) -> Tensor:
        time, state = prepared
        return self._rest(noisy_action, time[index].expand_as(state), state)

    def chunks(self, action: Tensor) -> Tensor:
        """Actions (B, A) -> (B, ceil(A / chunk), chunk), zeros behind the last dimension."""
        return pad(action, (0, -self.action_dim % self.chunk)).reshape(action.shape[0], -1, self.chunk)

    def _time(self, t: Tensor, state: Tensor) -> Tensor:
        return self.time_token(self.time_embedding(t.to(state.dtype)))

    def _rest(self, noisy_action: Tensor, time: Tensor, state: Tensor) -> Tensor:
        context = torch.stack([time, state], dim=1)
        tokens = torch.cat([context, self.action_token(self.chunks(noisy_action))], dim=1) + self.positions
        return self.final_layer(self.norm(self.blocks(tokens)[:, 2:])).flatten(start_dim=1)[:, : self.action_dim]
