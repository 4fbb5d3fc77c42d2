"""CVAE-QL: BCQ's algorithm (Fujimoto, Meger, Precup 2019), Diffusion-QL's rival with a variational policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import CriticFactory, PolicyFactory, SelectionFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, algorithms
from dqlab.algorithms.mmd_ql import GeneratorActor
from dqlab.config.fields import PositiveInt, check_counts
from dqlab.config.registry import configurable
from dqlab.networks.activations import Activation, mlp
from dqlab.policies.base import strip_prefix


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


@algorithms.register(
    "cvae_ql",
    source="Fujimoto, Meger, Precup 2019 (BCQ), algorithm 1; Diffusion-QL, table 2 (CVAE-QL)",
    cites=("fujimoto2019off", "wang2023diffusion"),
)
@dataclass(frozen=True)
class CVAEQL(GeneratorActor):
    """Batch-constrained Q-learning: actions of a cloned CVAE, perturbed so that Q rises, and ranked by Q.

    Attributes:
        policy: the generative model of the data's actions, trained by its own loss.
        critic: `soft_clipped` weighs the minimum and the maximum, as BCQ does.
        selection: how it acts; BCQ takes the best of 100.
        backup_candidates: next actions in the TD target, of which the best one counts.
        learning_rate: Adam's, of the generative model and of the perturbation.
    """

    selection_loss = "generator/bc_loss"
    policy: str | PolicyFactory = "cvae"
    critic: str | CriticFactory = "soft_clipped"
    selection: str | SelectionFactory = "argmax"
    backup_candidates: PositiveInt = 10

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        """The generative model, the critics, and the perturbation, which is the actor."""
        made = super().build(dims)
        return {"generator": made["actor"], "critic": made["critic"], "actor": Perturbation(dims.state, dims.action)}

    def next_action(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        return self._perturbed(dims, nets, "actor_target", next_state, strip_prefix("target", noise))

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """-mean Q_1 of perturbed actions; no gradient reaches the generative model."""
        action = self._perturbed(dims, nets, "actor", batch.state, strip_prefix("actor", noise))
        loss = -self.first_q(nets, batch.state, action).mean()
        return loss, {"actor/loss": loss}

    def _perturbed(self, dims: Dims, nets: Nets, actor: str, state: Tensor, noise: Noise) -> Tensor:
        """Actions of the generative model, perturbed within the action range."""
        with torch.no_grad():
            action = self.resolved_policy.sample(nets["generator"], dims, state, noise)
        bound = dims.max_action
        return (action + bound * nets[actor](state, action)).clamp(-bound, bound)

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        return self._perturbed(dims, nets, "actor", state, noise)

    def act_alone(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        return self.sample_action(dims, nets, state, noise)
