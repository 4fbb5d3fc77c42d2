"""DAC (Fang et al. 2024): a denoiser that learns the noise that a critic's gradient shifts, without a chain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dqlab.algorithms.actor_critic import ActorCritic, AveragedActor, CriticFactory, SelectionFactory, reduce_candidates
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, TrainedNetwork, algorithms
from dqlab.config.fields import NonNegativeFloat, PositiveInt
from dqlab.diffusion.predictions import Epsilon
from dqlab.networks.values import Multiplier
from dqlab.policies.base import strip_prefix
from dqlab.policies.diffusion import DiffusionPolicy


class LinearMultiplier(nn.Module):
    """A multiplier that is its own parameter, 1 at first, between bounds, for steps of plain gradient descent."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.value = nn.Parameter(torch.ones(()))

    def forward(self) -> Tensor:
        return self.value.clamp(self.low, self.high)

    def ascent(self, excess: Tensor, rate: Tensor) -> Tensor:
        """A loss whose descent by that rate adds rate * excess, as far as the bounds allow."""
        value = self.value.detach()
        return -self.value * excess.clamp((self.low - value) / rate, (self.high - value) / rate)


@algorithms.register(
    "dac", source="Fang et al. 2024, eq. 11, 13 and 14; details of its codes", cites=("fang2024diffusion",)
)
@dataclass(frozen=True)
class DAC(AveragedActor):
    """Diffusion actor-critic: KL-constrained policy iteration as the regression of noise.

    The best policy near the data's has the score of the data's plus that of Q / eta. So the denoiser is fitted to
    eps - sigma_t * grad Q(s, x_t) / (2 eta) at the data's noised actions x_t, which is to descend
    eta * L_bc + mean sigma_t * grad Q * eps_theta; the gradient is in units of mean |Q(s, a)|. No chain is run for it.

    Attributes:
        policy: a diffusion policy that predicts the noise.
        critic: a lower confidence bound of ten, as in the paper.
        selection: how it acts: the best of ten by the critics' mean.
        eta: weight of behaviour cloning; where it is learned, it starts at 1.
        learns_eta: raise eta while the denoising loss is above `threshold`, and lower it otherwise.
        linear_eta: not Adam moves eta's logarithm, but eta moves by eta_learning_rate * (loss - threshold), that within
            +-1 and eta between 0.001 and 100, as in flow-rl's rendering.
        threshold: the denoising loss that is allowed.
        backup_candidates: next actions in the TD target, whose mean counts; or the best, with `max_q_backup`.
    """

    critic: str | CriticFactory = "ensemble_lcb"
    selection: str | SelectionFactory = "argmax"
    eta: NonNegativeFloat = 1.0
    learns_eta: bool = False
    linear_eta: bool = False
    threshold: NonNegativeFloat = 1.0
    backup_candidates: PositiveInt = 10
    max_q_backup: bool = False
    lr_schedule: str = "cosine"
    grad_norm: float = 1.0
    eta_learning_rate: NonNegativeFloat = 1e-3
    samples_actions = False
    ranks_by_mean = True
    averages_critics = True

    def build(self, dims: Dims) -> dict[str, nn.Module]:
        eta = LinearMultiplier(1e-3, 100.0) if self.linear_eta else Multiplier()
        return {**super().build(dims), **({"eta": eta} if self.learns_eta else {})}

    def trained(self, dims: Dims) -> dict[str, TrainedNetwork]:
        """Critics, the actor, then eta by what the actor reached; by what it was before its step if `linear_eta`."""
        loss, linear = partial(self.eta_loss, dims), self.linear_eta
        eta = TrainedNetwork(loss, "eta_learning_rate", decays=False, with_previous=linear, plain_descent=linear)
        return {**super().trained(dims), **({"eta": eta} if self.learns_eta else {})}

    @property
    def next_candidates(self) -> int:
        return self.backup_candidates

    def of_candidates(self, outputs: Tensor) -> Tensor:
        return reduce_candidates(outputs, self.backup_candidates, self.max_q_backup)

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """eta * L_bc + mean sigma_t * grad Q * eps_theta, by the target critics."""
        policy, own = noise_predicting(self), strip_prefix("bc", noise)
        losses, noisy, eps = policy.denoise(nets["actor"], batch.state, batch.action, own)
        with torch.no_grad():
            scale = nets["critic_target"](batch.state, batch.action).abs().mean()
            sigma = policy.process.scales(own["t"], noisy)[1]
            shift = sigma * self.action_gradient(nets, batch.state, noisy) / (scale + 1e-6)
        bc_loss, guidance = losses.mean(), (shift * eps).mean()
        eta = nets["eta"]().detach() if self.learns_eta else hyper["eta"]
        loss = eta * bc_loss + guidance
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/guidance_loss": guidance}

    def eta_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """Dual ascent: eta rises while the denoising loss is above the threshold."""
        with torch.no_grad():
            bc_loss, _ = self.bc_loss(dims, nets, batch, strip_prefix("bc", noise))
        excess = bc_loss - hyper["threshold"]
        given = (excess.clamp(-1, 1), hyper["eta_learning_rate"]) if self.linear_eta else (excess,)
        return nets["eta"].call("ascent", *given), {"eta/value": nets["eta"]()}


def noise_predicting(algorithm: ActorCritic) -> DiffusionPolicy:
    """The policy of an algorithm that fits noise."""
    wanted = "a diffusion that predicts eps"
    return algorithm.policy_as(DiffusionPolicy, wanted, lambda p: isinstance(p.resolved_prediction, Epsilon))
