"""FQL (Park, Li, Levine 2025): a one-step policy distilled from a flow, which alone meets the critics."""

from __future__ import annotations

from dataclasses import dataclass

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, PolicyFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, algorithms
from dqlab.config.fields import NonNegativeFloat
from dqlab.noise import integers
from dqlab.policies.base import add_prefix, strip_prefix
from dqlab.policies.flow import OneStepFlowPolicy


@algorithms.register(
    "fql", source="Park, Li, Levine 2025, algorithm 1 and eq. 1, 5, 7, 9; its official code", cites=("park2025flow",)
)
@dataclass(frozen=True)
class FQL(ActorCritic):
    """Flow Q-learning: L = L_flow + alpha * L_distill - mean Q(s, one-step action); no backpropagation through a chain.

    Attributes:
        policy: a one-step flow.
        critic: `ensemble_mean` of two, as in the paper.
        alpha: weight of the distillation, to be tuned for each task.
        normalise_q: divide the Q term by mean |Q|.
        joint_update: actor and targets see the critics as they were before the update, as in the authors' code.
    """

    policy: str | PolicyFactory = "one_step_flow"
    critic: str | CriticFactory = "ensemble_mean"
    alpha: NonNegativeFloat = 10.0
    normalise_q: bool = False
    joint_update: bool = True
    averages_critics = True

    @property
    def resolved_flow(self) -> OneStepFlowPolicy:
        return self.policy_as(OneStepFlowPolicy, "a one-step flow")

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        flow = add_prefix("flow", self.resolved_flow.flow_noise(dims, batch))
        own = add_prefix("actor", self.resolved_flow.sample_noise(dims, batch))
        return {**self.next_value_noise(dims, batch), **flow, **own, "coin": integers(2)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """L_flow + alpha * L_distill + L_q; the flow learns from L_flow alone, the one-step policy from the others."""
        flow, actor, own = self.resolved_flow, nets["actor"], strip_prefix("actor", noise)
        bc_loss = flow.flow_losses(actor, dims, batch.state, batch.action, strip_prefix("flow", noise)).mean()
        distill_loss = flow.distillation_losses(actor, dims, batch.state, own).mean()
        action = flow.sample(actor, dims, batch.state, own)
        if self.normalise_q:
            q_loss = self.q_loss(nets, batch.state, action, noise["coin"])
        else:
            q_loss = -self.first_q(nets, batch.state, action).mean()
        loss = bc_loss + hyper["alpha"] * distill_loss + q_loss
        info = {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/distill_loss": distill_loss}
        return loss, {**info, "actor/q_loss": q_loss}
