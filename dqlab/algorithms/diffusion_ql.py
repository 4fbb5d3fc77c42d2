"""Diffusion-QL (Wang, Hunt, Zhou 2022), as the official code runs it; and its loss with a unimodal policy.

EDP (Kang et al. 2023) is Diffusion-QL without a chain in the actor's update, as its code runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from dqlab.algorithms.actor_critic import ActorCritic, PolicyFactory, SelectionFactory, best_of
from dqlab.algorithms.base import Hyper, Loss, Nets, Target, TrainedNetwork, algorithms, detach_info
from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat
from dqlab.data import Batch
from dqlab.noise import Noise, NoiseSpec, integers
from dqlab.policies.base import Dims, strip_prefix
from dqlab.policies.diffusion import DiffusionPolicy


@dataclass(frozen=True)
class ClonedAscent(ActorCritic):
    """The paper's loss: behaviour cloning plus ascent of a learned Q.

    Attributes:
        eta: weight of the Q term.
    """

    eta: NonNegativeFloat = 1.0

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """As in `ActorCritic`, and the coin of `q_loss`."""
        return {**super().update_noise(dims, batch), "coin": integers(2)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """L_bc + eta * L_q with L_q = -mean Q_i(s, a) / mean |Q_j(s, a)|, i and j by a fair coin."""
        policy, actor = self.resolved_policy, nets["actor"]
        bc_loss = policy.losses(actor, dims, batch.state, batch.action, strip_prefix("bc", noise)).mean()
        action = policy.sample(actor, dims, batch.state, strip_prefix("actor", noise))
        q_loss = self.q_loss(nets, batch.state, action, noise["coin"])
        loss = bc_loss + hyper["eta"] * q_loss
        return loss, detach_info({"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss})


@algorithms.register(
    "diffusion_ql", source="Wang, Hunt, Zhou 2022; details of its official code", cites=("wang2023diffusion",)
)
@dataclass(frozen=True)
class DiffusionQL(ClonedAscent):
    """Behaviour cloning with a diffusion policy plus ascent of a learned Q: L = L_bc + eta * L_q.

    Attributes:
        ema_rate: 1 - decay of the actor's moving average, moved every `ema_every` steps from `ema_start` on.
        max_q_backup: take the best of `backup_candidates` next actions in the TD target.
    """

    selection: str | SelectionFactory = "softmax_q"
    ema_rate: UnitFloat = 0.005
    ema_every: PositiveInt = 5
    ema_start: NonNegativeInt = 1000
    lr_schedule: str = "cosine"
    grad_norm: float = 1.0
    max_q_backup: bool = False
    backup_candidates: PositiveInt = 10

    next_actor = "actor_ema"

    def targets(self) -> dict[str, Target]:
        """The actor's moving average, which gives the next action, and the critics' targets."""
        return {"actor_ema": Target("actor", "ema_rate", self.ema_every, self.ema_start), **super().targets()}

    @property
    def next_candidates(self) -> int:
        return self.backup_candidates if self.max_q_backup else 1

    def of_candidates(self, outputs: Tensor) -> Tensor:
        """Each critic's best candidate: before the critics are aggregated, as in the official code."""
        return best_of(outputs, self.next_candidates) if self.next_candidates > 1 else outputs


@algorithms.register(
    "gaussian_ql",
    source="Wang, Hunt, Zhou 2022, eq. 3 with a Gaussian policy (its section 5 and fig. 1)",
    cites=("wang2023diffusion",),
)
@dataclass(frozen=True)
class GaussianQL(ClonedAscent):
    """Maximum likelihood plus ascent of a learned Q with a Gaussian policy, whose mode acts: L = -log pi + eta * L_q.

    The next action is a sample of the actor's moving average, as in Diffusion-QL; the average moves at every step.

    Attributes:
        tau: rate of both targets.
    """

    policy: str | PolicyFactory = "gaussian"

    next_actor = "actor_target"

    def targets(self) -> dict[str, Target]:
        return {"actor_target": Target("actor", "tau"), **super().targets()}


@algorithms.register(
    "edp",
    source="Kang et al. 2023, section 4 (action approximation, TD3 form); details of its official code",
    cites=("kang2023efficient",),
)
@dataclass(frozen=True)
class EDP(ActorCritic):
    """Efficient diffusion policy: the Q term ascends a one-step reconstruction of the data's own noised actions.

    The denoiser is called once for both terms of the actor's loss: its output gives the denoising loss, and the action
    that it stands for. Chains are sampled for the TD target and for acting alone. The critic that the actor ascends
    also scales the term; candidates are ranked by the online critics.

    Attributes:
        policy: a diffusion policy; its sampler draws the next actions.
        alpha: weight of the Q term.
        ema_rate: 1 - decay of the actor's moving average, which gives the next actions.
        ema_every, ema_start: it moves at every `ema_every`-th update, once there have been `ema_start`.
        joint_update: the actor sees the critics as they were before the update, not those just updated.
        clips_members: critics are clipped by their own norms, each of them, where they are alike; else by all of them.
    """

    selection: str | SelectionFactory = "softmax_q"
    alpha: NonNegativeFloat = 2.0
    ema_rate: UnitFloat = 0.005
    ema_every: PositiveInt = 5
    ema_start: NonNegativeInt = 1000
    joint_update: bool = True
    clips_members: bool = True

    next_actor = "actor_ema"
    samples_actions = False
    ranking_critic = "critic"

    def targets(self) -> dict[str, Target]:
        average = Target("actor", "ema_rate", self.ema_every, self.ema_start, offset=self.ema_every - 1)
        return {"actor_ema": average, "critic_target": Target("critic", "tau")}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """Critics, clipped one by one if `clips_members`, then the actor."""
        trained = super().trained(dims)
        return {**trained, "critic": replace(trained["critic"], clips_members=self.clips_members)}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """What `next_value` needs; `bc_*`: the denoising loss and, with it, the reconstruction; `q_loss`'s coin."""
        return {**super().update_noise(dims, batch), "coin": integers(2)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Denoising loss + alpha * L_q of the reconstructed actions."""
        policy = self.policy_as(DiffusionPolicy, "reconstructs noised actions", "a diffusion")
        own = strip_prefix("bc", noise)
        losses, action = policy.reconstruct(nets["actor"], dims, batch.state, batch.action, own)
        bc_loss, q_loss = losses.mean(), self.q_loss(nets, batch.state, action, noise["coin"], same=True)
        loss = bc_loss + hyper["alpha"] * q_loss
        return loss, detach_info({"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss})
