"""The paper's losses with a unimodal policy: what Diffusion-QL is compared with in its ablation of the policy class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dqlab.algorithms.actor_critic import ActorCritic
from dqlab.algorithms.base import Hyper, Loss, Nets, Target, algorithms, detach_info
from dqlab.config.fields import NonNegativeFloat
from dqlab.data import Batch
from dqlab.noise import Noise, NoiseSpec, integers
from dqlab.policies import Policy
from dqlab.policies.base import Dims, strip_prefix


@algorithms.register(
    "gaussian_ql",
    source="Wang, Hunt, Zhou 2022, eq. 3 with a Gaussian policy (its section 5 and fig. 1)",
    cites=("wang2023diffusion",),
)
@dataclass(frozen=True)
class GaussianQL(ActorCritic):
    """Maximum likelihood plus ascent of a learned Q with a Gaussian policy, whose mode acts: L = -log pi + eta * L_q.

    The next action is a sample of the actor's moving average, as in Diffusion-QL; the average moves at every step.

    Attributes:
        policy, critic, selection: names from their registries, or factories.
        eta: weight of the Q term.
        discount, tau: gamma; rate of both targets.
        learning_rate, critic_learning_rate, lr_schedule, grad_norm: of Adam, as in `ActorCritic`.
    """

    policy: str | Callable[[], Policy] = "gaussian"
    eta: NonNegativeFloat = 1.0

    next_actor = "actor_target"

    def targets(self) -> dict[str, Target]:
        return {"actor_target": Target("actor", "tau"), **super().targets()}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """As in `ActorCritic`, and the coin of `q_loss`."""
        return {**super().update_noise(dims, batch), "coin": integers(2)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Negative log-likelihood of the data's actions + eta * L_q of reparameterised samples."""
        bc_loss = self.resolved_policy.losses(
            nets["actor"], dims, batch.state, batch.action, strip_prefix("bc", noise)
        ).mean()
        action = self.resolved_policy.sample(nets["actor"], dims, batch.state, strip_prefix("actor", noise))
        q_loss = self.q_loss(nets, batch.state, action, noise["coin"])
        loss = bc_loss + hyper["eta"] * q_loss
        return loss, detach_info({"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss})
