"""BDPO (Gao et al. 2025): a diffusion actor that pays for leaving a cloned one at every step of its chain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, CriticFactory, SelectionFactory, cloning, reduce_candidates
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, NoiseSpec, Target, TrainedNetwork, algorithms
from dqlab.algorithms.dac import noise_predicting
from dqlab.config.fields import NonNegativeFloat, NonNegativeInt, PositiveInt, UnitFloat
from dqlab.diffusion import Process
from dqlab.diffusion.process import at_timestep
from dqlab.networks.ensembles import ensemble_of
from dqlab.networks.values import ChainValueNetwork
from dqlab.noise import integers, normal
from dqlab.policies.base import add_prefix, strip_prefix
from dqlab.policies.diffusion import chain_denoiser


@algorithms.register(
    "bdpo", source="Gao et al. 2025; details of the authors' code in flow-rl", cites=("gao2025behavior",)
)
@dataclass(frozen=True)
class BDPO(ActorCritic):
    """Behaviour-regularised diffusion policy optimisation: Q minus eta * KL, summed over the steps of the chain.

    A behaviour model is cloned first, and rests from then on. Each step from x_t to x_{t-1} is an action of the actor,
    which costs eta times the KL divergence of its kernel to the behaviour model's. Q(s, a) counts what chains in later
    states cost; V(s, x_t, t) is what the rest of this one is worth. So the actor, which begins as the behaviour model,
    learns from single steps, of the data's noised actions, without a gradient through the chain.

    Attributes:
        policy: a diffusion policy that predicts the noise; its sampler acts, training steps as `ddpm_large` does.
        critic: a lower confidence bound of ten, as in the paper; its rule holds for V, too.
        selection: how it acts: the best of ten by the critics' mean.
        eta: weight of the KL.
        candidates: next actions, or next steps, whose mean counts in targets.
        max_q_backup: the best next action counts instead of the mean.
        pretrain_steps, warmup_steps: updates of the behaviour model; of critics and V, after these, before the actor's.
        actor_every: the actor is updated at every so many steps.
        ema_rate: 1 - decay of the averages of the behaviour model and of the actor, which moves as often as that.
        tau: rate of the targets of critics and V.
        learning_rate, behaviour_learning_rate: of Adam, constant.
        critic_learning_rate, lr_schedule: of Adam, for critics and V.
    """

    critic: str | CriticFactory = "ensemble_lcb"
    selection: str | SelectionFactory = "argmax"
    eta: NonNegativeFloat = 1.0
    candidates: PositiveInt = 10
    max_q_backup: bool = False
    pretrain_steps: PositiveInt = 500_000
    warmup_steps: NonNegativeInt = 50_000
    actor_every: PositiveInt = 5
    ema_rate: UnitFloat = 0.005
    learning_rate: float = 1e-5
    behaviour_learning_rate: NonNegativeFloat = 3e-4
    lr_schedule: str = "cosine"
    grad_norm: float = 1.0
    acting_actor = "actor_ema"
    ranks_by_mean = True
    averages_critics = True
    selection_loss = "actor/kl"

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        """The behaviour model, actor and critics, and as many V as critics."""
        made = super().build(dims)
        value = ChainValueNetwork(dims.state, dims.action, len(self.build_critic(dims).members))
        return {"behaviour": self.resolved_policy.build(dims), **made, "value": value}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """The behaviour model; then critics and V; then the actor beside these."""
        trained, second, third = super().trained(dims), self.pretrain_steps, self.pretrain_steps + self.warmup_steps
        own = {"learning_rate": "behaviour_learning_rate", "decays": False, "last": second}
        behaviour = cloning(self.resolved_policy, "behaviour", "bc", dims, **own)
        actor = replace(trained["actor"], every=self.actor_every, decays=False, first=third, starts_as="behaviour_ema")
        critic = replace(trained["critic"], first=second)
        value = replace(critic, loss=partial(self.chain_value_loss, dims))
        return {"behaviour": behaviour, "critic": critic, "value": value, "actor": actor}

    def targets(self) -> dict[str, Target]:
        own = Target("actor", "ema_rate", self.actor_every, offset=self.actor_every - 1)
        averages = {"behaviour_ema": Target("behaviour", "ema_rate"), "actor_ema": own}
        return {**averages, "value_target": Target("value", "tau"), **super().targets()}

    def update_noise(self, dims: Dims, batch: int) -> dict[str, NoiseSpec]:
        """For cloning (`bc_*`), next actions (`target_*`), and single steps of V (`value_*`) and actor (`actor_*`)."""
        bc_noise = add_prefix("bc", self.resolved_policy.loss_noise(dims, batch))
        steps, rows = noise_predicting(self).n_timesteps, batch * self.candidates
        chain = {"start": normal(rows, dims.action), "noise": normal(steps, rows, dims.action)}
        step = {"t": integers(steps, batch), "eps": normal(batch, dims.action), "step": normal(rows, dims.action)}
        of_steps = {**add_prefix("value", step), **add_prefix("actor", step)}
        return {**bc_noise, **add_prefix("target", chain), **of_steps, **self.backup_noise(dims)}

    def next_value(self, dims: Dims, nets: Nets, next_state: Tensor, noise: Noise, hyper: Hyper) -> Tensor:
        """The backup (B, Z) of the averaged actor's next actions, minus eta * the mean KL of their whole chains."""
        state = next_state.repeat_interleave(self.candidates, dim=0)
        action, kl = self.chain(dims, nets, state, strip_prefix("target", noise))
        value = self.backup_of_candidates(nets, state, action, noise)
        return value - hyper["eta"] * kl.view(-1, self.candidates).mean(dim=1, keepdim=True)

    def of_candidates(self, outputs: Tensor) -> Tensor:
        return reduce_candidates(outputs, self.candidates, self.max_q_backup)

    def chain(self, dims: Dims, nets: Nets, state: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Actions (B, A) of the averaged actor, and the KL (B,) of the chains that led to them: a sum over steps."""
        process, kl = noise_predicting(self).process, torch.zeros_like(state[:, 0])
        times = range(process.n_timesteps)
        actor, behaviour = (chain_denoiser(nets[name], state, times) for name in ("actor_ema", "behaviour_ema"))
        x = noise["start"]
        for t in reversed(times):
            eps = actor(x, t, state)
            kl = kl + process.kernel_kl(t, eps, behaviour(x, t, state))
            x = kernel_mean(process, dims, x, t, eps)
            if t > 0:
                x = x + math.sqrt(process.betas[t]) * noise["noise"][t]
        return x, kl

    def step_worth(
        self, dims: Dims, nets: Nets, name: str, batch: Batch, noise: Noise, hyper: Hyper, use: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noised actions x_t (B, A), t (B,), what a step of the actor of that name is worth there, and its KL (B,).

        It is worth the targets' V(s, x_{t-1}, t - 1), or Q(s, x_0), of several x_{t-1}, minus eta * KL.
        """
        process, own, count = noise_predicting(self).process, strip_prefix(use, noise), self.candidates
        t, x = own["t"], process.diffuse(batch.action, own["t"], own["eps"])
        eps = nets[name](x, t, batch.state)
        kl = process.kernel_kl(t, eps, nets["behaviour_ema"](x, t, batch.state))
        mean = kernel_mean(process, dims, x, t, eps)
        state, mean, steps = (each.repeat_interleave(count, dim=0) for each in (batch.state, mean, t))
        following = mean + at_timestep((0.0, *map(math.sqrt, process.betas[1:])), steps, mean) * own["step"]
        v = nets["value_target"](state, following, (steps - 1).clamp(min=0))
        values = torch.where(steps == 0, nets["critic_target"](state, following), v).unsqueeze(-1)
        values = reduce_candidates(values, count, best=False)
        worth = ensemble_of(nets["critic_target"]).backup(values, strip_prefix("backup", noise)).mean(dim=-1)
        return x, t, worth - hyper["eta"] * kl, kl

    def chain_value_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """The mean squared error of every V(s, x_t, t) to what a step of the averaged actor is worth."""
        with torch.no_grad():
            x, t, worth, _ = self.step_worth(dims, nets, "actor_ema", batch, noise, hyper, "value")
        loss = (nets["value"](batch.state, x, t) - worth).square().mean()
        return loss, {"value/loss": loss, "value/target": worth.mean()}

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Minus what its own step is worth."""
        _, _, worth, kl = self.step_worth(dims, nets, "actor", batch, noise, hyper, "actor")
        return -worth.mean(), {"actor/loss": -worth.mean(), "actor/kl": kl.mean()}


def kernel_mean(process: Process, dims: Dims, x: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
    """The mean (B, A) of p(x_{t-1} | x_t) for a predicted eps (B, A), with x_0 clipped to the action range."""
    start = process.start_from(x, t, eps).clamp(-dims.max_action, dims.max_action)
    return process.posterior_mean(start, x, t)
