"""QAM-E (Li & Levine 2026): QAM whose actions a small bounded Gaussian edits, which ascends Q by its own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import PolicyFactory
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, TrainedNetwork, algorithms
from dqlab.algorithms.qam import QAM
from dqlab.config.fields import UnitFloat
from dqlab.errors import ConfigError
from dqlab.networks.values import Multiplier
from dqlab.noise import normal
from dqlab.policies import policies
from dqlab.policies.base import add_prefix, strip_prefix
from dqlab.policies.gaussian import TanhGaussianPolicy


@algorithms.register(
    "qam_edit", source="Li & Levine 2026 (QAM-E); its code's updates", cites=("li2026adjoint", "haarnoja2018soft")
)
@dataclass(frozen=True)
class QAMEdit(QAM):
    """QAM with an edit policy: actions a + edit_scale * tanh(u), u Gaussian given the state and the actor's action a.

    The edit ascends the critics' mean, and its entropy by a multiplier that holds it at `target_entropy`, as SAC's
    policy does. No gradient goes from it to the flows.

    Attributes:
        edit: policy class of the edit, a Gaussian before a tanh.
        edit_scale: largest edit, as a share of the action range.
        target_entropy: of tanh(u), for each action dimension.
        bounded_multiplier: the entropy's multiplier stays between e^-5 and e^10; in the authors' code it has no bounds.
        learning_rate: Adam's, of both flows and of the edit.
    """

    edit: str | PolicyFactory = "gaussian"
    edit_scale: UnitFloat = 0.1
    target_entropy: float = -0.5
    bounded_multiplier: bool = True
    structural = ("edit_scale",)

    @property
    def resolved_edit(self) -> TanhGaussianPolicy:
        policy = policies.choose(self.edit)()
        if not isinstance(policy, TanhGaussianPolicy) or not policy.squashed:
            raise ConfigError(f"QAMEdit bounds its edits: QAMEdit.edit must be a squashed Gaussian, not {policy}.")
        return policy

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        """QAM's networks, and the edit: a `gaussian` of a state and an action, and the `multiplier` of its entropy."""
        gaussian = self.resolved_edit.build(Dims(dims.state + dims.action, dims.action))
        multiplier = Multiplier(bounded=self.bounded_multiplier)
        return {**super().build(dims), "edit": nn.ModuleDict({"gaussian": gaussian, "multiplier": multiplier})}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        edit = TrainedNetwork(partial(self.edit_loss, dims), "learning_rate", "grad_norm")
        return {**super().trained(dims), "edit": edit}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """As in QAM; `edit_*`: the actions that the edit's loss edits, and their edits."""
        return {**super().update_noise(dims, batch), **add_prefix("edit", self.sample_action_noise(dims, batch))}

    def next_value_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        return {**add_prefix("target", self.sample_action_noise(dims, rows)), **self.backup_noise(dims)}

    def next_action(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        return self.sample_action(dims, nets, next_state, strip_prefix("target", noise))

    def edit_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """-mean Q of edited actions + multiplier * log density; the multiplier rises while the entropy is too low."""
        action, log_prob = self._edited(dims, nets, batch.state, strip_prefix("edit", noise))
        multiplier = nets["edit"].part("multiplier")
        q_loss, log_prob = -nets["critic"](batch.state, action).mean(), log_prob.mean()
        ascent = multiplier.call("ascent", hyper["target_entropy"] * dims.action + log_prob.detach())
        loss = q_loss + multiplier().detach() * log_prob + ascent
        return loss, {"edit/q_loss": q_loss, "edit/entropy": -log_prob, "edit/multiplier": multiplier()}

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        return self._edited(dims, nets, state, noise)[0]

    def sample_action_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        """The actor's (`flow_*`), and standard normal `eps` (B, A) of the edit."""
        return {**add_prefix("flow", self.resolved_policy.sample_noise(dims, rows)), "eps": normal(rows, dims.action)}

    def act_alone(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        return self.sample_action(dims, nets, state, noise)

    def _edited(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Edited actions (B, A), and the log density (B,) of their edits in units of the largest one."""
        with torch.no_grad():
            action = self.resolved_policy.sample(nets["actor"], dims, state, strip_prefix("flow", noise))
        seen, unit = torch.cat([state, action], dim=-1), Dims(dims.state + dims.action, dims.action)
        network = nets["edit"].part("gaussian")
        edit, log_prob = self.resolved_edit.sample_with_log_prob(network, unit, seen, {"eps": noise["eps"]})
        edited = action + self.edit_scale * dims.max_action * edit
        return edited.clamp(-dims.max_action, dims.max_action), log_prob
