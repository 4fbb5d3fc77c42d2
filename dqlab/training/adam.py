"""Adam (Kingma & Ba 2015), and the clipping of gradients before it, on matrices (K, P) whose rows are replicas."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


Moments = tuple[Tensor, Tensor]
"""Adam's first and second, (K, P) each: of halves of one tensor a compiled program would write both anew."""


def adam_step(parameters: Tensor, moments: Moments, gradient: Tensor, rate: Tensor, root: Tensor) -> None:
    """One step, in place.

    Args:
        parameters, gradient: (K, P).
        moments: first and second.
        rate: (K,), learning rate over the first of the step's `bias_corrections`.
        root: (K,), the second of them. Tensors, so that the step's number is not in a compiled program.
    """
    first, second = moments
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = second.sqrt().div_(root.unsqueeze(-1)).add_(EPS)
    parameters.sub_(first.div(denominator).mul_(rate.unsqueeze(-1)))


def adam_step_if(
    trains: Tensor, parameters: Tensor, moments: Moments, gradient: Tensor, rate: Tensor, root: Tensor
) -> None:
    """The same step in the rows where `trains` (K,) is 1; nothing happens where it is 0."""
    before = (parameters, *moments)
    stepped, first, second = (each.clone() for each in before)
    adam_step(stepped, (first, second), gradient, rate, root)
    wanted = trains.unsqueeze(-1) > 0
    for old, new in zip(before, (stepped, first, second), strict=True):
        old.copy_(torch.where(wanted, new, old))


def bias_corrections(step: int, beta1: float = BETA1, beta2: float = BETA2) -> tuple[float, float]:
    """Corrections of the moments' bias at a step, from 1: of the first, and the root of that of the second."""
    return 1 - beta1**step, math.sqrt(1 - beta2**step)


def clip_by_norm(gradient: Tensor, max_norm: Tensor) -> Tensor:
    """Scale each row of a gradient (K, P) to at most max_norm (K,) in L2; rows with max_norm <= 0 are left alone.

    The factor is min(1, max_norm / (norm + 1e-6)), as in `torch.nn.utils.clip_grad_norm_`.
    """
    norm = torch.linalg.vector_norm(gradient, dim=-1)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return gradient * torch.where(max_norm > 0, factor, 1.0).unsqueeze(-1)


def clip_together(gradients: Mapping[str, Tensor], max_norm: Tensor) -> dict[str, Tensor]:
    """Scale each row of all gradients (K, P) so that their norm together is at most max_norm (K,).

    The factor is min(1, max_norm / norm), as in `optax.clip_by_global_norm`; rows with max_norm <= 0 are left alone.
    """
    norm = torch.stack([torch.linalg.vector_norm(each, dim=-1) for each in gradients.values()]).square().sum(0).sqrt()
    factor = torch.where(max_norm > 0, (max_norm / norm).clamp(max=1.0), 1.0).unsqueeze(-1)
    return {name: each * factor for name, each in gradients.items()}
