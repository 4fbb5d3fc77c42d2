"""An algorithm: what is trained, in which order, with which losses; written for one replica."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dqlab.algorithms import ActorCritic, algorithms
from dqlab.algorithms.base import Hyper, Loss, Nets, Target
from dqlab.config.fields import PositiveInt
from dqlab.data import Batch
from dqlab.networks.ensembles import ensemble_of
from dqlab.noise import Noise, NoiseSpec
from dqlab.policies.base import Dims, add_prefix, strip_prefix


@algorithms.register("dqlab_plugin_crr", source="Wang et al. 2020 (CRR), binary filter, mean advantage")
@dataclass(frozen=True)
class DqlabPluginCRR(ActorCritic):
    """Critic regularised regression: clone the data's actions that are better than the policy's own.

    Attributes:
        policy, critic, selection: names from their registries; selection is how it acts.
        n_samples: m, actions a state whose mean value is the baseline of the advantage.
        discount: gamma.
        tau: rate of both targets, every step.
        learning_rate, critic_learning_rate: Adam's.
    """

    n_samples: PositiveInt = 4

    next_actor = "actor_target"

    def targets(self) -> dict[str, Target]:
        """Moving averages of both networks: `actor_target`, which gives the next actions, and `critic_target`."""
        return {"actor_target": Target("actor", "tau"), **super().targets()}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Of the next actions and the policy's loss (`target_*`, `bc_*`), and of m actions a state (`actor_*`)."""
        own = self.resolved_policy.sample_noise(dims, self.n_samples * batch)
        return {**super().update_noise(dims, batch), **add_prefix("actor", own)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Mean of 1[A(s, a) > 0] times the policy's own losses, which stand in for -log pi(a | s)."""
        losses = self.resolved_policy.losses(nets["actor"], dims, batch.state, batch.action, strip_prefix("bc", noise))
        with torch.no_grad():
            kept = (self.advantage(dims, nets, batch, noise) > 0).to(losses.dtype)
        loss = (kept * losses).mean()
        return loss, {"actor/loss": loss.detach(), "actor/bc_loss": losses.mean().detach(), "actor/kept": kept.mean()}

    def advantage(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise) -> Tensor:
        """A(s, a) = Q(s, a) - mean_j Q(s, a_j) (B,), with m actions a_j of the policy's own."""
        state = batch.state.repeat(self.n_samples, 1)
        own = self.resolved_policy.sample(nets["actor"], dims, state, strip_prefix("actor", noise))
        rank = ensemble_of(nets["critic"]).ranking_value
        baseline = rank(nets["critic"](state, own)).view(self.n_samples, -1).mean(dim=0)
        return rank(nets["critic"](batch.state, batch.action)) - baseline
