"""Diffusion-QL (Wang, Hunt, Zhou 2022), as the official code runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.acting import act_with_candidates, candidate_noise
from dqlab.algorithms.base import Algorithm, Batch, Hyper, Nets, Noise, Target, Trained, algorithms
from dqlab.fields import require
from dqlab.networks.critics import CriticEnsemble, critics, ensemble_of
from dqlab.noise import NoiseSpec, integers
from dqlab.policies.base import Dims, Policy, part, policies, prefixed
from dqlab.selection import Selection, selections


@algorithms.register("diffusion_ql", source="Wang, Hunt, Zhou 2022; details of its official code")
@dataclass(frozen=True)
class DiffusionQL(Algorithm):
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

    policy: str | Callable[[], Policy] = "diffusion"
    critic: str | Callable[..., CriticEnsemble] = "twin"
    selection: str | Callable[[], Selection] = "softmax_q"
    eta: float = 1.0
    discount: float = 0.99
    tau: float = 0.005
    ema_rate: float = 0.005
    ema_every: int = 5
    ema_start: int = 1000
    learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    lr_schedule: str = "cosine"
    grad_norm: float = 1.0
    max_q_backup: bool = False
    backup_candidates: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ema_every >= 1, self, "ema_every", "at least 1")
        require(self.backup_candidates >= 1, self, "backup_candidates", "at least 1")
        for name in ("discount", "tau", "ema_rate"):
            require(0 <= getattr(self, name) <= 1, self, name, "between 0 and 1")
        for name in ("learning_rate", "critic_learning_rate", "grad_norm"):
            require(getattr(self, name) >= 0, self, name, "at least 0")

    @cached_property
    def _policy(self) -> Policy:
        return policies.choose(self.policy)()

    @cached_property
    def _selection(self) -> Selection:
        return selections.choose(self.selection)()

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        """The policy's network and the critic ensemble."""
        return {"actor": self._policy.build(dims), "critic": critics.choose(self.critic)(dims.state, dims.action)}

    def trained(self, dims: Dims) -> dict[str, Trained]:
        """Critics first, then the actor, which sees the critics just updated."""
        return {
            "critic": Trained(partial(self.critic_loss, dims), "critic_learning_rate", "grad_norm"),
            "actor": Trained(partial(self.actor_loss, dims), "learning_rate", "grad_norm"),
        }

    def targets(self) -> dict[str, Target]:
        """The actor's moving average, which gives the next action, and the critics' targets."""
        return {
            "actor_ema": Target("actor", "ema_rate", self.ema_every, self.ema_start),
            "critic_target": Target("critic", "tau"),
        }

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """`target_*` drives the next actions, `bc_*` the denoising loss, `actor_*` the actor's own actions.

        With `max_q_backup`, rows of `target_*` are B * backup_candidates, a state's candidates side by side.
        """
        rows = batch * self.backup_candidates if self.max_q_backup else batch
        return {
            **prefixed("target", self._policy.sample_noise(dims, rows)),
            **prefixed("bc", self._policy.loss_noise(dims, batch)),
            **prefixed("actor", self._policy.sample_noise(dims, batch)),
            "coin": integers(2),
        }

    def critic_loss(
        self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over critics of the squared TD error against r + discount * (1 - terminal) * min_j Q'_j(s', a')."""
        with torch.no_grad():
            next_q = self._next_q(dims, nets, batch.next_state, part("target", noise))
            target = batch.reward + hyper["discount"] * (1 - batch.terminal) * next_q
        q = nets["critic"](batch.state, batch.action)
        loss = (q - target).square().mean(dim=-1).sum()
        return loss, {"critic/loss": loss.detach(), "critic/target_q": target.mean()}

    def _next_q(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise) -> Tensor:
        """Target value (B,) of the averaged actor's next action; with max_q_backup, of the best candidate."""
        candidates = self.backup_candidates if self.max_q_backup else 1
        state = next_state.repeat_interleave(candidates, dim=0) if candidates > 1 else next_state
        action = self._policy.sample(nets["actor_ema"], dims, state, noise)
        q = nets["critic_target"](state, action)
        best = q.view(q.shape[0], -1, candidates).amax(dim=-1) if candidates > 1 else q
        return ensemble_of(nets["critic_target"]).backup(best)

    def actor_loss(
        self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_bc + eta * L_q with L_q = -mean Q_i(s, a) / mean |Q_j(s, a)|, i and j by a fair coin."""
        bc_loss = self._policy.loss(nets["actor"], batch.state, batch.action, part("bc", noise))
        action = self._policy.sample(nets["actor"], dims, batch.state, part("actor", noise))
        q = nets["critic"](batch.state, action)
        ascended, scale = ensemble_of(nets["critic"]).ascend(q, noise["coin"])
        q_loss = -ascended.mean() / scale.abs().mean().detach()
        loss = bc_loss + hyper["eta"] * q_loss
        info = {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/q_loss": q_loss}
        return loss, {name: value.detach() for name, value in info.items()}

    def act_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Noise of the candidates' chains and of the selection."""
        return candidate_noise(self._policy, self._selection, dims, batch)

    def act(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """Candidates of the online (not averaged) actor, selected by the target critics."""
        return act_with_candidates(
            self._policy, self._selection, dims, nets["actor"], nets["critic_target"], state, noise
        )
