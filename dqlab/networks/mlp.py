"""Plain multilayer perceptrons, PyTorch's default initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dqlab.config.fields import check_counts
from dqlab.config.registry import configurable
from dqlab.networks.activations import Activation, activations


def mlp(
    widths: Sequence[int],
    end_active: bool = False,
    activation: Activation = "mish",
    layer_norm: bool = False,
    norm_after: bool = False,
    norm_eps: float = 1e-5,
) -> nn.Sequential:
    """Linear layers of the given widths with activations between them, and after the last one if `end_active`.

    Args:
        widths: of the input, of every hidden layer and of the output.
        layer_norm: normalise (Ba et al. 2016) what goes into each activation (RLPD: Ball et al. 2023, section 4.2).
        norm_after: normalise what comes out of each activation instead (the code of FQL, Park et al. 2025).
        norm_eps: added to LayerNorm's variance.
    """
    make = activations.choose(activation)
    last = None if end_active else -1
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[:last]):
        norm = [nn.LayerNorm(width_out, eps=norm_eps)] if layer_norm else []
        layers += [nn.Linear(width_in, width_out), *([make(), *norm] if norm_after else [*norm, make()])]
    return nn.Sequential(*layers) if end_active else nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


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


class LinearMultiplier(nn.Module):
    """A multiplier that is its own parameter, 1 at first, between bounds, for steps of plain gradient descent."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.value = nn.Parameter(torch.ones(()))

    def forward(self) -> Tensor:
        return self.value.clamp(self.low, self.high)

    def ascent(self, excess: Tensor, rate: Tensor) -> Tensor:
        """A loss whose descent by that rate adds rate * excess, as far as the bounds allow."""
        value = self.value.detach()
        return -self.value * excess.clamp((self.low - value) / rate, (self.high - value) / rate)


@configurable("network")
class Perturbation(nn.Module):
    """[state, action] -> hidden layers -> phi * tanh (B, A), corrections of actions as a share of the action range.

    Args:
        phi: the largest.
        hidden_dim, depth: width and number of the hidden layers.
        activation: BCQ's is `relu`.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        phi: float = 0.05,
        hidden_dim: int = 256,
        depth: int = 2,
        activation: Activation = "mish",
    ) -> None:
        super().__init__()
        check_counts("Perturbation", hidden_dim=hidden_dim, depth=depth)
        self.phi = phi
        self.layers = mlp([state_dim + action_dim] + depth * [hidden_dim] + [action_dim], activation=activation)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.phi * torch.tanh(self.layers(torch.cat([state, action], dim=-1)))
