"""What algorithms with critics have in common: their components, the TD loss, acting with candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from dqlab.algorithms.base import Algorithm, Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork
from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat
from dqlab.errors import ConfigError
from dqlab.networks import critics
from dqlab.networks.ensembles import CriticEnsemble, ensemble_of
from dqlab.networks.stacking import pull_back
from dqlab.policies import Policy, policies, selections
from dqlab.policies.base import add_prefix, strip_prefix
from dqlab.policies.selection import Selection, take_candidates

P = TypeVar("P", bound=Policy)
PolicyFactory = Callable[[], Policy]
CriticFactory = Callable[..., CriticEnsemble]
SelectionFactory = Callable[[], Selection]


@dataclass(frozen=True)
class ActorCritic(Algorithm):
    """An actor (a policy class), an ensemble of critics with moving averages, and a way to act.

    Attributes:
        policy, critic, selection: names from their registries, or factories; selection is how it acts.
        discount: gamma.
        tau: rate of the targets (moving averages), every step.
        learning_rate, critic_learning_rate: Adam's, of the actor; of the critics.
        lr_schedule: a name from the `lr_schedule` registry.
        grad_norm: bound of the global gradient norm of any network; 0 for none.
    """

    policy: str | PolicyFactory = "diffusion"
    critic: str | CriticFactory = "twin"
    selection: str | SelectionFactory = "single"
    discount: UnitFloat = 0.99
    tau: UnitFloat = 0.005
    learning_rate: NonNegativeFloat = 3e-4
    critic_learning_rate: NonNegativeFloat = 3e-4
    lr_schedule: str = "constant"
    grad_norm: NonNegativeFloat = 0.0

    next_actor: ClassVar[str] = "actor"  # the network, or target, whose samples are the TD target's next actions
    samples_actions: ClassVar[bool] = True  # whether the actor's loss samples actions of its own, from noise `actor_*`
    ranking_critic: ClassVar[str] = "critic_target"  # the network, or target, by whose values candidates are ranked
    ranks_by_mean: ClassVar[bool] = False  # whether the mean of the critics ranks, whatever the ensemble says
    acting_actor: ClassVar[str] = "actor"  # the network, or target, that acts
    averages_critics: ClassVar[bool] = False  # whether critics descend the mean of their losses, not the reported sum

    @cached_property
    def resolved_policy(self) -> Policy:
        return policies.choose(self.policy)()

    @cached_property
    def resolved_selection(self) -> Selection:
        return selections.choose(self.selection)()

    def policy_as(self, kind: type[P], wanted: str, fits: Callable[[P], bool] = lambda _: True) -> P:
        """The policy, or a ConfigError that says what is wanted, unless it is of the one kind that fits."""
        policy = self.resolved_policy
        if not isinstance(policy, kind) or not fits(policy):
            given = repr(self.policy) if isinstance(self.policy, str) else policy
            raise ConfigError(f"{type(self).__name__}.policy must be {wanted}, not {given}.")
        return policy

    def critic_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The critics' loss against r + discount * (1 - terminal) * `next_value`."""
        with torch.no_grad():
            next_value = self.next_value(dims, nets, batch.next_state, noise, hyper)
        return self.td_loss(nets, batch, next_value, hyper["discount"])

    @abstractmethod
    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """What the actor descends, and scalars to report."""

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """Critics first, then the actor, which sees the critics just updated."""
        return {
            "critic": TrainedNetwork(partial(self.critic_loss, dims), "critic_learning_rate", "grad_norm"),
            "actor": TrainedNetwork(partial(self.actor_loss, dims), "learning_rate", "grad_norm"),
        }

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        return {"actor": self.resolved_policy.build(dims), "critic": self.build_critic(dims)}

    def build_critic(self, dims: Dims) -> CriticEnsemble:
        return critics.choose(self.critic)(dims.state, dims.action)

    def targets(self) -> dict[str, Target]:
        """The critics' moving averages, an update behind if `joint_update`."""
        return {"critic_target": Target("critic", "tau", lags=self.joint_update)}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """What `next_value` needs, the policy's own loss (`bc_*`), and the actor's own actions (`actor_*`), if any."""
        bc_noise = add_prefix("bc", self.resolved_policy.loss_noise(dims, batch))
        own = self.resolved_policy.sample_noise(dims, batch) if self.samples_actions else {}
        return {**self.next_value_noise(dims, batch), **bc_noise, **add_prefix("actor", own)}

    @property
    def next_candidates(self) -> int:
        """C, next actions a state in the TD target."""
        return 1

    def next_value_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        """The randomness of C next actions a row (`target_*`), and of the ensemble's backup (`backup_*`)."""
        actions = self.resolved_policy.sample_noise(dims, rows * self.next_candidates)
        return {**add_prefix("target", actions), **self.backup_noise(dims)}

    def next_action(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """Actions (B * C, A) in next states (B * C, S), a state's candidates side by side: samples of `next_actor`."""
        return self.resolved_policy.sample(nets[self.next_actor], dims, next_state, strip_prefix("target", noise))

    def next_value(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """What next states (B, S) are worth in the TD target, (B, Z): the backup of `next_action`."""
        count = self.next_candidates
        state = next_state.repeat_interleave(count, dim=0) if count > 1 else next_state
        action = self.next_action(dims, nets, state, noise, hyper)
        return (self.backup_of_candidates if count > 1 else self.backup)(nets, state, action, noise)

    def of_candidates(self, outputs: Tensor) -> Tensor:
        """Of critics' outputs (M, B * C, Z) for next actions those that count, before they are aggregated: all."""
        return outputs

    def backup_noise(self, dims: Dims) -> dict[str, NoiseSpec]:
        """What the ensemble needs to make a TD target, as `backup_*`."""
        with torch.random.fork_rng(devices=[]):  # the critic is made to be asked: the generator is left as it was
            return add_prefix("backup", self.build_critic(dims).noise())

    def td_loss(self, nets: Nets, batch: Batch, next_value: Tensor, discount: Tensor) -> Loss:
        """The critics' loss against r + discount * (1 - terminal) * next_value, which is (B, Z) and gets no gradient.

        With chunks of h actions r is the sum of discount^i * r_i, discount^h the discount (Li et al. 2025, eq. 7).
        """
        reward = batch.reward
        if reward.ndim == 2:
            powers = discount ** torch.arange(reward.shape[1], device=reward.device)
            reward, discount = (powers * reward).sum(dim=1), discount ** reward.shape[1]
        target = reward.unsqueeze(-1) + (discount * (1 - batch.terminal)).unsqueeze(-1) * next_value.detach()
        outputs = nets["critic"].call("outputs", batch.state, batch.action)
        loss = ensemble_of(nets["critic"]).loss(outputs, target)
        info = {"critic/loss": loss, "critic/target_q": target.mean()}
        return (loss / len(outputs) if self.averages_critics else loss), info

    def bc_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise) -> Loss:
        """The loss of an actor that is cloned only; `noise` is that of the policy's losses."""
        loss = self.resolved_policy.losses(nets["actor"], dims, batch.state, batch.action, noise).mean()
        return loss, {"actor/bc_loss": loss}

    def backup(self, nets: Nets, next_state: Tensor, next_action: Tensor, noise: Noise) -> Tensor:
        """The target critics' values (B, Z) of next actions, as the ensemble aggregates them."""
        outputs = nets["critic_target"].call("outputs", next_state, next_action)
        return ensemble_of(nets["critic"]).backup(outputs, strip_prefix("backup", noise))

    def backup_of_candidates(self, nets: Nets, next_state: Tensor, next_action: Tensor, noise: Noise) -> Tensor:
        """Likewise of those that `of_candidates` leaves of C next actions a state (B * C, A)."""
        outputs = self.of_candidates(nets["critic_target"].call("outputs", next_state, next_action))
        return ensemble_of(nets["critic"]).backup(outputs, strip_prefix("backup", noise))

    def q_loss(self, nets: Nets, state: Tensor, action: Tensor, critic_index: Tensor, same: bool = False) -> Tensor:
        """-mean Q_i(s, a) / mean |Q_j(s, a)| for actions (B, A); `critic_index` (0 or 1, a fair coin) is i.

        The denominator, through which no gradient flows, makes the term's weight independent of the rewards' scale
        (Fujimoto & Gu 2021, section 5). j is the other critic, as in Diffusion-QL's code, or i itself where `same`.
        """
        ascended, other = ensemble_of(nets["critic"]).actor_objective(nets["critic"](state, action), critic_index)
        return -ascended.mean() / (ascended if same else other).abs().mean().detach()

    def first_q(self, nets: Nets, state: Tensor, action: Tensor) -> Tensor:
        """Values (B,) of actions by the first critic; by the ensemble's aggregate where its actor objective is that."""
        q = nets["critic"](state, action)
        heads = torch.zeros((), dtype=torch.int64, device=q.device)
        return ensemble_of(nets["critic"]).actor_objective(q, heads)[0]

    def action_gradient(self, nets: Nets, state: Tensor, action: Tensor) -> Tensor:
        """The gradient (B, A) of the target critics' mean with respect to actions (B, A); nothing else gets one."""

        def mean(action: Tensor) -> Tensor:
            return nets["critic_target"](state, action).mean(dim=0)

        return pull_back(mean, action, torch.ones_like(action[:, 0]))

    def ranking(self, nets: Nets, state: Tensor, action: Tensor) -> Tensor:
        """Values (B,) by which candidate actions are ranked: those of `ranking_critic`, as the ensemble ranks."""
        q = nets[self.ranking_critic](state, action)
        return q.mean(dim=0) if self.ranks_by_mean else ensemble_of(nets[self.ranking_critic]).ranking_value(q)

    def sample_action(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """A candidate action (B, A) for each state (B, S), by `acting_actor`."""
        return self.resolved_policy.sample(nets[self.acting_actor], dims, state, noise)

    def sample_action_noise(self, dims: Dims, rows: int) -> dict[str, NoiseSpec]:
        return self.resolved_policy.sample_noise(dims, rows)

    def act_alone(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """What is done where a single candidate is wanted; `noise` is that of `sample_action`."""
        return self.resolved_policy.act(nets[self.acting_actor], dims, state, noise)

    def state_value(self, nets: Nets, state: Tensor) -> Tensor | None:
        """Values V (B,) of states, where the algorithm learns them."""
        return None

    def act_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """Noise of the C * B candidates (`chain_*`) and of the selection (`select_*`)."""
        candidates = self.sample_action_noise(dims, self.resolved_selection.n_candidates * batch)
        return {**add_prefix("chain", candidates), **add_prefix("select", self.resolved_selection.noise(batch))}

    def act(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> Tensor:
        """The selected one of C candidates, as `ranking` ranks them; without ranking where C is 1."""
        count, chain = self.resolved_selection.n_candidates, strip_prefix("chain", noise)
        if count == 1:
            return self.act_alone(dims, nets, state, chain)
        repeated = state.unsqueeze(0).expand(count, -1, -1).flatten(0, 1)
        actions = self.sample_action(dims, nets, repeated, chain)
        q = self.ranking(nets, repeated, actions).view(1, count, state.shape[0])
        candidates = actions.view(count, state.shape[0], -1)
        index = self.resolved_selection(candidates, q, strip_prefix("select", noise), self.state_value(nets, state))
        return take_candidates(candidates, index)


@dataclass(frozen=True)
class AveragedActor(ActorCritic):
    """An actor whose moving average `actor_ema` draws the TD target's next actions.

    Attributes:
        ema_rate: 1 - decay of the actor's moving average, moved every `ema_every` steps from `ema_start` on.
    """

    ema_rate: UnitFloat = 0.005
    ema_every: PositiveInt = 5
    ema_start: NonNegativeInt = 1000
    next_actor = "actor_ema"

    def targets(self) -> dict[str, Target]:
        return {"actor_ema": Target("actor", "ema_rate", self.ema_every, self.ema_start), **super().targets()}


class BestNextAction(ActorCritic):
    """The best of `backup_candidates` next actions counts, by their aggregated values."""

    backup_candidates: int

    @property
    def next_candidates(self) -> int:
        return self.backup_candidates

    def next_value(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """The aggregated value (B, Z) of the best candidate."""
        values = super().next_value(dims, nets, next_state, noise, hyper)
        return reduce_candidates(values.unsqueeze(0), self.backup_candidates, best=True).squeeze(0)


def cloning(policy: Policy, network: str, prefix: str, dims: Dims, **options: Any) -> TrainedNetwork:
    """A network of that name that clones the data by a policy's own losses, from noise `prefix_*`."""

    def loss(nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        bc_loss = policy.losses(nets[network], dims, batch.state, batch.action, strip_prefix(prefix, noise)).mean()
        return bc_loss, {f"{network}/bc_loss": bc_loss}

    return replace(TrainedNetwork(loss, "learning_rate", "grad_norm"), **options)


def reduce_candidates(outputs: Tensor, candidates: int, best: bool) -> Tensor:
    """Of outputs (M, B * C, Z), a state's candidates side by side, each critic's best one, or their mean, (M, B, Z)."""
    by_candidate = outputs.view(len(outputs), -1, candidates, outputs.shape[-1])
    if not best:
        return by_candidate.mean(dim=2)
    index = by_candidate.mean(dim=-1, keepdim=True).argmax(dim=2, keepdim=True)
    return by_candidate.gather(2, index.expand(-1, -1, -1, outputs.shape[-1])).squeeze(2)
