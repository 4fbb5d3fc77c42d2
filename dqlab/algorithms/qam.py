"""QAM (Li & Levine 2026): a flow that adjoint matching bends from the data's towards the critics' gradient; and QAM-E,
whose actions a small bounded Gaussian edits, which ascends Q by its own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, PolicyFactory, clone_loss
from dqlab.algorithms.base import Hyper, Loss, Nets, Target, TrainedNetwork, algorithms, detach_info
from dqlab.config.fields import NonNegativeFloat, UnitFloat
from dqlab.data import Batch
from dqlab.errors import ConfigError
from dqlab.networks.mlp import Multiplier
from dqlab.noise import Noise, NoiseSpec, normal
from dqlab.policies import policies
from dqlab.policies.base import Dims, add_prefix, strip_prefix
from dqlab.policies.flow import OneStepFlowPolicy, RectifiedFlowPolicy, adjoint_matching_losses
from dqlab.policies.gaussian import TanhGaussianPolicy


@algorithms.register(
    "qam",
    source="Li & Levine 2026 (QAM); its code's updates; Domingo-Enrich et al. 2025 (adjoint matching)",
    cites=("li2026adjoint", "domingoenrich2025adjoint"),
)
@dataclass(frozen=True)
class QAM(ActorCritic):
    """Q-learning with adjoint matching: the actor's flow is to give behaviour * exp(inverse_temperature * Q).

    A behaviour flow clones the data. The actor, a flow beside it, is fitted by regression on adjoints, which the
    behaviour flow's average carries back from -inverse_temperature * grad Q along noisy paths of the actor's: no
    gradient goes through a chain, and none through the actor's own derivative.

    Attributes:
        policy: a rectified flow, of the behaviour and of the actor.
        critic: a lower confidence bound of ten, as in the paper.
        selection: how it acts; the one action in the paper, else candidates are ranked by the critics' mean.
        inverse_temperature: of the tilt by Q; tuned for each task.
        joint_update: as in the authors' code: all losses see the networks as they were before the update, and targets
            follow them so.
        joint_grad_norm: as in the authors' code: `grad_norm` bounds the norm of all networks' gradients together.
        tau: rate of the targets, of the critics and of the behaviour flow.
        learning_rate: Adam's, of both flows.
    """

    policy: str | PolicyFactory = "rectified_flow"
    critic: str | CriticFactory = "ensemble_lcb"
    inverse_temperature: NonNegativeFloat = 1.0
    grad_norm: float = 1.0
    joint_update: bool = True
    joint_grad_norm: bool = False

    samples_actions = False
    ranking_critic = "critic"
    ranks_by_mean = True
    averages_critics = True
    selection_loss = "behaviour/bc_loss"

    @property
    def resolved_flow(self) -> RectifiedFlowPolicy:

        def fits(policy: RectifiedFlowPolicy) -> bool:
            return not isinstance(policy, OneStepFlowPolicy)

        return self.policy_as(RectifiedFlowPolicy, "bends a flow", "a rectified flow", fits)

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        """The behaviour flow, the actor and the critics."""
        return {"behaviour": self.resolved_flow.build(dims), **super().build(dims)}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """The behaviour flow, the critics, then the actor."""
        behaviour = partial(clone_loss, self.resolved_flow, "behaviour", "bc", dims)
        return {"behaviour": TrainedNetwork(behaviour, "learning_rate", "grad_norm"), **super().trained(dims)}

    def targets(self) -> dict[str, Target]:
        """Moving averages of the behaviour flow and of the critics, an update behind if `joint_update`."""
        return {"behaviour_target": Target("behaviour", "tau", lags=self.joint_update), **super().targets()}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """What `next_value` needs; `bc_*`: the behaviour flow's loss; `path_*`: the actor's noisy paths."""
        steps = normal(self.resolved_flow.n_steps - 1, batch, dims.action)
        path = add_prefix("path", {"start": normal(batch, dims.action), "eps": steps})
        return {**super().update_noise(dims, batch), **path}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The adjoint matching loss, by the target critics' mean and the averaged behaviour flow."""
        flow, bound, n_steps = self.resolved_flow, dims.max_action, self.resolved_flow.n_steps
        tuned = flow.velocity(nets["actor"], batch.state, n_steps)
        base = flow.velocity(nets["behaviour_target"], batch.state, n_steps + 1)

        def end_adjoint(action: Tensor) -> Tensor:
            """Of -inverse_temperature * Q at the clamped action, so that nothing pulls further out of the range."""
            gradient = self.action_gradient(nets, batch.state, action.clamp(-bound, bound))
            return -hyper["inverse_temperature"] * gradient * (action.abs() <= bound)

        loss = adjoint_matching_losses(tuned, base, end_adjoint, noise["path_start"], noise["path_eps"]).mean()
        return loss, detach_info({"actor/loss": loss})


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
        """QAM's networks, then the edit."""
        edit = TrainedNetwork(partial(self.edit_loss, dims), "learning_rate", "grad_norm")
        return {**super().trained(dims), "edit": edit}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """As in QAM; `edit_*`: the actions that the edit's loss edits, and their edits."""
        return {**super().update_noise(dims, batch), **add_prefix("edit", self.sample_action_noise(dims, batch))}

    def next_value_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        """Of that many edited next actions (`target_*`), and of the ensemble's backup (`backup_*`)."""
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
        info = {"edit/q_loss": q_loss, "edit/entropy": -log_prob, "edit/multiplier": multiplier()}
        return loss, detach_info(info)

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """Edited actions (B, A) of the actor for states (B, S)."""
        return self._edited(dims, nets, state, noise)[0]

    def sample_action_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        """The actor's (`flow_*`), and standard normal `eps` (B, A) of the edit."""
        flow = add_prefix("flow", self.resolved_policy.sample_noise(dims, rows))
        return {**flow, "eps": normal(rows, dims.action)}

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
