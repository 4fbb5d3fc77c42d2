"""One replica of an algorithm, whose losses are held against formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dqlab.algorithms import algorithms
from dqlab.data import Batch
from dqlab.policies.base import strip_prefix
from dqlab.testing import BATCH, DIMS, make_batch, one_noise
from dqlab.training import Pack


class Scene:
    """One replica, a batch, its noise, and its networks as functions; targets differ from what they follow."""

    def __init__(self, name: str, **fields: Any) -> None:
        self.algorithm = algorithm = algorithms.get(name)(**fields)
        self.pack = Pack([algorithm], DIMS, [0], dtype=torch.float64)
        self.batch = Batch(*(field[0] for field in make_batch()))
        self.noise = one_noise(algorithm.update_noise(DIMS, BATCH))
        for matrix in self.pack.state.targets.values():
            matrix.mul_(0.9)
        self.rows = {**self.pack.state.parameters, **self.pack.state.targets}
        self.nets = {name: self.pack.layouts[name].bind(row.requires_grad_()[0]) for name, row in self.rows.items()}

    def own(self, prefix: str) -> dict[str, Tensor]:
        """The noise whose names begin so."""
        return strip_prefix(prefix, self.noise)

    def parameter(self, network: str, name: str, value: float) -> Tensor:
        """A parameter that is one number, set to a value."""
        parameter = self.nets[network].parameters[name]
        parameter.data.fill_(value)
        return parameter

    def loss(self, name: str) -> Tensor:
        hyper = {name: torch.tensor(value).double() for name, value in self.algorithm.hyper().items()}
        return self.pack.trained[name].loss(self.nets, self.batch, self.noise, hyper)[0]

    def check(self, name: str, wanted: Tensor, gradient_alone: bool = False) -> None:
        """A network's loss is the one that is wanted, in value and gradient, and reaches no other network than it."""
        found, gradients = self.loss(name), []
        for loss in (found, wanted):
            each = torch.autograd.grad(loss, [*self.rows.values()], retain_graph=True, allow_unused=True)
            gradients.append({net: grad for net, grad in zip(self.rows, each, strict=True) if grad is not None})
        assert gradients[0].keys() <= gradients[1].keys()
        torch.testing.assert_close(gradients[0][name], gradients[1][name])
        assert bool(gradients[1][name].any())
        if not gradient_alone:
            torch.testing.assert_close(found, wanted)

    def td(self, following: Tensor, averaged: bool = False) -> Tensor:
        """Sum, or mean, over critics of the mean squared TD error, discount 0.99; targets get no gradient."""
        target = (self.batch.reward + 0.99 * (1 - self.batch.terminal) * following).detach()
        errors = (self.nets["critic"](self.batch.state, self.batch.action) - target).square().mean(dim=1)
        return errors.mean() if averaged else errors.sum()
