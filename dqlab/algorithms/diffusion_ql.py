"""Diffusion-QL (Wang, Hunt, Zhou 2022), as the official code runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dqlab.algorithms.actor_critic import ActorCritic, best_of
from dqlab.algorithms.base import Hyper, Loss, Nets, Target, algorithms, detach_info
from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat
from dqlab.data import Batch
from dqlab.networks.ensembles import ensemble_of
from dqlab.noise import Noise, NoiseSpec, integers
from dqlab.policies.base import Dims, strip_prefix
from dqlab.policies.selection import Selection


@algorithms.register(
    "diffusion_ql", source="Wang, Hunt, Zhou 2022; details of its official code", cites=("wang2023diffusion",)
)
@dataclass(frozen=True)
class DiffusionQL(ActorCritic):
    """Behaviour cloning with a diffusion policy plus ascent of a learned Q: L = L_bc + eta * L_q.

    Attributes:
        policy, critic, selection: names from their registries (or factories); selection is how it acts.
        eta: weight of the Q term.
        discount: gamma.
        tau: rate of the critics' targets.
        ema_rate: 1 - decay of the actor's moving average, moved every `ema_every` steps from `ema_start` on.
        learning_rate: Adam's, of the actor.
        critic_learning_rate: Adam's, of the critics; 3e-4 whatever the actor's.
        lr_schedule: a name from the `lr_schedule` registry.
        grad_norm: bound of the global gradient norm of either network; 0 for none.
        max_q_backup: take the best of `backup_candidates` next actions in the TD target.
    """

    selection: str | Callable[[], Selection] = "softmax_q"
    eta: NonNegativeFloat = 1.0
    ema_rate: UnitFloat = 0.005
    ema_every: PositiveInt = 5
    ema_start: NonNegativeInt = 1000
    lr_schedule: str = "cosine"
    grad_norm: float = 1.0
    max_q_backup: bool = False
    backup_candidates: PositiveInt = 10

    def targets(self) -> dict[str, Target]:
        """The actor's moving average, which gives the next action, and the critics' targets."""
        return {"actor_ema": Target("actor", "ema_rate", self.ema_every, self.ema_start), **super().targets()}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """As in `ActorCritic`, and the coin of `q_loss`."""
        return {**super().update_noise(dims, batch), "coin": integers(2)}

    def next_value_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        """With `max_q_backup`, of B * backup_candidates next actions, a state's candidates side by side."""
        return super().next_value_noise(dims, rows * self.backup_candidates if self.max_q_backup else rows)

    def next_value(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """The backup (B, Z) of the averaged actor's next action; with `max_q_backup`, of each critic's best candidate.

        The best one is taken before the critics are aggregated, as in the official code.
        """
        candidates = self.backup_candidates if self.max_q_backup else 1
        state = next_state.repeat_interleave(candidates, dim=0) if candidates > 1 else next_state
        action = self.resolved_policy.sample(nets["actor_ema"], dims, state, strip_prefix("target", noise))
        outputs = nets["critic_target"].call("outputs", state, action)
        best = best_of(outputs, candidates) if candidates > 1 else outputs
        return ensemble_of(nets["critic_target"]).backup(best, strip_prefix("backup", noise))

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """L_bc + eta * L_q with L_q = -mean Q_i(s, a) / mean |Q_j(s, a)|, i and j by a fair coin."""
        policy, actor = self.resolved_policy, nets["actor"]
        bc_loss = policy.losses(actor, dims, batch.state, batch.action, strip_prefix("bc", noise)).mean()
        action = policy.sample(actor, dims, batch.state, strip_prefix("actor", noise))
        q_loss = self.q_loss(nets, batch.state, action, noise["coin"])
        loss = bc_loss + hyper["eta"] * q_loss
        return loss, detach_info({"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss})
