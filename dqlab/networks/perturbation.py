"""BCQ's perturbation network: a small correction of a proposed action (Fujimoto, Meger, Precup 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dqlab.fields import check_counts
from dqlab.networks.activations import Activation
from dqlab.networks.mlp import mlp
from dqlab.registry import configurable


@configurable("network")
class Perturbation(nn.Module):
    """[state, action] -> hidden layers -> phi * tanh, as a share of the action range.

    Args:
        state_dim, action_dim: S and A.
        phi: largest perturbation, as a share of the action range.
        hidden_dim, depth: width and number of the hidden layers.
        activation: a name from the `activation` registry, or a factory; BCQ's is `relu`.
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
        """Corrections (B, A) in [-phi, phi] of actions (B, A) in states (B, S)."""
        return self.phi * torch.tanh(self.layers(torch.cat([state, action], dim=-1)))
