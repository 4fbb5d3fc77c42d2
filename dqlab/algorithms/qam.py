"""QAM (Li & Levine 2026): a flow that adjoint matching bends from the data's towards the critics' gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, PolicyFactory, cloning
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat
from dqlab.noise import normal
from dqlab.policies.base import add_prefix
from dqlab.policies.flow import OneStepFlowPolicy, RectifiedFlowPolicy, adjoint_matching_losses


@algorithms.register(
    "qam",
    source="Li & Levine 2026 (QAM); its code's updates; Domingo-Enrich et al. 2025 (adjoint matching)",
    cites=("li2026adjoint", "domingoenrich2025adjoint"),
)
@dataclass(frozen=True)
class QAM(ActorCritic):
    """Q-learning with adjoint matching: the actor's flow is to give behaviour * exp(inverse_temperature * Q).

    A behaviour flow clones the data. The actor, a flow beside it, is fitted to adjoints, which the behaviour flow's
    average carries back from -inverse_temperature * grad Q along noisy paths of the actor's: no gradient goes through a
    chain, and none through the actor's own derivative.

    Attributes:
        policy: a rectified flow, of the behaviour and of the actor.
        critic: a lower confidence bound of ten, as in the paper.
        selection: how it acts; the one action in the paper, else candidates are ranked by the critics' mean.
        inverse_temperature: of the tilt by Q; tuned for each task.
        joint_update: all losses, and targets, see the networks as they were before the update (the authors' code).
        joint_grad_norm: `grad_norm` bounds the norm of all networks' gradients together (the authors' code).
        learning_rate: Adam's, of both flows.
    """

    policy: str | PolicyFactory = "rectified_flow"
    critic: str | CriticFactory = "ensemble_lcb"
    inverse_temperature: NonNegativeFloat = 1.0
    grad_norm: float = 1.0
    joint_update: bool = True
    joint_grad_norm: bool = False
    samples_actions = False
    ranking_critic = "critic"
    ranks_by_mean = True
    averages_critics = True
    selection_loss = "behaviour/bc_loss"

    @property
    def resolved_flow(self) -> RectifiedFlowPolicy:
        return self.policy_as(RectifiedFlowPolicy, "a rectified flow", lambda p: not isinstance(p, OneStepFlowPolicy))

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        return {"behaviour": self.resolved_flow.build(dims), **super().build(dims)}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        return {"behaviour": cloning(self.resolved_flow, "behaviour", "bc", dims), **super().trained(dims)}

    def targets(self) -> dict[str, Target]:
        return {"behaviour_target": Target("behaviour", "tau", lags=self.joint_update), **super().targets()}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """What `next_value` needs; `bc_*`: the behaviour flow's loss; `path_*`: the actor's noisy paths."""
        steps = normal(self.resolved_flow.n_steps - 1, batch, dims.action)
        path = add_prefix("path", {"start": normal(batch, dims.action), "eps": steps})
        return {**super().update_noise(dims, batch), **path}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The adjoint matching loss, by the target critics' mean and the averaged behaviour flow."""
        flow, bound, n_steps = self.resolved_flow, dims.max_action, self.resolved_flow.n_steps
        tuned = flow.velocity(nets["actor"], batch.state, n_steps)
        base = flow.velocity(nets["behaviour_target"], batch.state, n_steps + 1)

        def end_adjoint(action: Tensor) -> Tensor:
            """Of -inverse_temperature * Q at the clamped action, so that nothing pulls further out of the range."""
            gradient = self.action_gradient(nets, batch.state, action.clamp(-bound, bound))
            return -hyper["inverse_temperature"] * gradient * (action.abs() <= bound)

        loss = adjoint_matching_losses(tuned, base, end_adjoint, noise["path_start"], noise["path_eps"]).mean()
        return loss, {"actor/loss": loss}
