"""DTQL (Chen, Wang, Zhou 2024): a one-step actor that a diffusion model of the data keeps within a trust region."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from dqlab.algorithms.actor_critic import PolicyFactory, SelectionFactory, cloning
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork, algorithms
from dqlab.algorithms.iql import ImplicitQ
from dqlab.config.fields import NonNegativeFloat, NonNegativeInt
from dqlab.networks.ensembles import ensemble_of
from dqlab.policies import Policy, policies
from dqlab.policies.base import add_prefix, strip_prefix


@algorithms.register("dtql", source="Chen, Wang, Zhou 2024; its code's updates", cites=("chen2024diffusion",))
@dataclass(frozen=True)
class DTQL(ImplicitQ):
    """Diffusion trusted Q-learning: a one-step actor descends alpha * its actions' denoising loss - Q.

    The denoising loss, low where the data's actions are, is that of a diffusion model cloned from the data, which gets
    no gradient from it. V and the critics are learned as in IQL, without actions of the actor.

    Attributes:
        policy: the actor's, of one step.
        behaviour: the policy whose losses are the trust region, a name from the `policy` registry or a factory.
        selection: how it acts; the authors choose from 1,024 actions by the softmax of Q.
        alpha: weight of the trust region, to be tuned for each task.
        bc_weight: weight of the actor's own cloning loss; the paper has 1 for AntMaze, else 0.
        pretrain_steps: updates before the actor's first; until then it rests, as it was initialised.
        pretrain_decays: whether the learning-rate schedule runs over pre-training, too; not in the authors' code.
        joint_values: V and the critics see each other as they were before the update, as in the authors' code.
        learning_rate: Adam's, of the actor and the behaviour model.
    """

    policy: str | PolicyFactory = "gaussian"
    behaviour: str | PolicyFactory = "edm"
    selection: str | SelectionFactory = "softmax_q"
    alpha: NonNegativeFloat = 5.0
    bc_weight: NonNegativeFloat = 0.0
    pretrain_steps: NonNegativeInt = 50_000
    pretrain_decays: bool = True
    joint_values: bool = False
    lr_schedule: str = "cosine"
    selection_loss = "actor/trust_loss"
    valuing_critic = "critic"

    @cached_property
    def resolved_behaviour(self) -> Policy:
        return policies.choose(self.behaviour)()

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        return {"behaviour": self.resolved_behaviour.build(dims), **super().build(dims)}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """The behaviour model, V, the critics, which see the new V or step with it; after pre-training the actor."""
        trained, start = super().trained(dims), 0 if self.pretrain_decays else self.pretrain_steps
        return {
            "behaviour": cloning(self.resolved_behaviour, "behaviour", "behaviour", dims, decays_from=start),
            "value": replace(trained["value"], decays=True, decays_from=start),
            "critic": replace(trained["critic"], decays=True, decays_from=start, with_previous=self.joint_values),
            "actor": replace(trained["actor"], first=self.pretrain_steps),
        }

    def targets(self) -> dict[str, Target]:
        return {"critic_target": Target("critic", "tau", start=self.pretrain_steps)}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Of the behaviour model's loss twice: of the data (`behaviour_*`), of the actor's actions (`trust_*`)."""
        clone = self.resolved_behaviour.loss_noise(dims, batch)
        own = add_prefix("actor", self.resolved_policy.sample_noise(dims, batch))
        bc_noise = add_prefix("bc", self.resolved_policy.loss_noise(dims, batch))
        return {**add_prefix("behaviour", clone), **add_prefix("trust", clone), **own, **bc_noise}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """alpha * the behaviour model's loss of the actor's actions + bc_weight * L_bc - mean Q, the ranking value."""
        action = self.resolved_policy.sample(nets["actor"], dims, batch.state, strip_prefix("actor", noise))
        own = strip_prefix("trust", noise)
        trust = self.resolved_behaviour.losses(nets["behaviour"], dims, batch.state, action, own).mean()
        bc_loss, _ = self.bc_loss(dims, nets, batch, strip_prefix("bc", noise))
        q = ensemble_of(nets["critic"]).ranking_value(nets["critic"](batch.state, action)).mean()
        loss = hyper["alpha"] * trust + hyper["bc_weight"] * bc_loss - q
        return loss, {"actor/loss": loss, "actor/trust_loss": trust, "actor/bc_loss": bc_loss, "actor/q": q}
