"""Denoisers `(noisy_action (B, A), t (B,), state (B, S)) -> (B, A)`: plain, residual, modulated MLPs; a transformer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, pad

from dqlab.config.fields import check_counts
from dqlab.config.registry import Registry
from dqlab.errors import ConfigError
from dqlab.networks.activations import Activation, activations, mlp
from dqlab.networks.stacking import Network
from dqlab.noise import Noise, NoiseSpec, uniform

denoisers: Registry[Callable[..., nn.Module]] = Registry(
    "denoiser", "Reads noisy action, timestep and state; gives what `prediction` says.", "DiffusionPolicy.denoiser"
)


def prepared_denoiser(network: Network, state: Tensor, times: Tensor) -> Callable[[Tensor, int], Tensor]:
    """`(x (B, A), index) -> output (B, A)` in these states (B, S), at the time of that index among `times` (N,).

    A denoiser with `prepare` and `denoise` (see `ConcatDenoiser`) computes once what does not depend on x.
    """
    if not hasattr(network.module, "prepare"):
        return lambda x, index: network(x, times[index].expand(x.shape[0]), state)
    prepared = network.call("prepare", state, times)
    return lambda x, index: network.call("denoise", x, index, prepared)  # type: ignore[no-any-return]


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
        angles = t.unsqueeze(-1) * self.frequencies.to(t.dtype)  # type: ignore[operator]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConcatDenoiser(nn.Module, ABC):
    """A denoiser that begins with a linear layer of [noisy action, time embedding, state]: a sum of three shares."""

    first_layer: nn.Linear

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
        return self.first_layer(torch.cat([noisy_action, self.embed(t.to(state.dtype)), state], dim=-1))

    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """What the steps of a chain have in common, of states (B, S) and timesteps (N,).

        The first layer's outputs without the noisy action, N times (B, hidden); its weight for that one, (hidden, A).
        """
        layer, time = self.first_layer, self.embed(timesteps.to(state.dtype))
        known = [time.shape[-1], state.shape[-1]]
        action, times, states = torch.split(layer.weight, [layer.in_features - sum(known), *known], dim=1)
        shares = linear(state, states, layer.bias) + linear(time, times).unsqueeze(1)
        return shares.unbind(), action

    def denoise(self, noisy_action: Tensor, index: int, prepared: tuple[tuple[Tensor, ...], Tensor]) -> Tensor:
        shares, of_action = prepared
        return self.rest(torch.addmm(shares[index], noisy_action, of_action.t()))


@denoisers.register("mlp", source="Diffusion-QL's official code", cites=("wang2023diffusion",))
class MLPDenoiser(ConcatDenoiser):
    """The paper's denoiser: [noisy action, time embedding, state] through three hidden layers with Mish.

    Args:
        hidden_dim, depth: width and number of the hidden layers.
        time_dim: width of the time embedding, whose own layers are 2 * time_dim and time_dim wide; 1: the time itself.
        layer_norm: LayerNorm before each hidden layer's activation.
        time_endpoint: frequencies end at 1 / 10000 (Diffusion-QL's code), or would in one more (guided diffusion, EDP).
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
            self.time_mlp = mlp([time_dim, 2 * time_dim, time_dim], time_active, activation)
        self.mid_layer = mlp([action_dim + time_dim + state_dim] + depth * [hidden_dim], True, activation, layer_norm)
        self.final_layer = nn.Linear(hidden_dim, action_dim)

    @property
    def first_layer(self) -> nn.Linear:  # type: ignore[override]
        return self.mid_layer[0]  # type: ignore[return-value]

    def embed(self, t: Tensor) -> Tensor:
        return t.unsqueeze(-1) if self.time_mlp is None else self.time_mlp(self.time_embedding(t))

    def rest(self, hidden: Tensor) -> Tensor:
        return self.final_layer(self.mid_layer[1:](hidden))


class FourierFeatures(nn.Module):
    """Learned time features (B,) -> (B, width): cosines, then sines, of 2 pi w t; w is from N(0, 0.2^2) at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ConfigError(f"Fourier features (time_dim) must be even and at least 2 wide, not {width!r}.")
        self.frequencies = nn.Parameter(0.2 * torch.randn(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResidualBlock(nn.Module):
    """x + W2 activation(W1 LayerNorm(dropout(x))), the hidden layer `expansion` times as wide."""

    def __init__(self, width: int, expansion: int, activation: Activation, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.layers = mlp([width, expansion * width, width], activation=activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.layers(self.norm(x if mask is None else x * mask))


@denoisers.register(
    "ln_resnet", source="Hansen-Estruch et al. 2023 (IDQL), LN_Resnet; its code", cites=("hansenestruch2023idql",)
)
class LNResnet(ConcatDenoiser):
    """IDQL's residual MLP: blocks of dropout, LayerNorm, a layer four times as wide, and back.

    Time is embedded by learned Fourier features and two layers, 2 * time_dim wide. `forward` has no dropout.

    Args:
        hidden_dim, n_blocks: width of the residual stream, and its blocks.
        time_dim: Fourier features.
        dropout: rate of the dropout at the start of each block, in [0, 1).
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

    def embed(self, t: Tensor) -> Tensor:
        return self.time_mlp(self.features(t))

    def rest(self, hidden: Tensor, masks: Tensor | None = None) -> Tensor:
        """The blocks, an activation, and the last layer; dropout's masks (n_blocks, B, hidden), if there is dropout."""
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, None if masks is None else masks[index])
        return self.final_layer(self.activation(hidden))

    def training_noise(self, batch: int) -> dict[str, NoiseSpec]:
        """Uniform numbers `dropout` (n_blocks, B, hidden); nothing where the rate is 0."""
        return {"dropout": uniform(len(self.blocks), batch, self.first_layer.out_features)} if self.dropout else {}

    def train_forward(self, noisy_action: Tensor, t: Tensor, state: Tensor, noise: Noise) -> Tensor:
        """Predicted noise (B, A) with inverted dropout (Srivastava et al. 2014) by the noise of `training_noise`."""
        if not self.dropout:
            return self.forward(noisy_action, t, state)
        masks = (noise["dropout"] >= self.dropout).to(noise["dropout"].dtype) / (1 - self.dropout)
        return self.rest(self.enter(noisy_action, t, state), masks)


