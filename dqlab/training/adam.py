"""Adam and gradient clipping on matrices (K, P) whose rows are independent replicas.

`torch.optim.Adam` computes the same, element by element, but has one learning rate for all rows and its gradient
clipping one norm; replicas need their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clip_by_norm(gradient: Tensor, max_norm: Tensor) -> Tensor:
    """Scale each row of a gradient (K, P) to at most max_norm (K,) in L2; rows with max_norm <= 0 are left alone.

    The factor is min(1, max_norm / (norm + 1e-6)), as in `torch.nn.utils.clip_grad_norm_`.
    """
    norm = torch.linalg.vector_norm(gradient, dim=-1)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return gradient * torch.where(max_norm > 0, factor, 1.0).unsqueeze(-1)


def adam_step(
    parameters: Tensor,
    moments: Tensor,
    gradient: Tensor,
    learning_rate: Tensor,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """One step of Adam (Kingma & Ba 2015), in place.

    Args:
        parameters, gradient: (K, P).
        moments: (2, K, P), first and second.
        learning_rate: (K,).
        step: number of this step, from 1.
    """
    first, second = moments[0], moments[1]
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps)
    rate = (learning_rate / (1 - beta1**step)).unsqueeze(-1)
    parameters.sub_(first.div(denominator).mul_(rate))
