"""QSM (Psenka et al. 2024): a denoiser whose score is matched to the gradient of a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dqlab.algorithms.actor_critic import ActorCritic
from dqlab.algorithms.base import Batch, Dims, Hyper, Loss, Nets, Noise, algorithms
from dqlab.algorithms.dac import noise_predicting
from dqlab.config.fields import NonNegativeFloat, PositiveFloat
from dqlab.policies.base import strip_prefix


@algorithms.register(
    "qsm", source="Psenka et al. 2024, algorithm 1, eq. 14; details of its codes", cites=("psenka2024learning",)
)
@dataclass(frozen=True)
class QSM(ActorCritic):
    """Q-score matching: eps_theta(x_t) is fitted to -sigma_t * grad Q(s, x_t) / temperature at noised actions.

    With alpha > 0 the denoising loss of the data's actions is added, without which nothing keeps actions near them.

    Attributes:
        policy: a diffusion policy that predicts the noise.
        temperature: of the policy exp(Q / temperature), in units of mean |grad Q|.
        alpha: weight of the denoising loss; 0 in the paper, which is online.
        raw_score: eps_theta is fitted to -grad Q / temperature, the gradient in its own units (QAM's published scores).
        joint_update, joint_grad_norm: as in `QAM`.
    """

    temperature: PositiveFloat = 1.0
    alpha: NonNegativeFloat = 1.0
    raw_score: bool = False
    joint_update: bool = False
    joint_grad_norm: bool = False
    samples_actions = False
    averages_critics = True

    def actor_loss(self, dims: Dims, nets: Nets, batch: Batch, noise: Noise, hyper: Hyper) -> Loss:
        """mean |eps_theta + sigma_t * grad Q / temperature|^2 + alpha * L_bc, by the target critics."""
        policy, own = noise_predicting(self), strip_prefix("bc", noise)
        losses, noisy, eps = policy.denoise(nets["actor"], batch.state, batch.action, own)
        with torch.no_grad():
            gradient = self.action_gradient(nets, batch.state, noisy)
            scale = hyper["temperature"] * (gradient.abs().mean() + 1e-6)
            sigma = policy.process.scales(own["t"], noisy)[1]
            target = -gradient / hyper["temperature"] if self.raw_score else -sigma * gradient / scale
        bc_loss, score_loss = losses.mean(), (eps - target).square().mean()
        loss = score_loss + hyper["alpha"] * bc_loss
        return loss, {"actor/loss": loss, "actor/bc_loss": bc_loss, "actor/score_loss": score_loss}
