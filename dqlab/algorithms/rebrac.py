"""ReBRAC (Tarasov et al. 2023): TD3 with behaviour terms of separate weights in actor and critics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dqlab.algorithms.actor_critic import CriticFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, Target, TrainedNetwork, algorithms
from dqlab.algorithms.td3_bc import TD3
from dqlab.config.fields import NonNegativeFloat


@algorithms.register(
    "rebrac", source="Tarasov et al. 2023, section 3; its code's updates", cites=("tarasov2023revisiting",)
)
@dataclass(frozen=True)
class ReBRAC(TD3):
    """TD3 that stays near the data twice: the actor near its actions, the TD target near its next actions.

    Critics descend to r + discount * (Q'(s', a~) - critic_bc * |a~ - a'|^2), the actor actor_bc * |pi(s) - a|^2 minus
    Q(s, pi(s)) / mean |Q|, where a' is what the data did next. Squares are summed over action dimensions.

    Attributes:
        critic: the minimum of two counts, whose layers are normalised in the paper.
        actor_bc, critic_bc: weights of the two behaviour terms; the paper tunes both, a task.
        joint_update: as in FQL's code: the actor and both averages see networks as before the update, critics descend
            the mean of their losses, and at updates that do not train the actor Adam's momentum moves it.
    """

    critic: str | CriticFactory = "ensemble_min"
    actor_bc: NonNegativeFloat = 0.01
    critic_bc: NonNegativeFloat = 0.01
    learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    joint_update: bool = False
    reads_next_action = True

    @property
    def averages_critics(self) -> bool:  # type: ignore[override]
        return self.joint_update

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        trained = super().trained(dims)
        return {**trained, "actor": replace(trained["actor"], coasts=self.joint_update)}

    def targets(self) -> dict[str, Target]:
        """As in TD3+BC, but the actor's average follows the actor as it was before this update."""
        lags = {"actor_target": True, "critic_target": self.joint_update}
        return {name: replace(target, lags=lags[name]) for name, target in super().targets().items()}

    def critic_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The critics' loss against r + discount * (1 - terminal) * (Q' - critic_bc * |a~ - a'|^2)."""
        assert batch.next_action is not None
        with torch.no_grad():
            action = self.next_action(dims, nets, batch.next_state, noise, hyper)
            distance = (action - batch.next_action).square().sum(dim=-1, keepdim=True)
            value = self.backup(nets, batch.next_state, action, noise) - hyper["critic_bc"] * distance
        return self.td_loss(nets, batch, value, hyper["discount"])

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """actor_bc * A * the policy's BC loss (squared error, a mean over dimensions) - mean Q / mean |Q|."""
        bc_loss, q_loss = self.bc_and_q_loss(dims, nets, batch, noise)
        loss = hyper["actor_bc"] * dims.action * bc_loss + q_loss
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss}
