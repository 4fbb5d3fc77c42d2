"""EDAC and SAC-N (An et al. 2021): soft actor-critic whose pessimism is the minimum of many critics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, PolicyFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat
from dqlab.errors import ConfigError
from dqlab.networks.ensembles import CriticEnsemble
from dqlab.networks.values import Multiplier
from dqlab.policies.base import add_prefix, strip_prefix
from dqlab.policies.gaussian import TanhGaussianPolicy


@algorithms.register(
    "edac", source="An et al. 2021, sections 3 and 4; SAC: Haarnoja et al. 2018", cites=("an2021uncertainty",)
)
@dataclass(frozen=True)
class EDAC(ActorCritic):
    """SAC with the minimum of N critics, whose gradients are diversified; with eta = 0, which costs less, SAC-N.

    Nothing clones the data: actions that it lacks are worth what the most pessimistic critic says. That takes fewer
    critics, the more their gradients with respect to the action differ (section 4).

    Attributes:
        policy: a Gaussian squashed by tanh.
        critic: the minimum of N, for the TD target and for the actor.
        selection: how it acts; by itself it takes the tanh of the mean.
        eta: weight of the diversification.
        slope_floor: added to 1 - tanh(u)^2 in log pi (SAC's codes): for |u| > 7 actions are no less likely farther out.
    """

    selection_loss = "actor/loss"
    structural = ("eta", "slope_floor")
    policy: str | PolicyFactory = "gaussian"
    critic: str | CriticFactory = "ensemble_min"
    eta: NonNegativeFloat = 1.0
    slope_floor: NonNegativeFloat = 1e-6
    temperature_learning_rate: NonNegativeFloat = 3e-4

    @property
    def resolved_gaussian(self) -> TanhGaussianPolicy:
        return self.policy_as(TanhGaussianPolicy, "a Gaussian squashed by tanh", lambda policy: policy.squashed)

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        return {**super().build(dims), "temperature": Multiplier(bounded=False)}

    def build_critic(self, dims: Dims) -> CriticEnsemble:
        critic = super().build_critic(dims)
        if self.eta and len(critic.members) < 2:
            raise ConfigError("EDAC diversifies critics: EDAC.critic must have two at least, or EDAC.eta be 0.")
        return critic

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """The temperature, the actor, then the critics, each of which sees what was trained before it."""
        temperature = TrainedNetwork(partial(self.temperature_loss, dims), "temperature_learning_rate", decays=False)
        trained = super().trained(dims)
        return {"temperature": temperature, "actor": trained["actor"], "critic": trained["critic"]}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        own = self.resolved_gaussian.sample_noise(dims, batch)
        return {**self.next_value_noise(dims, batch), **add_prefix("actor", own), **add_prefix("entropy", own)}

    def soft_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """The actor's actions (B, A) and their log pi (B,). `noise` is that of the policy's `sample`."""
        return self.resolved_gaussian.sample_with_log_prob(nets["actor"], dims, state, noise, self.slope_floor)

    def next_value(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """The backup (B, Z) of the actor's next action, minus temperature * log pi: the entropy counts."""
        action, log_prob = self.soft_action(dims, nets, next_state, strip_prefix("target", noise))
        return self.backup(nets, next_state, action, noise) - nets["temperature"]() * log_prob.unsqueeze(-1)

    def critic_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The TD loss + eta * how alike the critics' gradients g at the data's actions are.

        That is the mean over the batch of sum_{i != j} <g_i, g_j> = |sum_i g_i|^2 - sum_i |g_i|^2 for g of length 1, a
        sum of cosines, over M - 1 (An et al. 2021, section 4).
        """
        loss, info = super().critic_loss(dims, nets, batch, noise, hyper)
        if self.eta == 0:
            return loss, info
        gradients = nets["critic"].call("action_gradients", batch.state, batch.action)
        units = gradients / (gradients.norm(dim=-1, keepdim=True) + 1e-10)
        pairs = units.sum(dim=0).square().sum(dim=-1) - units.square().sum(dim=(0, -1))
        aligned = pairs.mean() / (len(units) - 1)
        return loss + self.eta * aligned, {**info, "critic/alignment": aligned}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Mean of temperature * log pi(a|s) - min Q(s, a) of the actor's own actions."""
        action, log_prob = self.soft_action(dims, nets, batch.state, strip_prefix("actor", noise))
        q = self.first_q(nets, batch.state, action)
        loss = (nets["temperature"]().detach() * log_prob - q).mean()
        return loss, {"actor/loss": loss, "actor/entropy": -log_prob.mean(), "actor/q": q.mean()}

    def temperature_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Dual ascent as in SAC's codes: the temperature rises while the entropy is below -A (Haarnoja et al. 2018)."""
        with torch.no_grad():
            log_prob = self.soft_action(dims, nets, batch.state, strip_prefix("entropy", noise))[1]
        loss = -nets["temperature"].parameters["log_value"] * (log_prob.mean() - dims.action)
        return loss, {"temperature/value": nets["temperature"]()}
