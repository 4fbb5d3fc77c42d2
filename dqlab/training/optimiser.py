"""Optimisers on matrices (K, P) whose rows are replicas: clipping, decoupled weight decay, Adam (Kingma & Ba 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqlab.algorithms.base import TrainedNetwork
from dqlab.training.execution.program import TensorTree

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
Factor = Callable[[int, int, int | None], float]
"""(step, first, last of a phase) -> factor on the learning rate."""
Moments = tuple[Tensor, Tensor]
"""Adam's first and second, (K, P) each: of halves of one tensor a compiled program would write both anew."""


def clip_by_norm(gradient: Tensor, max_norm: Tensor, members: int = 1) -> Tensor:
    """Scale each row of a gradient (K, P) to at most max_norm (K,) in L2; rows with max_norm <= 0 are left alone.

    The factor is min(1, max_norm / (norm + 1e-6)), as in `torch.nn.utils.clip_grad_norm_`. Of a row with the parameters
    of several alike members, one after the other, each member's are scaled by their own norm.
    """
    if members > 1:
        rows = gradient.reshape(len(gradient) * members, -1)
        return clip_by_norm(rows, max_norm.repeat_interleave(members)).view_as(gradient)
    norm = torch.linalg.vector_norm(gradient, dim=-1)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return gradient * torch.where(max_norm > 0, factor, 1.0).unsqueeze(-1)


def clip_together(gradients: Mapping[str, Tensor], max_norm: Tensor) -> dict[str, Tensor]:
    """As `clip_by_norm`, by the norm of all gradients together: min(1, max_norm / norm), as optax's global norm."""
    norm = torch.stack([torch.linalg.vector_norm(each, dim=-1) for each in gradients.values()]).square().sum(0).sqrt()
    factor = torch.where(max_norm > 0, (max_norm / norm).clamp(max=1.0), 1.0).unsqueeze(-1)
    return {name: each * factor for name, each in gradients.items()}


@dataclass(frozen=True)
class NetworkOptimiser:
    """How one network of a pack steps, whose `members` (1, if it has none) are clipped each by itself."""

    name: str
    trained: TrainedNetwork
    members: int

    def controls(self, step: int, scalars: Mapping[str, NDArray[Any]], factor: Factor) -> dict[str, NDArray[Any]]:
        """What depends on the step (from 0), (K,) by name, for hyper-parameters (K,) and a learning rate's factor: the
        rate with Adam's bias correction, the root of Adam's second correction, and the share that weight decay takes,
        if it has one: nothing where the network coasts.
        """
        trained = self.trained
        count = max(trained.update_count(step), 1)
        first, root = (1.0, 1.0) if trained.plain_descent else (1 - BETA1**count, math.sqrt(1 - BETA2**count))
        start = max(trained.first, trained.decays_from)
        decays = trained.decays and trained.in_phase(step)
        rate = scalars[trained.learning_rate] * (factor(max(step, start), start, trained.last) if decays else 1.0)
        found = {"rate": rate / first, "root": np.full_like(rate, root)}
        if trained.weight_decay is not None:
            found["decay"] = rate * scalars[trained.weight_decay] * trained.updates_at(step)
        return {f"{kind}/{self.name}": value for kind, value in found.items()}

    def step(self, tensors: TensorTree, gradient: Tensor, control: Mapping[str, Tensor], clip: bool = True) -> None:
        """One step, in place, with a gradient (K, P), bounded here if `clip`, and values (K,) of `controls`, by name.

        `tensors` has `parameters` and `moments` of all networks, by name, and `hyper`. What depends on the step is in
        tensors, so that its number is not in a compiled program.
        """
        name, trained, parameters = self.name, self.trained, tensors["parameters"][self.name]
        rate = control[f"rate/{name}"].unsqueeze(-1)
        if clip and trained.grad_norm is not None:
            gradient = clip_by_norm(gradient, tensors["hyper"][trained.grad_norm], self.members)
        if trained.weight_decay is not None:
            parameters.mul_(1 - control[f"decay/{name}"].unsqueeze(-1))
        if trained.plain_descent:
            parameters.sub_(rate * gradient)
            return
        first, second = tensors["moments"][name]
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = second.sqrt().div_(control[f"root/{name}"].unsqueeze(-1)).add_(EPS)
        parameters.sub_(first.div(denominator).mul_(rate))
