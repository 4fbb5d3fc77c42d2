"""One replica of an algorithm, whose losses can be asked for one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from dqlab.algorithms import Algorithm
from dqlab.data import Batch
from dqlab.testing import BATCH, DIMS, make_batch, one_noise
from dqlab.training import Pack


class Scene:
    """One replica, a batch, its noise, and its networks as functions; targets differ from what they follow."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.pack = Pack([algorithm], DIMS, [0], dtype=torch.float64)
        self.algorithm, self.stacked = algorithm, make_batch()
        self.batch = Batch(*(field[0] for field in self.stacked))
        self.noise = one_noise(algorithm.update_noise(DIMS, BATCH))
        for matrix in self.pack.state.targets.values():
            matrix.mul_(0.9)
        self.rows = {**self.pack.state.parameters, **self.pack.state.targets}
        self.bind()
        self.hyper = {name: torch.tensor(value).double() for name, value in algorithm.hyper().items()}

    def bind(self) -> None:
        """Make the networks anew, out of the rows as they are."""
        self.nets = {name: self.pack.layouts[name].bind(row[0]) for name, row in self.rows.items()}

    def loss(self, name: str) -> Tensor:
        return self.pack.trained[name].loss(self.nets, self.batch, self.noise, self.hyper)[0]

    def td(self, following: Tensor) -> Tensor:
        """Sum over critics of the mean squared TD error, discount 0.99."""
        target = self.batch.reward + 0.99 * (1 - self.batch.terminal) * following
        q1, q2 = self.nets["critic"](self.batch.state, self.batch.action)
        return ((q1 - target) ** 2).mean() + ((q2 - target) ** 2).mean()


def with_gradients(algorithm: Algorithm | Scene) -> Scene:
    """A scene in which the actor's parameters get gradients."""
    scene = algorithm if isinstance(algorithm, Scene) else Scene(algorithm)
    row = scene.pack.state.parameters["actor"].requires_grad_()
    scene.nets["actor"] = scene.pack.layouts["actor"].bind(row[0])
    return scene


def gradient_of(loss: Tensor, scene: Scene) -> Tensor:
    return torch.autograd.grad(loss, scene.pack.state.parameters["actor"])[0]


def gradients_of(scene: Scene, loss: str) -> dict[str, bool]:
    """Whether any gradient of a loss reaches each network and target, all of which might get one."""
    rows = [row.requires_grad_() for row in scene.rows.values()]
    scene.bind()
    gradients = torch.autograd.grad(scene.loss(loss), rows, allow_unused=True)
    return {name: each is not None and bool(each.any()) for name, each in zip(scene.rows, gradients, strict=True)}
