"""EDP (Kang et al. 2023): Diffusion-QL without a chain in the actor's update, as its code runs it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dqlab.algorithms.actor_critic import AveragedActor, SelectionFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat
from dqlab.noise import integers
from dqlab.policies.base import strip_prefix
from dqlab.policies.diffusion import DiffusionPolicy


@algorithms.register(
    "edp", source="Kang et al. 2023, section 4 (TD3 form); its official code", cites=("kang2023efficient",)
)
@dataclass(frozen=True)
class EDP(AveragedActor):
    """Efficient diffusion policy: the Q term ascends a one-step reconstruction of the data's own noised actions.

    The denoiser is called once for both terms of the actor's loss; chains are sampled for the TD target and for acting
    alone. The critic that the actor ascends also scales the term; candidates are ranked by the online critics.

    Attributes:
        policy: a diffusion policy; its sampler draws the next actions.
        alpha: weight of the Q term.
        joint_update: the actor sees the critics as they were before the update, not those just updated.
        clips_members: critics are clipped by their own norms, each of them, where they are alike; else by all of them.
    """

    selection: str | SelectionFactory = "softmax_q"
    alpha: NonNegativeFloat = 2.0
    joint_update: bool = True
    clips_members: bool = True
    samples_actions = False
    ranking_critic = "critic"

    def targets(self) -> dict[str, Target]:
        average = Target("actor", "ema_rate", self.ema_every, self.ema_start, offset=self.ema_every - 1)
        return {"actor_ema": average, "critic_target": Target("critic", "tau")}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        trained = super().trained(dims)
        return {**trained, "critic": replace(trained["critic"], clips_members=self.clips_members)}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """What `next_value` needs; `bc_*`: the denoising loss and, with it, the reconstruction; `q_loss`'s coin."""
        return {**super().update_noise(dims, batch), "coin": integers(2)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Denoising loss + alpha * L_q of the reconstructed actions."""
        policy, own = self.policy_as(DiffusionPolicy, "a diffusion"), strip_prefix("bc", noise)
        losses, action = policy.reconstruct(nets["actor"], dims, batch.state, batch.action, own)
        bc_loss, q_loss = losses.mean(), self.q_loss(nets, batch.state, action, noise["coin"], same=True)
        loss = bc_loss + hyper["alpha"] * q_loss
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss}
