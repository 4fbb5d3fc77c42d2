"""TD3+BC (Fujimoto & Gu 2021): the minimalist rival, in Diffusion-QL's Table 1; and what is TD3's in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dqlab.algorithms.actor_critic import ActorCritic, PolicyFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat, PositiveInt
from dqlab.noise import normal
from dqlab.policies.base import strip_prefix


@dataclass(frozen=True)
class TD3(ActorCritic):
    """Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018), but for the actor's loss.

    Attributes:
        smoothing, smoothing_clip: std and bound of the noise on next actions, as shares of the action range.
        policy_every: actor and targets are updated at every so many steps.
    """

    policy: str | PolicyFactory = "deterministic"
    smoothing: NonNegativeFloat = 0.2
    smoothing_clip: NonNegativeFloat = 0.5
    policy_every: PositiveInt = 2
    next_actor = "actor_target"

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        trained = super().trained(dims)
        return {**trained, "actor": replace(trained["actor"], every=self.policy_every)}

    def targets(self) -> dict[str, Target]:
        """Averages of actor and critics, which move when the actor does."""
        every = self.policy_every
        return {f"{source}_target": Target(source, "tau", every, offset=every - 1) for source in ("actor", "critic")}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return {"smoothing": normal(batch, dims.action), **super().update_noise(dims, batch)}

    def next_action(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """pi'(s') + clipped noise, (B, A): target policy smoothing."""
        bound, clip = dims.max_action, hyper["smoothing_clip"]
        action = super().next_action(dims, nets, next_state, noise, hyper)
        shift = torch.maximum(torch.minimum(hyper["smoothing"] * noise["smoothing"], clip), -clip)
        return (action + bound * shift).clamp(-bound, bound)

    def bc_and_q_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """The policy's BC loss, and -mean Q / mean |Q| of its actions by `first_q`."""
        own = {name: strip_prefix(name, noise) for name in ("bc", "actor")}
        bc_loss = self.resolved_policy.losses(nets["actor"], dims, batch.state, batch.action, own["bc"]).mean()
        q = self.first_q(nets, batch.state, self.resolved_policy.sample(nets["actor"], dims, batch.state, own["actor"]))
        return bc_loss, -q.mean() / q.abs().mean().detach()


@algorithms.register(
    "td3_bc",
    source="Fujimoto & Gu 2021, section 5, eq. 4; TD3: Fujimoto et al. 2018",
    cites=("fujimoto2021minimalist", "fujimoto2018addressing"),
)
@dataclass(frozen=True)
class TD3BC(TD3):
    """TD3 with behaviour cloning: minimise MSE(pi(s), a) - alpha * Q(s, pi(s)) / mean |Q|.

    Attributes:
        alpha: weight of the Q term; 0 leaves behaviour cloning.
    """

    alpha: NonNegativeFloat = 2.5

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The policy's BC loss (squared error) - alpha * mean Q_1(s, pi(s)) / mean |Q_1(s, pi(s))|."""
        bc_loss, q_loss = self.bc_and_q_loss(dims, nets, batch, noise)
        loss = bc_loss + hyper["alpha"] * q_loss
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss}
