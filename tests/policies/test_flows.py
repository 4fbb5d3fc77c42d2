"""Flows whose velocities, or average velocities, are known in closed form, and distillation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made_policies import bind, column
from torch import Tensor, nn

from dqlab.policies.base import Dims
from dqlab.policies.flow import MeanFlowPolicy, OneStepFlowPolicy, RectifiedFlowPolicy
from dqlab.testing import one_noise

DIMS = Dims(3, 2, 2.0)
PLAIN: dict[str, Any] = {"time_scale": 1.0, "adaptive_power": 0.0}


class Linear(nn.Module):
    """a x + b t + c * the last number beside x and t, t as the network sees it."""

    def __init__(self, a: float, b: float, c: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b, c))

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        return self.a * x + self.b * t.unsqueeze(-1) + self.c * state[:, -1:]


class Towards(nn.Module):
    """The velocity of straight lines to one action, and its average: (target - x) / (1 - t)."""

    def __init__(self, time_scale: float, width: int = 3) -> None:
        super().__init__()
        self.target, self.time_scale, self.width = nn.Parameter(torch.tensor([0.3, -0.8])), time_scale, width

    def forward(self, x: Tensor, t: Tensor, state: Tensor) -> Tensor:
        assert state.shape[1] == self.width
        return (self.target - x) / (1 - t.unsqueeze(-1) / self.time_scale)


def states(count: int = 5) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_euler_steps_of_a_linear_velocity(n_steps: int) -> None:
    """x' = a x gives (1 + a / n)^n x_0, clamped; x' = t, at the left ends of n steps, adds (n - 1) / 2n."""
    policy, start = (
        RectifiedFlowPolicy(n_steps=n_steps),
        one_noise(RectifiedFlowPolicy().sample_noise(DIMS, 5))["start"],
    )
    sampled = policy.sample(bind(Linear(0.7, 0.0)), DIMS, states(), {"start": 3 * start})
    assert torch.allclose(sampled, (3 * (1 + 0.7 / n_steps) ** n_steps * start).clamp(-2, 2))
    assert float(sampled.abs().max()) == 2
    moved = policy.sample(bind(Linear(0.0, 0.01)), Dims(3, 2, 99.0), states(), {"start": start})  # it sees 100 t
    assert torch.allclose(moved, start + (n_steps - 1) / (2 * n_steps))


def test_straight_lines_arrive_whatever_the_number_of_steps() -> None:
    policy, network = RectifiedFlowPolicy(n_steps=3), bind(Towards(100))
    target = network.parameters["target"].expand(5, 2)
    assert torch.allclose(policy.sample(network, DIMS, states(), one_noise(policy.sample_noise(DIMS, 5))), target)
    assert float(policy.losses(network, DIMS, states(), target, one_noise(policy.loss_noise(DIMS, 5))).max()) < 1e-20


def test_losses_by_hand() -> None:
    """x_0 = 1, action 3, t = 0.25: x_t = 1.5, velocity 2; predicted 0.5 * 1.5 + 0.02 * 25 = 1.25."""
    noise = {"t": torch.tensor([0.25]).double(), "start": column(1.0)}
    action = column(3.0)
    losses = RectifiedFlowPolicy().losses(bind(Linear(0.5, 0.02)), Dims(3, 1, 4.0), states(1), action, noise)
    assert losses.tolist() == pytest.approx([0.75**2])


def test_distillation_by_hand() -> None:
    """Two Euler steps of x' = x: 2.25 x_0, clamped to 2; the student's 3 x_0 is not clamped in the loss."""
    policy, noise = OneStepFlowPolicy(n_steps=2), {"start": column(0.4, 1.0)}
    network = bind(nn.ModuleDict({"flow": Linear(1.0, 0.0), "one_step": Linear(3.0, 0.0)}))
    dims, state = Dims(3, 1, 2.0), states(2)
    assert policy.one_step_action(network, state, noise).squeeze().tolist() == pytest.approx([1.2, 3.0])
    assert policy.sample(network, dims, state, noise).squeeze().tolist() == pytest.approx([1.2, 2.0])
    assert policy.distillation_losses(network, dims, state, noise).tolist() == pytest.approx([0.09, 1.0])


@pytest.mark.parametrize(
    ("residual", "error"),
    [(False, 1.1 - (2 + 0.5 * (0.5 * 2 + 0.2))), (True, (1.1 - 2) - (2 + 0.5 * (0.5 * 2 + 0.2 - 2)))],
)
def test_the_identity_by_hand(residual: bool, error: float) -> None:
    """x_0 = 1, action 3, t = 0.5: x = 2, v = 2; the network gives 0.5 x + 0.2 t = 1.1; the interval is 0.5 long."""
    noise = {"t": torch.tensor([0.5]).double(), "start": column(1.0)}
    found = 1.1 if residual else 2 + 1.1  # x + u
    for fields, wanted in (
        (PLAIN, error**2),
        ({"adaptive_power": 0.5, "adaptive_floor": 2.0}, error**2 / (error**2 + 2) ** 0.5),
        ({"target_bound": 0.01, **PLAIN}, (found - 0.04) ** 2),
    ):
        policy = MeanFlowPolicy(residual=residual, **fields)
        losses = policy.losses(bind(Linear(0.5, 0.2)), Dims(3, 1, 4.0), states(1), column(3.0), noise)
        assert losses.tolist() == pytest.approx([wanted])


def test_drawn_ends_by_hand() -> None:
    """Ends in order whichever is drawn first, the network sees them, and half of the intervals are empty.

    The network gives x + 0.5 t + 2 end. Times (0.2, 0.6), either way round: x = 0.2, v = 1, so du/dt = 1.5.
    """
    policy = MeanFlowPolicy(fixed_end=False, instant_share=0.5, residual=False, **PLAIN)
    noise = {"t": torch.tensor([0.2, 0.6, 0.2]), "end": torch.tensor([0.6, 0.2, 0.6])}
    noise = {name: value.double() for name, value in {**noise, "instant": torch.tensor([0.7, 0.5, 0.4])}.items()}
    start, action = torch.zeros(3, 1).double(), torch.ones(3, 1).double()
    losses = policy.losses(bind(Linear(1, 0.5, 2)), Dims(3, 1), states(3), action, {**noise, "start": start})
    error, instant = 0.2 + 0.1 + 1.2 - (1 + 0.4 * 1.5), 0.2 + 0.1 + 0.4 - 1
    assert losses.tolist() == pytest.approx([error**2, error**2, instant**2])


@pytest.mark.parametrize("fixed_end", [True, False])
def test_average_velocities_of_straight_lines_arrive_in_one_step(fixed_end: bool) -> None:
    policy = MeanFlowPolicy(residual=False, fixed_end=fixed_end, **PLAIN)
    network = bind(Towards(1, 3 if fixed_end else 4))
    target = network.parameters["target"].expand(5, 2)
    assert float(policy.losses(network, DIMS, states(), target, one_noise(policy.loss_noise(DIMS, 5))).max()) < 1e-20
    assert torch.allclose(policy.sample(network, DIMS, states(), one_noise(policy.sample_noise(DIMS, 5))), target)


def test_a_sample_is_the_networks_answer_to_noise() -> None:
    """The output itself where it is residual, at t = 0 (and the end at 1); clamped to the action range."""
    noise = {"start": torch.tensor([[0.5, -2.0]]).double()}
    residual = MeanFlowPolicy().sample(bind(Linear(1.5, 9.0)), DIMS, states(1), noise)
    assert residual.squeeze().tolist() == pytest.approx([0.75, -2.0])
    other = MeanFlowPolicy(residual=False, fixed_end=False)
    plain = other.unbounded_action(bind(Linear(1.5, 9.0, 0.1)), states(1), noise)
    assert plain.squeeze().tolist() == pytest.approx([1.25 + 0.1, -5.0 + 0.1])


def test_times_are_drawn_from_a_grid() -> None:
    """With two times, 0 and 1/2: x_0 = 0, action 1, the network gives t, u's target is v + (1 - t) * 1."""
    noise = {"t": torch.tensor([0.49, 0.51, 0.999]).double(), "start": torch.zeros(3, 1).double()}
    policy = MeanFlowPolicy(n_times=2, residual=False, **PLAIN)
    losses = policy.losses(bind(Linear(0.0, 1.0)), Dims(3, 1), states(3), torch.ones(3, 1).double(), noise)
    assert losses.tolist() == pytest.approx([4.0, 1.0, 1.0])
