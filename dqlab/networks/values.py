"""State values V(s), values V(s, x_t, t) along a chain, the implicit losses by which V is learned, multipliers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.config.fields import check_counts
from dqlab.config.registry import Registry, configurable
from dqlab.errors import ConfigError
from dqlab.networks.activations import Activation, mlp
from dqlab.networks.denoiser import SinusoidalEmbedding
from dqlab.networks.stacking import Members

ValueLoss = Callable[[Tensor], Tensor]
value_losses: Registry[ValueLoss] = Registry(
    "value_loss", "The loss of V by u = Q - V: which statistic of the data's Q V becomes.", "IQL.value_loss"
)


@configurable("networks")
class ValueNetwork(nn.Module):
    """State (B, S) -> hidden layers -> V (B,).

    Args:
        hidden_dim, depth: width and number of the hidden layers.
        layer_norm, norm_after, norm_eps: as in `mlp`.
    """

    def __init__(
        self,
        state_dim: int,
        hidden_dim: int = 256,
        depth: int = 3,
        activation: Activation = "mish",
        layer_norm: bool = False,
        norm_after: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_counts("ValueNetwork", hidden_dim=hidden_dim, depth=depth)
        self.layers = mlp([state_dim, *depth * [hidden_dim], 1], False, activation, layer_norm, norm_after, norm_eps)

    def forward(self, state: Tensor) -> Tensor:
        return self.layers(state).squeeze(-1)


class _ChainValue(nn.Module):
    """One member of `ChainValueNetwork`: [state, noisy action, what layers of its own make of the time] -> V (B,)."""

    def __init__(self, time_mlp: nn.Module, layers: nn.Module) -> None:
        super().__init__()
        self.time_mlp, self.layers = time_mlp, layers

    def forward(self, state: Tensor, noisy_action: Tensor, time: Tensor) -> Tensor:
        return self.layers(torch.cat([state, noisy_action, self.time_mlp(time)], dim=-1)).squeeze(-1)


@configurable("networks")
class ChainValueNetwork(nn.Module):
    """M values V(s, x_t, t) of what a chain of denoising will make of x_t (Gao et al. 2025, BDPO).

    Args:
        n_members: M.
        hidden_dim, depth: width and number of each member's hidden layers.
        time_dim: width of the time embedding; each member's own two layers are 2 * time_dim and time_dim wide.
        layer_norm, norm_eps: as in `mlp`.
        time_active: the second of the time embedding's layers is activated, too.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        n_members: int,
        hidden_dim: int = 256,
        depth: int = 3,
        time_dim: int = 64,
        activation: Activation = "mish",
        layer_norm: bool = True,
        norm_eps: float = 1e-5,
        time_active: bool = False,
    ) -> None:
        super().__init__()
        check_counts("ChainValueNetwork", n_members=n_members, hidden_dim=hidden_dim, depth=depth, time_dim=time_dim)
        self.time_embedding = SinusoidalEmbedding(time_dim)
        widths = [state_dim + action_dim + time_dim, *depth * [hidden_dim], 1]
        time = partial(mlp, [time_dim, 2 * time_dim, time_dim], end_active=time_active, activation=activation)
        layers = partial(mlp, widths, activation=activation, layer_norm=layer_norm, norm_eps=norm_eps)
        self.members = Members([_ChainValue(time(), layers()) for _ in range(n_members)], alike=True)

    def forward(self, state: Tensor, noisy_action: Tensor, t: Tensor) -> Tensor:
        """V (M, B) of states (B, S), noisy actions (B, A) and timesteps (B,)."""
        return self.members.each(state, noisy_action, self.time_embedding(t.to(state.dtype)))


class Multiplier(nn.Module):
    """exp(log_value), its logarithm between -5 and 10 (Kumar et al. 2019).

    Args:
        spread, bounded: standard deviation of its logarithm at first, whose mean is 0; whether that has bounds.
    """

    def __init__(self, spread: float = 0.0, bounded: bool = True) -> None:
        super().__init__()
        self.low, self.high = (-5.0, 10.0) if bounded else (-math.inf, math.inf)
        self.log_value = nn.Parameter(spread * torch.randn(()) if spread else torch.zeros(()))

    def forward(self) -> Tensor:
        return self.log_value.clamp(self.low, self.high).exp()

    def ascent(self, excess: Tensor) -> Tensor:
        """A loss whose descent raises the multiplier while the constraint's excess, a scalar, is positive.

        Its gradient is that of -exp(log_value) * excess; beyond a bound it is zero, unless it leads back.
        """
        log_value = self.log_value.detach()
        outward = ((log_value >= self.high) & (excess > 0)) | ((log_value <= self.low) & (excess < 0))
        return -self.log_value * torch.where(outward, 0.0, log_value.clamp(self.low, self.high).exp() * excess)


@value_losses.register("expectile", source="Kostrikov et al. 2022 (IQL), section 4", cites=("kostrikov2022offline",))
def expectile_loss(u: Tensor, tau: float = 0.7) -> Tensor:
    """|tau - 1(u < 0)| * u^2: V becomes the tau-expectile of Q.

    Args:
        tau: 0.5 gives the mean, towards 1 the maximum; the paper has 0.7, and 0.9 for AntMaze.
    """
    return _level(u, tau) * u.square()


@value_losses.register(
    "quantile",
    source="Hansen-Estruch et al. 2023 (IDQL), section 4; Koenker & Bassett 1978",
    cites=("hansenestruch2023idql", "koenker1978regression"),
)
def quantile_loss(u: Tensor, tau: float = 0.7) -> Tensor:
    """|tau - 1(u < 0)| * |u|: V becomes the tau-quantile of Q.

    Args:
        tau: 0.5 gives the median, towards 1 the maximum.
    """
    return _level(u, tau) * u.abs()


@value_losses.register(
    "exponential",
    source="Hansen-Estruch et al. 2023 (IDQL), section 4; Garg et al. 2023 (XQL)",
    cites=("hansenestruch2023idql", "garg2023extreme"),
)
def exponential_loss(u: Tensor, alpha: float = 1.0, largest: float = 5.0) -> Tensor:
    """exp(alpha * u) - alpha * u: V becomes log(mean(exp(alpha * Q))) / alpha.

    Args:
        alpha: inverse temperature: towards 0 gives the mean, large alpha the maximum; in units of one over value.
        largest: exponent from which on the exponential is its tangent, so that outliers neither overflow nor lose their
            gradient. The paper has no bound; its code bounds exp(alpha * u) in the slope by 6: `largest` = 1.79.
    """
    if not alpha > 0:
        raise ConfigError(f"exponential_loss.alpha must be positive, not {alpha!r}.")
    scaled = alpha * u
    return torch.exp(scaled.clamp(max=largest)) * (1 + (scaled - largest).relu()) - scaled


def _level(u: Tensor, tau: float) -> Tensor:
    """tau where u is at least 0, 1 - tau elsewhere."""
    if not 0 < tau < 1:
        raise ConfigError(f"A value loss's tau must lie between 0 and 1, not be {tau!r}.")
    return (tau - (u < 0).to(u.dtype)).abs()
