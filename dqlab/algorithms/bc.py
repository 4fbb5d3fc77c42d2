"""Behaviour cloning with any policy class: the baseline of Diffusion-QL's Table 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from torch import Tensor, nn

from dqlab.algorithms.base import Algorithm, Batch, Dims, Hyper, Loss, Nets, Noise, TrainedNetwork, algorithms
from dqlab.noise import NoiseSpec
from dqlab.policies import Policy, policies


@algorithms.register(
    "bc", source="Wang, Hunt, Zhou 2022, table 2 (BC-Diffusion); official code, --algo bc", cites=("wang2023diffusion",)
)
@dataclass(frozen=True)
class BehaviourCloning(Algorithm):
    """L_bc alone, Adam, no moving average, no clipping, one sample to act.

    Attributes:
        policy, lr_schedule: names from their registries; or a policy's factory.
        learning_rate: Adam's.
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
        return loss, {"actor/bc_loss": loss}

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """A sample of the policy, where `act` may do what is surer."""
        return self.resolved_policy.sample(nets["actor"], dims, state, noise)

    def act_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return self.resolved_policy.sample_noise(dims, batch)

    def act(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        return self.resolved_policy.act(nets["actor"], dims, state, noise)
