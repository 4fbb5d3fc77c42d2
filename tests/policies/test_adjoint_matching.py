"""Adjoint matching on flows whose adjoints, paths and tilted distributions are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dqlab.policies.adjoint_matching import (
    Velocity,
    adjoint_matching_losses,
    lean_adjoints,
    memoryless_path,
    memoryless_scales,
)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_scales_are_the_papers_a_step_later() -> None:
    """sigma^2 = 2 (1 - t + h) / (t + h) at t = 0, 1/4, 1/2, 3/4."""
    assert [scale**2 for scale in memoryless_scales(4)] == pytest.approx([10.0, 4.0, 2.0, 1.0])


def test_adjoints_of_a_linear_flow() -> None:
    """v = x A^T has the derivative A everywhere: a step back multiplies by i / (i + 1) + 2 h A^T."""
    matrix, end, n_steps = normal(2, 2), normal(5, 2), 4
    points = [normal(5, 2) for _ in range(n_steps)]
    adjoints = lean_adjoints(lambda x, step: x @ matrix.T, points, end)
    for step in range(n_steps):
        wanted = end
        for later in reversed(range(step, n_steps)):
            wanted = wanted * later / (later + 1) + 2 / n_steps * wanted @ matrix
        assert torch.allclose(adjoints[step], wanted)


def test_adjoints_take_the_time_of_the_later_point() -> None:
    """v = (step + 1) x^2 / 2: at points of 1 and 2 the derivatives are 2 * 1 and 3 * 2, of the times 1 and 2."""
    points = [torch.full((1, 1), value).double() for value in (1.0, 2.0)]
    adjoints = lean_adjoints(lambda x, step: (step + 1) * x**2 / 2, points, torch.ones(1, 1).double())
    assert [float(adjoint) for adjoint in adjoints] == pytest.approx([2 * (0.5 + 6), 0.5 + 6])


def test_paths_by_hand() -> None:
    """Two steps from 1 with velocity 0.5 x: 1 + 1/2 (2 * 0.5 - 1 / (1/2)) + sqrt(6 / 2) eps; then the base flow's."""
    start, eps = torch.ones(1, 1).double(), torch.full((1, 1, 1), 0.2).double()
    points, velocities = memoryless_path(lambda x, step: 0.5 * x, lambda x, step: 3.0 * x, start, eps)
    middle = 1 + 0.5 * (1 - 2) + math.sqrt(3) * 0.2
    assert [float(point) for point in points] == pytest.approx([1.0, middle, middle + 0.5 * 3 * middle])
    assert [float(velocity) for velocity in velocities] == pytest.approx([0.5, 0.5 * middle])


def test_without_reward_the_base_flow_has_nothing_to_learn() -> None:
    base: Velocity = lambda x, step: (0.3 * x + 0.1 * step).tanh()  # noqa: E731
    losses = adjoint_matching_losses(base, base, torch.zeros_like, normal(5, 2), normal(3, 5, 2))
    assert float(losses.max()) == 0.0


def gaussian_flow(mean: float, std: float, n_steps: int) -> Velocity:
    """The velocity that carries N(0, 1) to N(mean, std^2) along straight lines: E[x_1 - x_0 | x_t]."""

    def velocity(x: Tensor, step: int) -> Tensor:
        t = step / n_steps
        slope = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2)
        return mean + slope * (x - t * mean)

    return velocity


def test_training_tilts_a_gaussian_by_a_quadratic_reward() -> None:
    """N(0.5, 0.6^2) times exp(-(a + 1)^2): its precision is 1 / 0.36 + 2, its mean (0.5 / 0.36 - 2) over that.

    A velocity that is linear at every step can be exact; 30 steps are 5% of a standard deviation from the limit.
    """
    n_steps, precision = 30, 1 / 0.36 + 2
    base = gaussian_flow(0.5, 0.6, n_steps)
    slopes, shifts = (torch.zeros(n_steps, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([slopes, shifts], lr=0.05)
    generator = torch.Generator().manual_seed(0)

    def tuned(x: Tensor, step: int) -> Tensor:
        return base(x, step) + slopes[step] * x + shifts[step]

    for update in range(120):
        adam.param_groups[0]["lr"] = 0.05 * (1 - update / 120)
        start, eps = (torch.randn(*shape, generator=generator) for shape in ((256, 1), (n_steps - 1, 256, 1)))
        loss = adjoint_matching_losses(tuned, base, lambda a: 2 * (a + 1), start, eps).mean()
        slopes.grad, shifts.grad = torch.autograd.grad(loss, [slopes, shifts])
        adam.step()
    x = torch.randn(20_000, 1, generator=generator)
    with torch.no_grad():
        for step in range(n_steps):
            x = x + tuned(x, step) / n_steps
    assert float(x.mean()) == pytest.approx((0.5 / 0.36 - 2) / precision, abs=0.05)
    assert float(x.std()) == pytest.approx(precision**-0.5, abs=0.05)
