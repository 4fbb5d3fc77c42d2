"""MeanFlowQL (Wang et al. 2026): the average velocity of a flow, cloned and led by the critics in one network."""

from __future__ import annotations

from dataclasses import dataclass

from dqlab.algorithms.actor_critic import BestNextAction, CriticFactory, PolicyFactory, SelectionFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, Target, algorithms
from dqlab.config.fields import NonNegativeFloat, PositiveInt
from dqlab.policies.base import strip_prefix
from dqlab.policies.flow import MeanFlowPolicy


@algorithms.register(
    "meanflow_ql", source="Wang et al. 2026 (MeanFlowQL); details of its official code", cites=("wang2026one",)
)
@dataclass(frozen=True)
class MeanFlowQL(BestNextAction):
    """One-step Q-learning on an average velocity: L = alpha * L_bc - mean Q(s, one-step action) + what lies outside.

    Attributes:
        policy: an average velocity.
        critic: `ensemble_mean` of two, as in the paper.
        selection: how it acts; the best of five in the paper.
        alpha: weight of behaviour cloning, to be tuned for each task.
        normalise_q: divide the Q term by mean |Q|.
        range_weight: of the mean distance of one-step actions from the action range.
        backup_candidates: next actions in the TD target, of which the best one counts.
        joint_update: as in the authors' code: the actor sees the critics as they were before the update.
        targets_lag: the critics' targets follow them as they were before the update: in FQL, not in the authors' code.
    """

    policy: str | PolicyFactory = "mean_flow"
    critic: str | CriticFactory = "ensemble_mean"
    selection: str | SelectionFactory = "argmax"
    alpha: NonNegativeFloat = 10.0
    normalise_q: bool = False
    range_weight: NonNegativeFloat = 1.0
    backup_candidates: PositiveInt = 5
    learning_rate: float = 1e-4
    grad_norm: float = 1.0
    joint_update: bool = True
    targets_lag: bool = False
    averages_critics = True

    def targets(self) -> dict[str, Target]:
        return {"critic_target": Target("critic", "tau", lags=self.targets_lag)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """alpha * L_bc + L_q + range_weight * the mean distance from the action range."""
        policy = self.policy_as(MeanFlowPolicy, "'mean_flow'")
        actor, bound = nets["actor"], dims.max_action
        losses = policy.losses(actor, dims, batch.state, batch.action, strip_prefix("bc", noise))
        action = policy.unbounded_action(actor, batch.state, strip_prefix("actor", noise))
        q = self.first_q(nets, batch.state, action.clamp(-bound, bound))
        q_loss = -q.mean() / (q.abs().mean().detach() if self.normalise_q else 1)
        bc_loss, outside = losses.mean(), (action.abs() - bound).relu().mean()
        loss = hyper["alpha"] * bc_loss + q_loss + hyper["range_weight"] * outside
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss, "actor/outside": outside}
