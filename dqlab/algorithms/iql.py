"""IQL (Kostrikov, Nair, Levine 2022), in Diffusion-QL's Table 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dqlab.algorithms.base import Hyper, Nets, Noise, algorithms, detach_info
from dqlab.algorithms.implicit_q import ImplicitQ
from dqlab.config.fields import check_field
from dqlab.data import Batch
from dqlab.policies import Policy
from dqlab.policies.base import Dims


@algorithms.register("iql", source="Kostrikov, Nair, Levine 2022, section 4", cites=("kostrikov2022offline",))
@dataclass(frozen=True)
class IQL(ImplicitQ):
    """Implicit Q-learning: V by expectile regression, and the policy by advantage-weighted behaviour cloning.

    Attributes:
        policy, critic, selection: names from their registries, or factories.
        value_loss: how V is fitted, from the `value_loss` registry.
        beta: inverse temperature of the weights exp(beta * (Q - V)).
        max_weight: bound of the weights.
        discount, tau: gamma; rate of the critics' targets.
        learning_rate, critic_learning_rate, value_learning_rate, lr_schedule, grad_norm: of Adam.
    """

    policy: str | Callable[[], Policy] = "gaussian"
    beta: float = 3.0
    max_weight: float = 100.0
    lr_schedule: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field(self.beta >= 0, self, "beta", "at least 0")
        check_field(self.max_weight > 0, self, "max_weight", "positive")

    def actor_loss(
        self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of exp(beta * (Q' - V)), bounded, times the policy's BC loss of each row."""
        advantage = self.advantage(nets, batch).detach()
        weight = torch.minimum((hyper["beta"] * advantage).exp(), hyper["max_weight"])
        losses = self.resolved_policy.losses(nets["actor"], dims, batch.state, batch.action, noise)
        loss = (weight * losses).mean()
        return loss, detach_info({"actor/loss": loss, "actor/bc_loss": losses.mean(), "actor/weight": weight.mean()})
