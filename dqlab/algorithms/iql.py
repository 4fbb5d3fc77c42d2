"""IQL (Kostrikov, Nair, Levine 2022), in Diffusion-QL's Table 1, which never asks for an action outside of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, PolicyFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat, PositiveFloat
from dqlab.networks.ensembles import ensemble_of
from dqlab.networks.values import ValueLoss, ValueNetwork, value_losses


@dataclass(frozen=True)
class ImplicitQ(ActorCritic):
    """A state value V by an asymmetric loss of Q - V, and critics against r + gamma V(s'): what IQL and IDQL share.

    Attributes:
        value_loss: a name from the `value_loss` registry, or the function.
        value_learning_rate: Adam's, of V.
    """

    valuing_critic: ClassVar[str] = "critic_target"  # the critics, or targets, whose Q is compared with V
    value_loss: str | ValueLoss = "expectile"
    value_learning_rate: NonNegativeFloat = 3e-4

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        return {"value": ValueNetwork(dims.state), **super().build(dims)}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """V, then the actor and the critics, which see the new V; the learning-rate schedule is the actor's alone."""
        trained, loss = super().trained(dims), partial(self.state_value_loss, dims)
        value = TrainedNetwork(loss, "value_learning_rate", "grad_norm", decays=False)
        return {"value": value, "actor": trained["actor"], "critic": replace(trained["critic"], decays=False)}

    def state_value(self, nets: Nets, state: Tensor) -> Tensor:
        return nets["value"](state)

    def advantage(self, nets: Nets, batch: Batch) -> Tensor:
        """Q'(s, a) - V(s), (B,), with Q of `valuing_critic` as candidates are ranked by (the minimum of two)."""
        critic = nets[self.valuing_critic]
        q = ensemble_of(critic).ranking_value(critic(batch.state, batch.action))
        return q.detach() - self.state_value(nets, batch.state)

    def state_value_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Mean asymmetric loss of Q'(s, a) - V(s) (Kostrikov et al. 2022, section 4)."""
        loss = value_losses.choose(self.value_loss)(self.advantage(nets, batch)).mean()
        return loss, {"value/loss": loss}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """What the policy's own loss needs: values are learned without actions of its own."""
        return self.resolved_policy.loss_noise(dims, batch)

    def next_value(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """V(s') (B, 1) (Kostrikov et al. 2022, section 4)."""
        return self.state_value(nets, next_state).unsqueeze(-1)


@algorithms.register("iql", source="Kostrikov, Nair, Levine 2022, section 4", cites=("kostrikov2022offline",))
@dataclass(frozen=True)
class IQL(ImplicitQ):
    """Implicit Q-learning: V by expectile regression, and the policy by advantage-weighted behaviour cloning.

    Attributes:
        beta: inverse temperature of the weights exp(beta * (Q - V)).
        max_weight: bound of the weights.
    """

    policy: str | PolicyFactory = "gaussian"
    beta: NonNegativeFloat = 3.0
    max_weight: PositiveFloat = 100.0
    lr_schedule: str = "cosine"

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Mean of exp(beta * (Q' - V)), bounded, times the policy's BC loss of each row."""
        advantage = self.advantage(nets, batch).detach()
        weight = torch.minimum((hyper["beta"] * advantage).exp(), hyper["max_weight"])
        losses = self.resolved_policy.losses(nets["actor"], dims, batch.state, batch.action, noise)
        loss = (weight * losses).mean()
        return loss, {"actor/loss": loss, "actor/bc_loss": losses.mean(), "actor/weight": weight.mean()}