class ContextDenoiser(nn.Module, ABC):
    """A denoiser that reads time and state by embeddings of one width, which are computed once a chain."""

    @abstractmethod
    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (N, width) of timesteps (N,), and (B, width) of states (B, S)."""

    @abstractmethod
    def rest(self, noisy_action: Tensor, time: Tensor, state: Tensor) -> Tensor:
        """Predicted noise (B, A) from noisy actions (B, A) and the embeddings (B, width) of their time and state."""

    def forward(self, noisy_action: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self.rest(noisy_action, *self.prepare(state, t))

    def denoise(self, noisy_action: Tensor, index: int, prepared: tuple[Tensor, Tensor]) -> Tensor:
        time, state = prepared
        return self.rest(noisy_action, time[index].expand_as(state), state)


def zero_initialised(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias of 0: at first it gives zeros."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
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
        return x + gate * self.layers(modulate(x, scale, shift))


@denoisers.register(
    "film_mlp",
    source="Perez et al. 2018 (FiLM); Peebles & Xie 2023 (DiT), section 3.2, adaLN-Zero",
    cites=("perez2018film", "peebles2023scalable"),
)
class FiLMDenoiser(ContextDenoiser):
    """A residual MLP of the noisy action, its layers scaled, shifted and gated by time and state.

    Every block is the identity at first and the output is 0.

    Args:
        hidden_dim, n_blocks: width of the residual stream and of the condition; residual blocks.
        time_dim: width of the sinusoidal time embedding.
        expansion: how many times as wide as the residual stream a block's hidden layer is.
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

    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self.time_mlp(self.time_embedding(timesteps.to(state.dtype))), self.state_mlp(state)

    def rest(self, noisy_action: Tensor, time: Tensor, state: Tensor) -> Tensor:
        condition, x = self.activation(time + state), self.first_layer(noisy_action)
        for block in self.blocks:
            x = block(x, condition)
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return self.final_layer(modulate(x, scale, shift))


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
        return self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(start_dim=2))


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
class TransformerDenoiser(ContextDenoiser):
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

    def prepare(self, state: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self.time_token(self.time_embedding(timesteps.to(state.dtype))), self.state_token(state)

    def rest(self, noisy_action: Tensor, time: Tensor, state: Tensor) -> Tensor:
        context = torch.stack([time, state], dim=1)
        tokens = torch.cat([context, self.action_token(self.chunks(noisy_action))], dim=1) + self.positions
        return self.final_layer(self.norm(self.blocks(tokens)[:, 2:])).flatten(start_dim=1)[:, : self.action_dim]

    def chunks(self, action: Tensor) -> Tensor:
        """Actions (B, A) -> (B, ceil(A / chunk), chunk), zeros behind the last dimension."""
        return pad(action, (0, -self.action_dim % self.chunk)).reshape(action.shape[0], -1, self.chunk)
