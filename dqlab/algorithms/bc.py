"""Cloned policies: the baseline of Diffusion-QL's Table 2; and best-of-N, where a critic takes the best of samples.

With action chunks best-of-N is Q-chunking (QC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, PolicyFactory, SelectionFactory
from dqlab.algorithms.base import Algorithm, Hyper, Loss, Nets, TrainedNetwork, algorithms
from dqlab.data import Batch
from dqlab.noise import Noise, NoiseSpec
from dqlab.policies import Policy, policies
from dqlab.policies.base import Dims, add_prefix, strip_prefix


@algorithms.register(
    "bc", source="Wang, Hunt, Zhou 2022, table 2 (BC-Diffusion); official code, --algo bc", cites=("wang2023diffusion",)
)
@dataclass(frozen=True)
class BehaviourCloning(Algorithm):
    """L_bc alone, Adam, no moving average, no clipping, one sample to act.

    Attributes:
        policy: a name from the `policy` registry, or a factory.
        learning_rate: Adam's.
        lr_schedule: a name from the `lr_schedule` registry.
    """

    policy: str | Callable[[], Policy] = "diffusion"
    learning_rate: float = 3e-4
    lr_schedule: str = "cosine"

    @cached_property
    def resolved_policy(self) -> Policy:
        return policies.choose(self.policy)()

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        return {"actor": self.resolved_policy.build(dims)}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        return {"actor": TrainedNetwork(partial(self.actor_loss, dims), "learning_rate")}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return self.resolved_policy.loss_noise(dims, batch)

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        loss = self.resolved_policy.losses(nets["actor"], dims, batch.state, batch.action, noise).mean()
        return loss, {"actor/bc_loss": loss.detach()}

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """A sample of the policy, where `act` may do what is surer."""
        return self.resolved_policy.sample(nets["actor"], dims, state, noise)

    def act_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return self.resolved_policy.sample_noise(dims, batch)

    def act(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        return self.resolved_policy.act(nets["actor"], dims, state, noise)


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
        policy: what is cloned.
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
        """That of acting in the next states, and of the ensemble's backup."""
        return {**add_prefix("target", self.act_noise(dims, rows)), **self.backup_noise(dims)}

    def next_action(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """What would be done there, (B, A)."""
        return self.act(dims, nets, next_state, strip_prefix("target", noise))

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The policy's own BC loss, whatever the critics say."""
        return self.bc_loss(dims, nets, batch, strip_prefix("bc", noise))
