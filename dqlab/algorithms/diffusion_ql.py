"""Diffusion-QL (Wang, Hunt, Zhou 2022), as the official code runs it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dqlab.algorithms.actor_critic import ActorCritic, AveragedActor, SelectionFactory, reduce_candidates
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, algorithms
from dqlab.config.fields import NonNegativeFloat, PositiveInt
from dqlab.noise import integers
from dqlab.policies.base import strip_prefix


@dataclass(frozen=True)
class ClonedAscent(ActorCritic):
    """Behaviour cloning plus ascent of a learned Q: eq. 3 of Wang, Hunt, Zhou 2022.

    Attributes:
        eta: weight of the Q term.
    """

    eta: NonNegativeFloat = 1.0

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        return {**super().update_noise(dims, batch), "coin": integers(2)}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """L_bc + eta * L_q with L_q = -mean Q_i(s, a) / mean |Q_j(s, a)|, i and j by a fair coin."""
        bc_loss, _ = self.bc_loss(dims, nets, batch, strip_prefix("bc", noise))
        action = self.resolved_policy.sample(nets["actor"], dims, batch.state, strip_prefix("actor", noise))
        q_loss = self.q_loss(nets, batch.state, action, noise["coin"])
        loss = bc_loss + hyper["eta"] * q_loss
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss}


@algorithms.register(
    "diffusion_ql", source="Wang, Hunt, Zhou 2022; details of its official code", cites=("wang2023diffusion",)
)
@dataclass(frozen=True)
class DiffusionQL(AveragedActor, ClonedAscent):
    """Behaviour cloning with a diffusion policy plus ascent of a learned Q: L = L_bc + eta * L_q.

    Attributes:
        max_q_backup: take the best of `backup_candidates` next actions in the TD target.
    """

    selection: str | SelectionFactory = "softmax_q"
    lr_schedule: str = "cosine"
    grad_norm: float = 1.0
    max_q_backup: bool = False
    backup_candidates: PositiveInt = 10

    @property
    def next_candidates(self) -> int:
        return self.backup_candidates if self.max_q_backup else 1

    def of_candidates(self, outputs: Tensor) -> Tensor:
        """Each critic's best candidate: before the critics are aggregated, as in the official code."""
        return reduce_candidates(outputs, self.next_candidates, best=True) if self.next_candidates > 1 else outputs
