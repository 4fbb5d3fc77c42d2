"""Best-of-N: a cloned policy of whose samples a critic takes the best; with action chunks, Q-chunking (QC)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, PolicyFactory, SelectionFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, algorithms
from dqlab.policies.base import add_prefix, strip_prefix


@algorithms.register(
    "best_of_n",
    source="Li, Zhou, Levine 2025, section 4, and its code (QC; BFN where h = 1); EMaQ: Ghasemipour et al. 2021",
    cites=("li2025reinforcement", "ghasemipour2021emaq"),
)
@dataclass(frozen=True)
class BestOfN(ActorCritic):
    """Critics of the policy that takes the best of N samples of a cloned one, for acting and in the TD target.

    No gradient goes from critics to the actor: N decides how far from the data it acts. With
    `Experiment.action_chunk` = 5 and a flow it is Q-chunking.

    Attributes:
        critic: `ensemble_mean` of two, as in QC.
        selection: how it acts and chooses next actions, by the online critics; 32 candidates in QC.
    """

    policy: str | PolicyFactory = "rectified_flow"
    critic: str | CriticFactory = "ensemble_mean"
    selection: str | SelectionFactory = "argmax"
    joint_update: bool = True
    samples_actions = False
    ranking_critic = "critic"
    averages_critics = True

    def next_value_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        return {**add_prefix("target", self.act_noise(dims, rows)), **self.backup_noise(dims)}

    def next_action(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        return self.act(dims, nets, next_state, strip_prefix("target", noise))

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The policy's own BC loss, whatever the critics say."""
        return self.bc_loss(dims, nets, batch, strip_prefix("bc", noise))
